import { READ, WRITE } from '../../../memory/access.ts';
import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import { MAP_FIXED_IOVA, MAP_READABLE, MAP_WRITEABLE } from '../../iommufd/uapi.ts';
import { SharedFile, type SimFile } from '../files.ts';
import type { Payer } from '../locked-memory.ts';
import type { Span } from '../spans.ts';
import { handler, type IoctlHandler, type IommufdContext, type KernelObject } from './context.ts';
import { IoPageTable } from './io-page-table.ts';
import { IOVA_MAX } from './iova-ranges.ts';
import { Pages, type Slice, type Source } from './pages.ts';
import {
  iommuDestroy,
  iommuIoasAlloc,
  iommuIoasAllowIovas,
  iommuIoasChangeProcess,
  iommuIoasCopy,
  iommuIoasIovaRanges,
  iommuIoasMap,
  iommuIoasMapFile,
  iommuIoasNoiommuGetPa,
  iommuIoasUnmap,
  iommuIovaRange,
  iommuVfioIoas,
} from './structs.ts';

/** The ioctls of I/O address spaces (the kernel's ioas.c), checks in the kernel's order. */

export class Ioas implements KernelObject {
  readonly kind = 'ioas';
  id = 0;
  users = 1;
  readonly table: IoPageTable;
  /** Paging HWPTs that are filled from it; the automatic ones are found and shared here. */
  readonly pageTables: object[] = [];

  constructor(context: IommufdContext) {
    this.table = new IoPageTable(context.kernel);
  }

  destroy(): void {
    this.table.unmap(0n, IOVA_MAX);
  }

  save(): unknown {
    return this.table.save();
  }
}

const MAP_FLAGS = MAP_FIXED_IOVA | MAP_WRITEABLE | MAP_READABLE;

/** Flags and 64-bit arguments that map, map file and copy check alike: 0 or a negative errno. */
function checkMap(flags: number, reserved: number, ...addresses: readonly bigint[]): number {
  if ((flags & ~MAP_FLAGS) !== 0 || reserved !== 0) return -errno.EOPNOTSUPP;
  if (addresses.some((address) => address === IOVA_MAX)) return -errno.EOVERFLOW;
  return (flags & (MAP_WRITEABLE | MAP_READABLE)) === 0 ? -errno.EINVAL : 0;
}

function permissionOf(flags: number): number {
  return ((flags & MAP_READABLE) !== 0 ? READ : 0) | ((flags & MAP_WRITEABLE) !== 0 ? WRITE : 0);
}

/** The process's memory, as the source of a mapping. */
export function processSource(context: IommufdContext): Source {
  const { process } = context.kernel;
  return {
    resolve(start, bytes, { write, pins }) {
      const vma =
        pins && process === context.kernel.process ? process.pagesAt(start, bytes) : (process.within(start, bytes) ?? -errno.EFAULT);
      if (typeof vma === 'number') return vma;
      if (write && !vma.writable) return -errno.EFAULT;
      return { frames: vma.frames, offset: vma.offset + (Number(start) - vma.first) };
    },
  };
}

/** Whether a file can be mapped is seen when a domain wants its pages: only shared memory can. */
function fileSource(file: SimFile): Source {
  return {
    file,
    resolve(start, bytes) {
      if (!(file instanceof SharedFile)) return -errno.EINVAL;
      return start + bytes > BigInt(file.frames.buffer.byteLength) ? -errno.EINVAL : { frames: file.frames, offset: Number(start) };
    },
  };
}

/** iopt_alloc_pages: the memory of one map call, or a negative errno. A file may end where numbers do; of memory that is one too far. */
export function pagesOf(context: IommufdContext, source: Source, start: bigint, bytes: bigint, writable: boolean): Pages | number {
  if (source.file === undefined && start + bytes > IOVA_MAX) return -errno.EOVERFLOW;
  if (bytes === 0n || bytes > IOVA_MAX - BigInt(PAGE_BYTES)) return -errno.EINVAL;
  return new Pages(context.kernel, payerOf(context), source, start, bytes, writable);
}

function mapSlices(ioas: Ioas, slices: readonly Slice[] | number, flags: number, iova: bigint): bigint {
  if (typeof slices === 'number') return BigInt(slices);
  return ioas.table.map(slices, (flags & MAP_FIXED_IOVA) !== 0 ? iova : undefined, permissionOf(flags));
}

function whole(pages: Pages | number): Slice[] | number {
  return typeof pages === 'number' ? pages : [{ pages, offset: 0n, bytes: pages.bytes }];
}

