/** xorshift32 (Marsaglia 2003): the same numbers as in bench/baseline/bench.h. */
export class Random {
  #state = 1;

  /** The next number, as int32. */
  next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return state;
  }
}
