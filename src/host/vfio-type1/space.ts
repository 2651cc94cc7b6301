import { addressOfPfn, PAGE_LG2, PFN_LIMIT } from '../../memory/address.ts';
import { requireBoolean, requireNumber, requireObject } from '../../memory/arguments.ts';
import { errno, HostError } from '../errno.ts';
import type { DirtyTracking, IovaRange } from '../host.ts';
import type { PortMemory } from '../port.ts';
import { rangesText, VfioSpace, WHOLE } from '../vfio/space.ts';
import * as uapi from '../vfio/uapi.ts';
import { Type1DirtyTracking } from './dirty-tracking.ts';
import { decodeInfo, type Type1Info, VFIO_IOMMU_TYPE1_INFO_BYTES } from './info.ts';

/** Default of the module parameter dma_entry_limit: what a container allows, until the kernel is asked. */
const DMA_ENTRY_LIMIT = 65535;

// struct vfio_iommu_type1_dirty_bitmap: argsz u32, flags u32; with GET_BITMAP iova u64, size u64, struct vfio_bitmap
const DIRTY_BYTES = 8;
const DIRTY_START = 1;
const DIRTY_STOP = 2;
const DIRTY_GET_BITMAP = 4;

/**
 * A container with the type1 IOMMU driver, version 2.
 *
 * @example
 * const kernel = simKernel();
 * const host = new Type1Host(kernel);
 * const space = host.createSpace({ granuleLg2: 12 });
 * space.attach(host.openDevice(`/dev/vfio/${kernel.device().group.number}#${kernel.device().name}`)); // 0
 * space.apertures()[0].first; // 0
 * space.mappingLimit; // 65535
 * host.close();
 */
export class Type1Space extends VfioSpace {
  #ranges: readonly IovaRange[] = WHOLE;
  #granuleLg2 = PAGE_LG2;
  #limit = DMA_ENTRY_LIMIT;
  #dirty: Type1DirtyTracking | null = null;

  get mappingLimit(): number {
    return this.#limit;
  }

  /** Asks the kernel. @throws HostError, EINVAL while no device is attached. */
  info(): Type1Info {
    const { control, port, calls } = this.host;
    const view = new DataView(control.buffer);
    for (let argsz = 512; ; ) {
      view.setUint32(0, argsz, true);
      view.setUint32(16, 0, true);
      calls.control++;
      const result = port.ioctl(this.container, uapi.VFIO_IOMMU_GET_INFO, control);
      if (result < 0) throw new HostError('VFIO_IOMMU_GET_INFO', result);
      // With too little room the kernel gives no capability and says how much it wants.
      const wanted = view.getUint32(0, true);
      if (wanted <= argsz || wanted > control.bytes) return decodeInfo(view);
      argsz = Math.max(wanted, VFIO_IOMMU_TYPE1_INFO_BYTES);
    }
  }

  protected entered(first: boolean): number {
    try {
      const info = this.info();
      this.#ranges = info.ranges.length > 0 ? info.ranges : WHOLE;
      this.#granuleLg2 = Math.max(PAGE_LG2, lowestBitLg2(info.pageSizes));
      // Nothing is mapped yet when the first group has come.
      if (first) this.#limit = info.mappingsLeft;
      if (first && this.#dirty !== null && this.startDirtyTracking() < 0) this.#dirty.forgot();
      return 0;
    } catch (error) {
      return this.fail('VFIO_IOMMU_GET_INFO', (error as HostError).errno);
    }
  }

  protected emptied(): void {
    this.#dirty?.forgot();
  }

  protected kernelApertures(): readonly IovaRange[] {
    return this.#ranges;
  }

  protected kernelGranuleLg2(): number {
    return this.#granuleLg2;
  }

  protected mapNow(iova: number, host: number, pages: number, permission: number): number {
    const result = this.mapIoctl(iova, host, pages, permission);
    if (result >= 0) return 0;
    return this.fail('VFIO_IOMMU_MAP_DMA', result, iova, pages, this.#whyNot(result, iova, pages));
  }

  #whyNot(result: number, iova: number, pages: number): string | undefined {
    if (result === -errno.ENOSPC) return `the container holds ${this.#limit} mappings (vfio_iommu_type1.dma_entry_limit)`;
    const ranges = this.kernelApertures();
    const within = ranges.some(({ first, last }) => iova >= first && iova + pages - 1 <= last);
    return result === -errno.EINVAL && !within ? `the host can map only ${rangesText(ranges)}` : undefined;
  }

  protected unmapNow(iova: number, pages: number): number {
    // The size of a whole 64-bit address space is no 64-bit number.
    if (pages === PFN_LIMIT) return this.#unmapAll();
    const result = this.unmapIoctl(iova, pages);
    return result < 0 ? this.fail('VFIO_IOMMU_UNMAP_DMA', result, iova, pages) : 0;
  }

  #unmapAll(): number {
    const result = this.unmapIoctl(0, 0, uapi.VFIO_DMA_UNMAP_FLAG_ALL);
    return result < 0 ? this.fail('VFIO_IOMMU_UNMAP_DMA', result, 0, PFN_LIMIT, 'VFIO_DMA_UNMAP_FLAG_ALL') : 0;
  }