const map = handler('IOMMU_IOAS_MAP', iommuIoasMap, 'iova', (context, command) => {
  const { flags, reserved, ioas_id, user_va, length, iova } = command.in;
  const refused = checkMap(flags, reserved, iova, length);
  if (refused < 0) return refused;
  const ioas = context.get(ioas_id, Ioas);
  if (ioas === undefined) return -errno.ENOENT;
  const pages = pagesOf(context, processSource(context), user_va, length, (flags & MAP_WRITEABLE) !== 0);
  const placed = mapSlices(ioas, whole(pages), flags, iova);
  return placed < 0n ? Number(placed) : command.respond({ iova: placed });
});

const mapFile = handler('IOMMU_IOAS_MAP_FILE', iommuIoasMapFile, 'iova', (context, command) => {
  const { flags, ioas_id, fd, start, length, iova } = command.in;
  const refused = checkMap(flags, 0, iova, length);
  if (refused < 0) return refused;
  const ioas = context.get(ioas_id, Ioas);
  if (ioas === undefined) return -errno.ENOENT;
  if (length === 0n) return -errno.EINVAL;
  if (start + length - 1n > IOVA_MAX) return -errno.EOVERFLOW;
  const file = context.kernel.file(fd);
  if (file === undefined) return -errno.EBADF;
  const pages = pagesOf(context, fileSource(file), start, length, (flags & MAP_WRITEABLE) !== 0);
  const placed = mapSlices(ioas, whole(pages), flags, iova);
  return placed < 0n ? Number(placed) : command.respond({ iova: placed });
});

const copy = handler('IOMMU_IOAS_COPY', iommuIoasCopy, 'src_iova', (context, command) => {
  const { flags, dst_ioas_id, src_ioas_id, length, dst_iova, src_iova } = command.in;
  const refused = checkMap(flags, 0, length, src_iova, dst_iova);
  if (refused < 0) return refused;
  const source = context.get(src_ioas_id, Ioas);
  if (source === undefined) return -errno.ENOENT;
  if (length === 0n) return -errno.EINVAL;
  if (src_iova + length - 1n > IOVA_MAX) return -errno.EOVERFLOW;
  const slices = source.table.slices(src_iova, src_iova + length - 1n);
  if (slices === null) return -errno.ENOENT;
  const destination = context.get(dst_ioas_id, Ioas);
  if (destination === undefined) return -errno.ENOENT;
  const placed = mapSlices(destination, slices, flags, dst_iova);
  return placed < 0n ? Number(placed) : command.respond({ dst_iova: placed });
});

const unmap = handler('IOMMU_IOAS_UNMAP', iommuIoasUnmap, 'length', (context, command) => {
  const { ioas_id, iova, length } = command.in;
  const ioas = context.get(ioas_id, Ioas);
  if (ioas === undefined) return -errno.ENOENT;
  const all = iova === 0n && length === IOVA_MAX;
  if (!all && (iova === IOVA_MAX || length === IOVA_MAX)) return -errno.EOVERFLOW;
  if (length === 0n) return -errno.EINVAL;
  const last = all ? IOVA_MAX : iova + length - 1n;
  if (last > IOVA_MAX) return -errno.EOVERFLOW;
  const { bytes, error } = ioas.table.unmap(iova, last);
  if (error === 0 && bytes === 0n && !all) return -errno.ENOENT;
  return error < 0 ? error : command.respond({ length: bytes });
});

const alloc = handler('IOMMU_IOAS_ALLOC', iommuIoasAlloc, 'out_ioas_id', (context, command) => {
  if (command.in.flags !== 0) return -errno.EOPNOTSUPP;
  const made = context.add(new Ioas(context));
  return context.settle(made, command.respond({ out_ioas_id: made.id }));
});

const iovaRanges = handler('IOMMU_IOAS_IOVA_RANGES', iommuIoasIovaRanges, 'out_iova_alignment', (context, command) => {
  const { ioas_id, num_iovas, reserved, allowed_iovas } = command.in;
  if (reserved !== 0) return -errno.EOPNOTSUPP;
  const ioas = context.get(ioas_id, Ioas);
  if (ioas === undefined) return -errno.ENOENT;
  const apertures = ioas.table.ranges.apertures();
  for (const [index, { first, last }] of apertures.slice(0, num_iovas).entries()) {
    const range = new Uint8Array(iommuIovaRange.bytes);
    iommuIovaRange.encode(range, { start: first, last });
    if (!context.kernel.process.copyOut(allowed_iovas + BigInt(index * range.length), range)) return -errno.EFAULT;
  }
  const failed = command.respond({ num_iovas: apertures.length, out_iova_alignment: ioas.table.alignment });
  return failed < 0 ? failed : apertures.length > num_iovas ? -errno.EMSGSIZE : 0;
});

