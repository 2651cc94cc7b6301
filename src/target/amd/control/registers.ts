import { type Field, get, getWide, isSet, put } from '../../fields.ts';
import { EFR, EFR2, registerOf } from '../capabilities.ts';
import {
  CONTROL,
  DEVICE_TABLE,
  HARDWARE_EVENT,
  POINTER_MASK,
  REG,
  REGISTER_BYTES,
  RING_BASE,
  STATUS,
  XT_CONTROL,
} from '../spec/registers.ts';
import type { OwnInterrupt } from '../surroundings.ts';

const BASE_MASK = 0x000f_ffff_ffff_f000n;
const RING_MASK = 0x0f0f_ffff_ffff_f000n;
/** Ring lengths below are reserved: taken as this. */
const LEAST_RING_LG2 = 8;
const bitsOf = (fields: readonly Field[]) => fields.reduce((bits, { mask, shift }) => bits | (mask << shift), 0);
/** What the IOMMU sets. */
const OWN: ReadonlyMap<number, number> = new Map([
  [REG.STATUS, bitsOf(Object.values(STATUS))],
  [REG.HARDWARE_EVENT_STATUS, bitsOf(Object.values(HARDWARE_EVENT))],
  ...[REG.HARDWARE_EVENT_UPPER, REG.HARDWARE_EVENT_LOWER].flatMap((offset) => [[offset, -1] as const, [offset + 4, -1] as const]),
]);

/** The register page: what it holds, what of it a guest can write, and the fields that others ask for. */
export class Registers {
  readonly words = new Int32Array(REGISTER_BYTES / 4);
  readonly #writable = new Int32Array(REGISTER_BYTES / 4);
  readonly #without: readonly string[];

  constructor(without: readonly string[]) {
    this.#without = without;
    const has = (name: string) => EFR.some((row) => row.name === name) && !without.includes(name);
    const allow = (offset: number, mask: bigint) => {
      this.#writable[offset / 4] = Number(BigInt.asIntN(32, mask));
      this.#writable[offset / 4 + 1] = Number(BigInt.asIntN(32, mask >> 32n));
    };
    allow(REG.DEVICE_TABLE, BASE_MASK | 0x1ffn);
    for (const offset of [REG.COMMAND_BASE, REG.EVENT_BASE]) allow(offset, RING_MASK);
    if (has('PPRSup')) allow(REG.PPR_BASE, RING_MASK);
    allow(REG.CONTROL, this.#control(has));
    allow(REG.EXCLUSION_BASE, BASE_MASK | 3n);
    allow(REG.EXCLUSION_LIMIT, BASE_MASK);
    if (has('DevTblSegSup')) for (let i = 0; i < 7; i++) allow(REG.DEVICE_TABLE_SEGMENT + 8 * i, BASE_MASK | 0xffn);
    if (has('XTSup')) for (const offset of [REG.XT_GENERAL, REG.XT_PPR]) allow(offset, 0xff00_01ff_ffff_ff04n);
    for (const offset of [REG.COMMAND_HEAD, REG.COMMAND_TAIL, REG.EVENT_HEAD, REG.EVENT_TAIL]) allow(offset, BigInt(POINTER_MASK));
    if (has('PPRSup')) for (const offset of [REG.PPR_HEAD, REG.PPR_TAIL]) allow(offset, BigInt(POINTER_MASK));
    this.reset();
  }

  /** Bits of features that are not advertised are reserved. */
  #control(has: (name: string) => boolean): bigint {
    const bit = (at: number, feature?: string) => (feature === undefined || has(feature) ? 1n << BigInt(at) : 0n);
    let mask = bit(0) | bit(2) | bit(3) | bit(4) | bit(12) | (7n << 5n) | (0xfn << 8n) | bit(1);
    for (const at of [13, 14, 15]) mask |= bit(at, 'PPRSup');
    mask |= bit(16, 'GTSup') | bit(17, 'GASup') | bit(50, 'XTSup') | bit(51, 'XTSup') | bit(45, 'EPHSup');
    if (has('DevTblSegSup')) mask |= 7n << 34n;
    if (has('HASup')) mask |= 3n << 46n;
    return this.#without.includes('GCR3TRPMode') ? mask : mask | bit(58);
  }

  reset(): void {
    this.words.fill(0);
    this.#put64(REG.EXTENDED_FEATURE, registerOf(EFR, this.#without));
    this.#put64(REG.EXTENDED_FEATURE_2, registerOf(EFR2, this.#without));
    const rings = this.#without.includes('PPRSup') ? [REG.COMMAND_BASE, REG.EVENT_BASE] : [REG.COMMAND_BASE, REG.EVENT_BASE, REG.PPR_BASE];
    for (const offset of rings) put(this.view(offset), RING_BASE.LENGTH, LEAST_RING_LG2);
  }

