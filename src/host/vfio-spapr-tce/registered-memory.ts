import { IntervalMap } from '../../memory/interval-map.ts';

/** Registers or unregisters pages of this process. Returns 0 or a negative errno. */
type Register = (host: number, pages: number) => number;

/** Pieces that one space can have registered. */
const PIECES_MAX = 2 ** 20;

/**
 * Memory that the kernel has pinned for a container (VFIO_IOMMU_SPAPR_REGISTER_MEMORY): version 2 maps nothing else, and
 * takes no two pieces that overlap. Each piece counts who needs it, by its place in the interval map's value.
 */
export class RegisteredMemory {
  readonly #pieces = new IntervalMap(PIECES_MAX);
  readonly #users = new Map<number, number>();
  readonly #register: Register;
  readonly #unregister: Register;

  constructor(register: Register, unregister: Register) {
    this.#register = register;
    this.#unregister = unregister;
  }

  /** Sees that all of the pages are registered until `drop`. Returns 0 or a negative errno, then nothing is held. */
  hold(host: number, pages: number): number {
    const end = host + pages;
    for (let at = host; at < end; ) {
      const slot = this.#pieces.seek(at);
      const first = slot < 0 ? end : this.#pieces.firstOf(slot);
      if (slot >= 0 && first <= at) {
        this.#users.set(first, this.#users.get(first)! + 1);
        at = first + this.#pieces.pagesOf(slot);
        continue;
      }
      const gap = Math.min(first, end) - at;
      const result = this.#register(at, gap);
      if (result < 0) {
        if (at > host) this.drop(host, at - host);
        return result;
      }
      this.#pieces.insert(at, gap, at, 0);
      this.#users.set(at, 1);
      at += gap;
    }
    return 0;
  }

  /** Takes a `hold` of the same range back. What nobody needs is unregistered; if the kernel will not, it stays for the next user. */
  drop(host: number, pages: number): void {
    const end = host + pages;
    for (let slot = this.#pieces.seek(host); slot >= 0 && this.#pieces.firstOf(slot) < end; ) {
      const first = this.#pieces.firstOf(slot);
      const length = this.#pieces.pagesOf(slot);
      const users = this.#users.get(first)! - 1;
      this.#users.set(first, users);
      if (users <= 0 && this.#unregister(first, length) >= 0) {
        this.#pieces.remove(first, length);
        this.#users.delete(first);
      }
      slot = this.#pieces.seek(first + length);
    }
  }

  /** The kernel has forgotten it all. */
  clear(): void {
    this.#pieces.clear();
    this.#users.clear();
  }
}
