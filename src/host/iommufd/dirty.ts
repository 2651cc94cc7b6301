import { visitBits } from '../dirty-bits.ts';
import type { DirtyVisitor } from '../host.ts';
import type { Handle, IommufdContext } from './context.ts';

/** struct iommu_hwpt_get_dirty_bitmap */
const GET = { bytes: 48, hwpt: 1, flags: 2, iova: 4, length: 6, pageSize: 8, data: 10 } as const;
const NO_CLEAR = 1;

export interface DirtyOptions {
  /** Only look, as before an unmap. Default false. */
  readonly keep?: boolean;
}

/**
 * IOMMU_HWPT_GET_DIRTY_BITMAP at 4 KiB a bit. What is not mapped, what lies behind a hole, and everything while tracking is off,
 * counts as clean (Linux 7.3). Hardware knows entries only: a write to one page of a large one is told as writes to all of it, and the kernel makes them
 * of what happens to be contiguous in physical memory (2 MiB, 1 GiB; AMD: any power of two), unless `IommufdSpace.setLargePages` says otherwise. A range
 * that cuts one tells its own part and clears the whole: read what was mapped together in one call, or with `keep`.
 * @throws HostError EOPNOTSUPP for a page table without dirty tracking.
 */
export function readDirty(
  context: IommufdContext,
  hwpt: Handle,
  { first, pages, keep = false }: DirtyOptions & { readonly first: number; readonly pages: number },
  visit: DirtyVisitor,
): void {
  const memory = context.port.allocate(Math.ceil(pages / 64) * 8);
  try {
    context.control('IOMMU_HWPT_GET_DIRTY_BITMAP', GET.bytes, (command) => {
      command.words[GET.hwpt] = hwpt.id;
      command.words[GET.flags] = keep ? NO_CLEAR : 0;
      command.setPages(GET.iova, first);
      command.setPages(GET.length, pages);
      command.setPages(GET.pageSize, 1);
      command.set64(GET.data, memory.address);
    });
    visitBits(new Uint8Array(memory.buffer), pages, (from, to) => visit(first + from, first + to));
  } finally {
    memory.release();
  }
}
