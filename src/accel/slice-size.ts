/** Slices that grow before one is a whole one. */
const GROWING = 3;

/**
 * How much work one slice of a kind is. A process begins with an eighth of it and doubles that with each slice that was not enough: the first ones run
 * code that V8 has not compiled yet, which takes ten times as long and more.
 */
export class SliceSize {
  readonly #whole: number;
  #now: number;

  constructor(whole: number) {
    this.#whole = whole;
    this.#now = whole >> GROWING;
  }

  get now(): number {
    return this.#now;
  }

  /** A slice of this size was not enough. */
  grow(): void {
    this.#now = Math.min(2 * this.#now, this.#whole);
  }
}
