import type { Observed } from './observed.ts';
import type { AddressSpace } from './target.ts';

/** Values of a key before its room grows. */
const ROOM = 32;

/** What identifies a space, value by value, in an order of the target's own. One object is used again and again: to look for what is known allocates nothing. */
export class SpaceKey {
  #values = new Float64Array(ROOM);
  #length = 0;

  begin(): this {
    this.#length = 0;
    return this;
  }

  /** A number that is exact as one; true and false are 1 and 0. */
  add(value: number | boolean): this {
    if (this.#length === this.#values.length) {
      const more = new Float64Array(2 * this.#length);
      more.set(this.#values);
      this.#values = more;
    }
    this.#values[this.#length++] = Number(value);
    return this;
  }

  addAll(values: ArrayLike<number>, first = 0, end = values.length): this {
    for (let i = first; i < end; i++) this.add(values[i]);
    return this;
  }

  /** 30 bits, which a Map takes as they are. */
  get hash(): number {
    let hash = 0;
    for (let i = 0; i < this.#length; i++) {
      const value = this.#values[i];
      hash = Math.imul(hash ^ (value | 0) ^ ((value / 2 ** 32) | 0), 0x2c1b_3c6d);
      hash ^= hash >>> 15;
    }
    return hash >>> 2;
  }

  equals(values: Float64Array): boolean {
    if (values.length !== this.#length) return false;
    for (let i = 0; i < values.length; i++) if (values[i] !== this.#values[i]) return false;
    return true;
  }

  get copy(): Float64Array {
    return this.#values.slice(0, this.#length);
  }
}

interface Known<Space> {
  readonly values: Float64Array;
  readonly space: Space;
}

/** Spaces by what identifies them, so that endpoints of equal configuration share one; those that nobody reaches go when they are many. */
export class KnownSpaces<Space extends AddressSpace> {
  /** By the hash of their keys. */
  readonly #spaces = new Map<number, Known<Space>[]>();
  readonly #key = new SpaceKey();
  readonly #observed: Observed;
  readonly #dropped: (space: Space) => void;
  #count = 0;

  constructor(observed: Observed, dropped: (space: Space) => void) {
    this.#observed = observed;
    this.#dropped = dropped;
  }

  /** A key to be filled, and then asked for. */
  key(): SpaceKey {
    return this.#key.begin();
  }

  /** The space that is known by the key, or undefined. */
  find(key: SpaceKey): Space | undefined {
    const known = this.#spaces.get(key.hash);
    if (known === undefined) return undefined;
    for (let i = 0; i < known.length; i++) if (key.equals(known[i].values)) return known[i].space;
    return undefined;
  }

  /** Makes a space known by the key. */
  add(key: SpaceKey, space: Space): Space {
    if (this.#count > 2 * this.#observed.count) this.dropUnused();
    const { hash } = key;
    const known = this.#spaces.get(hash);
    const entry = { values: key.copy, space };
    if (known === undefined) this.#spaces.set(hash, [entry]);
    else known.push(entry);
    this.#count++;
    return space;
  }

  dropUnused(): void {
    for (const [hash, known] of this.#spaces) {
      const kept = known.filter(({ space }) => this.#observed.reaches(space));
      if (kept.length === known.length) continue;
      for (const { space } of known) if (!kept.some((one) => one.space === space)) this.#dropped(space);
      this.#count -= known.length - kept.length;
      if (kept.length === 0) this.#spaces.delete(hash);
      else this.#spaces.set(hash, kept);
    }
  }

  clear(): void {
    this.#spaces.clear();
    this.#count = 0;
  }
}
