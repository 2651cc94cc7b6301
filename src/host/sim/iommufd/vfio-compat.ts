import { READ, WRITE } from '../../../memory/access.ts';
import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import * as uapi from '../../vfio/uapi.ts';
import { readArgsz } from '../structs.ts';
import { capDmaAvail, capIovaRange, dmaMap, dmaUnmap, iovaRange, type1Info } from '../vfio/structs.ts';
import type { IommufdContext } from './context.ts';
import { Ioas, pagesOf, processSource } from './ioas.ts';
import { IOVA_MAX } from './iova-ranges.ts';

/** VFIO's type1 container calls on /dev/iommu, upon the IOAS that IOMMU_VFIO_IOAS names (the kernel's vfio_compat.c). */

const TYPE1 = 1;
const DMA_CC = 4;
const NOIOMMU = 8;
const INFO_PGSIZES = 1;
const INFO_CAPS = 2;
const CAP_IOVA_RANGE = 1;
const CAP_DMA_AVAIL = 3;
const AVAILABLE = 0xffff_ffff;
const PAGE_MASK = -BigInt(PAGE_BYTES) & IOVA_MAX;

export function compatIoas(context: IommufdContext): Ioas | number {
  return context.get(context.vfioIoas, Ioas) ?? -errno.ENODEV;
}

/** A group takes the iommufd for its container: there is such an IOAS from then on. */
export function createCompatIoas(context: IommufdContext): void {
  if (context.get(context.vfioIoas, Ioas) === undefined) context.vfioIoas = context.add(new Ioas(context)).id;
}

function checkExtension(context: IommufdContext, extension: number): number {
  if ([TYPE1, uapi.VFIO_TYPE1v2_IOMMU, uapi.VFIO_UNMAP_ALL, NOIOMMU].includes(extension)) return 1;
  if (extension !== DMA_CC) return 0;
  // No page table here snoops by itself.
  const ioas = compatIoas(context);
  return typeof ioas === 'number' ? ioas : ioas.pageTables.length === 0 ? 1 : 0;
}

/** The older type unmaps in the middle of mappings, for which they may not be of large pages. */
function setIommu(context: IommufdContext, type: number): number {
  if (type !== TYPE1 && type !== uapi.VFIO_TYPE1v2_IOMMU) return -errno.EINVAL;
  const ioas = compatIoas(context);
  if (typeof ioas === 'number') return ioas;
  return type === TYPE1 ? ioas.table.setHugePages(false) : 0;
}

function map(context: IommufdContext, address: number): number {
  const command = readArgsz(dmaMap, dmaMap.bytes, context.kernel.process, address);
  if (typeof command === 'number') return command;
  const { flags, vaddr, iova, size } = command.in;
  const [readable, writable] = [uapi.VFIO_DMA_MAP_FLAG_READ, uapi.VFIO_DMA_MAP_FLAG_WRITE];
  if ((flags & ~(readable | writable)) !== 0) return -errno.EINVAL;
  const ioas = compatIoas(context);
  if (typeof ioas === 'number') return ioas;
  const pages = pagesOf(context, processSource(context), vaddr, size, (flags & writable) !== 0);
  if (typeof pages === 'number') return pages;
  const permission = ((flags & readable) !== 0 ? READ : 0) | ((flags & writable) !== 0 ? WRITE : 0);
  return Math.min(Number(ioas.table.map([{ pages, offset: 0n, bytes: size }], iova, permission)), 0);
}

function unmap(context: IommufdContext, address: number): number {
  const bytes = dmaUnmap.endOf('size');
  const command = readArgsz(dmaUnmap, bytes, context.kernel.process, address);
  if (typeof command === 'number') return command;
  const { flags, iova, size } = command.in;
  const all = flags === uapi.VFIO_DMA_UNMAP_FLAG_ALL;
  if ((flags & ~uapi.VFIO_DMA_UNMAP_FLAG_ALL) !== 0) return -errno.EINVAL;
  const ioas = compatIoas(context);
  if (typeof ioas === 'number') return ioas;
  if (all && (iova !== 0n || size !== 0n)) return -errno.EINVAL;
  let error = 0;
  let unmapped = 0n;
  if (!all && !ioas.table.hugePages) {
    const cut = ioas.table.cut([BigInt.asUintN(64, iova + size - 1n), ...(iova > 0n ? [iova - 1n] : [])]);
    if (cut < 0) return cut;
  }
  if (!all && size === 0n) error = -errno.EINVAL;
  else if (!all && iova + size - 1n > IOVA_MAX) error = -errno.EOVERFLOW;
  else {
    const done = ioas.table.unmap(all ? 0n : iova, all ? IOVA_MAX : iova + size - 1n);
    unmapped = done.bytes;
    error = done.error;
  }
  const answer = new Uint8Array(bytes);
  dmaUnmap.encode(answer, { argsz: command.in.argsz, flags, iova, size: unmapped });
  return context.kernel.process.copyOut(address, answer) ? error : -errno.EFAULT;
}

