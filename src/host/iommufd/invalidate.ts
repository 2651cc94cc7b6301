import { requireInteger } from '../../memory/arguments.ts';
import { HostError } from '../errno.ts';
import type { PortMemory } from '../port.ts';
import { Command } from './command.ts';
import type { Handle, IommufdContext } from './context.ts';

/** struct iommu_hwpt_invalidate */
const INVALIDATE = { bytes: 32, target: 1, pointer: 2, type: 4, entryBytes: 5, count: 6 } as const;

/** enum iommu_hwpt_invalidate_data_type */
const TYPE_VTD_S1 = 0;
const TYPE_ARM_SMMUV3 = 1;

const DEFAULT_CAPACITY = 128;

/**
 * Invalidations that go to the hardware together, one call for all: entries of a type's own in memory that is made once. Adding
 * and flushing allocate nothing.
 */
export class Invalidations {
  /** The entries, 32-bit words; entry i begins at i * entryWords. */
  protected readonly entries: Int32Array;
  protected count = 0;
  /** How many entries of the last flush the kernel took; the one behind them is the one that failed. */
  done = 0;
  readonly #context: IommufdContext;
  readonly #memory: PortMemory;
  readonly #command: Command;
  readonly #capacity: number;
  #errno = 0;

  /** `target`: a first stage or a vIOMMU. `type`: enum iommu_hwpt_invalidate_data_type. */
  constructor(context: IommufdContext, target: Handle, type: number, entryBytes: number, capacity = DEFAULT_CAPACITY) {
    this.#context = context;
    requireInteger('Invalidations', 'entryBytes', entryBytes, 4, 4096);
    requireInteger('Invalidations', 'capacity', capacity, 1, 2 ** 20);
    this.#capacity = capacity;
    this.#memory = context.port.allocate(entryBytes * capacity);
    this.entries = new Int32Array(this.#memory.buffer);
    this.#command = new Command(context.port, 'IOMMU_HWPT_INVALIDATE', INVALIDATE.bytes);
    const { words } = this.#command;
    words[INVALIDATE.target] = target.id;
    this.#command.set64(INVALIDATE.pointer, this.#memory.address);
    words[INVALIDATE.type] = type;
    words[INVALIDATE.entryBytes] = entryBytes;
    context.owned.add(this);
  }

  /** The next flush is for another first stage or vIOMMU. */
  aim(target: Handle): void {
    this.#command.words[INVALIDATE.target] = target.id;
  }

  /** Adds one entry of the type's own. Returns 0, or the negative errno of the flush that made room for it. */
  add(words: ArrayLike<number>): number {
    const result = this.room();
    this.entries.set(words, this.count * words.length);
    this.count++;
    return result;
  }

  /** Flushes when there is no room for one entry more. */
  protected room(): number {
    return this.count < this.#capacity ? 0 : this.flush();
  }

  /** Carries out what was added, in order, up to an entry that the kernel refuses. Returns 0 or its negative errno; nothing stays added. */
  flush(): number {
    if (this.count === 0) return 0;
    const { words } = this.#command;
    words[INVALIDATE.count] = this.count;
    this.count = 0;
    this.#context.calls.control++;
    const result = this.#command.call(this.#context.fd);
    this.done = words[INVALIDATE.count];
    if (result < 0) this.#errno = result;
    return Math.min(result, 0);
  }

  /** Gives the first `entries` of the last flush once more. Returns 0 or a negative errno. */
  protected again(entries: number): number {
    this.#command.words[INVALIDATE.count] = entries;
    this.#context.calls.control++;
    return Math.min(this.#command.call(this.#context.fd), 0);
  }

  /** Of the last flush that failed. */
  get error(): HostError | null {
    return this.#errno === 0 ? null : new HostError('IOMMU_HWPT_INVALIDATE', this.#errno, undefined, `entry ${this.done}`);
  }

  /** Frees its memory. */
  dispose(): void {
    this.#context.owned.delete(this);
    this.#command.release();
    this.#memory.release();
  }
}

/** struct iommu_hwpt_vtd_s1_invalidate, in words. */
const VTD = { words: 6, address: 0, pages: 2, flags: 4 } as const;
const VTD_LEAF = 1;

/** For a VT-d first stage: ranges of pages. */
export class VtdInvalidations extends Invalidations {
  constructor(context: IommufdContext, target: Handle, capacity?: number) {
    super(context, target, TYPE_VTD_S1, VTD.words * 4, capacity);
  }

  /** `leaf`: only leaf entries have changed. */
  addPages(first: number, pages: number, leaf: boolean): number {
    const result = this.room();
    const at = this.count++ * VTD.words;
    const { entries } = this;
    entries[at + VTD.address] = first << 12;
    entries[at + VTD.address + 1] = (first / 0x100000) | 0;
    entries[at + VTD.pages] = pages | 0;
    entries[at + VTD.pages + 1] = (pages / 0x1_0000_0000) | 0;
    entries[at + VTD.flags] = leaf ? VTD_LEAF : 0;
    entries[at + VTD.flags + 1] = 0;
    return result;
  }

  /** Everything: address 0, all pages. */
  addAll(): number {
    const result = this.addPages(0, 0, false);
    const at = (this.count - 1) * VTD.words + VTD.pages;
    this.entries[at] = -1;
    this.entries[at + 1] = -1;
    return result;
  }
}

/** Where the commands of one guest for its SMMUv3 go. */
export interface CommandRoute {
  /** Four words, lowest first. Returns 0, or the negative errno of what had to make room for it. */
  addCommand(word0: number, word1: number, word2: number, word3: number): number;
  /** The hardware has carried out what was added. Returns 0 or a negative errno; nothing stays added. */
  flush(): number;
  readonly error: HostError | null;
}

/** For a vIOMMU of an SMMUv3: commands as the guest wrote them, two double words each (IHI 0070, chapter 4). */
export class SmmuInvalidations extends Invalidations implements CommandRoute {
  constructor(context: IommufdContext, target: Handle, capacity?: number) {
    super(context, target, TYPE_ARM_SMMUV3, 16, capacity);
  }

  /**
   * Linux 7.3 counts commands that it has not carried out when it refuses one behind them (they go in blocks, and the block of the
   * refused one never goes), so what was counted is given again: what `done` says is done.
   */
  override flush(): number {
    const result = super.flush();
    if (result < 0 && this.done > 0) this.again(this.done);
    return result;
  }

  /** Four words, lowest first. */
  addCommand(word0: number, word1: number, word2: number, word3: number): number {
    const result = this.room();
    const at = this.count++ * 4;
    const { entries } = this;
    entries[at] = word0;
    entries[at + 1] = word1;
    entries[at + 2] = word2;
    entries[at + 3] = word3;
    return result;
  }
}
