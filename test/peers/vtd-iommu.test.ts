import { afterEach, expect, test } from 'vitest';
import type { VtdIommuOptions } from '../../src/target/vtd/index.ts';
import { TESTDEV } from './q35.ts';
import { Random } from './random.ts';
import { DATA } from './table-programs.ts';
import { type Observation, vtdDifference } from './vtd-device-differences.ts';
import { Page, VtdPeers } from './vtd-machine.ts';
import { found } from './vtd-pointers.ts';

/*
 * VT-d against QEMU's intel-iommu: random context and PASID entries, tables, invalidation descriptors, and writes of a device, each
 * step compared by where the data went, the fault record, and the state of the queue.
 *
 * VIOMMU_PEER_PROGRAMS: programs of 6 steps in each mode (default 400). VIOMMU_PEER_SEED: another set.
 */
const PROGRAMS = Number(process.env['VIOMMU_PEER_PROGRAMS'] ?? 400);
const SEED = Number(process.env['VIOMMU_PEER_SEED'] ?? 1);
const STEPS = 6;

type Mode = 'legacy' | 'second stage' | 'first stage';

let peers: VtdPeers | null = null;
afterEach(async () => {
  await peers?.dispose();
  peers = null;
});

const HOLE = 0x60_0000_0000n;

/** Now and then one bit is another. */
function perhapsWrong(random: Random, value: bigint, percent = 8): bigint {
  return random.chance(percent) ? value ^ (1n << random.bits(6)) : value;
}

/** Tables of 4 levels at Page.tables, of which 3 are those of a 39-bit address space: pages, a 2 MiB page, a hole. */
function makeTables(machine: VtdPeers, random: Random, first: boolean): void {
  const table = (level: number) => Page.tables + (3 - level) * 0x1000;
  const flags = first ? 7n : 3n;
  const entry = (address: bigint, bits: bigint) => perhapsWrong(random, address | bits, 3);
  machine.store(table(3), entry(BigInt(table(2)), flags));
  machine.store(table(2), entry(BigInt(table(1)), flags));
  machine.store(table(1), entry(BigInt(table(0)), flags));
  machine.store(table(1) + 8, entry(BigInt(DATA), flags | 0x80n));
  machine.store(table(1) + 16, entry(HOLE, flags));
  for (let i = 0; i < 8; i++)
    machine.store(table(0) + i * 8, random.chance(85) ? entry(BigInt(DATA + i * 4096), random.pick([flags, flags, flags & ~2n])) : 0n);
}

function storeAll(machine: VtdPeers, address: number, words: readonly bigint[]): void {
  for (const [i, word] of words.entries()) machine.store(address + i * 8, word);
}

function setEntries(machine: VtdPeers, random: Random, mode: Mode): bigint[] {
  const levels = mode !== 'first stage' && random.chance(30) ? 3 : 4;
  const root = BigInt(Page.tables + (levels === 3 ? 0x1000 : 0));
  const domain = BigInt(1 + random.below(20));
  if (mode === 'legacy') {
    const type = random.pick([0n, 0n, 0n, 2n]);
    const words = [
      perhapsWrong(random, root | (type << 2n) | 1n),
      perhapsWrong(random, (domain << 8n) | BigInt(type === 2n ? 2 : levels - 2)),
    ];
    storeAll(machine, Page.context + TESTDEV * 16, words);
    return words;
  }
  const context = [perhapsWrong(random, BigInt(Page.directory) | 1n, 4), 0n, 0n, 0n];
  const directory = perhapsWrong(random, BigInt(Page.pasids) | 1n, 4);
  const type = random.chance(85) ? (mode === 'first stage' ? 1n : 2n) : 4n;
  const entry = [
    perhapsWrong(random, (type << 6n) | (BigInt(levels - 2) << 2n) | (mode === 'second stage' ? root : 0n) | 1n, 6),
    domain,
    mode === 'first stage' ? BigInt(Page.tables) : 0n,
    0n,
    0n,
    0n,
    0n,
    0n,
  ];
  storeAll(machine, Page.context + TESTDEV * 32, context);
  machine.store(Page.directory, directory);
  storeAll(machine, Page.pasids, entry);
  return [...context.slice(0, 1), directory, ...entry.slice(0, 3)];
}

