import { afterAll, beforeAll, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../src/memory/index.ts';
import { ArmTable, type ArmTableConfig } from '../../src/pagetable/arm.ts';
import type { Level, TableAllocator } from '../../src/pagetable/page-table.ts';
import { BY_FIRST_STAGE, BY_OUTPUT, TwoStage, type WalkingStage } from '../../src/pagetable/two-stage.ts';
import { ArmPeer, agrees, DIFFERENCES, describeComparison, isIn, type Translation } from './arm-comparison.ts';
import { ArmProgram } from './arm-programs.ts';
import { Random } from './random.ts';
import { CONTEXT, DATA_BASE, RAM_BASE, RAM_BYTES, Smmuv3, TABLES_BASE } from './smmuv3.ts';

/*
 * The Arm walker against QEMU's SMMUv3: random tables, stage 1 through TTB0 and TTB1, stage 2 with and without concatenated
 * roots, and stage 1 over stage 2; each access is a DMA of a device, its end compared by where the data went or which event
 * of which stage it recorded.
 *
 * VIOMMU_PEER_ACCESSES: accesses a test (default 1,200). VIOMMU_PEER_SEED: another set of programs.
 *
 * QEMU 11.1 has no hardware updates (SMMU_IDR0.HTTU 0), takes every access as privileged, and ignores Contiguous.
 */
const ACCESSES = Number(process.env['VIOMMU_PEER_ACCESSES'] ?? 1200);
const SEED = Number(process.env['VIOMMU_PEER_SEED'] ?? 1);
const ACCESSES_A_PROGRAM = 30;

type Variant = Omit<ArmTableConfig, 'root'>;
const STAGE_1: readonly Variant[] = [
  { stage: 1, granuleLg2: 12, inputBits: 48, outputBits: 44 },
  { stage: 1, granuleLg2: 12, inputBits: 39, outputBits: 40, upper: true, topByteIgnored: true },
  { stage: 1, granuleLg2: 12, inputBits: 32, outputBits: 36, accessFlag: 'ignore', hierarchyDisabled: true },
  { stage: 1, granuleLg2: 14, inputBits: 48, outputBits: 44, topByteIgnored: true },
  { stage: 1, granuleLg2: 14, inputBits: 36, outputBits: 42, upper: true },
  { stage: 1, granuleLg2: 16, inputBits: 48, outputBits: 40, accessFlag: 'ignore' },
  { stage: 1, granuleLg2: 16, inputBits: 42, outputBits: 44, upper: true, hierarchyDisabled: true },
];
const STAGE_2: readonly Variant[] = [
  { stage: 2, granuleLg2: 12, inputBits: 44, outputBits: 44, startLevel: 0 },
  { stage: 2, granuleLg2: 12, inputBits: 40, outputBits: 42, startLevel: 1 },
  { stage: 2, granuleLg2: 12, inputBits: 30, outputBits: 36, startLevel: 2, accessFlag: 'ignore' },
  { stage: 2, granuleLg2: 14, inputBits: 44, outputBits: 44, startLevel: 1 },
  { stage: 2, granuleLg2: 14, inputBits: 40, outputBits: 40, startLevel: 2, accessFlag: 'ignore' },
  { stage: 2, granuleLg2: 16, inputBits: 42, outputBits: 44, startLevel: 2 },
  { stage: 2, granuleLg2: 16, inputBits: 33, outputBits: 36, startLevel: 3 },
];
/** A second stage under each first: its granule is not smaller, because QEMU translates the start of a table only. */
const UNDER: readonly Variant[] = [
  { stage: 2, granuleLg2: 12, inputBits: 39, outputBits: 40, startLevel: 1 },
  { stage: 2, granuleLg2: 16, inputBits: 42, outputBits: 44, startLevel: 2 },
  { stage: 2, granuleLg2: 14, inputBits: 40, outputBits: 40, startLevel: 2 },
  { stage: 2, granuleLg2: 14, inputBits: 36, outputBits: 40, startLevel: 2 },
  { stage: 2, granuleLg2: 14, inputBits: 36, outputBits: 40, startLevel: 2 },
  { stage: 2, granuleLg2: 16, inputBits: 40, outputBits: 42, startLevel: 2 },
  { stage: 2, granuleLg2: 16, inputBits: 42, outputBits: 44, startLevel: 2 },
];

let peer: ArmPeer;
beforeAll(async () => {
  peer = new ArmPeer(await Smmuv3.start());
  await peer.smmu.qemu.fill(DATA_BASE, RAM_BASE + RAM_BYTES - DATA_BASE, 0);
});
afterAll(() => peer?.smmu.dispose());

function configOf(variant: Variant, root = TABLES_BASE): ArmTableConfig {
  return { ...variant, outputBits: Math.min(variant.outputBits, peer.smmu.outputBits), root: BigInt(root) };
}

function concatenation({ granuleLg2 }: Variant, levels: readonly Level[]): [number, number] {
  const { shift, bits } = levels[levels.length - 1];
  return [shift + granuleLg2 - 3, Math.max(0, bits - (granuleLg2 - 3))];
}

interface Setting {
  readonly translation: Translation;
  /** The stage whose tables are the program's. */
  readonly stage: WalkingStage;
  readonly program: ArmProgram;
}

/** One stage alone, its tables random. */
async function single(variant: Variant, random: Random): Promise<Setting> {
  const config = configOf(variant);
  const walker = new ArmTable(peer.recorded(peer.ram), config);
  const { levels } = walker.description;
  const program = new ArmProgram(random, config, levels);
  await peer.clear(TABLES_BASE, program.bytes);
  for (const [address, value] of program.entries) peer.store(address, value);
  await peer.smmu.use(variant.stage === 1 ? config : null, variant.stage === 2 ? config : null);
  const failedAt = () => (variant.stage === 1 ? 'first' : 'second');
  return { program, stage: walker, translation: { walker, config, concatenated: concatenation(variant, levels), failedAt } };
}

/** Tables of the second stage, with both. */
const SECOND_BASE = TABLES_BASE + 0x80_0000;
const SECOND_BYTES = 0x20_0000;
const CHUNK = 0x20_0000;

/** A random first stage over a second that moves its tables and the data about, and grants less here and there. */
async function nested(variant: Variant, under: Variant, random: Random): Promise<Setting> {
  await peer.clear(SECOND_BASE, SECOND_BYTES);
  let free = 0;
  const allocator: TableAllocator = {
    allocate: (pages) => {
      const at = Math.ceil(free / pages) * pages;
      free = at + pages;
      return at;
    },
    free: () => undefined,
  };
  const secondConfig = { ...configOf(under, SECOND_BASE), allocator };
  const second = new ArmTable(peer.ram, secondConfig);
  free = SECOND_BASE / 4096 + Math.ceil(2 ** second.description.levels[second.description.levels.length - 1].bits / 512);
  const config = configOf(variant);
  const both = new TwoStage({ memory: peer.ram, second, first: (memory) => new ArmTable(peer.recorded(memory), config) });
  const program = new ArmProgram(random, config, new ArmTable(peer.ram, config).description.levels);
  const granule = 2 ** under.granuleLg2;
  const map = (from: number, to: number, bytes: number, permission: number) => {
    expect(second.map(from / 4096, to / 4096, bytes / 4096, permission)).toBe(bytes / 4096);
  };
  const permission = () => (random.chance(92) ? READ_WRITE : random.pick([READ, WRITE, 0]));
  map(CONTEXT, CONTEXT, granule, READ);
  // Addresses of the first stage are turned over within their region by one XOR.
  const tables = random.below(8) * granule;
  for (let at = TABLES_BASE; at < TABLES_BASE + program.bytes; at += granule) {
    const granted = permission();
    if (granted !== 0) map(at, at ^ tables, granule, granted);
  }
  const data = random.below(32) * CHUNK;
  for (let at = DATA_BASE; at < RAM_BASE + RAM_BYTES; at += CHUNK) {
    const to = at ^ data;
    const granted = permission();
    if (granted !== 0 && to >= DATA_BASE && to < RAM_BASE + RAM_BYTES) map(at, to, CHUNK, granted);
  }
  await peer.clear(TABLES_BASE, 2 * program.bytes + 8 * granule);
  for (const [address, value] of program.entries) peer.store(address ^ tables, value);
  peer.copy(SECOND_BASE, free * 4096 - SECOND_BASE);
  await peer.smmu.use(config, secondConfig);
  const failedAt = () => (both.origin === BY_FIRST_STAGE ? 'first' : both.origin === BY_OUTPUT ? 'second' : 'table');
  return { program, stage: both.first, translation: { walker: both, config, concatenated: [0, 0], failedAt } };
}

/** Turns an input that leads past the data area into one that leads into it, through the same entries. */
function steer({ translation, stage, program }: Setting, input: bigint, access: number): bigint {
  const { lg2, output } = peer.walk({ ...translation, walker: stage }, input, access);
  if (lg2 < 0 || isIn(output, DATA_BASE, RAM_BASE + RAM_BYTES - DATA_BASE)) return input;
  const inside = (1n << BigInt(lg2)) - 1n;
  return (input & ~inside) | (program.data() & inside);
}

test.each<[string, number, (program: number, random: Random) => Promise<Setting>]>([
  ['stage 1', 1, (program, random) => single(STAGE_1[program % STAGE_1.length], random)],
  ['stage 2', 2, (program, random) => single(STAGE_2[program % STAGE_2.length], random)],
  ['stage 1 over stage 2', 3, (program, random) => nested(STAGE_1[program % STAGE_1.length], UNDER[program % UNDER.length], random)],
])('Arm %s walks as QEMU does', async (name, salt, set) => {
  const random = new Random(SEED * 4 + salt);
  const explained = DIFFERENCES.map(() => 0);
  const unexplained: string[] = [];
  let [programs, accesses, translated] = [0, 0, 0];
  for (; accesses < ACCESSES; programs++) {
    const setting = await set(programs, random);
    for (let i = 0; i < ACCESSES_A_PROGRAM; i++) {
      const access = random.pick([READ, WRITE]);
      const comparison = await peer.compare(setting.translation, steer(setting, setting.program.input(), access), access);
      if (comparison === null) continue;
      accesses++;
      if (comparison.code === 0) translated++;
      if (agrees(comparison)) continue;
      const difference = peer.explain(comparison);
      if (difference >= 0) explained[difference]++;
      else unexplained.push(describeComparison(comparison));
    }
  }
  const differences = DIFFERENCES.flatMap(({ section, what }, i) =>
    explained[i] > 0 ? [`\n  ${explained[i]} × ${what} (${section})`] : [],
  );
  console.log(
    `Arm ${name}: ${programs} programs, ${accesses} accesses (${translated} translated) compared with ${peer.smmu.qemu.version}; ` +
      `explained differences: ${differences.join('') || 'none'}`,
  );
  expect(unexplained.slice(0, 10)).toEqual([]);
  // Neither all faults nor none.
  expect(translated).toBeGreaterThan(accesses / 6);
  expect(translated).toBeLessThan(accesses);
});
