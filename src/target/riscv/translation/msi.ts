import { hiOfPfn, loOfPfn } from '../../../memory/address.ts';
import { get, getWide, isSet, reservedClear } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import { Cause } from '../spec/causes.ts';
import { MSIPTE, MSIPTE_BASIC, MSIPTE_BASIC_RESERVED, MSIPTE_MRIF, MSIPTE_MRIF_RESERVED, MsipteMode } from '../spec/msi-pte.ts';
import { Cap } from '../spec/registers.ts';
import type { Structures } from '../structures.ts';
import type { DeviceContext } from './device-directory.ts';

/** Outcomes of MsiTables.translate besides a negative cause: the file is a device, or lies in memory. */
const MSI_BASIC = 1;
export const MSI_MRIF = 2;

/** "Process to translate addresses of MSIs": flat tables, basic translation and memory-resident interrupt files. */
export class MsiTables {
  /** Where the interrupt file is (basic), or where the notice MSI goes (MRIF): a page's address. */
  pageHi = 0;
  pageLo = 0;
  /** MRIF: address of the file in memory, and the data of the notice MSI. */
  mrifHi = 0;
  mrifLo = 0;
  notice = 0;
  readonly #registers: Registers;
  readonly #structures: Structures;

  constructor(registers: Registers, structures: Structures) {
    this.#registers = registers;
    this.#structures = structures;
  }

  /** Translates a guest-physical address that `isInterruptFile`. Returns MSI_BASIC, MSI_MRIF or a negative cause. */
  translate(context: DeviceContext, hi: number, lo: number): number {
    const { words } = this.#structures;
    // 5. and 6.: the file's number, and the entry's address m | (I x 16).
    const file = fileNumber(context, hi, lo);
    const page = context.msiRoot;
    const entryHi = hiOfPfn(page) | Math.floor(file / 2 ** 28);
    const entryLo = loOfPfn(page) | ((file % 2 ** 28) << 4);
    // 7. and 8.
    if (!this.#structures.read(entryHi, entryLo, 2, this.#registers.bigEndian))
      return -(this.#structures.poisoned ? Cause.msiCorruption : Cause.msiAccessFault);
    // 9.
    if (!isSet(words, MSIPTE.V)) return -Cause.msiNotValid;
    // 10. and 11.: no custom interpretation of C is provided.
    if (isSet(words, MSIPTE.C)) return -Cause.msiMisconfigured;
    // 12. to 14.
    const mode = get(words, MSIPTE.M);
    if (mode === MsipteMode.basic) return this.#basic(words);
    return mode === MsipteMode.mrif ? this.#mrif(words) : -Cause.msiMisconfigured;
  }

  /** 13. */
  #basic(words: Int32Array): number {
    if (!reservedClear(words, MSIPTE_BASIC_RESERVED)) return -Cause.msiMisconfigured;
    this.#setPage(getWide(words, MSIPTE_BASIC.PPN));
    return MSI_BASIC;
  }

  /** 14. */
  #mrif(words: Int32Array): number {
    if (!this.#registers.can(Cap.msiMrif)) return -Cause.msiMisconfigured;
    if (!reservedClear(words, MSIPTE_MRIF_RESERVED)) return -Cause.msiMisconfigured;
    const file = getWide(words, MSIPTE_MRIF.MRIF_ADDRESS);
    this.mrifHi = Math.floor(file / 2 ** 23);
    this.mrifLo = (file % 2 ** 23) << 9;
    this.#setPage(getWide(words, MSIPTE_MRIF.NPPN));
    this.notice = (get(words, MSIPTE_MRIF.NID10) << 10) | get(words, MSIPTE_MRIF.NID);
    return MSI_MRIF;
  }

  #setPage(page: number): void {
    this.pageHi = hiOfPfn(page);
    this.pageLo = loOfPfn(page);
  }

