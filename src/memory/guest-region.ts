import { joinHiLo, PAGE_BYTES, pfnOf } from './address.ts';
import { require64, requireFunction, requireInteger, requireObject } from './arguments.ts';

/** A contiguous piece of guest RAM and the buffer of the VMM that holds it. */
export interface GuestRegion {
  /** Guest-physical address of the first byte; a multiple of 4096. */
  readonly gpa: bigint;
  /** Where the bytes are: a SharedArrayBuffer of ours, or an ArrayBuffer over the embedder's mmap. */
  readonly buffer: ArrayBufferLike;
  /** First byte within the buffer; a multiple of 8. Default 0. */
  readonly offset?: number;
  /** Size in bytes, a multiple of 4096. Default: the rest of the buffer. */
  readonly bytes?: number;
  /** Virtual address of the first byte in this process, page-aligned: what a host maps for DMA. Left out: emulated devices only. */
  readonly hostAddress?: bigint;
  /** ROM: stores of devices fault, and hosts map it for reading only. Default false. */
  readonly readOnly?: boolean;
  /**
   * Registers of a device, by whose name refusals call them (a BAR of `0000:01:00.0`): other devices reach them as they reach RAM, passed-through ones
   * where the host can map them, by address (type1) or by file (a dma-buf, iommufd). Default: RAM or ROM.
   */
  readonly registersOf?: string;
  /**
   * Pages of it are discarded now and then (a balloon, virtio-mem), those of which `GuestMemory.mayDiscard` says so. Before hardware can reach pages
   * they are populated: when it answers true all of them have memory; false: there is none, and what wanted to reach them is refused (ENOMEM).
   */
  readonly populate?: (gpa: bigint, bytes: number) => boolean;
  /** The file that backs the region, for hosts that map files (iommufd IOAS_MAP_FILE), and the region's first byte in it. */
  readonly file?: { readonly fd: number; readonly offset: bigint };
}

/**
 * A chunk lies within one 4 GiB frame of guest-physical addresses, so that one compare of `hi` and one unsigned
 * subtraction of `lo` find it, and within one view of its buffer: a Uint8Array ends at 4 GiB.
 */
export class Chunk {
  readonly hi: number;
  readonly lo: number;
  readonly bytes: number;
  readonly u8: Uint8Array;
  readonly u64: BigUint64Array;
  readonly i32: Int32Array;
  readonly view: DataView;
  /** Host virtual page of the first byte, or -1. */
  readonly hostPfn: number;
  readonly region: GuestRegion;

  constructor(hi: number, lo: number, region: GuestRegion, offset: number, bytes: number, hostPfn: number) {
    const { buffer } = region;
    this.region = region;
    this.hi = hi;
    this.lo = lo;
    this.bytes = bytes;
    this.u8 = new Uint8Array(buffer, offset, bytes);
    this.u64 = new BigUint64Array(buffer, offset, bytes / 8);
    this.i32 = new Int32Array(buffer, offset, bytes / 4);
    this.view = new DataView(buffer, offset, bytes);
    this.hostPfn = hostPfn;
  }
}

/** Stands for a chunk where there is none: no byte is in it, and no aligned access begins at address 1. */
export const NO_CHUNK = new Chunk(0, 1, { gpa: 0n, buffer: new ArrayBuffer(0) }, 0, 0, -1);

export const FRAME_BYTES = 0x1_0000_0000;
const LIMIT_64 = 1n << 64n;

