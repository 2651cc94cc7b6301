import { afterAll, beforeAll, expect, test } from 'vitest';
import { hiOf, joinHiLo, loOf, WRITE } from '../../src/memory/index.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { Random } from './random.ts';
import { deviceDifference, type Observation } from './riscv-device-differences.ts';
import { DDT, FQ, RAM, Reg, RiscvPeers, TESTDEV } from './riscv-machine.ts';

/*
 * The RISC-V IOMMU against QEMU's riscv-iommu-pci: random device-contexts, commands, and writes of a device, each step
 * compared by where the data went, the fault records, and the registers that tell of queues and errors.
 *
 * VIOMMU_PEER_PROGRAMS: programs of 40 steps (default 50). VIOMMU_PEER_SEED: another set.
 */
const PROGRAMS = Number(process.env['VIOMMU_PEER_PROGRAMS'] ?? 50);
const SEED = Number(process.env['VIOMMU_PEER_SEED'] ?? 1);
const STEPS = 40;

/** Tables: a first stage and a second one that map the first 64 MiB to RAM, pages and large pages. */
const FIRST = 0x8010_0000;
const SECOND = 0x8020_0000;
const DATA = RAM + 0x0300_0000;

const OBSERVED = [Reg.cqh, Reg.cqcsr, Reg.fqt, Reg.fqcsr, Reg.ipsr, Reg.ddtp] as const;

let peers: RiscvPeers;
const explained = new Map<string, number>();

beforeAll(async () => {
  peers = await RiscvPeers.start();
});
afterAll(async () => {
  await peers?.dispose();
});

/** Sv39: entry 0 of the root is a table of 2 MiB entries, of which some are tables of pages, some large pages, some not valid. */
function makeTables(): void {
  for (const [root, second] of [
    [FIRST, false],
    [SECOND, true],
  ] as const) {
    const middle = root + 0x4000;
    const leaf = root + 0x5000;
    const pte = (address: number, bits: bigint) => (BigInt(address / 4096) << 10n) | bits;
    peers.store(root, pte(middle, 1n));
    // RAM one to one, for the tables of a first stage behind a second.
    if (second) peers.store(root + 2 * 8, pte(RAM, 0xdfn));
    peers.store(middle, pte(leaf, 1n));
    peers.store(middle + 8, pte(DATA, 0xdfn));
    peers.store(middle + 16, pte(DATA, 0xdbn));
    // The first stage's outputs are guest-physical addresses that the second one maps too.
    for (let i = 0; i < 16; i++)
      peers.store(leaf + i * 8, pte(second ? DATA + i * 4096 : i % 2 === 0 ? i * 4096 : DATA, i === 7 ? 0n : i === 6 ? 0xdbn : 0xdfn));
  }
}

/** tc bits; reserved ones seldom. */
function translationControl(random: Random): bigint {
  let tc = random.chance(96) ? 1n : 0n;
  for (let bit = 1; bit < 12; bit++) if (random.chance(6)) tc |= 1n << BigInt(bit);
  return random.chance(3) ? tc | (1n << BigInt(12 + random.below(52))) : tc;
}

function pointer(random: Random, root: number, modes: readonly bigint[], id: bigint): bigint {
  const mode = random.chance(92) ? random.pick(modes) : random.bits(4);
  const page = BigInt(root / 4096) | (random.chance(3) ? 1n : 0n);
  return (mode << 60n) | (id << 44n) | page;
}

function setContext(random: Random): bigint[] {
  const words = [
    translationControl(random),
    pointer(random, SECOND, [0n, 0n, 8n], random.bits(16)),
    (random.bits(20) << 12n) | (random.chance(3) ? 1n << BigInt(random.below(64)) : 0n),
    pointer(random, FIRST, [0n, 8n, 8n], random.chance(3) ? random.bits(16) : 0n),
    random.chance(90) ? 0n : random.bits(4) << 60n,
    0n,
    random.chance(95) ? 0n : random.bits(64),
    random.chance(97) ? 0n : 1n,
  ];
  for (const [i, word] of words.entries()) peers.store(DDT + TESTDEV * 64 + i * 8, word);
  return words;
}

