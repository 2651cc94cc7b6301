import { GuestMemory, hiOf, joinHiLo, loOf, PRIVILEGED, WRITE } from '../../src/memory/index.ts';
import type { ArmTableConfig } from '../../src/pagetable/arm.ts';
import {
  FAULT_ACCESS_FLAG,
  FAULT_INPUT_SIZE,
  FAULT_NOT_PRESENT,
  FAULT_OUTPUT_SIZE,
  FAULT_PERMISSION,
  FAULT_RESERVED,
  FAULT_TABLE_ACCESS,
  faultKind,
  faultLevel,
  OUT_HI,
  OUT_LO,
  type TableMemory,
} from '../../src/pagetable/page-table.ts';
import type { WalkingStage } from '../../src/pagetable/two-stage.ts';
import {
  DATA_BASE,
  F_ACCESS,
  F_ADDR_SIZE,
  F_PERMISSION,
  F_TRANSLATION,
  F_WALK_EABT,
  type PeerAnswer,
  RAM_BASE,
  RAM_BYTES,
  type Smmuv3,
} from './smmuv3.ts';
import { TESTDEV_PATTERN } from './testdev.ts';

/** One access on both sides. */
export interface Comparison {
  readonly translation: Translation;
  readonly input: bigint;
  readonly access: number;
  /** The entries that our walk read, root first; with two stages those of the first. */
  readonly path: readonly bigint[];
  /** Our fault code, or 0. */
  readonly code: number;
  readonly failedAt: FailedAt;
  readonly output: bigint;
  readonly peer: PeerAnswer;
}

/** Whose fault it is; `table`: the second stage's, asked for a table of the first. */
export type FailedAt = 'first' | 'table' | 'second';

/** What is compared: our walker, and what of it is random: one stage's configuration. */
export interface Translation {
  readonly walker: WalkingStage;
  readonly config: ArmTableConfig;
  /** Bits by which a concatenated root of it goes beyond one table: [lowest, count]. */
  readonly concatenated: readonly [number, number];
  /** Of the walk that just failed. */
  failedAt(): FailedAt;
}

/** SMMUv3 IHI 0070, 7.3: the event of each kind of fault. */
const EVENTS: Readonly<Record<number, number>> = {
  [FAULT_NOT_PRESENT]: F_TRANSLATION,
  [FAULT_RESERVED]: F_TRANSLATION,
  [FAULT_INPUT_SIZE]: F_TRANSLATION,
  [FAULT_OUTPUT_SIZE]: F_ADDR_SIZE,
  [FAULT_ACCESS_FLAG]: F_ACCESS,
  [FAULT_PERMISSION]: F_PERMISSION,
  [FAULT_TABLE_ACCESS]: F_WALK_EABT,
};

interface Difference {
  readonly section: string;
  readonly what: string;
  explains(comparison: Comparison, again: (input: bigint) => Comparison): boolean;
}

/** Where QEMU 11.1 is not what the specification asks for. */
export const DIFFERENCES: readonly Difference[] = [
  {
    section: 'DDI 0487, D8.3.1.2, tables D8-52 and D8-53',
    what: 'blocks on a level where the granule has none (4K: level 0; 16K and 64K: level 1) are invalid; QEMU takes them as blocks',
    explains: ({ code }) => faultKind(code) === FAULT_RESERVED && faultLevel(code) > 0,
  },
  {
    section: 'DDI 0487, D8.15.5, "MMU fault prioritization from a single address translation stage"',
    what: 'APTable limits what the leaf grants, after everything else was checked; QEMU faults at the table descriptor',
    explains: ({ translation: { config }, access, path, code, peer }) =>
      config.stage === 1 &&
      !config.hierarchyDisabled &&
      (access & WRITE) !== 0 &&
      code < 0 &&
      peer.event === F_PERMISSION &&
      !peer.second &&
      path.some((entry) => (entry & 3n) === 3n && (entry >> 62n) % 2n === 1n),
  },
  {
    section: 'DDI 0487, D8.2, "Output address size": Address size faults of table descriptors',
    what: 'a next-level table beyond the output size faults; QEMU reads there',
    explains: ({ code, path }) => faultKind(code) === FAULT_OUTPUT_SIZE && faultLevel(code) > 0 && (path[path.length - 1] & 2n) !== 0n,
  },
  {
    section: 'DDI 0487, D8.15.5, "MMU fault prioritization from a single address translation stage"',
    what: 'Address size comes before Access flag and Permission; QEMU has it last',
    explains: ({ code, peer }) => faultKind(code) === FAULT_OUTPUT_SIZE && (peer.event === F_ACCESS || peer.event === F_PERMISSION),
  },
  {
    section: 'DDI 0487, D8.2, "Concatenated translation tables"',
    what: 'the index of a concatenated root goes on from table to table; QEMU aligns the table it chose down to the first one',
    explains: (comparison, again) => {
      const [lowest, count] = comparison.translation.concatenated;
      const first = comparison.input & ~(((1n << BigInt(count)) - 1n) << BigInt(lowest));
      if (first === comparison.input) return false;
      const there = again(first);
      // Where it landed is not known: the device was told to look elsewhere.
      if (there.code === 0) return there.peer.event === 0;
      return agrees(there) || DIFFERENCES.some(({ explains }) => explains(there, again));
    },
  },
  {
    section: 'IHI 0070, 7.3, S2 and CLASS',
    what: "the event of a second-stage fault on a first-stage table has S2 set; QEMU's has not",
    explains: ({ code, failedAt, peer }) => failedAt === 'table' && peer.event === EVENTS[faultKind(code)] && !peer.second,
  },
  {
    section: 'IHI 0070, 3.4: the range of the input is checked before a table is read',
    what: 'an input beyond the first stage faults there; QEMU translates TTB when it fetches the CD, and reports that the second stage refuses it',
    explains: ({ translation: { config }, input, code, failedAt, peer }, again) => {
      if (failedAt !== 'first' || faultKind(code) !== FAULT_INPUT_SIZE || !peer.second) return false;
      const range = (1n << BigInt(config.inputBits)) - 1n;
      const there = again(config.upper ? BigInt.asUintN(64, input | ~range) : input & range);
      return there.failedAt === 'table' && there.path.length === 0 && EVENTS[faultKind(there.code)] === peer.event;
    },
  },
];

