import { addressOfPfn, PAGE_LG2, pfnOf } from '../../memory/address.ts';
import { errno } from '../errno.ts';
import type { SpaceRequirements } from '../host.ts';
import type { VfioHost } from '../vfio/host.ts';
import * as uapi from '../vfio/uapi.ts';
import { TCE_CREATE, TCE_INFO, TCE_REMOVE, VFIO_IOMMU_SPAPR_INFO_DDW } from './uapi.ts';

/** A DMA window: IOVA pages [first, last], mapped in pages of 2^pageLg2 bytes through a TCE table. */
export interface TceWindow {
  readonly first: number;
  readonly last: number;
  readonly pageLg2: number;
}

/** A dynamic window as it is wished for. Whatever is left out, the driver chooses: 4 KiB pages, 32 GiB or what the platform can, the fewest levels. */
export interface WindowWish {
  readonly pageLg2?: number;
  /** lg2 of its size in bytes. */
  readonly sizeLg2?: number;
  /** Levels of its TCE table. */
  readonly levels?: number;
}

/** What a space of this interface can be asked for beyond what any space can. */
export interface TceRequirements extends SpaceRequirements {
  /** Dynamic windows besides the default one; every property may be left open. Version 2 only. */
  readonly windows?: readonly WindowWish[];
}

/** What VFIO_IOMMU_SPAPR_TCE_GET_INFO says; without dynamic windows `pageSizes` is 0. */
export interface TceInfo {
  readonly defaultWindow: TceWindow;
  /** Bitmap of page sizes that dynamic windows can have. */
  readonly pageSizes: bigint;
  readonly windowsMax: number;
  readonly levelsMax: number;
}

/**
 * Sizes that are tried, largest first, when a wish leaves it open: 32 GiB to 256 MiB. A table of 4 KiB pages is 1/512 of that, and
 * Linux 6.12 on pSeries does not look whether its second copy could be allocated: it oopses at the first map (seen with 1 TiB).
 */
const SIZE_LG2_MAX = 35;
const SIZE_LG2_MIN = 28;

/** Asks, creates and removes: the calls of version 2 about windows, with no state of their own. */
export class WindowCalls {
  readonly #host: VfioHost;
  readonly #container: number;
  readonly #view: DataView;

  constructor(host: VfioHost, container: number) {
    this.#host = host;
    this.#container = container;
    this.#view = new DataView(host.control.buffer);
  }

  #ioctl(request: number, bytes: number): number {
    this.#view.setUint32(0, bytes, true);
    this.#view.setUint32(4, 0, true);
    this.#host.calls.control++;
    return this.#host.port.ioctl(this.#container, request, this.#host.control);
  }

  /** Returns what the kernel says, or a negative errno. */
  info(): TceInfo | number {
    const view = this.#view;
    const result = this.#ioctl(uapi.VFIO_IOMMU_GET_INFO, TCE_INFO.bytes);
    if (result < 0) return result;
    const first = view.getUint32(TCE_INFO.dma32Start, true) >>> PAGE_LG2;
    const pages = view.getUint32(TCE_INFO.dma32Bytes, true) >>> PAGE_LG2;
    const dynamic = (view.getUint32(TCE_INFO.flags, true) & VFIO_IOMMU_SPAPR_INFO_DDW) !== 0;
    return {
      defaultWindow: { first, last: first + pages - 1, pageLg2: PAGE_LG2 },
      pageSizes: dynamic ? view.getBigUint64(TCE_INFO.pageSizes, true) : 0n,
      windowsMax: dynamic ? view.getUint32(TCE_INFO.windowsMax, true) : 0,
      levelsMax: dynamic ? view.getUint32(TCE_INFO.levels, true) : 0,
    };
  }

  /** Creates a window as near to the wish as the kernel can. Returns it, or a negative errno. */
  create(wish: WindowWish, info: TceInfo): TceWindow | number {
    const pageLg2 = wish.pageLg2 ?? lowestPageLg2(info.pageSizes);
    const sizes = wish.sizeLg2 === undefined ? countDown(SIZE_LG2_MAX, SIZE_LG2_MIN) : [wish.sizeLg2];
    const levels = wish.levels === undefined ? countDown(Math.max(info.levelsMax, 1), 1).reverse() : [wish.levels];
    let result = -errno.EINVAL;
    for (const sizeLg2 of sizes) {
      for (const level of levels) {
        const window = this.#createOne(pageLg2, sizeLg2, level);
        if (typeof window !== 'number') return window;
        result = window;
        // Too large for one piece of kernel memory, or for the platform: something smaller, or flatter, may do.
        if (result !== -errno.EINVAL && result !== -errno.ENOMEM) return result;
      }
    }
    return result;
  }

  #createOne(pageLg2: number, sizeLg2: number, levels: number): TceWindow | number {
    const view = this.#view;
    const pages = 2 ** (sizeLg2 - PAGE_LG2);
    view.setUint32(TCE_CREATE.pageShift, pageLg2, true);
    view.setUint32(TCE_CREATE.pageShift + 4, 0, true);
    view.setBigUint64(TCE_CREATE.windowSize, addressOfPfn(pages), true);
    view.setUint32(TCE_CREATE.levels, levels, true);
    view.setUint32(TCE_CREATE.levels + 4, 0, true);
    view.setBigUint64(TCE_CREATE.startAddress, 0n, true);
    const result = this.#ioctl(uapi.VFIO_IOMMU_SPAPR_TCE_CREATE, TCE_CREATE.bytes);
    if (result < 0) return result;
    const first = pfnOf(view.getBigUint64(TCE_CREATE.startAddress, true));
    return { first, last: first + pages - 1, pageLg2 };
  }

  /** Returns 0 or a negative errno. */
  remove(window: TceWindow): number {
    this.#view.setBigUint64(TCE_REMOVE.startAddress, addressOfPfn(window.first), true);
    return this.#ioctl(uapi.VFIO_IOMMU_SPAPR_TCE_REMOVE, TCE_REMOVE.bytes);
  }
}

function countDown(from: number, to: number): number[] {
  return Array.from({ length: from - to + 1 }, (_, index) => from - index);
}

/** The smallest page that a window can have: the kernel maps none that is larger than the memory's own pages. */
function lowestPageLg2(pageSizes: bigint): number {
  for (let lg2 = PAGE_LG2; lg2 < 64; lg2++) if (((pageSizes >> BigInt(lg2)) & 1n) !== 0n) return lg2;
  return PAGE_LG2;
}
