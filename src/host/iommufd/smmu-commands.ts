import type { HostError } from '../errno.ts';
import type { Port } from '../port.ts';
import type { CommandRoute, SmmuInvalidations } from './invalidate.ts';
import type { CommandQueue } from './tegra241.ts';

/** Looks at the consumer index that one command may take. */
const PATIENCE = 1 << 20;

/** IHI 0070, 4.1.1. */
const OPCODE = 0xff;
const CFGI_LAST = 0x0f;
const TLBI_NH_ALL = 0x10;
const TLBI_NSNH_ALL = 0x30;
const CMD_SYNC = 0x46;

/**
 * Commands of one guest: by calls, or, where it has a queue of its own, by stores into that: no call to the kernel. What such a queue does not
 * take (configuration) goes by calls, before the rest of its flush, so that no translation is made of a descriptor that is out of date. A
 * queue that stops at an error, or does not go on, is never used again: what it has not consumed is given to the kernel.
 */
export class SmmuCommands implements CommandRoute {
  readonly #port: Port;
  readonly #calls: SmmuInvalidations;
  readonly #twice: boolean;
  #queue: CommandQueue | null = null;
  #added = false;

  /** `twice`: TLBI must be issued twice (erratum T264-SMMU-3, which the kernel minds where it issues itself). */
  constructor(port: Port, calls: SmmuInvalidations, twice: boolean) {
    this.#port = port;
    this.#calls = calls;
    this.#twice = twice;
  }

  /** From now on by stores. */
  use(queue: CommandQueue): void {
    this.#queue = queue;
  }

  get error(): HostError | null {
    return this.#calls.error;
  }

  addCommand(word0: number, word1: number, word2: number, word3: number): number {
    const code = word0 & OPCODE;
    if (this.#queue === null || code <= CFGI_LAST) return this.#calls.addCommand(word0, word1, word2, word3);
    // A VINTF's queue has one VMID, and all of it is what a guest calls all.
    const first = code === TLBI_NSNH_ALL ? TLBI_NH_ALL : word0;
    this.#push(this.#queue, first, word1, word2, word3);
    if (this.#twice && this.#queue !== null) this.#push(this.#queue, first, word1, word2, word3);
    return 0;
  }

  flush(): number {
    const result = this.#calls.flush();
    if (!this.#added) return result;
    this.#added = false;
    if (this.#queue !== null) this.#push(this.#queue, CMD_SYNC, 0, 0, 0);
    if (this.#queue !== null) this.#drain(this.#queue);
    return this.#calls.flush() || result;
  }

  #push(queue: CommandQueue, word0: number, word1: number, word2: number, word3: number): void {
    this.#added = true;
    if (queue.add(word0, word1, word2, word3)) return;
    if (this.#drain(queue)) queue.add(word0, word1, word2, word3);
    else if ((word0 & OPCODE) !== CMD_SYNC) this.#calls.addCommand(word0, word1, word2, word3);
  }

  /** The hardware consumes all of it. False: it stopped, or took too long, and what is left was added to the calls. */
  #drain(queue: CommandQueue): boolean {
    queue.ring();
    for (let looks = 0; looks < PATIENCE && !queue.failed; looks++) {
      if (queue.idle) return true;
      this.#port.relax();
    }
    this.#queue = null;
    queue.unconsumed((word0, word1, word2, word3) => {
      if ((word0 & OPCODE) !== CMD_SYNC) this.#calls.addCommand(word0, word1, word2, word3);
    });
    return false;
  }
}
