import type { Domain } from './domain.ts';

const FIRST = 0;
const PAGES = 1;
const VALUE = 2;
const PERMISSION = 3;
const ADDED = 4;
const WIDTH = 5;

/** Mappings that came and went since the hardware last agreed, so that they can be taken back. Grows to the largest kick. */
export class Journal {
  #numbers = new Float64Array(64 * WIDTH);
  readonly #domains: Domain[] = [];
  #count = 0;

  get count(): number {
    return this.#count;
  }

  added(domain: Domain, slot: number): void {
    this.#record(domain, slot, 1);
  }

  /** To be called before the mapping is removed. */
  removing(domain: Domain, slot: number): void {
    this.#record(domain, slot, 0);
  }

  clear(): void {
    this.#count = 0;
  }

  /** Takes everything back, the latest first, and says where, and how many mappings more there are. */
  undo(changed: (domain: Domain, first: number, last: number, mappings: number) => void): void {
    while (this.#count > 0) {
      const at = --this.#count * WIDTH;
      const domain = this.#domains[this.#count];
      const first = this.#numbers[at + FIRST];
      const pages = this.#numbers[at + PAGES];
      const added = this.#numbers[at + ADDED] === 1;
      if (added) domain.mappings.remove(first, pages);
      else domain.mappings.insert(first, pages, this.#numbers[at + VALUE], this.#numbers[at + PERMISSION]);
      changed(domain, first, first + pages - 1, added ? -1 : 1);
    }
  }

  #record(domain: Domain, slot: number, added: number): void {
    const at = this.#count * WIDTH;
    if (at === this.#numbers.length) {
      const larger = new Float64Array(2 * at);
      larger.set(this.#numbers);
      this.#numbers = larger;
    }
    this.#numbers[at + FIRST] = domain.mappings.firstOf(slot);
    this.#numbers[at + PAGES] = domain.mappings.pagesOf(slot);
    this.#numbers[at + VALUE] = domain.mappings.valueOf(slot);
    this.#numbers[at + PERMISSION] = domain.mappings.permissionOf(slot);
    this.#numbers[at + ADDED] = added;
    this.#domains[this.#count++] = domain;
  }
}
