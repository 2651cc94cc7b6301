/*
 * Programs of system calls, as test/lab/player.c reads them, and what each call came to. Addresses and descriptors are those of the process that
 * plays: memory lies where the program says, and the first descriptor that is free is 3, on the simulated kernel as on the real one.
 */

/** Memory of the process. What is not `writable` may be read only. */
export interface Area {
  readonly address: bigint;
  readonly bytes: number;
  readonly writable: boolean;
}

/** Bytes that are written before a call. */
export interface Poke {
  readonly address: bigint;
  readonly bytes: Uint8Array;
}

/** `request`: an ioctl's number, of an open the path's number, of a mapping where it lies; `address`: an ioctl's argument, a buffer, of a mapping its offset, of a DMA the IOVA;
 * of a limit `request` is its bytes. */
export interface Step {
  readonly operation: keyof typeof OPERATIONS;
  readonly fd: number;
  readonly request: number;
  readonly address: bigint;
  readonly bytes: number;
  readonly pokes: readonly Poke[];
  /** The child does it, and not the process that forked. */
  readonly byChild: boolean;
  /** For whoever reads a difference. */
  readonly name: string;
}

export type Program = readonly Step[];

/** What a call came to: its result or negative errno, and the runs of memory that it changed. */
export interface Outcome {
  readonly result: number;
  readonly changes: readonly Poke[];
}

const OPERATIONS = {
  end: 0,
  open: 1,
  close: 2,
  ioctl: 3,
  read: 4,
  write: 5,
  poll: 6,
  mmap: 7,
  munmap: 8,
  eventfd: 9,
  dma: 10,
  limit: 11,
  fork: 12,
  exit: 13,
  memfd: 14,
} as const;
/** Beside the operation. */
const BY_CHILD = 0x100;
const STEP_BYTES = 40;

const padded = (bytes: number) => Math.ceil(bytes / 8) * 8;

class Writer {
  readonly #parts: Buffer[] = [];

  u64s(...values: readonly (number | bigint)[]): void {
    const part = Buffer.alloc(values.length * 8);
    for (const [index, value] of values.entries()) part.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), index * 8);
    this.#parts.push(part);
  }

  u32s(...values: readonly number[]): void {
    this.#parts.push(Buffer.from(Uint32Array.from(values).buffer));
  }

  bytes(bytes: Uint8Array): void {
    const part = Buffer.alloc(padded(bytes.length));
    part.set(bytes);
    this.#parts.push(part);
  }

  end(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** The file that the player takes. */
export function encodePrograms(areas: readonly Area[], programs: readonly Program[]): Buffer {
  const writer = new Writer();
  writer.u32s(areas.length, programs.length);
  for (const { address, bytes, writable } of areas) writer.u64s(address, bytes, writable ? 1 : 0);
  for (const program of programs) {
    for (const { operation, fd, request, address, bytes, pokes, byChild } of program) {
      writer.u32s(OPERATIONS[operation] | (byChild ? BY_CHILD : 0), pokes.length);
      writer.u64s(fd, request, address, bytes);
      for (const poke of pokes) {
        writer.u64s(poke.address, poke.bytes.length);
        writer.bytes(poke.bytes);
      }
    }
    writer.bytes(new Uint8Array(STEP_BYTES));
  }
  return writer.end();
}

/** How a program ended, and what its calls came to up to there. `status`: of waitpid(2), 0 for one that ended well; `warned`: it is the first that made the kernel warn of itself. */
export interface Played {
  readonly status: number;
  readonly warned: boolean;
  readonly outcomes: readonly Outcome[];
}

/** What the player wrote, program by program, as far as it came. */
export function decodeResults(file: Buffer): Played[] {
  const played: Played[] = [];
  for (let at = 0; at < file.length; ) {
    const end = at + 16 + Number(file.readBigUInt64LE(at));
    if (end > file.length) break;
    const status = file.readUInt32LE(at + 8);
    const warned = file.readUInt32LE(at + 12) !== 0;
    const outcomes: Outcome[] = [];
    for (at += 16; at < end; ) {
      const result = Number(file.readBigInt64LE(at));
      const changes: Poke[] = [];
      for (at += 8; at + 16 <= end; ) {
        const [address, bytes] = [file.readBigUInt64LE(at), Number(file.readBigUInt64LE(at + 8))];
        at += 16;
        if (bytes === 0) break;
        changes.push({ address, bytes: file.subarray(at, at + bytes) });
        at += bytes;
      }
      outcomes.push({ result, changes });
    }
    played.push({ status, warned, outcomes });
  }
  return played;
}
