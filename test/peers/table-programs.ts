import type { PageTable } from '../../src/pagetable/page-table.ts';
import { field, type Rules } from '../pagetable/oracle.ts';
import type { Random } from './random.ts';

/**
 * Where things lie in the RAM of the machine under test. Input bits 29:21
 * are 0 or have bit 28 set, so that even a page much larger than the tables meant, at address 0, leads below 2 MiB or to the
 * data, not to tables and the machine's structures.
 */
export const RAM_BYTES = 0x2000_0000;
export const STRUCTURES = 0x0100_0000;
export const TABLES = 0x0400_0000;
export const DATA = 0x1000_0000;
/** What lies nowhere in the machine. */
const HOLE = 0x60_0000_0000n;

/** Random tables of 512 entries of 8 bytes, mostly well-formed: a root and two tables of each lower level. */
export class TableProgram {
  /** Value of each entry that is not zero, by address. */
  readonly entries = new Map<number, bigint>();
  readonly bytes: number;
  readonly #random: Random;
  readonly #rules: Rules;
  readonly #slots: number[][];

  constructor(random: Random, rules: Rules) {
    const levels = rules.index.length;
    this.#random = random;
    this.#rules = rules;
    this.#slots = rules.index.map(() => []);
    this.bytes = (2 * levels - 1) * 4096;
    for (let level = 0; level < levels; level++) for (const frame of this.#frames(level)) this.#plantFrame(level, frame);
  }

  #frames(level: number): number[] {
    const depth = this.#rules.index.length - 1 - level;
    return depth === 0 ? [TABLES] : [TABLES + (2 * depth - 1) * 4096, TABLES + 2 * depth * 4096];
  }

  /** A slot of a level, often 0, so that levels can be left out; on level 1 otherwise one whose input bit 28 is set. */
  #slot(level: number): number {
    if (this.#random.chance(30)) return 0;
    const [highest, lowest] = this.#rules.index[level];
    const slot = this.#random.below(2 ** (highest - lowest + 1));
    return level === 1 ? (slot & 0x7f) | 0x80 : slot;
  }

  #plantFrame(level: number, frame: number): void {
    for (let i = 0; i < 6; i++) {
      const slot = this.#slot(level);
      this.#slots[level].push(slot);
      this.entries.set(frame + slot * 8, this.#entry(level));
    }
  }

  #entry(level: number): bigint {
    const random = this.#random;
    const down = level > 0 && !random.chance(25);
    const address = down ? this.#next(level) : random.chance(90) ? this.data() : HOLE | this.data();
    const samples = this.#rules.samples(level, address);
    const kind = down ? 'table' : 'leaf';
    const wanted = samples.filter((entry) => this.#rules.read(level, entry, 0n).is === kind);
    // The first sample of a kind grants everything.
    const entry =
      wanted.length > 0 && random.chance(88) ? wanted[0] : random.pick(wanted.length > 0 && random.chance(90) ? wanted : samples);
    if (random.chance(3)) return 0n;
    // Bits 28:21 stay: they choose between the data and the rest of RAM.
    return random.chance(8) ? entry ^ (1n << BigInt(random.chance(40) ? random.below(21) : 29 + random.below(35))) : entry;
  }

  #next(level: number): bigint {
    const random = this.#random;
    const below = random.chance(94) ? level - 1 : random.below(this.#rules.index.length);
    return random.chance(2) ? HOLE : BigInt(random.pick(this.#frames(below)));
  }

  /** An address in the data area, a multiple of 8; a multiple of 2 MiB half the time. */
  data(): bigint {
    const inside = this.#random.bits(28) & ~7n;
    return BigInt(DATA) + (this.#random.chance(50) ? inside & ~0x1f_ffffn : inside);
  }

  /** An input address that mostly leads through entries. */
  input(table: PageTable): bigint {
    const random = this.#random;
    const { inputBits, canonical } = table.description;
    if (random.chance(3)) return random.bits(random.pick([inputBits, 64])) & ~7n;
    let input = random.bits(12) & ~7n;
    for (const [level, [, lowest]] of this.#rules.index.entries()) {
      input |= BigInt(random.chance(99) ? random.pick(this.#slots[level]) : this.#slot(level)) << BigInt(lowest);
    }
    return canonical ? BigInt.asUintN(64, BigInt.asIntN(inputBits, input)) : field(input, inputBits - 1, 0);
  }
}
