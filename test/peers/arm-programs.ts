import type { ArmTableConfig } from '../../src/pagetable/arm.ts';
import type { Level } from '../../src/pagetable/page-table.ts';
import type { Random } from './random.ts';
import { DATA_BASE, RAM_BASE, RAM_BYTES, TABLES_BASE } from './smmuv3.ts';

/** What lies nowhere in the machine. */
const HOLE = 0x6000_0000n;

/** Bits that are flipped: all but the address. */
function noiseBits(granuleLg2: number): number[] {
  const low = Array.from({ length: granuleLg2 }, (_, bit) => bit);
  return [...low, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63];
}

/** Random Arm tables and input addresses, mostly well-formed. */
export class ArmProgram {
  /** Address and value of each entry that is not zero. */
  readonly entries = new Map<number, bigint>();
  readonly bytes: number;
  readonly #random: Random;
  readonly #config: ArmTableConfig;
  readonly #levels: readonly Level[];
  readonly #frameBytes: number;
  /** By level: slots that hold something in some frame. */
  readonly #slots: number[][];

  constructor(random: Random, config: ArmTableConfig, levels: readonly Level[]) {
    this.#random = random;
    this.#config = config;
    this.#levels = levels;
    this.#slots = levels.map(() => []);
    this.#frameBytes = Math.max(2 ** config.granuleLg2, 2 ** (levels[levels.length - 1].bits + 3));
    this.bytes = this.#frameBytes * (2 * levels.length - 1);
    levels.forEach((_, level) => {
      for (const frame of this.#frames(level)) this.#plantFrame(level, frame);
    });
  }

  /** Addresses of the frames that hold tables of a level: the root, or two. */
  #frames(level: number): number[] {
    const top = this.#levels.length - 1;
    const at = (frame: number) => TABLES_BASE + frame * this.#frameBytes;
    return level === top ? [at(0)] : [at(2 * (top - level) - 1), at(2 * (top - level))];
  }

  #plantFrame(level: number, frame: number): void {
    const random = this.#random;
    const last = 2 ** this.#levels[level].bits - 1;
    for (const slot of [0, 1, last, random.below(last + 1), random.below(last + 1), random.below(last + 1)]) {
      this.#slots[level].push(slot);
      if (random.chance(12)) this.#plantRun(level, frame, slot);
      else this.entries.set(frame + slot * 8, this.#entry(level));
    }
  }

  /** A run of entries that Contiguous joins (D8.7.1), all of them alike. */
  #plantRun(level: number, frame: number, slot: number): void {
    const { shift, bits } = this.#levels[level];
    const run = { 12: 16, 14: level === 0 ? 128 : 32, 16: 32 }[this.#config.granuleLg2];
    if (run > 2 ** bits || level > (this.#config.granuleLg2 === 12 ? 2 : 1)) return;
    const first = this.#leaf(level, run * 2 ** shift) | (1n << 52n);
    const start = slot - (slot % run);
    for (let i = 0; i < run; i++) this.entries.set(frame + (start + i) * 8, first + (BigInt(i) << BigInt(shift)));
  }

  #entry(level: number): bigint {
    const random = this.#random;
    const entry = level > 0 && !random.chance(22) ? this.#table(level) : this.#leaf(level, 2 ** this.#levels[level].shift);
    if (random.chance(6)) return entry & ~1n;
    if (!random.chance(12)) return entry;
    const noisy = entry ^ (1n << BigInt(random.pick(noiseBits(this.#config.granuleLg2))));
    // What becomes a table must not lie where the machine's own structures are: only QEMU knows what stands there.
    const address = noisy & 0xffff_ffff_f000n;
    return (noisy & 3n) === 3n && address < BigInt(TABLES_BASE) ? entry : noisy;
  }

  #table(level: number): bigint {
    const random = this.#random;
    const { outputBits, granuleLg2 } = this.#config;
    const other = random.pick([
      HOLE,
      1n << BigInt(Math.min(47, outputBits)),
      BigInt(random.pick(this.#frames(random.below(this.#levels.length)))),
    ]);
    const next = random.chance(10) ? other : BigInt(random.pick(this.#frames(level - 1)));
    const attributes = random.chance(25) ? random.bits(5) << 59n : 0n;
    const ignored = random.chance(20) ? ((random.bits(10) << 2n) | (random.bits(6) << 53n)) & ~(1n << BigInt(granuleLg2)) : 0n;
    return next | attributes | ignored | 3n;
  }

  /** A page or block of `bytes`, mostly in the data area; bits that are not the address's at random. */
  #leaf(level: number, bytes: number): bigint {
    const random = this.#random;
    const { outputBits } = this.#config;
    const target = random.chance(85) ? this.data() : random.pick([HOLE, (1n << BigInt(Math.min(47, outputBits))) | this.data()]);
    const address = target - (target % BigInt(bytes));
    const access = random.chance(85) ? 1n << 10n : 0n;
    const permission = random.chance(40) ? random.bits(2) << 6n : this.#config.stage === 1 ? 1n << 6n : 3n << 6n;
    const others = random.chance(30)
      ? (random.bits(4) << 2n) | (random.bits(2) << 8n) | (random.bits(1) << 11n) | (random.bits(2) << 53n)
      : 0n;
    return address | access | permission | others | (level === 0 ? 3n : 1n);
  }

  /** An address in the data area, a multiple of 8. */
  data(): bigint {
    return BigInt(DATA_BASE) + ((this.#random.bits(28) % BigInt(RAM_BASE + RAM_BYTES - DATA_BASE)) & ~7n);
  }

  /** An input address that mostly leads through entries. */
  input(): bigint {
    const random = this.#random;
    const { inputBits, topByteIgnored, upper, stage } = this.#config;
    if (random.chance(4)) return stage === 2 ? random.bits(44) & ~7n : random.bits(64) & ~7n;
    let input = random.bits(this.#levels[0].shift) & ~7n;
    this.#levels.forEach(({ shift, bits }, level) => {
      const slot = random.chance(92) ? BigInt(random.pick(this.#slots[level])) : random.bits(bits);
      input |= slot << BigInt(shift);
    });
    if (upper) input |= (1n << 64n) - (1n << BigInt(inputBits));
    return topByteIgnored && random.chance(50) ? (input & ((1n << 56n) - 1n)) | (random.bits(8) << 56n) : input;
  }
}