export function agrees({ code, failedAt, output, peer }: Comparison): boolean {
  if (code < 0) return peer.event === EVENTS[faultKind(code)] && peer.second === (failedAt !== 'first');
  return peer.event === 0 && peer.landed === isIn(output, RAM_BASE, RAM_BYTES);
}

export function describeComparison({ translation, input, access, path, code, failedAt, output, peer }: Comparison): string {
  const fault = `fault ${faultKind(code)} at level ${faultLevel(code)} (${failedAt})`;
  const ours = code < 0 ? fault : `0x${output.toString(16)}`;
  const theirs = `event 0x${peer.event.toString(16)} of stage ${peer.second ? 2 : 1}, ${peer.landed ? '' : 'not '}landed`;
  const { root: _, allocator: __, ...config } = translation.config;
  const entries = path.map((entry) => entry.toString(16)).join(' ');
  return `${JSON.stringify(config)} input 0x${input.toString(16)} access ${access}: ours ${ours}, QEMU ${theirs}; entries ${entries}`;
}

export function isIn(address: bigint, first: number, bytes: number): boolean {
  return address >= BigInt(first) && address < BigInt(first + bytes);
}

/** The same memory on both sides, and accesses to it on both sides. */
export class ArmPeer {
  readonly smmu: Smmuv3;
  readonly ram = new GuestMemory([{ gpa: BigInt(RAM_BASE), buffer: new SharedArrayBuffer(RAM_BYTES) }]);
  #path: bigint[] = [];

  constructor(smmu: Smmuv3) {
    this.smmu = smmu;
  }

  /** Memory that remembers which entries a walk read. */
  recorded(memory: TableMemory): TableMemory {
    return {
      ...{ word: memory.word, load64BE: memory.load64BE, load32: memory.load32, load32BE: memory.load32BE },
      ...{ store64: memory.store64, store64BE: memory.store64BE, store32: memory.store32, store32BE: memory.store32BE },
      compareExchange64: memory.compareExchange64,
      load64: (hi, lo) => {
        const answer = memory.load64(hi, lo);
        if (answer === 0) this.#path.push(joinHiLo(memory.word[1], memory.word[0]));
        return answer;
      },
    };
  }

  /** Zeroes memory on both sides. */
  async clear(address: number, bytes: number): Promise<void> {
    await this.smmu.qemu.fill(address, bytes, 0);
    for (let at = 0; at < bytes; at += 8) this.ram.store64(0, address + at, 0, 0);
  }

  store(address: number, value: bigint): void {
    this.smmu.qemu.writeq(address, value);
    this.ram.store64(0, address, hiOf(value), loOf(value));
  }

  /** Gives QEMU what stands in our memory. */
  copy(address: number, bytes: number): void {
    const image = new Uint8Array(bytes);
    this.ram.read(0, address, image, 0, bytes);
    this.smmu.qemu.write(address, image);
  }

  /** Our side; QEMU takes every access as privileged. `lg2`: what the walk returned. */
  walk({ walker, failedAt }: Translation, input: bigint, access: number) {
    this.#path = [];
    const lg2 = walker.walk(hiOf(input), loOf(input), access | PRIVILEGED);
    const output = joinHiLo(walker.out[OUT_HI], walker.out[OUT_LO]);
    return { lg2, code: Math.min(0, lg2), output, failedAt: failedAt(), path: this.#path };
  }

  /** One access on both sides; null when it would hit the tables or QEMU's own structures. */
  async compare(translation: Translation, input: bigint, access: number): Promise<Comparison | null> {
    const { code, output, failedAt, path } = this.walk(translation, input, access);
    const lands = code === 0 && isIn(output, RAM_BASE, RAM_BYTES);
    if (lands && output < BigInt(DATA_BASE)) return null;
    const expected = lands ? Number(output) : DATA_BASE;
    const peer = access === WRITE ? await this.smmu.write(input, expected) : await this.smmu.read(input, expected);
    // What the access left in QEMU's memory, for tables that happen to lie there.
    if (access === WRITE) this.ram.store32(0, expected, peer.landed ? TESTDEV_PATTERN : 0);
    else {
      const tag = await this.smmu.qemu.readq(expected);
      this.ram.store64(0, expected, hiOf(tag), loOf(tag));
    }
    return { translation, input, access, path, code, failedAt, output, peer };
  }

  /** Which difference explains that the two sides do not agree: its index, or -1. */
  explain(comparison: Comparison): number {
    const again = (input: bigint): Comparison => ({ ...comparison, ...this.walk(comparison.translation, input, comparison.access), input });
    return DIFFERENCES.findIndex(({ explains }) => explains(comparison, again));
  }
}
