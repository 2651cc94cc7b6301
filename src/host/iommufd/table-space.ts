import { errno, hostErrorOf } from '../errno.ts';
import type { SpaceRequirements } from '../host.ts';
import type { IommufdContext } from './context.ts';
import type { Attachable } from './device.ts';
import { TablesDirtyTracking } from './dirty-tracking.ts';
import type { FaultQueue } from './fault-queue.ts';
import { readHwInfo } from './hw-info.ts';
import { faultQueueOf } from './page-requests.ts';
import { KernelPageTable, type NestedOptions } from './page-table.ts';
import { IommufdSpace } from './space.ts';

/** Why the kernel cannot say what the device writes; null: it can. */
export function refusesDirtyTracking(context: IommufdContext, device: Attachable): string | null {
  try {
    return readHwInfo(context, device, 0).dirtyTracking ? null : `${device.name}: its IOMMU keeps no dirty bits`;
  } catch (error) {
    return hostErrorOf(error).message;
  }
}

/** IHI 0070, 6.3.1: IDR0.S1P. */
const IDR0_S1P = 1 << 1;

/** Linux fills first stages for an SMMUv3 that has them, where pages that can be written can be read (DDI 0487, D8.4); in a nesting parent it fills the second. */
export function lacksWriteOnly(context: IommufdContext, device: Attachable): string | null {
  try {
    const { data } = readHwInfo(context, device, 0);
    return data.kind === 'smmuv3' && (data.idr[0] & IDR0_S1P) !== 0 ? 'first stages of SMMUv3 have no pages for writing only' : null;
  } catch (caught) {
    const error = hostErrorOf(caught);
    // A kernel that has no such call nests nothing either.
    return error.errno === errno.ENOTTY ? null : error.message;
  }
}

/**
 * A space whose devices are attached by page tables with what automatic ones have not: a fault queue, in which devices ask for pages that it does not
 * map, dirty tracking, pages for writing only.
 */
export class TableSpace extends IommufdSpace {
  readonly #dirty: TablesDirtyTracking | null;
  readonly #writeOnly: boolean;
  readonly #faults: { readonly faults?: FaultQueue };

  /** @throws HostError */
  constructor(context: IommufdContext, required: SpaceRequirements) {
    super(context, required);
    const { pageRequests, dirtyTracking = false, writeOnly = false } = required;
    this.#writeOnly = writeOnly;
    this.#faults = pageRequests === undefined ? {} : { faults: faultQueueOf(pageRequests) };
    this.#dirty = dirtyTracking ? new TablesDirtyTracking(this, () => this.tables.filter(({ tracksDirty }) => tracksDirty)) : null;
    if (!dirtyTracking) return;
    try {
      // A write to one page of a large entry is told as one to all of it, and entries are made of what happens to be contiguous.
      this.setLargePages(false);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  override enter(who: Attachable): number {
    return this.enterBy(who, { forPasid: who.wantsPasidTables, ...this.#faults });
  }

  /** One that remembers from before the device comes; where there is none to be had, the device comes all the same. */
  protected override createTable(who: Attachable, options: NestedOptions): KernelPageTable {
    const wanted = { ...options, nestParent: this.#writeOnly && lacksWriteOnly(this.context, who) !== null };
    if (this.#dirty === null) return new KernelPageTable(this.context, who, this, wanted);
    let table: KernelPageTable | null = null;
    try {
      table = new KernelPageTable(this.context, who, this, { ...wanted, dirtyTracking: true });
      table.setDirtyTracking(true);
      return table;
    } catch (caught) {
      const error = hostErrorOf(caught);
      table?.close();
      this.#dirty.inexact ??= error.message;
      return new KernelPageTable(this.context, who, this, wanted);
    }
  }

  override get dirty(): TablesDirtyTracking | null {
    return this.#dirty;
  }

  /** Goes on remembering: who wants no more of it takes another space. */
  override trackDirty(on: boolean): number {
    return on && this.#dirty !== null ? 0 : super.trackDirty(on);
  }
}
