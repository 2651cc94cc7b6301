/** Random numbers from a seed (mulberry32), so that a comparison that failed can be made again. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  #next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  }
  /** 0 to `limit` - 1. */
  below(limit: number): number {
    return this.#next() % limit;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }
  bits(count: number): bigint {
    const value = (BigInt(this.#next()) << 32n) | BigInt(this.#next());
    return value & ((1n << BigInt(count)) - 1n);
  }
}
