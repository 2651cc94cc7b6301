import { HostError } from '../errno.ts';
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
    if (error instanceof HostError) return error.message;
    throw error;
  }
}

/**
 * A space whose devices are attached by page tables with what automatic ones have not: a fault queue, in which devices ask for pages that it does not
 * map, or dirty tracking, or both.
 */
export class TableSpace extends IommufdSpace {
  readonly #dirty: TablesDirtyTracking | null;
  readonly #faults: { readonly faults?: FaultQueue };

  /** @throws HostError */
  constructor(context: IommufdContext, required: SpaceRequirements) {
    super(context, required);
    const { pageRequests, dirtyTracking = false } = required;
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
    if (this.#dirty === null) return super.createTable(who, options);
    let table: KernelPageTable | null = null;
    try {
      table = new KernelPageTable(this.context, who, this, { ...options, dirtyTracking: true });
      table.setDirtyTracking(true);
      return table;
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      table?.close();
      this.#dirty.inexact ??= error.message;
      return super.createTable(who, options);
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
