import { afterAll, beforeAll, expect, test } from 'vitest';
import { GuestMemory, hiOf, joinHiLo, loOf, PRIVILEGED, READ, WRITE } from '../../src/memory/index.ts';
import { ArmTable, type ArmTableConfig } from '../../src/pagetable/arm.ts';
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
import { ArmProgram, Random } from './arm-programs.ts';
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
  Smmuv3,
  TABLES_BASE,
} from './smmuv3.ts';
import { TESTDEV_PATTERN } from './testdev.ts';

/*
 * The Arm walker against QEMU's SMMUv3: random tables, stage 1 through TTB0 and TTB1, stage 2 with and without concatenated
 * roots; each access is a DMA of a device, its end compared by where the data went or which event it recorded.
 *
 * VIOMMU_PEER_ACCESSES: accesses a stage (default 1,200). VIOMMU_PEER_SEED: another set of programs.
 *
 * QEMU 11.1 has no hardware updates (SMMU_IDR0.HTTU 0), takes every access as privileged, and ignores Contiguous.
 */
const ACCESSES = Number(process.env['VIOMMU_PEER_ACCESSES'] ?? 1200);
const SEED = Number(process.env['VIOMMU_PEER_SEED'] ?? 1);
const ACCESSES_A_PROGRAM = 30;

type Variant = Omit<ArmTableConfig, 'root'>;
const STAGES: Record<1 | 2, readonly Variant[]> = {
  1: [
    { stage: 1, granuleLg2: 12, inputBits: 48, outputBits: 44 },
    { stage: 1, granuleLg2: 12, inputBits: 39, outputBits: 40, upper: true, topByteIgnored: true },
    { stage: 1, granuleLg2: 12, inputBits: 32, outputBits: 36, accessFlag: 'ignore', hierarchyDisabled: true },
    { stage: 1, granuleLg2: 14, inputBits: 48, outputBits: 44, topByteIgnored: true },
    { stage: 1, granuleLg2: 14, inputBits: 36, outputBits: 42, upper: true },
    { stage: 1, granuleLg2: 16, inputBits: 48, outputBits: 40, accessFlag: 'ignore' },
    { stage: 1, granuleLg2: 16, inputBits: 42, outputBits: 44, upper: true, hierarchyDisabled: true },
  ],
  2: [
    { stage: 2, granuleLg2: 12, inputBits: 44, outputBits: 44, startLevel: 0 },
    { stage: 2, granuleLg2: 12, inputBits: 40, outputBits: 42, startLevel: 1 },
    { stage: 2, granuleLg2: 12, inputBits: 30, outputBits: 36, startLevel: 2, accessFlag: 'ignore' },
    { stage: 2, granuleLg2: 14, inputBits: 44, outputBits: 44, startLevel: 1 },
    { stage: 2, granuleLg2: 14, inputBits: 40, outputBits: 40, startLevel: 2, accessFlag: 'ignore' },
    { stage: 2, granuleLg2: 16, inputBits: 42, outputBits: 44, startLevel: 2 },
    { stage: 2, granuleLg2: 16, inputBits: 33, outputBits: 36, startLevel: 3 },
  ],
};

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

interface Comparison {
  readonly table: ArmTable;
  readonly config: ArmTableConfig;
  readonly input: bigint;
  readonly access: number;
  /** The entries that our walk read, root first. */
  readonly path: readonly bigint[];
  /** Our fault code, or 0. */
  readonly code: number;
  readonly output: bigint;
  readonly peer: PeerAnswer;
}

/** The input without the bits that choose one of concatenated root tables. */
function inFirstRoot({ config: { granuleLg2 }, table, input }: Comparison): bigint {
  const { shift, bits } = table.description.levels[table.description.levels.length - 1];
  const extra = BigInt(Math.max(0, bits - (granuleLg2 - 3)));
  return input & ~(((1n << extra) - 1n) << BigInt(shift + granuleLg2 - 3));
}

