import type { SimFile } from './files.ts';
import { LockedMemory } from './locked-memory.ts';
import type { ProcessMemory } from './memory.ts';

/** First descriptor that is handed out, so that 0 to 2 are never valid. */
const FIRST_DESCRIPTOR = 3;

/** A simulated process: its memory, its descriptors, and what it may lock. */
export class SimProcess {
  readonly memory: ProcessMemory;
  readonly locked = new LockedMemory();
  /** RLIMIT_MEMLOCK in bytes; Infinity: it has CAP_IPC_LOCK. */
  lockLimit: number;
  readonly #files: Map<number, SimFile>;
  /** No descriptor below it is free. */
  #lowest = FIRST_DESCRIPTOR;

  constructor(memory: ProcessMemory, lockLimit: number, files: Iterable<readonly [number, SimFile]> = []) {
    this.memory = memory;
    this.lockLimit = lockLimit;
    this.#files = new Map(files);
  }

  /** Descriptors and what they stand for. */
  get files(): ReadonlyMap<number, SimFile> {
    return this.#files;
  }

  /** The lowest free descriptor, as POSIX wants it. */
  install(file: SimFile): number {
    while (this.#files.has(this.#lowest)) this.#lowest++;
    this.#files.set(this.#lowest, file);
    return this.#lowest++;
  }

  /** The descriptor is free again. Returns what it stood for. */
  remove(fd: number): SimFile | undefined {
    const file = this.#files.get(fd);
    if (this.#files.delete(fd)) this.#lowest = Math.min(this.#lowest, fd);
    return file;
  }

  /** fork(2): what is open is shared, memory is a copy; what the parent has locked is not the child's. */
  fork(): SimProcess {
    return new SimProcess(this.memory.fork(), this.lockLimit, this.#files);
  }
}
