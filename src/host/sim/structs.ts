import { Parser } from 'binary-parser';
import { errno } from '../errno.ts';
import type { ProcessMemory } from './memory.ts';

type FieldType = 'u8' | 'u16' | 'u32' | 's32' | 'u64';
export type Fields = Readonly<Record<string, FieldType>>;
/** What a struct says. */
export type Decoded<F extends Fields> = { -readonly [K in keyof F]: F[K] extends 'u64' ? bigint : number };

const fieldBytes = { u8: 1, u16: 2, u32: 4, s32: 4, u64: 8 } as const;
const parserOf = { u8: 'uint8', u16: 'uint16le', u32: 'uint32le', s32: 'int32le', u64: 'uint64le' } as const;
const setterOf = { u8: 'setUint8', u16: 'setUint16', u32: 'setUint32', s32: 'setInt32', u64: 'setBigUint64' } as const;

export function dataViewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}

/** Layout of a little-endian kernel struct whose fields are all naturally aligned, as the uapi headers keep them. */
export class Struct<F extends Fields> {
  readonly bytes: number;
  readonly #offsets = new Map<string, number>();
  readonly fields: F;
  readonly #parser: Parser;

  constructor(fields: F) {
    this.fields = fields;
    const parser = new Parser();
    let offset = 0;
    for (const [name, type] of Object.entries(fields)) {
      if (offset % fieldBytes[type] !== 0) throw new RangeError(`Struct: ${name} is not aligned`);
      this.#offsets.set(name, offset);
      (parser[parserOf[type]] as (name: string) => Parser).call(parser, name);
      offset += fieldBytes[type];
    }
    this.bytes = offset;
    this.#parser = parser;
  }

  offsetOf(field: keyof F & string): number {
    return this.#offsets.get(field) as number;
  }

  endOf(field: keyof F & string): number {
    return this.offsetOf(field) + fieldBytes[this.fields[field]];
  }

  decode(bytes: Uint8Array): Decoded<F> {
    return this.#parser.parse(bytes) as Decoded<F>;
  }

  /** Encodes the fields given into bytes that hold the struct. */
  encode(into: Uint8Array, values: Partial<Decoded<F>>): void {
    const view = dataViewOf(into);
    for (const [name, value] of Object.entries(values)) {
      const offset = this.offsetOf(name);
      const type = this.fields[name];
      (view[setterOf[type]] as (offset: number, value: number | bigint, littleEndian: true) => void).call(view, offset, value, true);
    }
  }
}

/** Memory that a caller has named: looked at only when something is wanted of it. */
export class UserBuffer {
  readonly bytes: number;
  readonly #memory: ProcessMemory;
  readonly #address: bigint;

  constructor(memory: ProcessMemory, address: bigint, bytes: number) {
    this.#memory = memory;
    this.#address = address;
    this.bytes = bytes;
  }

  /** A part of it, to be read; null: EFAULT. */
  view(offset = 0, bytes = this.bytes): Uint8Array | null {
    return this.#memory.view(this.#address + BigInt(offset), bytes);
  }

  /** Writes into it, up to where memory ends: whether that was all; if not, EFAULT. */
  write(bytes: Uint8Array, offset = 0): boolean {
    return this.#memory.copyOut(this.#address + BigInt(offset), bytes);
  }
}

/** A struct that an ioctl was called with: what it said, and where the answer goes. */
export class Command<F extends Fields> {
  readonly in: Decoded<F>;
  /** All of it could be read that `argsz` speaks of; what could not is EFAULT to who wants it. */
  readonly isWhole: boolean;
  readonly #struct: Struct<F>;
  readonly #memory: ProcessMemory;
  readonly #address: number;
  /** The kernel's copy. */
  readonly #bytes: Uint8Array;
  readonly #answered: number;

  constructor(
    struct: Struct<F>,
    user: { readonly memory: ProcessMemory; readonly address: number; readonly answered: number; readonly isWhole: boolean },
    bytes: Uint8Array,
  ) {
    this.#struct = struct;
    this.#memory = user.memory;
    this.#address = user.address;
    this.#answered = user.answered;
    this.isWhole = user.isWhole;
    this.#bytes = bytes;
    this.in = struct.decode(bytes);
  }

  /** copy_to_user of the kernel's copy with the fields given. `bytes`: so many; default all that the caller has room for, of VFIO's structs what is always there. 0 or -EFAULT. */
  respond(values: Partial<Decoded<F>>, bytes = this.#answered): number {
    this.#struct.encode(this.#bytes, values);
    return this.#memory.copyOut(this.#address, this.#bytes.subarray(0, bytes)) ? 0 : -errno.EFAULT;
  }
}

/**
 * Reads a struct that opens with its own size, by the rule of copy_struct_from_user: shorter than `minimum` is EINVAL, what is
 * missing at the end is zero, and what the kernel does not know must be zero (E2BIG).
 */
export function readSized<F extends Fields>(
  struct: Struct<F>,
  minimum: number,
  memory: ProcessMemory,
  address: number,
): Command<F> | number {
  const head = memory.view(address, 4);
  if (head === null) return -errno.EFAULT;
  const userBytes = dataViewOf(head).getUint32(0, true);
  if (userBytes < minimum) return -errno.EINVAL;
  const user = memory.view(address, userBytes);
  if (user === null) return -errno.EFAULT;
  if (user.subarray(struct.bytes).some((byte) => byte !== 0)) return -errno.E2BIG;
  const bytes = new Uint8Array(struct.bytes);
  bytes.set(user.subarray(0, struct.bytes));
  return new Command(struct, { memory, address, answered: Math.min(userBytes, struct.bytes), isWhole: true }, bytes);
}

/** Reads the first `minimum` bytes of a VFIO struct, which names its own size but never has trailing bytes looked at. */
export function readArgsz<F extends Fields>(
  struct: Struct<F>,
  minimum: number,
  memory: ProcessMemory,
  address: number,
): Command<F> | number {
  const user = memory.view(address, minimum);
  if (user === null) return -errno.EFAULT;
  const argsz = dataViewOf(user).getUint32(0, true);
  if (argsz < minimum) return -errno.EINVAL;
  const bytes = new Uint8Array(struct.bytes);
  const whole = memory.view(address, Math.min(argsz, struct.bytes));
  bytes.set(whole ?? user);
  return new Command(struct, { memory, address, answered: minimum, isWhole: whole !== null }, bytes);
}