  /**
   * As saved words have it; what is not among them is 0. Bits that nothing could have set stay as after a reset.
   * @throws TypeError when the words are of other features; then nothing has changed.
   */
  restore(saved: Iterable<readonly [offset: number, word: number]>): void {
    const words = new Map(saved);
    const features = [REG.EXTENDED_FEATURE, REG.EXTENDED_FEATURE_2].flatMap((offset) => [offset, offset + 4]);
    if (features.some((offset) => (words.get(offset) ?? 0) !== this.get32(offset)))
      throw new TypeError('AmdIommu: the saved state is of other features');
    this.reset();
    for (let offset = 0; offset < 4 * this.words.length; offset += 4) {
      const value = words.get(offset) ?? 0;
      const mask = this.#writable[offset >> 2] | (OWN.get(offset) ?? 0);
      this.set32(offset, (this.get32(offset) & ~mask) | (value & mask));
    }
    // What is not enabled does not run (3.4.14).
    if (this.control(CONTROL.COMMAND_BUFFER_EN) === 0) this.status(STATUS.COMMAND_BUFFER_RUN, false);
    if (this.control(CONTROL.EVENT_LOG_EN) === 0) this.status(STATUS.EVENT_LOG_RUN, false);
    if (this.control(CONTROL.PPR_LOG_EN) === 0) this.status(STATUS.PPR_LOG_RUN, false);
  }

  #put64(offset: number, value: bigint): void {
    this.words[offset / 4] = Number(BigInt.asIntN(32, value));
    this.words[offset / 4 + 1] = Number(BigInt.asIntN(32, value >> 32n));
  }

  /** The register at an offset, as two words. */
  view(offset: number): Int32Array {
    return this.words.subarray(offset / 4, offset / 4 + 2);
  }

  get32(offset: number): number {
    return this.words[offset >> 2];
  }

  /** A guest's write of four bytes, through the mask of what it can write. */
  store32(offset: number, value: number): void {
    const mask = this.#writable[offset >> 2];
    this.words[offset >> 2] = (this.words[offset >> 2] & ~mask) | (value & mask);
  }

  set32(offset: number, value: number): void {
    this.words[offset >> 2] = value;
  }

  control(field: { readonly word: number; readonly shift: number; readonly mask: number }): number {
    return (this.words[(REG.CONTROL >> 2) + field.word] >>> field.shift) & field.mask;
  }

  status(field: { readonly word: number; readonly shift: number }, on: boolean): void {
    const bit = 1 << field.shift;
    if (on) this.words[REG.STATUS >> 2] |= bit;
    else this.words[REG.STATUS >> 2] &= ~bit;
  }

  hasStatus(field: (typeof STATUS)[keyof typeof STATUS]): boolean {
    return isSet(this.view(REG.STATUS), field);
  }

  /** Base page and bytes of a ring. */
  ringPage(base: number): number {
    return getWide(this.view(base), RING_BASE.BASE);
  }
  ringBytes(base: number): number {
    return 16 << Math.max(get(this.view(base), RING_BASE.LENGTH), LEAST_RING_LG2);
  }

  /** Where a device's entry is, or would be (2.2.2), and whether its table is as long. */
  deviceEntry(device: number): { readonly address: number; readonly exists: boolean } {
    const lg2 = Math.min(this.control(CONTROL.SEGMENT_EN), 3);
    const segment = device >>> (16 - lg2);
    const index = device & ((1 << (16 - lg2)) - 1);
    const register = this.view(segment === 0 ? REG.DEVICE_TABLE : REG.DEVICE_TABLE_SEGMENT + 8 * (segment - 1));
    return { address: getWide(register, DEVICE_TABLE.BASE) * 4096 + 32 * index, exists: index >>> 7 <= get(register, DEVICE_TABLE.SIZE) };
  }

  /** How an interrupt of the IOMMU is sent: by MSI, or as an XT register says. */
  ownInterrupt(xtRegister: number): OwnInterrupt {
    if (this.control(CONTROL.INT_CAP_XT_EN) === 0) return null;
    const view = this.view(xtRegister);
    const destination = get(view, XT_CONTROL.DESTINATION_LOW) + get(view, XT_CONTROL.DESTINATION_HIGH) * 2 ** 24;
    return { destination, vector: get(view, XT_CONTROL.VECTOR), logical: isSet(view, XT_CONTROL.MODE) };
  }
}
