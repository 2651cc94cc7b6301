import { GuestMemory, hiOf, loOf } from '../../src/memory/index.ts';
import type { TableAllocator, TableMemory } from '../../src/pagetable/page-table.ts';
import type { OracleMemory } from './oracle.ts';

/** RAM from guest-physical 0 on, with an allocator of tables behind the first `reserved` pages and a count of entries read. */
export class TableRam implements TableAllocator, OracleMemory {
  readonly buffer: SharedArrayBuffer;
  /** What tables under test read: GuestMemory that counts. */
  readonly memory: TableMemory;
  reads = 0;
  /** Pages that are allocated now. */
  inUse = 0;
  /** Allocations that still succeed. */
  allowed = Infinity;
  refused = 0;
  readonly #view: DataView;
  readonly #used: Uint8Array;
  readonly #reserved: number;

  constructor(pages: number, reserved: number) {
    this.buffer = new SharedArrayBuffer(pages * 4096);
    this.#view = new DataView(this.buffer);
    this.#used = new Uint8Array(pages);
    this.#reserved = reserved;
    this.memory = this.#counting(new GuestMemory([{ gpa: 0n, buffer: this.buffer }]));
  }

  /** As it was made, but for the pages that tables were in: whoever gets one gets zeros. */
  clear(): void {
    new Uint8Array(this.buffer, 0, this.#reserved * 4096).fill(0);
    this.#used.fill(0);
    this.inUse = 0;
    this.allowed = Infinity;
    this.refused = 0;
  }

  #counting(memory: GuestMemory): TableMemory {
    const counted = <T extends unknown[]>(load: (...args: T) => number) => {
      return (...args: T) => {
        this.reads++;
        return load.apply(memory, args);
      };
    };
    return {
      word: memory.word,
      load64: counted(memory.load64),
      load64BE: counted(memory.load64BE),
      load32: counted(memory.load32),
      load32BE: counted(memory.load32BE),
      store64: memory.store64.bind(memory),
      store64BE: memory.store64BE.bind(memory),
      store32: memory.store32.bind(memory),
      store32BE: memory.store32BE.bind(memory),
      compareExchange64: memory.compareExchange64.bind(memory),
      loadRun64: counted(memory.loadRun64),
      storeRun64: memory.storeRun64.bind(memory),
      replaceAlike64: counted(memory.replaceAlike64),
    };
  }

  allocate(pages: number): number {
    if (this.allowed <= 0) {
      this.refused++;
      return -1;
    }
    this.allowed--;
    for (let pfn = Math.ceil(this.#reserved / pages) * pages; pfn + pages <= this.#used.length; pfn += pages) {
      if (this.#used.subarray(pfn, pfn + pages).some((used) => used !== 0)) continue;
      this.#used.fill(1, pfn, pfn + pages);
      this.inUse += pages;
      new Uint8Array(this.buffer, pfn * 4096, pages * 4096).fill(0);
      return pfn;
    }
    throw new Error('the test needs more RAM for its tables');
  }

  free(pfn: number, pages: number): void {
    const range = this.#used.subarray(pfn, pfn + pages);
    if (pfn < this.#reserved || range.length !== pages || !range.every((used) => used === 1))
      throw new Error(`free(${pfn}, ${pages}): never allocated`);
    range.fill(0);
    this.inUse -= pages;
  }

  load(address: bigint, bytes: number, bigEndian: boolean): bigint | undefined {
    if (address + BigInt(bytes) > BigInt(this.buffer.byteLength)) return undefined;
    return bytes === 8 ? this.#view.getBigUint64(Number(address), !bigEndian) : BigInt(this.#view.getUint32(Number(address), !bigEndian));
  }

  store(address: bigint, bytes: number, bigEndian: boolean, value: bigint): void {
    if (bytes === 8) this.#view.setBigUint64(Number(address), value, !bigEndian);
    else this.#view.setUint32(Number(address), Number(value), !bigEndian);
  }

  /** A copy of everything that is in RAM, to be put back by `restore`. */
  snapshot(): Uint8Array {
    return new Uint8Array(this.buffer).slice();
  }
  restore(bytes: Uint8Array): void {
    new Uint8Array(this.buffer).set(bytes);
  }
}

/** An address as a walker takes it. */
export function hiLo(address: bigint): [number, number] {
  return [hiOf(address), loOf(address)];
}
