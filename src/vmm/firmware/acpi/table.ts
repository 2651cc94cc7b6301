/** ACPI tables as bytes: ACPI 6.5, 5.2.6 "System Description Table Header". */

/** Who made a table, as its header says; shorter texts are padded with spaces. */
export interface TableMaker {
  /** 6 characters. Default `VIOMMU`. */
  readonly oemId?: string;
  /** 8 characters. Default `VIOMMU`. */
  readonly oemTableId?: string;
  /** Default 1. */
  readonly oemRevision?: number;
  /** 4 characters. Default `VIOM`. */
  readonly creatorId?: string;
  /** Default 1. */
  readonly creatorRevision?: number;
}

/** Little-endian bytes, appended one field after the other. */
export class Bytes {
  readonly #bytes: number[] = [];

  get length(): number {
    return this.#bytes.length;
  }

  /** @throws RangeError when the value does not fit. */
  #put(what: string, value: number | bigint, count: number): this {
    const whole = typeof value === 'bigint' || Number.isInteger(value) ? BigInt(value) : -1n;
    if (whole < 0n || whole >> BigInt(8 * count) !== 0n) throw new RangeError(`ACPI: ${what} ${value} is no number of ${8 * count} bits`);
    for (let i = 0; i < count; i++) this.#bytes.push(Number((whole >> BigInt(8 * i)) & 0xffn));
    return this;
  }

  /** `what` names the field in errors. */
  u8(what: string, value: number): this {
    return this.#put(what, value, 1);
  }
  u16(what: string, value: number): this {
    return this.#put(what, value, 2);
  }
  u32(what: string, value: number): this {
    return this.#put(what, value, 4);
  }
  u64(what: string, value: bigint): this {
    return this.#put(what, value, 8);
  }

  zeros(count: number): this {
    for (let i = 0; i < count; i++) this.#bytes.push(0);
    return this;
  }

  /** ASCII, padded. @throws RangeError when it is longer, or something else than printable ASCII. */
  text(what: string, value: string, count: number, padding = ' '): this {
    if (value.length > count || !/^[ -~]*$/.test(value))
      throw new RangeError(`ACPI: ${what} '${value}' is no ASCII of ${count} characters`);
    for (const character of value.padEnd(count, padding)) this.#bytes.push(character.charCodeAt(0));
    return this;
  }

  append(other: Uint8Array): this {
    for (const byte of other) this.#bytes.push(byte);
    return this;
  }

  toUint8Array(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

const HEADER_BYTES = 36;
const CHECKSUM_AT = 9;

/**
 * A table: header, body, and a checksum that makes all bytes add up to 0.
 *
 * @example
 * const table = acpiTable('DMAR', 1, new Bytes().u8('width', 47).zeros(11));
 * table.reduce((sum, byte) => (sum + byte) & 0xff, 0); // 0
 *
 * @throws RangeError when a text of the maker does not fit.
 */
export function acpiTable(signature: string, revision: number, body: Bytes, maker: TableMaker = {}): Uint8Array {
  const { oemId = 'VIOMMU', oemTableId = 'VIOMMU', oemRevision = 1, creatorId = 'VIOM', creatorRevision = 1 } = maker;
  const table = new Bytes()
    .text('signature', signature, 4)
    .u32('length', HEADER_BYTES + body.length)
    .u8('revision', revision)
    .u8('checksum', 0)
    .text('oemId', oemId, 6)
    .text('oemTableId', oemTableId, 8)
    .u32('oemRevision', oemRevision)
    .text('creatorId', creatorId, 4)
    .u32('creatorRevision', creatorRevision)
    .append(body.toUint8Array())
    .toUint8Array();
  table[CHECKSUM_AT] = -table.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return table;
}