  /**
   * Stores an MSI in the file that `translate` found (AIA, "Memory-resident interrupt files": 512 bytes, in turns 64 pending
   * and 64 enable bits), and sends the notice MSI where the interrupt is enabled. Returns 0 or a negative cause.
   */
  storeInterrupt(offset: number, value: number): number {
    const identity = offset === SETEIPNUM_BE ? swap32(value) : value;
    // Writes elsewhere, and of identities that there are not, are ignored.
    if ((offset !== SETEIPNUM_LE && offset !== SETEIPNUM_BE) || identity <= 0 || identity >= IDENTITIES) return 0;
    const pending = this.mrifLo + ((identity >>> 6) << 4);
    const high = (identity & 32) !== 0 ? 1 << (identity & 31) : 0;
    const low = (identity & 32) !== 0 ? 0 : 1 << (identity & 31);
    if (!this.#structures.setBits(this.mrifHi, pending, high, low, RETRIES)) return -this.#fileCause;
    const { words } = this.#structures;
    if (!this.#structures.read(this.mrifHi, pending + 8, 1, this.#registers.bigEndian)) return -this.#fileCause;
    if ((words[1] & high) === 0 && (words[0] & low) === 0) return 0;
    return this.#structures.storeWord(this.pageHi, this.pageLo, this.notice) ? 0 : -Cause.msiWriteFault;
  }

  get #fileCause(): number {
    return this.#structures.poisoned ? Cause.mrifCorruption : Cause.mrifAccessFault;
  }
}

/** Registers of an interrupt file's page (AIA, "Memory region for an IMSIC interrupt file"): seteipnum_le and seteipnum_be. */
const SETEIPNUM_LE = 0;
const SETEIPNUM_BE = 4;
const IDENTITIES = 2048;
/** How often a pending bit is tried again because the guest changed others meanwhile. */
const RETRIES = 64;

/** "MSI address mask and pattern": whether the page is a virtual interrupt file's. */
export function isInterruptFile(context: DeviceContext, hi: number, lo: number): boolean {
  return context.msi && agrees(context, hi, lo, 0, 0);
}

/** Whether any page in the 2^lg2 bytes around the address is a virtual interrupt file's. */
export function holdsInterruptFile(context: DeviceContext, hi: number, lo: number, lg2: number): boolean {
  const bits = lg2 - 12;
  return context.msi && agrees(context, hi, lo, bits > 32 ? (1 << (bits - 32)) - 1 : 0, bits >= 32 ? -1 : (1 << bits) - 1);
}

/** Whether the page agrees with the pattern in all bits but those that the context and the caller ignore. */
function agrees({ msiIgnored, msiPattern }: DeviceContext, hi: number, lo: number, ignoreHi: number, ignoreLo: number): boolean {
  const pageHi = hi >>> 12;
  const pageLo = (hi << 20) | (lo >>> 12);
  return ((pageLo ^ msiPattern[0]) & ~msiIgnored[0] & ~ignoreLo) === 0 && ((pageHi ^ msiPattern[1]) & ~msiIgnored[1] & ~ignoreHi) === 0;
}

/** extract(A >> 12, mask): the bits of the page number where the mask has ones, packed. */
function fileNumber({ msiMask }: DeviceContext, hi: number, lo: number): number {
  const page = [(hi << 20) | (lo >>> 12), hi >>> 12];
  let file = 0;
  let weight = 1;
  for (let bit = 0; bit < 52; bit++) {
    if (((msiMask[bit >>> 5] >>> (bit & 31)) & 1) === 0) continue;
    if (((page[bit >>> 5] >>> (bit & 31)) & 1) !== 0) file += weight;
    weight *= 2;
  }
  return file;
}

/** First page, from `from` on, that is a virtual interrupt file's; -1: none. */
export function nextInterruptFile({ msi, msiMask, msiPattern }: DeviceContext, from: number): number {
  if (!msi) return -1;
  const mask = BigInt(msiMask[1] >>> 0) * 2n ** 32n + BigInt(msiMask[0] >>> 0);
  const pattern = (BigInt(msiPattern[1] >>> 0) * 2n ** 32n + BigInt(msiPattern[0] >>> 0)) & ~mask;
  const start = BigInt(from);
  if ((start & ~mask) === pattern) return from;
  // The answer keeps the bits of `from` above some bit, has that bit set where `from` has it clear, and is least below it.
  for (let bit = 0n; bit < 52n; bit++) {
    const above = (start >> (bit + 1n)) << (bit + 1n);
    if (((start >> bit) & 1n) !== 0n) continue;
    const found = above | (1n << bit) | (pattern & ((1n << bit) - 1n));
    if ((found & ~mask) === pattern) return Number(found);
  }
  return -1;
}

function swap32(value: number): number {
  return (value >>> 24) | ((value >>> 8) & 0xff00) | ((value << 8) & 0xff0000) | (value << 24) | 0;
}
