import { requireBigint, requireFunction, requireInteger, requireNumber } from '../memory/arguments.ts';
import type { TableWatch } from './table-watch.ts';

/**
 * The watch of an emulator whose guest's stores are made in this process: every store of a CPU, and every DMA write of an emulated device, is
 * said to it.
 *
 * @example
 * const watch = new StoreWatch();
 * // const machine = new Machine({ memory, target, host, watch });
 * // In the emulator's store path, after the bytes are in memory:
 * watch.stored(0x8000_1008n, 8); // false: nobody watches this page
 */
export class StoreWatch implements TableWatch {
  readonly #limit: number;
  readonly #watched = new Set<number>();
  #observer: ((pfn: number, offset: number, bytes: number) => void) | null = null;

  /** `limit`: pages that can be watched at one time. @throws RangeError when it is none. */
  constructor(limit = 1 << 20) {
    requireInteger('StoreWatch', 'limit', limit, 0, 2 ** 52);
    this.#limit = limit;
  }

  /** Pages that are watched now. */
  get size(): number {
    return this.#watched.size;
  }

  /** The guest has stored `bytes` bytes at a guest-physical address. When it returns, the hardware has followed. Returns whether somebody wanted to know. */
  stored(address: bigint, bytes: number): boolean {
    requireBigint('StoreWatch', 'address', address);
    requireNumber('StoreWatch', 'bytes', bytes);
    let told = false;
    for (let at = Number(address), left = bytes; left > 0; ) {
      const offset = at % 4096;
      const piece = Math.min(left, 4096 - offset);
      const pfn = (at - offset) / 4096;
      if (this.#watched.has(pfn)) {
        this.#observer?.(pfn, offset, piece);
        told = true;
      }
      at += piece;
      left -= piece;
    }
    return told;
  }

  watch(pfn: number): boolean {
    requireNumber('StoreWatch', 'pfn', pfn);
    if (this.#watched.size >= this.#limit && !this.#watched.has(pfn)) return false;
    this.#watched.add(pfn);
    return true;
  }

  unwatch(pfn: number): void {
    requireNumber('StoreWatch', 'pfn', pfn);
    this.#watched.delete(pfn);
  }

  /** @throws TypeError when somebody observes already. */
  observe(stored: (pfn: number, offset: number, bytes: number) => void): () => void {
    requireFunction('StoreWatch', 'stored', stored);
    if (this.#observer !== null) throw new TypeError('StoreWatch: somebody observes it already');
    this.#observer = stored;
    return () => {
      if (this.#observer === stored) this.#observer = null;
    };
  }
}