/** @throws TypeError when a field is not of its type; RangeError when it is not possible. */
function checkRegion(region: GuestRegion): void {
  requireObject('GuestMemory', 'region', region);
  const { gpa, buffer, offset = 0, bytes, hostAddress, readOnly = false, file, registersOf, populate } = region;
  requireFunction('GuestMemory', 'populate', populate);
  if (registersOf !== undefined && typeof registersOf !== 'string')
    throw new TypeError(`GuestMemory: registersOf ${String(registersOf)} is no string`);
  if (file !== undefined) {
    requireObject('GuestMemory', 'file', file);
    requireInteger('GuestMemory', 'file.fd', file.fd, 0, 0x7fff_ffff);
    require64('GuestMemory', 'file.offset', file.offset);
  }
  if (typeof readOnly !== 'boolean') throw new TypeError(`GuestMemory: readOnly ${String(readOnly)} is no boolean`);
  if (typeof gpa !== 'bigint') throw new TypeError(`GuestMemory: gpa ${String(gpa)} is no bigint`);
  if (hostAddress !== undefined && typeof hostAddress !== 'bigint')
    throw new TypeError(`GuestMemory: hostAddress ${String(hostAddress)} is no bigint`);
  if (typeof buffer?.byteLength !== 'number' || ArrayBuffer.isView(buffer))
    throw new TypeError('GuestMemory: buffer is no ArrayBuffer or SharedArrayBuffer');
  const at = `0x${gpa.toString(16)}`;
  const size = bytes ?? buffer.byteLength - offset;
  if (gpa < 0n || gpa % BigInt(PAGE_BYTES) !== 0n) throw new RangeError(`GuestMemory: gpa ${at} is not a page's`);
  if (Number(gpa) + size > Number.MAX_SAFE_INTEGER) throw new RangeError(`GuestMemory: region at ${at} ends above 2^53`);
  if (!(size > 0 && size % PAGE_BYTES === 0)) throw new RangeError(`GuestMemory: ${size} bytes at ${at} are not whole pages`);
  if (!(offset >= 0 && offset % 8 === 0 && offset + size <= buffer.byteLength))
    throw new RangeError(`GuestMemory: offset ${offset} + ${size} bytes do not fit the buffer`);
  if (hostAddress !== undefined && (hostAddress < 0n || hostAddress >= LIMIT_64 || hostAddress % BigInt(PAGE_BYTES) !== 0n))
    throw new RangeError(`GuestMemory: hostAddress ${hostAddress} is not a page's`);
}

function chunksOf(region: GuestRegion): Chunk[] {
  checkRegion(region);
  const offset = region.offset ?? 0;
  const bytes = region.bytes ?? region.buffer.byteLength - offset;
  const start = Number(region.gpa);
  const hostPfn = region.hostAddress === undefined ? -1 : pfnOf(region.hostAddress);
  const chunks: Chunk[] = [];
  for (let done = 0; done < bytes; ) {
    const at = start + done;
    const lo = at % FRAME_BYTES;
    const size = Math.min(bytes - done, FRAME_BYTES - lo);
    const host = hostPfn < 0 ? -1 : hostPfn + done / PAGE_BYTES;
    chunks.push(new Chunk(Math.floor(at / FRAME_BYTES), lo, region, offset + done, size, host));
    done += size;
  }
  return chunks;
}

/**
 * The chunks, and among them those of one more region: of the others nothing is made again, as there may be thousands.
 * @throws RangeError when it overlaps one of them, or is not possible.
 */
export function chunksWith(chunks: readonly Chunk[], region: GuestRegion): Chunk[] {
  const added = chunksOf(region);
  const start = startOf(added[0]);
  let at = 0;
  let end = chunks.length;
  while (at < end) {
    const middle = (at + end) >>> 1;
    if (startOf(chunks[middle]) < start) at = middle + 1;
    else end = middle;
  }
  if (at > 0) requireApart(chunks[at - 1], added[0]);
  if (at < chunks.length) requireApart(added[added.length - 1], chunks[at]);
  return chunks.toSpliced(at, 0, ...added);
}

function startOf({ hi, lo }: Chunk): number {
  return hi * FRAME_BYTES + lo;
}

/** @throws RangeError when the lower one ends in the upper one. */
function requireApart(lower: Chunk, upper: Chunk): void {
  if (startOf(lower) + lower.bytes > startOf(upper))
    throw new RangeError(`GuestMemory: two regions hold 0x${joinHiLo(upper.hi, upper.lo).toString(16)}`);
}