/** Where QEMU 11.1 is not what the specification asks for. */
const DIFFERENCES: readonly { readonly section: string; readonly what: string; explains(c: Comparison): boolean }[] = [
  {
    section: 'DDI 0487, D8.3.1, block descriptors',
    what: 'blocks on a level where the granule has none (4K: level 0; 16K and 64K: level 1) are invalid; QEMU takes them as blocks',
    explains: ({ code }) => faultKind(code) === FAULT_RESERVED && faultLevel(code) > 0,
  },
  {
    section: 'DDI 0487, D8, "MMU fault prioritization from a single address translation stage"',
    what: 'APTable limits what the leaf grants, after everything else was checked; QEMU faults at the table descriptor',
    explains: ({ config, access, path, code, peer }) =>
      config.stage === 1 &&
      !config.hierarchyDisabled &&
      (access & WRITE) !== 0 &&
      code < 0 &&
      peer.event === F_PERMISSION &&
      path.some((entry) => (entry & 3n) === 3n && (entry >> 62n) % 2n === 1n),
  },
  {
    section: 'DDI 0487, D8.2, "Output address size": Address size faults of table descriptors',
    what: 'a next-level table beyond the output size faults; QEMU reads there',
    explains: ({ code, path }) => faultKind(code) === FAULT_OUTPUT_SIZE && faultLevel(code) > 0 && (path[path.length - 1] & 2n) !== 0n,
  },
  {
    section: 'DDI 0487, D8, "MMU fault prioritization from a single address translation stage"',
    what: 'Address size comes before Access flag and Permission; QEMU has it last',
    explains: ({ code, peer }) => faultKind(code) === FAULT_OUTPUT_SIZE && (peer.event === F_ACCESS || peer.event === F_PERMISSION),
  },
  {
    section: 'DDI 0487, D8.2, "Concatenated translation tables"',
    what: 'the index of a concatenated root goes on from table to table; QEMU aligns the table it chose down to the first one',
    explains: (c) => {
      const first = inFirstRoot(c);
      if (first === c.input) return false;
      const { code, output } = walk(c.table, first, c.access);
      const there: Comparison = { ...c, input: first, code: Math.min(0, code), output, path };
      // Where it landed is not known: the device was told to look elsewhere.
      return code >= 0 ? c.peer.event === 0 : agrees(there) || DIFFERENCES.some(({ explains }) => explains(there));
    },
  },
];

let smmu: Smmuv3;
const ram = new GuestMemory([{ gpa: BigInt(RAM_BASE), buffer: new SharedArrayBuffer(RAM_BYTES) }]);
let path: bigint[] = [];
const memory: TableMemory = {
  ...{ word: ram.word, load64BE: ram.load64BE, load32: ram.load32, load32BE: ram.load32BE },
  ...{ store64: ram.store64, store64BE: ram.store64BE, store32: ram.store32, store32BE: ram.store32BE },
  compareExchange64: ram.compareExchange64,
  load64: (hi, lo) => {
    const answer = ram.load64(hi, lo);
    if (answer === 0) path.push(joinHiLo(ram.word[1], ram.word[0]));
    return answer;
  },
};

beforeAll(async () => {
  smmu = await Smmuv3.start();
  await smmu.qemu.fill(DATA_BASE, RAM_BASE + RAM_BYTES - DATA_BASE, 0);
});
afterAll(() => smmu?.dispose());

/** Writes the program into both memories. */
async function load(program: ArmProgram): Promise<void> {
  await smmu.qemu.fill(TABLES_BASE, program.bytes, 0);
  for (let at = 0; at < program.bytes; at += 8) ram.store64(0, TABLES_BASE + at, 0, 0);
  for (const [address, value] of program.entries) {
    smmu.qemu.writeq(address, value);
    ram.store64(0, address, hiOf(value), loOf(value));
  }
}

function isIn(address: bigint, first: number, bytes: number): boolean {
  return address >= BigInt(first) && address < BigInt(first + bytes);
}

function walk(table: ArmTable, input: bigint, access: number): { code: number; output: bigint } {
  path = [];
  const code = table.walk(hiOf(input), loOf(input), access | PRIVILEGED);
  return { code, output: joinHiLo(table.out[OUT_HI], table.out[OUT_LO]) };
}

