import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { PciHost } from '../pci/host.ts';
import type { RegisterBlock } from '../pci/registers.ts';

/** Registers at an address of a machine's. */
export interface MappedBlock {
  readonly at: bigint;
  readonly bytes: number;
  readonly registers: RegisterBlock;
}

/** What a processor's accesses reach: RAM, registers, what software put behind BARs; nothing reads 0 and takes all. */
export class PhysicalSpace {
  readonly #memory: GuestMemory;
  readonly #blocks: readonly MappedBlock[];
  readonly #pci: PciHost;

  constructor(memory: GuestMemory, blocks: readonly MappedBlock[], pci: PciHost) {
    this.#memory = memory;
    this.#blocks = blocks;
    this.#pci = pci;
  }

  /** Reads 1, 2, 4 or 8 bytes. */
  read(address: bigint, bytes: number): bigint {
    const ram = new Uint8Array(8);
    if (this.#memory.read(hiOf(address), loOf(address), ram, 0, bytes) === 0) {
      const words = new Int32Array(ram.buffer);
      return joinHiLo(words[1]!, words[0]!);
    }
    const block = this.#blockAt(address, bytes);
    if (block !== null) return block.registers.read(Number(address - block.at), bytes);
    return this.#pci.readMemory(address, bytes) ?? 0n;
  }

  write(address: bigint, bytes: number, value: bigint): void {
    const ram = new DataView(new ArrayBuffer(8));
    ram.setBigUint64(0, value, true);
    if (this.#memory.write(hiOf(address), loOf(address), new Uint8Array(ram.buffer), 0, bytes) === 0) return;
    const block = this.#blockAt(address, bytes);
    if (block !== null) block.registers.write(Number(address - block.at), bytes, value);
    else this.#pci.writeMemory(address, bytes, value);
  }

  /** Any number of bytes; outside RAM as a bus would have it: aligned accesses of 8 bytes, or as many as are left. */
  readBytes(address: bigint, into: Uint8Array): void {
    if (this.#memory.read(hiOf(address), loOf(address), into, 0, into.length) === 0) return;
    const piece = new DataView(new ArrayBuffer(8));
    for (const [at, bytes] of accesses(address, into.length)) {
      piece.setBigUint64(0, this.read(address + BigInt(at), bytes), true);
      into.set(new Uint8Array(piece.buffer, 0, bytes), at);
    }
  }

  writeBytes(address: bigint, from: Uint8Array): void {
    if (this.#memory.write(hiOf(address), loOf(address), from, 0, from.length) === 0) return;
    const piece = new DataView(new ArrayBuffer(8));
    for (const [at, bytes] of accesses(address, from.length)) {
      piece.setBigUint64(0, 0n);
      new Uint8Array(piece.buffer).set(from.subarray(at, at + bytes));
      this.write(address + BigInt(at), bytes, piece.getBigUint64(0, true));
    }
  }

  #blockAt(address: bigint, bytes: number): MappedBlock | null {
    return this.#blocks.find(({ at, bytes: size }) => address >= at && address + BigInt(bytes) <= at + BigInt(size)) ?? null;
  }
}

/** Offset and width of each access to a range. */
function* accesses(address: bigint, bytes: number): Generator<readonly [number, number]> {
  const low = Number(address & 7n);
  for (let at = 0; at < bytes; ) {
    let size = 8;
    while ((low + at) % size !== 0 || at + size > bytes) size >>= 1;
    yield [at, size];
    at += size;
  }
}
