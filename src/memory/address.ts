/**
 * How an address is written in this library (docs/architecture.md, "Addresses in code"):
 * - hot code carries two int32, `hi` and `lo`;
 * - trees and control code carry a page frame number (address / 4096) as a `number`, exact to 52 bits;
 * - the public API takes and returns `bigint`, converted here, once, through a scratch array.
 */

/**
 * Where the halves of a 64-bit value stand in an array of int32: `GuestMemory.word`, `Target.translated`, `out` of tables and caches, fields of
 * structures. Arguments go the other way round, (hi, lo), as numbers are written.
 */
export const LO = 0;
export const HI = 1;

/** lg2 of the page that a page frame number counts, in bytes. */
export const PAGE_LG2 = 12;
export const PAGE_BYTES = 4096;
/** One past the last page frame number of a 64-bit address space; as a `last` it is PFN_LIMIT - 1. */
export const PFN_LIMIT = 2 ** 52;

const scratch64 = new BigUint64Array(1);
const scratch32 = new Int32Array(scratch64.buffer);

/** Upper half of a 64-bit address, as int32. Bits above 64 are dropped. */
export function hiOf(address: bigint): number {
  scratch64[0] = address;
  return scratch32[1];
}

/** Lower half of a 64-bit address, as int32. */
export function loOf(address: bigint): number {
  scratch64[0] = address;
  return scratch32[0];
}

/** The 64-bit value of a pair of int32, unsigned. */
export function joinHiLo(hi: number, lo: number): bigint {
  scratch32[1] = hi;
  scratch32[0] = lo;
  return scratch64[0];
}

/** The 64-bit value whose halves stand in an array, at LO and HI. */
export function join(halves: ArrayLike<number>): bigint {
  return joinHiLo(halves[HI], halves[LO]);
}

/** Page frame number of the page that holds an address. */
export function pfnOfHiLo(hi: number, lo: number): number {
  return (hi >>> 0) * 0x100000 + (lo >>> PAGE_LG2);
}

/** Page frame number of the page that holds an address of the public API. */
export function pfnOf(address: bigint): number {
  scratch64[0] = address;
  return pfnOfHiLo(scratch32[1], scratch32[0]);
}

/** Upper half of a page's address. */
export function hiOfPfn(pfn: number): number {
  return Math.floor(pfn / 0x100000) | 0;
}

/** Lower half of a page's address; its 12 low bits are zero. */
export function loOfPfn(pfn: number): number {
  return (pfn % 0x100000) << PAGE_LG2;
}

/** Address of a page for the public API. */
export function addressOfPfn(pfn: number): bigint {
  return joinHiLo(hiOfPfn(pfn), loOfPfn(pfn));
}
