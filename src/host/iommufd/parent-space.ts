import { errno, HostError } from '../errno.ts';
import type { Handle, IommufdContext } from './context.ts';
import { TablesDirtyTracking } from './dirty-tracking.ts';
import { KernelPageTable, type PageTableOptions } from './page-table.ts';
import { IommufdSpace } from './space.ts';

/** Guest-physical memory, and the one page table of it on which first stages stand. */
export class ParentSpace extends IommufdSpace {
  readonly table: KernelPageTable;
  readonly #tracking: TablesDirtyTracking | null;
  #isTracked = false;

  /** `dirtyTracking`: the hardware keeps dirty bits; whether in such a table too, the kernel says. @throws HostError */
  constructor(context: IommufdContext, device: Handle, { dirtyTracking = false, ...options }: PageTableOptions) {
    super(context, {});
    try {
      const make = (tracks: boolean) => new KernelPageTable(context, device, this, { ...options, nestParent: true, dirtyTracking: tracks });
      const tracking = dirtyTracking ? unlessMissing(() => make(true)) : null;
      this.table = tracking ?? make(false);
      this.#tracking = tracking && new TablesDirtyTracking(this, () => [tracking]);
    } catch (error) {
      super.close();
      throw error;
    }
  }

  override get dirty(): TablesDirtyTracking | null {
    return this.#isTracked ? this.#tracking : null;
  }

  override trackDirty(on: boolean): number {
    if (this.#tracking === null) return super.trackDirty(on);
    try {
      if (on !== this.#isTracked) this.table.setDirtyTracking(on);
      this.#isTracked = on;
      return 0;
    } catch (error) {
      if (error instanceof HostError) return -error.errno;
      throw error;
    }
  }

  override close(): void {
    this.table.close();
    super.close();
  }
}

/** null: the kernel has no dirty bits there (SMMUv3: in first stages of its own only). @throws HostError */
function unlessMissing(make: () => KernelPageTable): KernelPageTable | null {
  try {
    return make();
  } catch (error) {
    if (error instanceof HostError && error.errno === errno.EOPNOTSUPP) return null;
    throw error;
  }
}
