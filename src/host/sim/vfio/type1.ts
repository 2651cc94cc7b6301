import { READ, WRITE } from '../../../memory/access.ts';
import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import * as uapi from '../../vfio/uapi.ts';
import type { SimGroup } from '../device.ts';
import type { SimIommu } from '../iommu.ts';
import type { SimKernel } from '../kernel.ts';
import type { Payer } from '../locked-memory.ts';
import type { Frames } from '../memory.ts';
import { PagingDomain } from '../paging-domain.ts';
import { type Span, SpanList, without } from '../spans.ts';
import { readArgsz } from '../structs.ts';
import type { ContainerDriver } from './container.ts';
import { type CommandOf, dirtyBitmap, dmaMap, dmaUnmap } from './structs.ts';
import * as dirty from './type1-dirty.ts';
import { answerInfo } from './type1-info.ts';

const PAGE = BigInt(PAGE_BYTES);
const LIMIT = 1n << 64n;
const FLAG_MAP_VADDR = 4;
const FLAG_UNMAP_VADDR = 4;

/** A mapping as it was made; it is never merged and never split (struct vfio_dma). */
interface Dma extends Span<bigint> {
  vaddr: bigint;
  vaddrInvalid: boolean;
  readonly permission: number;
  readonly frames: Frames;
  readonly physical: number;
  /** Bytes that are pinned: none of registers. */
  readonly pinned: number;
  /** The process that said where it lies. */
  payer: Payer;
  bitmap: dirty.DmaBitmap | null;
}

/** The type1 IOMMU driver, versions 1 and 2 (the kernel's vfio_iommu_type1.c). */
export class Type1Driver implements ContainerDriver {
  readonly #kernel: SimKernel;
  readonly #domains = new Map<SimIommu, { readonly domain: PagingDomain; readonly groups: Set<SimGroup> }>();
  readonly #dmas = new SpanList<bigint, Dma>();
  readonly #version2: boolean;
  #available: number;
  #tracking = false;

  /** `limit`: the module's dma_entry_limit. */
  constructor(kernel: SimKernel, limit: number, version2: boolean) {
    this.#version2 = version2;
    this.#kernel = kernel;
    this.#available = limit;
  }

  /** Page sizes that every IOMMU has, of at least the CPU's. */
  get #pageSizes(): bigint {
    let sizes = LIMIT - 1n;
    for (const { config } of this.#domains.keys()) sizes &= config.pageSizes;
    return (sizes & (PAGE - 1n)) === 0n ? sizes : (sizes & ~(PAGE - 1n)) | PAGE;
  }