function pageSizes(ioas: Ioas): bigint {
  let sizes = IOVA_MAX;
  for (const { pageSizes } of ioas.table.formats) sizes &= pageSizes;
  if ((sizes & ~PAGE_MASK) !== 0n) sizes = (sizes & PAGE_MASK) | BigInt(PAGE_BYTES);
  return sizes > ioas.table.alignment ? sizes : ioas.table.alignment;
}

/** Capabilities in a chain behind the struct: each is written that has room, and how much all want is said. */
function info(context: IommufdContext, address: number): number {
  const { process } = context.kernel;
  const command = readArgsz(type1Info, type1Info.endOf('iova_pgsizes'), process, address);
  if (typeof command === 'number') return command;
  const { argsz } = command.in;
  const ioas = compatIoas(context);
  if (typeof ioas === 'number') return ioas;
  const apertures = ioas.table.ranges.apertures();
  const total = type1Info.bytes + capDmaAvail.bytes + capIovaRange.bytes + apertures.length * iovaRange.bytes;
  const availAt = type1Info.bytes;
  const rangesAt = availAt + capDmaAvail.bytes;
  const write = (at: number, bytes: Uint8Array) => at + bytes.length > argsz || process.copyOut(address + at, bytes);
  const header = (id: number, next: number) => ({ id, version: 1, next });
  // The kernel's struct ends with `avail`, without what rounds it up.
  const avail = new Uint8Array(capDmaAvail.bytes);
  capDmaAvail.encode(avail, { ...header(CAP_DMA_AVAIL, argsz >= rangesAt ? rangesAt : 0), avail: AVAILABLE });
  if (!write(availAt, avail.subarray(0, capDmaAvail.endOf('avail')))) return -errno.EFAULT;
  for (const [index, { first, last }] of apertures.entries()) {
    const range = new Uint8Array(iovaRange.bytes);
    iovaRange.encode(range, { start: first, end: last });
    if (!write(rangesAt + capIovaRange.bytes + index * iovaRange.bytes, range)) return -errno.EFAULT;
  }
  const ranges = new Uint8Array(capIovaRange.bytes);
  capIovaRange.encode(ranges, { ...header(CAP_IOVA_RANGE, 0), nr_iovas: apertures.length });
  if (total <= argsz && !write(rangesAt, ranges)) return -errno.EFAULT;
  const answer = new Uint8Array(type1Info.bytes);
  const capOffset = argsz >= total ? type1Info.bytes : 0;
  type1Info.encode(answer, { argsz: total, flags: INFO_PGSIZES | INFO_CAPS, iova_pgsizes: pageSizes(ioas), cap_offset: capOffset });
  return process.copyOut(address, answer.subarray(0, Math.min(argsz, answer.length))) ? 0 : -errno.EFAULT;
}

/** iommufd_vfio_ioctl: what is no ioctl of iommufd's own. */
export function vfioCompat(context: IommufdContext, request: number, address: number): number {
  switch (request) {
    case uapi.VFIO_GET_API_VERSION:
      return uapi.VFIO_API_VERSION;
    case uapi.VFIO_CHECK_EXTENSION:
      return checkExtension(context, address);
    case uapi.VFIO_SET_IOMMU:
      return setIommu(context, address);
    case uapi.VFIO_IOMMU_GET_INFO:
      return info(context, address);
    case uapi.VFIO_IOMMU_MAP_DMA:
      return map(context, address);
    case uapi.VFIO_IOMMU_UNMAP_DMA:
      return unmap(context, address);
    default:
      return -errno.ENOTTY;
  }
}
