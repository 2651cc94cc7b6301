import { errno, HostError } from '../host/errno.ts';
import { MMIO, READ, READ_WRITE } from '../memory/access.ts';
import { addressOfPfn } from '../memory/address.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { AddressSpace } from '../target/target.ts';
import { RunList } from './run-list.ts';

const NO_RUNS = new RunList(0);

/** Who asks what a space means. */
export interface Asker {
  readonly space: AddressSpace;
  readonly memory: GuestMemory;
  /** What leads to no RAM is left out without an error: RAM has gone, and the guest's mappings of it with it. */
  tolerant: boolean;
  /** A run that is too much by itself is cut. */
  readonly cuts: boolean;
  /** What is done for a run, host calls or table entries. */
  workOf(pages: number, iova: number, gpa: number): number;
}

/** What an address space means, as runs that hardware can have: of contiguous host memory, with what ROM allows. */
export class WantedRuns {
  asker: Asker;
  /** An enumeration ends once its runs are so much work; a run that is cut is so after so many pages, none of which is more than 1. */
  most = Number.POSITIVE_INFINITY;
  /** The first run since `begin` that the guest means and that can be mapped nowhere. */
  error: HostError | null = null;
  #runs = NO_RUNS;
  #work = 0;
  /** Page before which a run was cut. */
  #cut = -1;

  constructor(asker: Asker) {
    this.asker = asker;
  }

  /** What is asked for from now on goes to `runs`. */
  begin(runs: RunList): void {
    runs.clear();
    this.#runs = runs;
    this.error = null;
    this.#work = 0;
  }

  /** Adds what [first, last] means. Returns the first page that was not examined, last + 1 when all was. */
  ask(first: number, last: number): number {
    this.#cut = -1;
    const next = this.asker.space.enumerate(first, last, this.#visit);
    return this.#cut < 0 ? next : this.#cut;
  }

  #whyNot(gpa: number): string {
    if (!this.asker.memory.holds(gpa)) return 'leads outside guest RAM';
    return `guest RAM at 0x${addressOfPfn(gpa).toString(16)} has no hostAddress, which a passed-through device needs`;
  }

  /** Cuts a run where host memory is not contiguous; ROM is for reading. What is no RAM has no host page: registers of devices are left out, anything else is an error. */
  readonly #visit = (iova: number, gpa: number, pages: number, permission: number): boolean => {
    if ((permission & READ_WRITE) === 0) return true;
    const { space, memory, tolerant } = this.asker;
    for (let done = 0; done < pages; ) {
      const run = memory.hostRun(gpa + done, pages - done);
      if (run > 0) {
        const granted = permission & (memory.isReadOnly(gpa + done) ? READ : READ_WRITE);
        if (granted !== 0 && !this.#push(iova + done, gpa + done, run, granted)) return false;
        done += run;
        continue;
      }
      if ((permission & MMIO) === 0 && space.owner === 'target' && !tolerant) {
        const range = { first: iova + done, last: iova + pages - 1 };
        this.error ??= new HostError(space.name, errno.EFAULT, range, this.#whyNot(gpa + done));
      }
      const next = memory.nextHostPage(gpa + done);
      if (next < 0 || next >= gpa + pages) break;
      done = next - gpa;
    }
    return this.#work < this.most;
  };

  #push(iova: number, gpa: number, pages: number, permission: number): boolean {
    const work = this.asker.workOf(pages, iova, gpa);
    if (work <= this.most || !this.asker.cuts) {
      this.#work += work;
      return this.#runs.push(iova, gpa, pages, permission);
    }
    this.#cut = iova + this.most;
    this.#runs.push(iova, gpa, this.most, permission);
    return false;
  }
}
