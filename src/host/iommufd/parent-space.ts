import { errno, hostErrorOf } from '../errno.ts';
import type { Handle, IommufdContext } from './context.ts';
import { TablesDirtyTracking } from './dirty-tracking.ts';
import { KernelPageTable, type PageTableOptions } from './page-table.ts';
import { IommufdSpace } from './space.ts';

/** Guest-physical memory, and its page tables on which first stages stand: one for each IOMMU that does not take another's. */
export class ParentSpace extends IommufdSpace {
  readonly #options: PageTableOptions;
  readonly #parents: KernelPageTable[] = [];
  readonly #tracking: TablesDirtyTracking | null;
  #isTracked = false;

  /** `dirtyTracking`: the hardware keeps dirty bits; whether in such a table too, the kernel says. @throws HostError */
  constructor(context: IommufdContext, device: Handle, options: PageTableOptions) {
    super(context, {});
    this.#options = options;
    try {
      this.#tracking = this.addTable(device).tracksDirty ? new TablesDirtyTracking(this, () => this.#parents) : null;
    } catch (error) {
      super.close();
      throw error;
    }
  }

  /** Of the first device's IOMMU. */
  get table(): KernelPageTable {
    return this.#parents[0];
  }

  /** @throws HostError */
  addTable(device: Handle): KernelPageTable {
    const { dirtyTracking = false, ...options } = this.#options;
    const make = (tracks: boolean) =>
      new KernelPageTable(this.context, device, this, { ...options, nestParent: true, dirtyTracking: tracks });
    const table = (dirtyTracking ? unlessMissing(() => make(true)) : null) ?? make(false);
    this.#parents.push(table);
    if (this.#isTracked) this.#track(table, true);
    return table;
  }

  /** @throws HostError EBUSY while something stands on it. */
  dropTable(table: KernelPageTable): void {
    table.close();
    this.#parents.splice(this.#parents.indexOf(table), 1);
  }

  override get dirty(): TablesDirtyTracking | null {
    return this.#isTracked ? this.#tracking : null;
  }

  override trackDirty(on: boolean): number {
    if (this.#tracking === null) return super.trackDirty(on);
    if (on === this.#isTracked) return 0;
    this.#isTracked = on;
    this.#tracking.inexact = null;
    for (const table of this.#parents) this.#track(table, on);
    return 0;
  }

  /** Of a table that does not remember all counts as written. */
  #track(table: KernelPageTable, on: boolean): void {
    try {
      table.setDirtyTracking(on);
    } catch (caught) {
      const error = hostErrorOf(caught);
      if (on) this.#tracking!.inexact ??= error.message;
    }
  }

  override close(): void {
    while (this.#parents.length > 0) this.dropTable(this.#parents[0]);
    super.close();
  }
}

/** null: the kernel has no dirty bits there (SMMUv3: in first stages of its own only). @throws HostError */
function unlessMissing(make: () => KernelPageTable): KernelPageTable | null {
  try {
    return make();
  } catch (error) {
    if (hostErrorOf(error).errno === errno.EOPNOTSUPP) return null;
    throw error;
  }
}
