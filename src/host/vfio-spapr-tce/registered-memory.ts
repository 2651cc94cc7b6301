import { IntervalMap } from '../../memory/interval-map.ts';
import type { Port } from '../port.ts';

/** Registers or unregisters pages of this process. Returns 0 or a negative errno. */
type Register = (host: number, pages: number) => number;

/** Pieces that one process can have registered. */
const PIECES_MAX = 2 ** 20;

/** What all containers of one process have registered: the kernel takes no piece that overlaps another of the process without being the same. */
export class ProcessPieces {
  static readonly #byPort = new WeakMap<Port, ProcessPieces>();
  readonly #pieces = new IntervalMap(PIECES_MAX);
  readonly #containers = new Map<number, number>();

  /** Those of the process that the port is of. */
  static of(port: Port): ProcessPieces {
    const known = ProcessPieces.#byPort.get(port) ?? new ProcessPieces();
    ProcessPieces.#byPort.set(port, known);
    return known;
  }

  /** The piece that a page lies in, or the room from it on, up to `end`: first page and the one behind the last. */
  around(page: number, end: number): readonly [number, number] {
    const slot = this.#pieces.seek(page);
    if (slot < 0) return [page, end];
    const first = this.#pieces.firstOf(slot);
    return first <= page ? [first, first + this.#pieces.pagesOf(slot)] : [page, Math.min(first, end)];
  }

  enter(first: number, pages: number): void {
    const containers = this.#containers.get(first) ?? 0;
    if (containers === 0) this.#pieces.insert(first, pages, first, 0);
    this.#containers.set(first, containers + 1);
  }

  leave(first: number, pages: number): void {
    const containers = this.#containers.get(first)! - 1;
    this.#containers.set(first, containers);
    if (containers > 0) return;
    this.#pieces.remove(first, pages);
    this.#containers.delete(first);
  }
}

/**
 * Memory that the kernel has pinned for a container (VFIO_IOMMU_SPAPR_REGISTER_MEMORY): version 2 maps nothing else, and
 * takes no two pieces that overlap. Each piece counts who needs it, by its place in the interval map's value.
 */
export class RegisteredMemory {
  readonly #pieces = new IntervalMap(PIECES_MAX);
  readonly #users = new Map<number, number>();
  readonly #process: ProcessPieces;
  readonly #register: Register;
  readonly #unregister: Register;

  constructor(process: ProcessPieces, register: Register, unregister: Register) {
    this.#process = process;
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
      const [from, to] = this.#process.around(at, end);
      const result = this.#register(from, to - from);
      if (result < 0) {
        if (at > host) this.drop(host, at - host);
        return result;
      }
      this.#process.enter(from, to - from);
      this.#pieces.insert(from, to - from, from, 0);
      this.#users.set(from, 1);
      at = to;
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
        this.#forget(first, length);
      }
      slot = this.#pieces.seek(first + length);
    }
  }

  #forget(first: number, pages: number): void {
    this.#pieces.remove(first, pages);
    this.#users.delete(first);
    this.#process.leave(first, pages);
  }

  /** The kernel has forgotten it all. */
  clear(): void {
    for (let slot = this.#pieces.seek(0); slot >= 0; slot = this.#pieces.seek(0))
      this.#forget(this.#pieces.firstOf(slot), this.#pieces.pagesOf(slot));
  }
}