/** Descriptors of each kind, with operands that mostly fit; now and then a bit too many. */
function descriptor(random: Random, scalable: boolean): bigint[] {
  const domain = BigInt(1 + random.below(20)) << 16n;
  const address = (random.bits(20) << 12n) | BigInt(random.below(12));
  const kinds: bigint[][] = [
    [0x01n | (BigInt(1 + random.below(3)) << 4n) | domain | (BigInt(TESTDEV) << 32n)],
    [0x02n | (BigInt(1 + random.below(3)) << 4n) | domain, address],
    [0x04n],
    [0x25n | (1n << 32n), BigInt(Page.queue + 0xff0)],
  ];
  if (scalable) kinds.push([0x07n | (random.pick([0n, 1n, 3n]) << 4n) | domain], [0x06n | (random.pick([2n, 3n]) << 4n) | domain, address]);
  const chosen = random.pick(kinds);
  return chosen.map((word) => perhapsWrong(random, word, 12));
}

const iovas = [
  0n,
  0x1000n,
  0x3008n,
  0x7000n,
  0x9000n,
  0x20_0000n,
  0x3f_0000n,
  0x40_0000n,
  0x4000_0000n,
  1n << 39n,
  1n << 47n,
  1n << 48n,
  0xffff_8000_0000_0000n,
];

test.each<[Mode, string, VtdIommuOptions]>([
  ['legacy', 'intel-iommu,caching-mode=on', { cachingMode: true }],
  ['second stage', 'intel-iommu,scalable-mode=on', { scalableMode: true }],
  ['first stage', 'intel-iommu,scalable-mode=on,fsts=on', { scalableMode: true }],
])('random programs: %s', async (mode, device, options) => {
  peers = await VtdPeers.start(device, options);
  const random = new Random(SEED);
  const wrong: string[] = [];
  const explained = new Map<string, number>();
  let accesses = 0;
  let descriptors = 0;
  for (let program = 0; program < PROGRAMS && wrong.length < 10; program++) {
    peers.setUp();
    makeTables(peers, random, mode === 'first stage');
    let entries = setEntries(peers, random, mode);
    peers.forget();
    for (let step = 0; step < STEPS; step++) {
      let what = 'entries';
      let words: bigint[] = [];
      let landed = true;
      let iova: bigint | null = null;
      let sides: Pick<Observation, 'ours' | 'theirs'>;
      let before = found(peers.memory, mode, null);
      if (random.chance(15)) {
        entries = setEntries(peers, random, mode);
        peers.forget();
        sides = await peers.sides();
      } else if (random.chance(30)) {
        words = descriptor(random, options.scalableMode ?? false);
        peers.submit(words);
        what = `descriptor ${words.map((word) => `0x${word.toString(16)}`)}`;
        sides = await peers.sides();
        peers.recover(sides);
        peers.forget();
        descriptors++;
      } else {
        iova = random.pick(iovas);
        before = found(peers.memory, mode, iova);
        ({ landed, ...sides } = await peers.dma(iova));
        what = `write to 0x${iova.toString(16)}`;
        accesses++;
      }
      const observation: Observation = { ...sides, what, words, entries, found: before, iova, landed, mode };
      const known = vtdDifference(observation);
      if (known === null)
        wrong.push(
          `program ${program} step ${step}: ${what}; entries ${entries.map((word) => word.toString(16))}; ${JSON.stringify(observation, (_, value) => (typeof value === 'bigint' ? value.toString(16) : value))}`,
        );
      else if (known !== 'same') explained.set(known, (explained.get(known) ?? 0) + 1);
    }
  }
  const differences = [...explained].map(([what, times]) => `\n  ${times} × ${what}`).join('');
  console.log(
    `VT-d, ${mode}: ${PROGRAMS} programs, ${accesses} accesses, ${descriptors} descriptors on ${peers.qemu.version}; explained:${differences}`,
  );
  expect(wrong).toEqual([]);
});