/** Turns an input that leads past the data area into one that leads into it, through the same entries. */
function steer(table: ArmTable, program: ArmProgram, input: bigint, access: number): bigint {
  const { code, output } = walk(table, input, access);
  if (code < 0 || isIn(output, DATA_BASE, RAM_BASE + RAM_BYTES - DATA_BASE)) return input;
  const inside = (1n << BigInt(code)) - 1n;
  return (input & ~inside) | (program.data() & inside);
}

/** One access on both sides; null when it would hit the tables or QEMU's own structures. */
async function compare(table: ArmTable, config: ArmTableConfig, input: bigint, access: number): Promise<Comparison | null> {
  const { code, output } = walk(table, input, access);
  const lands = code >= 0 && isIn(output, RAM_BASE, RAM_BYTES);
  if (lands && output < BigInt(DATA_BASE)) return null;
  const expected = lands ? output : BigInt(DATA_BASE);
  const peer = access === WRITE ? await smmu.write(input, expected) : await smmu.read(input, expected);
  // What the access left in QEMU's memory, for tables that happen to lie there.
  if (access === WRITE) ram.store32(0, Number(expected), peer.landed ? TESTDEV_PATTERN : 0);
  else {
    const tag = await smmu.qemu.readq(expected);
    ram.store64(0, Number(expected), hiOf(tag), loOf(tag));
  }
  return { table, config, input, access, path, code: Math.min(0, code), output, peer };
}

function agrees({ code, output, peer }: Comparison): boolean {
  if (code < 0) return peer.event === EVENTS[faultKind(code)];
  return peer.event === 0 && peer.landed === isIn(output, RAM_BASE, RAM_BYTES);
}

function describeComparison({ config, input, access, path, code, output, peer }: Comparison): string {
  const ours = code < 0 ? `fault ${faultKind(code)} at level ${faultLevel(code)}` : `0x${output.toString(16)}`;
  const entries = path.map((entry) => entry.toString(16)).join(' ');
  const { root: _, ...rest } = config;
  return `${JSON.stringify(rest)} input 0x${input.toString(16)} access ${access}: ours ${ours}, QEMU event 0x${peer.event.toString(16)}, landed ${peer.landed}; entries ${entries}`;
}

test.each([1, 2] as const)('Arm stage %i walks as QEMU does', async (stage) => {
  const random = new Random(SEED * 2 + stage);
  const explained = DIFFERENCES.map(() => 0);
  const unexplained: string[] = [];
  let [programs, accesses, translated] = [0, 0, 0];
  for (; accesses < ACCESSES; programs++) {
    const variant = STAGES[stage][programs % STAGES[stage].length];
    const config = { ...variant, outputBits: Math.min(variant.outputBits, smmu.outputBits), root: BigInt(TABLES_BASE) };
    const table = new ArmTable(memory, config);
    const program = new ArmProgram(random, config, table.description.levels);
    await load(program);
    await smmu.use(config);
    for (let i = 0; i < ACCESSES_A_PROGRAM; i++) {
      const access = random.pick([READ, WRITE]);
      const comparison = await compare(table, config, steer(table, program, program.input(), access), access);
      if (comparison === null) continue;
      accesses++;
      if (comparison.code === 0) translated++;
      if (agrees(comparison)) continue;
      const difference = DIFFERENCES.findIndex(({ explains }) => explains(comparison));
      if (difference >= 0) explained[difference]++;
      else unexplained.push(describeComparison(comparison));
    }
  }
  const differences = DIFFERENCES.flatMap(({ section, what }, i) =>
    explained[i] > 0 ? [`\n  ${explained[i]} × ${what} (${section})`] : [],
  );
  console.log(
    `Arm stage ${stage}: ${programs} programs, ${accesses} accesses (${translated} translated) compared with ${smmu.qemu.version}; ` +
      `explained differences: ${differences.join('') || 'none'}`,
  );
  expect(unexplained.slice(0, 10)).toEqual([]);
  // Neither all faults nor none.
  expect(translated).toBeGreaterThan(accesses / 5);
  expect(translated).toBeLessThan(accesses);
});
