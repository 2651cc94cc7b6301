import { PAGE_BYTES } from '../../memory/address.ts';
import { errno } from '../errno.ts';
import { type Span, SpanList } from './spans.ts';

/** Contiguous simulated physical memory and the bytes that it is. It lives while a mapping of the process, a file or a pin uses it. */
export interface Frames extends Span<number> {
  readonly buffer: SharedArrayBuffer;
  users: number;
}

/** First physical address that is handed out; below it is what a PC has there. */
const PHYSICAL_BASE = 0x1_0000_0000;

export class PhysicalMemory {
  readonly #frames = new SpanList<number, Frames>();
  #next = PHYSICAL_BASE;

  /** Zeroed memory with one user. */
  allocate(bytes: number): Frames {
    const buffer = new SharedArrayBuffer(bytes);
    const first = alignLike(this.#next, bytes);
    const frames = { first, last: first + bytes - 1, buffer, users: 1 };
    this.#next = first + bytes;
    this.#frames.insert(frames);
    return frames;
  }

  find(address: number): Frames | undefined {
    return this.#frames.at(address);
  }

  hold(frames: Frames): void {
    frames.users++;
  }

  drop(frames: Frames): void {
    if (--frames.users === 0) this.#frames.remove(frames);
  }

  /** Pieces of physical memory that anybody uses. */
  get live(): number {
    return this.#frames.size;
  }
}

/** Large memory is aligned so that large pages can map it, as transparent huge pages are. */
function alignLike(address: number, bytes: number): number {
  const alignment = bytes >= 0x20_0000 ? 0x20_0000 : PAGE_BYTES;
  return Math.ceil(address / alignment) * alignment;
}

/** A mapping in the simulated process: [first, last] of its virtual addresses. */
export interface Vma extends Span<number> {
  readonly frames: Frames;
  /** First byte of it within the frames. */
  readonly offset: number;
  readonly writable: boolean;
  /** Registers of a device (VM_PFNMAP): there are no pages to pin. */
  readonly registers?: boolean;
  /** It is the process's own: a child has a copy (MAP_PRIVATE). */
  readonly isPrivate?: boolean;
  /** Whoever must know when a child has the mapping too, and when a mapping goes. */
  readonly onFork?: () => void;
  readonly onUnmap?: () => void;
}

/** The last one that there could be. */
const LAST_PAGE = (1n << 64n) - BigInt(PAGE_BYTES);
/** First virtual address that is handed out. */
const VIRTUAL_BASE = 0x7f00_0000_0000;

/** Virtual memory of the simulated process: what pointers in structs mean. Mappings never touch, so an overrun is a fault. */
export class ProcessMemory {
  readonly #vmas = new SpanList<number, Vma>();
  /** Where the process sees each piece of physical memory. */
  readonly #views = new Map<Frames, Vma[]>();
  readonly #physical: PhysicalMemory;
  #next = VIRTUAL_BASE;

  constructor(physical: PhysicalMemory) {
    this.#physical = physical;
  }

  map(frames: Frames, offset: number, bytes: number, options: Partial<Omit<Vma, keyof Span<number> | 'frames' | 'offset'>> = {}): Vma {
    const first = alignLike(this.#next, bytes);
    const vma = { first, last: first + bytes - 1, frames, offset, writable: true, ...options };
    this.#next = first + Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES + PAGE_BYTES;
    this.#add(vma);
    return vma;
  }

  #add(vma: Vma): void {
    this.#vmas.insert(vma);
    this.#views.set(vma.frames, [...(this.#views.get(vma.frames) ?? []), vma]);
    this.#physical.hold(vma.frames);
  }

  /** A child's: private memory is copied at once, for what is pinned must stay the parent's. */
  fork(): ProcessMemory {
    const child = new ProcessMemory(this.#physical);
    child.#next = this.#next;
    for (const vma of this.#vmas) {
      if (vma.isPrivate !== true) {
        child.#add({ ...vma });
        vma.onFork?.();
        continue;
      }
      const bytes = vma.last - vma.first + 1;
      const frames = this.#physical.allocate(Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES);
      new Uint8Array(frames.buffer).set(new Uint8Array(vma.frames.buffer, vma.offset, bytes));
      child.#add({ ...vma, frames, offset: 0 });
      this.#physical.drop(frames);
    }
    return child;
  }

  /** The process ends. */
  release(): void {
    for (const vma of [...this.#vmas]) this.unmap(vma);
  }

  unmap(vma: Vma): void {
    this.#vmas.remove(vma);
    const views = this.#views.get(vma.frames)!.filter((view) => view !== vma);
    if (views.length > 0) this.#views.set(vma.frames, views);
    else this.#views.delete(vma.frames);
    this.#physical.drop(vma.frames);
    vma.onUnmap?.();
  }

  find(address: number): Vma | undefined {
    return this.#vmas.at(address);
  }

  /** The mapping that holds all of [address, address + bytes) in memory. */
  within(address: bigint, bytes: bigint): Vma | undefined {
    const vma = this.find(Number(address));
    return vma === undefined || vma.registers === true || Number(address + bytes) - 1 > vma.last ? undefined : vma;
  }

  /** The same for who pins pages of its own (get_user_pages_fast): -EFAULT, or -EOVERFLOW where they reach the end of all addresses. */
  pagesAt(address: bigint, bytes: bigint): Vma | number {
    if (address + bytes > LAST_PAGE) return -errno.EOVERFLOW;
    return this.within(address, bytes) ?? -errno.EFAULT;
  }

  /** Virtual address under which the process sees a physical one that somebody holds, or -1. */
  addressOf(physical: number): number {
    const frames = this.#physical.find(physical)!;
    for (const vma of this.#views.get(frames) ?? []) {
      const at = physical - frames.first - vma.offset;
      if (at >= 0 && at <= vma.last - vma.first) return vma.first + at;
    }
    return -1;
  }

  /** A view of [address, address + bytes) as the kernel reads it, or null: EFAULT. */
  view(address: number | bigint, bytes: number): Uint8Array | null {
    return this.#view(address, bytes, false);
  }

  /** The same for what the kernel writes. */
  writableView(address: number | bigint, bytes: number): Uint8Array | null {
    return this.#view(address, bytes, true);
  }

  /** copy_to_user: writes up to where memory ends, and says whether that was all. */
  copyOut(address: number | bigint, bytes: Uint8Array): boolean {
    const first = Number(address);
    const vma = this.#vmas.at(first);
    if (vma === undefined || !vma.writable) return bytes.length === 0;
    const fits = Math.min(bytes.length, vma.last - first + 1);
    new Uint8Array(vma.frames.buffer, vma.offset + first - vma.first, fits).set(bytes.subarray(0, fits));
    return fits === bytes.length;
  }

  #view(address: number | bigint, bytes: number, write: boolean): Uint8Array | null {
    const first = Number(address);
    if (bytes === 0) return new Uint8Array(0);
    const vma = this.#vmas.at(first);
    if (vma === undefined || first + bytes - 1 > vma.last || (write && !vma.writable)) return null;
    return new Uint8Array(vma.frames.buffer, vma.offset + first - vma.first, bytes);
  }

  get live(): number {
    return this.#vmas.size;
  }
}