  override get dirty(): DirtyTracking | null {
    return this.#dirty;
  }

  override trackDirty(on: boolean): number {
    requireBoolean('Type1Space', 'on', on);
    let result = 0;
    if (this.live) result = on ? this.startDirtyTracking() : this.stopDirtyTracking();
    if (result === 0) this.#dirty = on ? new Type1DirtyTracking(this) : null;
    return result;
  }

  /** Logs from now on which pages devices may have written. Returns 0 or a negative errno. */
  startDirtyTracking(): number {
    return this.#dirtyPages(DIRTY_START, DIRTY_BYTES);
  }

  stopDirtyTracking(): number {
    return this.#dirtyPages(DIRTY_STOP, DIRTY_BYTES);
  }

  /**
   * Adds to `bitmap` a bit for every granule of the range that a device may have written since tracking began (type1 says
   * so of all that is mapped, unless the device reports what it writes). No mapping may stick out of the range. Where one begins within a word of the
   * bitmap, Linux 7.3 may tell some pages behind it as well: what an earlier answer has left there.
   */
  readDirty(iova: number, pages: number, bitmap: PortMemory): number {
    requireNumber('Type1Space', 'iova', iova);
    requireNumber('Type1Space', 'pages', pages);
    requireObject('Type1Space', 'bitmap', bitmap);
    const view = new DataView(this.host.control.buffer);
    view.setBigUint64(DIRTY_BYTES, addressOfPfn(iova), true);
    view.setBigUint64(DIRTY_BYTES + 8, addressOfPfn(pages), true);
    return this.#withBitmap(view, DIRTY_BYTES + 16, pages, bitmap, () =>
      this.#dirtyPages(DIRTY_GET_BITMAP, DIRTY_BYTES + 16 + uapi.VFIO_BITMAP_BYTES, iova, pages),
    );
  }

  /** `unmap` and `readDirty` (which adds to `bitmap`) in one, so that no write falls between them. */
  unmapReadingDirty(iova: number, pages: number, bitmap: PortMemory): number {
    requireNumber('Type1Space', 'iova', iova);
    requireNumber('Type1Space', 'pages', pages);
    requireObject('Type1Space', 'bitmap', bitmap);
    return this.unmapWith(iova, pages, () => {
      const view = new DataView(this.host.control.buffer);
      view.setUint32(0, uapi.VFIO_DMA_UNMAP_BYTES + uapi.VFIO_BITMAP_BYTES, true);
      view.setUint32(4, uapi.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, true);
      view.setBigUint64(8, addressOfPfn(iova), true);
      view.setBigUint64(16, addressOfPfn(pages), true);
      const result = this.#withBitmap(view, uapi.VFIO_DMA_UNMAP_BYTES, pages, bitmap, () => {
        this.host.calls.unmap++;
        return this.host.port.ioctl(this.container, uapi.VFIO_IOMMU_UNMAP_DMA, this.host.control);
      });
      return result < 0 ? this.fail('VFIO_IOMMU_UNMAP_DMA', result, iova, pages, 'VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP') : 0;
    });
  }

  /**
   * Makes a call with a bitmap of its own and adds what the kernel wrote to the caller's: the kernel writes whole 64-bit words, and
   * so would clear what the caller has gathered. @throws RangeError when the caller's is too small.
   */
  #withBitmap(view: DataView, at: number, pages: number, into: PortMemory, call: () => number): number {
    const words = Math.ceil(pages / 2 ** (this.#granuleLg2 - PAGE_LG2) / 64);
    if (into.bytes < 8 * words) throw new RangeError(`a bitmap of ${into.bytes} bytes is too small for ${pages} pages`);
    const own = this.host.port.allocate(8 * words);
    try {
      // struct vfio_bitmap
      view.setBigUint64(at, 1n << BigInt(this.#granuleLg2), true);
      view.setBigUint64(at + 8, BigInt(8 * words), true);
      view.setBigUint64(at + 16, own.address, true);
      const result = call();
      const [from, to] = [new Int32Array(own.buffer, 0, 2 * words), new Int32Array(into.buffer, 0, 2 * words)];
      for (let word = 0; word < from.length; word++) if (from[word] !== 0) to[word] |= from[word];
      return result;
    } finally {
      own.release();
    }
  }

  #dirtyPages(flags: number, bytes: number, iova = 0, pages = 0): number {
    if (!this.live) return this.fail('VFIO_IOMMU_DIRTY_PAGES', errno.EINVAL, iova, pages, 'no device is attached');
    const { control, calls, port } = this.host;
    const view = new DataView(control.buffer);
    view.setUint32(0, bytes, true);
    view.setUint32(4, flags, true);
    calls.control++;
    const result = port.ioctl(this.container, uapi.VFIO_IOMMU_DIRTY_PAGES, control);
    return result < 0 ? this.fail('VFIO_IOMMU_DIRTY_PAGES', result, iova, pages) : 0;
  }
}

function lowestBitLg2(bitmap: bigint): number {
  let lg2 = 0;
  while (lg2 < 63 && ((bitmap >> BigInt(lg2)) & 1n) === 0n) lg2++;
  return lg2;
}
