import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import type { SimKernel } from '../kernel.ts';
import type { Frames } from '../memory.ts';
import type { SimProcess } from '../process.ts';
import { type Span, SpanList } from '../spans.ts';

/** Memory that was registered, by virtual address (the kernel's struct mm_iommu_table_group_mem_t). */
export interface RegisteredMemory extends Span<number> {
  readonly frames: Frames;
  /** Physical address of its first byte. */
  readonly physical: number;
  /** TCEs that reach it. */
  mapped: number;
  /** Containers that have it registered; or one that had it, when TCEs reached it still. */
  users: number;
}

/** What all containers of a process have registered. */
const lists = new WeakMap<SimProcess, SpanList<number, RegisteredMemory>>();

function listOf(process: SimProcess): SpanList<number, RegisteredMemory> {
  const list = lists.get(process) ?? new SpanList<number, RegisteredMemory>();
  lists.set(process, list);
  return list;
}

const PAGE_MASK = BigInt(PAGE_BYTES - 1);

/** What a version 2 container has registered: pinned once for all of its process, and looked up by every map (the kernel's iommu_api.c). */
export class Registrations {
  readonly #kernel: SimKernel;
  readonly #own = new Set<RegisteredMemory>();
  /** Of the one process that the container works for. */
  #ofProcess: SpanList<number, RegisteredMemory> | null = null;

  /** What was found last: a mapping asks for each of its pages. Nobody's any more: it is looked for again. */
  #found: RegisteredMemory | undefined;

  constructor(kernel: SimKernel) {
    this.#kernel = kernel;
  }

  get size(): number {
    return this.#own.size;
  }

  get #list(): SpanList<number, RegisteredMemory> {
    this.#ofProcess ??= listOf(this.#kernel.current);
    return this.#ofProcess;
  }

  /** The piece with an address in it. */
  #at(address: number): RegisteredMemory | undefined {
    const found = this.#found;
    if (found === undefined || found.users === 0 || address < found.first || address > found.last) this.#found = this.#list.at(address);
    return this.#found;
  }

  /** 0, a negative errno, or how many pages could be pinned, where that was not all: none is registered then. */
  register(vaddr: bigint, size: bigint): number {
    if (((vaddr | size) & PAGE_MASK) !== 0n || vaddr + size >= 1n << 64n) return -errno.EINVAL;
    const first = Number(vaddr);
    const last = first + Number(size) - 1;
    const there = this.#list.firstIn(first, last);
    if (there?.first === first && there.last === last) {
      if (this.#own.has(there)) return -errno.EBUSY;
      there.users++;
      this.#own.add(there);
      return 0;
    }
    if (size === 0n) return -errno.ENOMEM;
    const refused = this.#kernel.pin(Number(size));
    if (refused < 0) return refused;
    const vma = this.#kernel.process.find(first);
    const isMemory = vma?.writable === true && vma.registers !== true;
    if (!isMemory || last > vma.last || there !== undefined) {
      this.#kernel.unpin(Number(size));
      if (!isMemory) return -errno.EFAULT;
      return last > vma.last ? (vma.last + 1 - first) / PAGE_BYTES : -errno.EINVAL;
    }
    this.#kernel.physical.hold(vma.frames);
    const physical = vma.frames.first + vma.offset + (first - vma.first);
    const memory = { first, last, frames: vma.frames, physical, mapped: 0, users: 1 };
    this.#list.insert(memory);
    this.#own.add(memory);
    return 0;
  }

  unregister(vaddr: bigint, size: bigint): number {
    if (((vaddr | size) & PAGE_MASK) !== 0n) return -errno.EINVAL;
    const first = Number(vaddr);
    const there = this.#list.at(first);
    if (there === undefined || there.first !== first || there.last !== first + Number(size) - 1 || !this.#own.has(there))
      return -errno.ENOENT;
    this.#drop(there);
    return 0;
  }

  /** The piece that all of [address, address + bytes) lies in. */
  find(address: number, bytes: number): RegisteredMemory | undefined {
    const memory = this.#at(address);
    return memory !== undefined && address + bytes - 1 <= memory.last ? memory : undefined;
  }

  /**
   * mm_iommu_put, whose -EBUSY goes no further (tce_iommu_unregister_pages has a reference of its own, and gives it back last): what TCEs reach stays
   * pinned, and from then on for as long as its process lives.
   */
  #drop(memory: RegisteredMemory): void {
    this.#own.delete(memory);
    if (memory.users === 1 && memory.mapped > 0) return;
    if (--memory.users > 0) return;
    this.#list.remove(memory);
    this.#kernel.physical.drop(memory.frames);
    this.#kernel.unpin(memory.last - memory.first + 1);
  }

  clear(): void {
    for (const memory of [...this.#own]) this.#drop(memory);
  }

  save(): unknown {
    return [...this.#own].map(({ first, last, mapped }) => ({ first: first.toString(16), last: last.toString(16), mapped }));
  }
}