/** Commands of each kind, with operands that mostly fit; now and then a bit too many. */
function command(random: Random): [bigint, bigint] {
  const opcode = random.pick([1n, 1n | (1n << 7n), 2n, 3n, 3n | (1n << 7n), BigInt(random.below(1024))]);
  const operands =
    opcode === 2n ? 0n : (BigInt(random.below(2)) << 10n) | (random.bits(20) << 12n) | (random.bits(2) << 32n) | (random.bits(16) << 44n);
  const directory = (BigInt(random.below(2)) << 33n) | (BigInt(random.below(64)) << 40n);
  const low = opcode | ((opcode & 0x7fn) === 3n ? directory : operands);
  return [random.chance(5) ? low ^ (1n << BigInt(random.below(64))) : low, random.chance(80) ? 0n : random.bits(52) << 10n];
}

/** Fault records since the last step: ours, theirs. */
async function takeFaults(): Promise<{ ours: bigint[][]; theirs: bigint[][] }> {
  const [head] = await peers.read(Reg.fqh, 4);
  const [ourTail, theirTail] = await peers.read(Reg.fqt, 4);
  const slots = (tail: bigint) => Array.from({ length: (Number(tail) - Number(head) + 128) % 128 }, (_, i) => (Number(head) + i) % 128);
  const ours = slots(ourTail).map((slot) => [0, 2, 3].map((word) => peers.load(FQ + slot * 32 + word * 8)));
  const theirs = await Promise.all(
    slots(theirTail).map((slot) => Promise.all([0, 2, 3].map((word) => peers.theirs(FQ + slot * 32 + word * 8)))),
  );
  return { ours, theirs };
}

async function registers(): Promise<{ ours: bigint[]; theirs: bigint[] }> {
  const pairs = await Promise.all(OBSERVED.map((offset) => peers.read(offset, 4)));
  return { ours: pairs.map(([ours]) => ours), theirs: pairs.map(([, theirs]) => theirs) };
}

const iovas = [
  0n,
  0x1000n,
  0x2008n,
  0x6000n,
  0x7000n,
  0x9010n,
  0x20_0000n,
  0x3f_0000n,
  0x40_0000n,
  0x60_0000n,
  0x8300_0000n,
  0x8_0000_0000n,
  1n << 39n,
  1n << 41n,
];

async function dma(random: Random): Promise<string> {
  const iova = random.pick(iovas);
  const lg2 = peers.ours.translate(TESTDEV, NO_PASID, hiOf(iova), loOf(iova), WRITE);
  const address = joinHiLo(peers.ours.translated[1], peers.ours.translated[0]);
  const inRam = lg2 >= 0 && address >= BigInt(DATA) && address < BigInt(DATA) + 0x40_0000n;
  const result = await peers.dma(iova, inRam ? address : BigInt(DATA) + 0x50_0000n);
  // Outside the data the machine decides; the IOMMU's part is that no fault is recorded.
  const ours = lg2 < 0 ? 'refused' : inRam ? 'done' : result;
  return `0x${iova.toString(16)}: ours ${ours}, QEMU ${result}`;
}

test('random programs', async () => {
  const random = new Random(SEED);
  const wrong: string[] = [];
  let accesses = 0;
  let commands = 0;
  for (let program = 0; program < PROGRAMS && wrong.length < 10; program++) {
    await peers.setUp();
    makeTables();
    let context = setContext(random);
    await peers.forget();
    for (let step = 0; step < STEPS; step++) {
      let what: string;
      if (random.chance(20)) {
        context = setContext(random);
        await peers.forget();
        what = 'context';
      } else if (random.chance(25)) {
        const [low, high] = command(random);
        await peers.command([low, high]);
        what = `command 0x${low.toString(16)} 0x${high.toString(16)}`;
        commands++;
      } else {
        what = await dma(random);
        accesses++;
      }
      const observation: Observation = { what, context, faults: await takeFaults(), registers: await registers() };
      const known = deviceDifference(observation);
      if (known === null) {
        wrong.push(
          `program ${program} step ${step}: ${what}; context ${context.map((word) => word.toString(16))}; ${JSON.stringify(observation, (_, value) => (typeof value === 'bigint' ? value.toString(16) : value))}`,
        );
      } else if (known !== 'same') {
        explained.set(known, (explained.get(known) ?? 0) + 1);
      }
      await peers.recover();
    }
  }
  const differences = [...explained].map(([what, times]) => `\n  ${times} × ${what}`).join('');
  console.log(
    `RISC-V IOMMU: ${PROGRAMS} programs, ${accesses} accesses, ${commands} commands on ${peers.qemu.version}; explained:${differences}`,
  );
  expect(wrong).toEqual([]);
});
