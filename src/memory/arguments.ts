/**
 * What an embedder hands in is looked at once, where it comes in. The one line of the error names who was called and which argument is wrong;
 * TypeError: of the wrong type; RangeError: of the right one and not possible.
 */

/** @throws TypeError unless it is an object with these methods. `kind`: what it should be, as the message says it. */
export function requireObject(who: string, name: string, value: unknown, kind = 'object', methods: readonly string[] = []): void {
  const isObject = typeof value === 'object' && value !== null;
  if (!isObject || methods.some((method) => typeof (value as Record<string, unknown>)[method] !== 'function'))
    throw new TypeError(`${who}: ${name} is no ${kind}`);
}

/** @throws TypeError unless it is a function, or left out. */
export function requireFunction(who: string, name: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'function') throw new TypeError(`${who}: ${name} is no function`);
}

/** @throws TypeError unless it is a number, whichever. */
export function requireNumber(who: string, name: string, value: unknown): asserts value is number {
  if (typeof value !== 'number') throw new TypeError(`${who}: ${name} ${shown(value)} is no number`);
}

/** @throws TypeError unless all are numbers, under the names by which the message tells them. For control calls: it costs an object. */
export function requireNumbers(who: string, values: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(values)) requireNumber(who, name, value);
}

/** @throws TypeError unless it is a bigint, whichever. */
export function requireBigint(who: string, name: string, value: unknown): asserts value is bigint {
  if (typeof value !== 'bigint') throw new TypeError(`${who}: ${name} ${shown(value)} is no bigint`);
}

/** @throws TypeError unless it is a boolean. */
export function requireBoolean(who: string, name: string, value: unknown): void {
  if (typeof value !== 'boolean') throw new TypeError(`${who}: ${name} is no boolean`);
}

/** An access to registers. Its place and size are the guest's, and any; their types are the embedder's. @throws TypeError for another one. */
export function requireAccess(who: string, offset: unknown, bytes: unknown, value: unknown = 0n): void {
  requireNumber(who, 'offset', offset);
  requireNumber(who, 'bytes', bytes);
  requireBigint(who, 'value', value);
}

/** @throws TypeError for no number; RangeError unless it is an integer from `least` to `most`. */
export function requireInteger(who: string, name: string, value: unknown, least: number, most: number): void {
  requireNumber(who, name, value);
  if (!Number.isInteger(value) || value < least || value > most)
    throw new RangeError(`${who}: ${name} ${value} is not in ${least}..${most}`);
}

/** @throws TypeError for no bigint; RangeError unless it fits 64 bits, unsigned. */
export function require64(who: string, name: string, value: unknown): void {
  requireBigint(who, name, value);
  if (value < 0n || value >> 64n !== 0n) throw new RangeError(`${who}: ${name} ${value} does not fit 64 bits`);
}

/** @throws TypeError unless it is a Uint8Array: an ArrayBuffer has no length, and nothing would be read. */
export function requireBytes(who: string, name: string, value: unknown): void {
  if (!(value instanceof Uint8Array)) throw new TypeError(`${who}: ${name} is no Uint8Array`);
}

/** @throws TypeError unless it is an array. */
export function requireArray(who: string, name: string, value: unknown): void {
  if (!Array.isArray(value)) throw new TypeError(`${who}: ${name} is no array`);
}

/** @throws TypeError unless it is a string. */
export function requireString(who: string, name: string, value: unknown): void {
  if (typeof value !== 'string') throw new TypeError(`${who}: ${name} ${shown(value)} is no string`);
}

/** A value of the wrong type, on one line. */
function shown(value: unknown): string {
  return typeof value === 'string' ? `'${value}'` : typeof value === 'object' && value !== null ? 'object' : String(value);
}
