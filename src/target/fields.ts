/**
 * How specifications declare structures, as data: a file of a target's `spec/` room names each field by the bits that it has, one
 * documented field a line, and holds no logic; logic names fields. Structures are rows of little-endian 32-bit words, as
 * `Int32Array` holds them; bits count through the whole structure, so bit 64 is bit 0 of the second doubleword.
 */

/** A field of at most 32 bits that lies in one 32-bit word. */
export interface Field {
  readonly word: number;
  readonly shift: number;
  /** Of the value, before the shift. */
  readonly mask: number;
}

/** A field of at most 52 bits that may lie in two neighbouring words: an address, a page number, a wide identifier. */
export interface WideField {
  readonly low: number;
  readonly width: number;
}

/**
 * Bits `high` to `low` of the structure's doubleword `doubleword`, as specifications count them.
 *
 * @example
 * const MODE = bits(63, 60, 1);
 * get(Int32Array.of(0, 0, 0, 8 << 28), MODE); // 8
 *
 * @throws RangeError when they do not lie in one 32-bit word.
 */
export function bits(high: number, low: number, doubleword = 0): Field {
  const width = high - low + 1;
  if (width < 1 || low >>> 5 !== high >>> 5) throw new RangeError(`bits ${high}:${low} do not lie in one 32-bit word`);
  return { word: 2 * doubleword + (low >>> 5), shift: low & 31, mask: width === 32 ? -1 : (1 << width) - 1 };
}

/** One bit. */
export function bit(at: number, doubleword = 0): Field {
  return bits(at, at, doubleword);
}

/** The same as `bits` for what may reach from one word into the next. @throws RangeError above 52 bits. */
export function wide(high: number, low: number, doubleword = 0): WideField {
  const width = high - low + 1;
  if (width < 1 || width > 52 || high > 63) throw new RangeError(`bits ${high}:${low} are no field of 1 to 52 bits in one doubleword`);
  return { low: 64 * doubleword + low, width };
}

/** The field's value, unsigned (a field of 32 bits: as int32). */
export function get(words: ArrayLike<number>, { word, shift, mask }: Field): number {
  return (words[word] >>> shift) & mask;
}

/** Whether a field, mostly one bit, is anything but 0. */
export function isSet(words: ArrayLike<number>, { word, shift, mask }: Field): boolean {
  return ((words[word] >>> shift) & mask) !== 0;
}

/** Puts a value into the field; bits that the field has not are dropped. */
export function put(words: Int32Array, { word, shift, mask }: Field, value: number): void {
  words[word] = (words[word] & ~(mask << shift)) | ((value & mask) << shift);
}

/** A wide field's value, exact. */
export function getWide(words: ArrayLike<number>, { low, width }: WideField): number {
  const word = low >>> 5;
  const shift = low & 31;
  const first = words[word] >>> shift;
  if (shift + width <= 32) return (first & (-1 >>> (32 - width))) >>> 0;
  const rest = words[word + 1] & (-1 >>> (64 - shift - width));
  // Shifts rather than powers: commands of guests are read with this.
  return first + (rest >>> 0) * ((1 << (31 - shift)) >>> 0) * 2;
}

/** Puts a value into a wide field. */
export function putWide(words: Int32Array, { low, width }: WideField, value: number): void {
  for (let done = 0; done < width; ) {
    const at = low + done;
    const count = Math.min(width - done, 32 - (at & 31));
    const part = Math.floor(value / 2 ** done) % 2 ** count;
    put(words, { word: at >>> 5, shift: at & 31, mask: count === 32 ? -1 : (1 << count) - 1 }, part | 0);
    done += count;
  }
}

/**
 * Whether every bit of doublewords [0, doublewords) that no field names is 0: what "reserved bits" means in checks.
 * `mask`: of `reservedMask`.
 */
export function reservedClear(words: ArrayLike<number>, mask: Int32Array): boolean {
  let set = 0;
  for (let i = 0; i < mask.length; i++) set |= words[i] & mask[i];
  return set === 0;
}

/** The bits of a structure of `doublewords` that none of the fields names, as words. */
export function reservedMask(doublewords: number, fields: readonly (Field | WideField)[]): Int32Array {
  const mask = new Int32Array(2 * doublewords).fill(-1);
  for (const field of fields) {
    if ('mask' in field) mask[field.word] &= ~(field.mask << field.shift);
    else for (let at = field.low; at < field.low + field.width; at++) mask[at >>> 5] &= ~(1 << (at & 31));
  }
  return mask;
}
