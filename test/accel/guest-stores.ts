import type { StoreWatch } from '../../src/accel/store-watch.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { TableAllocator, TableMemory } from '../../src/pagetable/page-table.ts';

const OK = 0;

/**
 * The tables of a guest as its CPU changes them: a driver's code runs on a draft, and then its stores are made one by one in their order, each
 * followed by whoever watches before the next one is made.
 */
export class GuestStores implements TableMemory, TableAllocator {
  readonly word: Int32Array;
  readonly #memory: GuestMemory;
  readonly #watch: StoreWatch;
  readonly #draft = new Map<number, readonly [number, number]>();
  readonly #stores: { readonly address: number; readonly value: readonly [number, number] }[] = [];
  readonly #free: number[];

  /** Tables lie in the pages [first, end). */
  constructor(memory: GuestMemory, watch: StoreWatch, first: number, end: number) {
    this.#memory = memory;
    this.#watch = watch;
    this.word = memory.word;
    this.#free = Array.from({ length: end - first }, (_, i) => end - 1 - i);
  }

  /** Makes the stores of the draft; `followed` runs after each that somebody watched. */
  commit(followed: () => void): void {
    this.#draft.clear();
    for (const { address, value } of this.#stores.splice(0)) {
      this.#memory.load64(0, address);
      if (this.word[0] === value[0] && this.word[1] === value[1]) continue;
      this.#memory.store64(0, address, value[1], value[0]);
      if (this.#watch.stored(BigInt(address), 8)) followed();
    }
  }

  allocate(pages: number): number {
    const pfn = pages === 1 ? (this.#free.pop() ?? -1) : -1;
    for (let at = 0; pfn >= 0 && at < 4096; at += 8) this.store64(0, pfn * 4096 + at, 0, 0);
    return pfn;
  }
  free(pfn: number): void {
    this.#free.push(pfn);
  }

  load64(hi: number, lo: number): number {
    const drafted = this.#draft.get(lo);
    if (drafted === undefined) return this.#memory.load64(hi, lo);
    [this.word[0], this.word[1]] = drafted;
    return OK;
  }
  store64(_hi: number, lo: number, valueHi: number, valueLo: number): number {
    this.#draft.set(lo, [valueLo, valueHi]);
    this.#stores.push({ address: lo, value: [valueLo, valueHi] });
    return OK;
  }
  load64BE(): number {
    throw new TypeError('no table here is big-endian');
  }
  load32(): number {
    throw new TypeError('entries have 64 bits here');
  }
  load32BE = this.load64BE;
  store64BE = this.load64BE;
  store32 = this.load32;
  store32BE = this.load64BE;
  compareExchange64 = this.load32;
}