const allowIovas = handler('IOMMU_IOAS_ALLOW_IOVAS', iommuIoasAllowIovas, 'allowed_iovas', (context, command) => {
  const { ioas_id, num_iovas, reserved, allowed_iovas } = command.in;
  if (reserved !== 0) return -errno.EOPNOTSUPP;
  const ioas = context.get(ioas_id, Ioas);
  if (ioas === undefined) return -errno.ENOENT;
  const ranges: Span<bigint>[] = [];
  for (let index = 0; index < num_iovas; index++) {
    const bytes = context.kernel.process.view(allowed_iovas + BigInt(index * iommuIovaRange.bytes), iommuIovaRange.bytes);
    if (bytes === null) return -errno.EFAULT;
    const { start: first, last } = iommuIovaRange.decode(bytes);
    if (first >= last || ranges.some((range) => range.first <= last && range.last >= first)) return -errno.EINVAL;
    ranges.push({ first, last });
  }
  return ioas.table.ranges.allow(ranges);
});

function payerOf(context: IommufdContext, counted = false): Payer {
  return context.kernel.payer(context.accountsProcess ? 'process' : 'user', counted);
}

/** Pinned memory, which may come from files only, is counted against the process that calls from now on: first here, and then no longer there. */
const changeProcess = handler('IOMMU_IOAS_CHANGE_PROCESS', iommuIoasChangeProcess, 'reserved', (context, command) => {
  if (command.in.reserved !== 0) return -errno.EOPNOTSUPP;
  const pages = new Set(context.list(Ioas).flatMap(({ table }) => table.pages));
  if ([...pages].some(({ source }) => source.file === undefined)) return -errno.EINVAL;
  const moved = [...pages].filter(({ countedElsewhere }) => countedElsewhere > 0);
  const payer = payerOf(context, true);
  const refused = context.kernel.pin(
    moved.reduce((sum, { countedElsewhere }) => sum + countedElsewhere, 0),
    payer,
  );
  if (refused < 0) return refused;
  for (const each of moved) each.payBy(payer);
  return 0;
});

/** IOMMU_IOAS_NOIOMMU_GET_PA */
const NOIOMMU_GET_PA = 0x3b95;

/** The physical address of a mapping, for devices without an IOMMU: there are none here, so it gets no further. */
const noiommuGetPa = handler(NOIOMMU_GET_PA, iommuIoasNoiommuGetPa, 'out_phys', (context, command) => {
  const { flags, ioas_id, reserved, iova, length } = command.in;
  if (flags !== 0 || reserved !== 0) return -errno.EOPNOTSUPP;
  if (length === 0n) return -errno.EINVAL;
  if (iova === IOVA_MAX) return -errno.EOVERFLOW;
  const mapped = context.get(ioas_id, Ioas)?.table.slices(iova, iova) ?? null;
  return mapped === null ? -errno.ENOENT : -errno.EOPNOTSUPP;
});

const VFIO_GET = 0;
const VFIO_SET = 1;
const VFIO_CLEAR = 2;

/** The IOAS that old VFIO calls on the same descriptor would use. */
const vfioIoas = handler('IOMMU_VFIO_IOAS', iommuVfioIoas, 'reserved', (context, command) => {
  const { ioas_id, op, reserved } = command.in;
  if (reserved !== 0) return -errno.EOPNOTSUPP;
  if (op === VFIO_GET) {
    const id = context.vfioIoas;
    return context.get(id, Ioas) === undefined ? -errno.ENODEV : command.respond({ ioas_id: id });
  }
  if (op === VFIO_SET && context.get(ioas_id, Ioas) === undefined) return -errno.ENOENT;
  if (op !== VFIO_SET && op !== VFIO_CLEAR) return -errno.EOPNOTSUPP;
  context.vfioIoas = op === VFIO_SET ? ioas_id : 0;
  return 0;
});

const destroy = handler('IOMMU_DESTROY', iommuDestroy, 'id', (context, command) => context.remove(command.in.id));

export const ioasHandlers: readonly IoctlHandler[] = [
  alloc,
  allowIovas,
  changeProcess,
  copy,
  destroy,
  iovaRanges,
  map,
  mapFile,
  noiommuGetPa,
  unmap,
  vfioIoas,
];
