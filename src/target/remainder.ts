/** Runs work soon, between the guest's accesses. */
export type Schedule = (work: () => void) => void;

/**
 * The commands that one access leaves because its work is bounded go on by themselves: their guest may wait in memory for the last of them (AMD-Vi's
 * COMPLETION_WAIT, an SMMUv3's CMD_SYNC by message, VT-d's status), and make no further access.
 */
export class Remainder {
  readonly #schedule: Schedule;
  readonly #goOn: () => void;
  #isScheduled = false;

  constructor(work: () => void, schedule: Schedule = setImmediate) {
    this.#schedule = schedule;
    this.#goOn = () => {
      this.#isScheduled = false;
      work();
    };
  }

  /** Goes on once, however often it is said before. */
  later(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#schedule(this.#goOn);
  }
}