  get #granule(): bigint {
    return this.#pageSizes & -this.#pageSizes;
  }

  /** Where every IOMMU of the container, or of a group more, can map. */
  #ranges(more?: SimGroup): Span<bigint>[] {
    const iommus = new Set(this.#domains.keys());
    const iommu = more?.devices[0]?.iommu;
    if (iommu !== undefined) iommus.add(iommu);
    let ranges: Span<bigint>[] = [{ first: 0n, last: LIMIT - 1n }];
    for (const { config } of iommus) {
      ranges = ranges.flatMap(({ first, last }) => clip(first, last, config.aperture));
      for (const reserved of config.reserved) ranges = ranges.flatMap((range) => without(range, reserved));
    }
    return ranges;
  }

  attachGroup(group: SimGroup): number {
    if ([...this.#dmas].some((dma) => dma.vaddrInvalid)) return -errno.EBUSY;
    const iommu = group.devices[0].iommu;
    if (iommu.config.tce !== null) return -errno.ENODEV;
    const ranges = this.#ranges(group);
    const fits = (dma: Dma) => ranges.some((range) => range.first <= dma.first && dma.last <= range.last);
    if (![...this.#dmas].every(fits)) return -errno.EINVAL;
    if (!iommu.config.isolatedMsi) return -errno.EPERM;
    let entry = this.#domains.get(iommu);
    if (entry === undefined) {
      entry = { domain: new PagingDomain(iommu), groups: new Set() };
      this.#domains.set(iommu, entry);
      for (const dma of this.#dmas) entry.domain.map(runOf(dma));
    }
    entry.groups.add(group);
    for (const device of group.devices) device.translation = entry.domain;
    return 0;
  }

  detachGroup(group: SimGroup): void {
    const iommu = group.devices[0].iommu;
    const entry = this.#domains.get(iommu);
    if (entry === undefined || !entry.groups.delete(group)) return;
    for (const device of group.devices) device.translation = null;
    if (entry.groups.size > 0) return;
    if (this.#domains.size === 1) this.release();
    this.#domains.delete(iommu);
    entry.domain.free();
  }

  release(): void {
    for (const dma of [...this.#dmas]) this.#remove(dma);
  }

  ioctlName(request: number): string | undefined {
    return names.get(request);
  }

  ioctl(request: number, address: number): number {
    const { process } = this.#kernel;
    switch (request) {
      case uapi.VFIO_IOMMU_GET_INFO:
        return answerInfo(process, address, { pageSizes: this.#pageSizes, ranges: this.#ranges(), available: this.#available });
      case uapi.VFIO_IOMMU_MAP_DMA: {
        const command = readArgsz(dmaMap, dmaMap.bytes, process, address);
        return typeof command === 'number' ? command : this.#map(command);
      }
      case uapi.VFIO_IOMMU_UNMAP_DMA: {
        const command = readArgsz(dmaUnmap, dmaUnmap.endOf('size'), process, address);
        return typeof command === 'number' ? command : this.#unmap(command);
      }
      case uapi.VFIO_IOMMU_DIRTY_PAGES: {
        if (!this.#version2) return -errno.EACCES;
        const command = readArgsz(dirtyBitmap, dirtyBitmap.endOf('flags'), process, address);
        return typeof command === 'number' ? command : this.#dirty(command);
      }
      default:
        return -errno.ENOTTY;
    }
  }

  /** vfio_dma_do_map: the order of the checks is the kernel's, for each has its errno. */
  #map({ in: { flags, vaddr, iova, size } }: CommandOf<typeof dmaMap>): number {
    if ((flags & ~(uapi.VFIO_DMA_MAP_FLAG_READ | uapi.VFIO_DMA_MAP_FLAG_WRITE | FLAG_MAP_VADDR)) !== 0) return -errno.EINVAL;
    if (size === 0n) return -errno.EINVAL;
    if (iova + size > LIMIT || vaddr + size > LIMIT) return -errno.EOVERFLOW;
    const permission =
      ((flags & uapi.VFIO_DMA_MAP_FLAG_READ) !== 0 ? READ : 0) | ((flags & uapi.VFIO_DMA_MAP_FLAG_WRITE) !== 0 ? WRITE : 0);
    const setVaddr = (flags & FLAG_MAP_VADDR) !== 0;
    if (setVaddr === (permission !== 0)) return -errno.EINVAL;
    if (((size | iova | vaddr) & (this.#granule - 1n)) !== 0n) return -errno.EINVAL;
    const last = iova + size - 1n;
    const there = this.#dmas.firstIn(iova, last);
    if (setVaddr) return this.#updateVaddr(there, iova, last, vaddr);
    if (there !== undefined) return -errno.EEXIST;
    if (this.#available === 0) return -errno.ENOSPC;
    if (!this.#ranges().some((range) => range.first <= iova && last <= range.last)) return -errno.EINVAL;
    return this.#pin(iova, last, vaddr, permission);
  }

  #pin(first: bigint, last: bigint, vaddr: bigint, permission: number): number {
    const bytes = Number(last - first + 1n);
    const start = Number(vaddr);
    const vma = this.#kernel.process.find(start);
    if (vma === undefined || ((permission & WRITE) !== 0 && !vma.writable)) return -errno.EFAULT;
    const there = Math.min(bytes, vma.last + 1 - start);
    // CAP_IPC_LOCK spares the limit, not the count (vfio_lock_acct).
    const [pinned, payer] = [vma.registers === true ? 0 : there, this.#kernel.payer('process', true)];
    // The limit is looked at as pages are pinned, before the first that is not there (vfio_pin_pages_remote).
    const refused = this.#kernel.pin(pinned, payer);
    if (refused < 0) return refused;
    if (there < bytes) {
      this.#kernel.unpin(pinned, payer);
      return -errno.EFAULT;
    }
    this.#kernel.physical.hold(vma.frames);
    const physical = vma.frames.first + vma.offset + (start - vma.first);
    const dma: Dma = { first, last, vaddr, vaddrInvalid: false, permission, frames: vma.frames, physical, pinned, payer, bitmap: null };
    this.#dmas.insert(dma);
    this.#available--;
    for (const { domain } of this.#domains.values()) domain.map(runOf(dma));
    return 0;
  }

  /** VFIO_DMA_MAP_FLAG_VADDR: the same memory at another address, of another process perhaps, after it was declared invalid. */
  #updateVaddr(dma: Dma | undefined, first: bigint, last: bigint, vaddr: bigint): number {
    if (dma === undefined) return -errno.ENOENT;
    if (!dma.vaddrInvalid || dma.first !== first || dma.last !== last) return -errno.EINVAL;
    const payer = this.#kernel.payer('process', true);
    if (payer.process !== dma.payer.process) {
      const refused = this.#kernel.pin(dma.pinned, payer);
      if (refused < 0) return refused;
      this.#kernel.unpin(dma.pinned, dma.payer);
      dma.payer = payer;
    }
    dma.vaddr = vaddr;
    dma.vaddrInvalid = false;
    return 0;
  }

  #remove(dma: Dma): void {
    for (const { domain } of this.#domains.values()) domain.unmap(Number(dma.first / PAGE), Number(dma.last / PAGE));
    this.#dmas.remove(dma);
    this.#kernel.physical.drop(dma.frames);
    this.#kernel.unpin(dma.pinned, dma.payer);
    this.#available++;
  }

  /** Something sticks out of [first, last]. */
  #splits(first: bigint, last: bigint): boolean {
    const low = this.#dmas.at(first);
    const high = this.#dmas.at(last);
    return (low !== undefined && low.first !== first) || (high !== undefined && high.last !== last);
  }

  /** What an unmap of [first, last] takes: in version 1 all of a mapping that begins there, and nothing from one on that began before. */
  #within(first: bigint, last: bigint): Dma[] {
    const found = this.#dmas.allIn(first, last);
    return found[0] !== undefined && found[0].first < first ? [] : found;
  }

  /** vfio_iommu_type1_unmap_dma and vfio_dma_do_unmap. */
  #unmap(command: CommandOf<typeof dmaUnmap>): number {
    const { argsz, flags, iova, size, bitmap_pgsize, bitmap_size, bitmap_data } = command.in;
    const all = (flags & uapi.VFIO_DMA_UNMAP_FLAG_ALL) !== 0;
    const invalidate = (flags & FLAG_UNMAP_VADDR) !== 0;
    const bitmap = (flags & uapi.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) !== 0;
    if ((flags & ~7) !== 0 || (bitmap && (all || invalidate))) return -errno.EINVAL;
    if (bitmap) {
      if (argsz < dmaUnmap.bytes) return -errno.EINVAL;
      if (!command.isWhole) return -errno.EFAULT;
      const failed = dirty.checkBitmap(size, bitmap_pgsize, { at: bitmap_data, bytes: bitmap_size });
      if (failed < 0) return failed;
    }
    if ((iova & (this.#granule - 1n)) !== 0n) return -errno.EINVAL;
    if (all ? iova !== 0n || size !== 0n : size === 0n || (size & (this.#granule - 1n)) !== 0n) return -errno.EINVAL;
    if (!all && iova + size > LIMIT) return -errno.EOVERFLOW;
    if (bitmap && (!this.#tracking || bitmap_pgsize !== this.#granule)) return -errno.EINVAL;
    const last = all ? LIMIT - 1n : iova + size - 1n;
    if (this.#version2 && !all && this.#splits(iova, last)) return -errno.EINVAL;
    const found = this.#within(iova, last);
    if (invalidate) {
      if (found.some((dma) => dma.vaddrInvalid)) return -errno.EINVAL;
      for (const dma of found) dma.vaddrInvalid = true;
    } else {
      for (const dma of found) {
        if (bitmap && !this.#tell(dma, bitmap_data, iova)) return -errno.EFAULT;
        this.#remove(dma);
      }
    }
    return command.respond({ size: found.reduce((sum, dma) => sum + (dma.last - dma.first + 1n), 0n) });
  }

  /** vfio_iommu_type1_dirty_pages: all that is mapped counts as dirty, for no device here reports what it writes. */
  #dirty(command: CommandOf<typeof dirtyBitmap>): number {
    const { argsz, flags, iova, size, bitmap_pgsize, bitmap_size, bitmap_data } = command.in;
    if (flags === dirty.START || flags === dirty.STOP) {
      this.#tracking = flags === dirty.START;
      if (!this.#tracking) for (const dma of this.#dmas) dma.bitmap = null;
      return 0;
    }
    if (flags !== dirty.GET_BITMAP || argsz < dirtyBitmap.bytes) return -errno.EINVAL;
    if (!command.isWhole) return -errno.EFAULT;
    if (size === 0n) return -errno.EINVAL;
    if (iova + size > LIMIT) return -errno.EOVERFLOW;
    const failed = dirty.checkBitmap(size, bitmap_pgsize, { at: bitmap_data, bytes: bitmap_size });
    if (failed < 0) return failed;
    if (bitmap_pgsize !== this.#granule || ((iova | size) & (this.#granule - 1n)) !== 0n || !this.#tracking) return -errno.EINVAL;
    const last = iova + size - 1n;
    if (this.#splits(iova, last)) return -errno.EINVAL;
    for (const dma of this.#within(iova, last)) {
      if (!this.#tell(dma, bitmap_data, iova)) return -errno.EFAULT;
      dma.bitmap?.clear();
    }
    return 0;
  }

  /** Whether the bitmap at `address`, of the pages from `iova` on, could be told what of the mapping is dirty. */
  #tell(dma: Dma, address: bigint, iova: bigint): boolean {
    dma.bitmap ??= new dirty.DmaBitmap((dma.last - dma.first + 1n) / this.#granule);
    return dma.bitmap.tell(this.#kernel.process, address, (dma.first - iova) / this.#granule);
  }

  objects(): Record<string, number> {
    return { type1Mappings: this.#dmas.size };
  }

  save(): unknown {
    return {
      mappings: [...this.#dmas].map(({ first, last, physical, permission, vaddrInvalid }) => ({
        first: first.toString(16),
        last: last.toString(16),
        physical,
        permission,
        vaddrInvalid,
      })),
      available: this.#available,
      tracking: this.#tracking,
    };
  }
}

function runOf(dma: Dma) {
  const { first, last, physical, permission } = dma;
  return { first: Number(first / PAGE), last: Number(last / PAGE), physical: physical / PAGE_BYTES, permission };
}

function clip(first: bigint, last: bigint, to: Span<bigint>): Span<bigint>[] {
  const low = first > to.first ? first : to.first;
  const high = last < to.last ? last : to.last;
  return low <= high ? [{ first: low, last: high }] : [];
}

const names = new Map<number, string>([
  [uapi.VFIO_IOMMU_GET_INFO, 'VFIO_IOMMU_GET_INFO'],
  [uapi.VFIO_IOMMU_MAP_DMA, 'VFIO_IOMMU_MAP_DMA'],
  [uapi.VFIO_IOMMU_UNMAP_DMA, 'VFIO_IOMMU_UNMAP_DMA'],
  [uapi.VFIO_IOMMU_DIRTY_PAGES, 'VFIO_IOMMU_DIRTY_PAGES'],
]);
