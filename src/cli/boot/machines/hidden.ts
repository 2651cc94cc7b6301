import type { RegisterCounts } from '../../../vmm/units/index.ts';

/**
 * When a function that is a unit's registers and nothing else is gone: from the first access to them on. x86 Linux reserves them before it scans
 * PCI, and would move a BAR that it cannot claim.
 */
export class HiddenAfterUse {
  readonly #counts: RegisterCounts;
  #before = 0;

  constructor(counts: RegisterCounts) {
    this.#counts = counts;
  }

  get #accesses(): number {
    return this.#counts.reads + this.#counts.writes;
  }

  readonly absent = (): boolean => this.#accesses > this.#before;

  /** There again: the machine was reset. */
  reset(): void {
    this.#before = this.#accesses;
  }
}
