import { afterEach, expect, test } from 'vitest';
import { type Field, get, put } from '../../src/target/fields.ts';
import { CD } from '../../src/target/smmuv3/spec/cd.ts';
import { CONFIG, STE } from '../../src/target/smmuv3/spec/ste.ts';
import { structure } from '../target/smmuv3/guest.ts';
import { Random } from './random.ts';
import { type Observation, smmuDifference } from './smmuv3-differences.ts';
import { At, MACHINES, type MachineName, type Side, SmmuPeers, STREAMS } from './smmuv3-machine.ts';

/*
 * SMMUv3 against QEMU's: random stream table entries, context descriptors, tables, commands, and reads and writes of devices, each
 * step compared by where the data went, the event records, and the state of the command queue.
 *
 * VIOMMU_PEER_PROGRAMS: programs of 6 steps on each machine (default 600). VIOMMU_PEER_SEED: another set.
 */
const PROGRAMS = Number(process.env['VIOMMU_PEER_PROGRAMS'] ?? 600);
const SEED = Number(process.env['VIOMMU_PEER_SEED'] ?? 1);
const STEPS = 6;

let peers: SmmuPeers | null = null;
afterEach(async () => {
  await peers?.dispose();
  peers = null;
});

const HOLE = 0x60_0000_0000n;
const PAGE = 0x1000;

/** Now and then one bit is another. */
function perhapsWrong(random: Random, value: bigint, percent: number): bigint {
  return random.chance(percent) ? value ^ (1n << random.bits(6)) : value;
}

/** Leaves: AF, shareability, AP or S2AP, and whether it is a block. */
function leaf(random: Random, address: bigint, isPage: boolean, stage: 1 | 2): bigint {
  const af = random.chance(92) ? 1n << 10n : 0n;
  const permission = stage === 1 ? random.pick([1n, 1n, 1n, 3n, 0n, 2n]) : random.pick([3n, 3n, 3n, 1n, 2n, 0n]);
  const never = random.chance(15) ? random.bits(2) << 53n : 0n;
  const entry = perhapsWrong(
    random,
    address | af | (3n << 8n) | (permission << 6n) | (stage === 2 ? 0xfn << 2n : 1n << 11n) | never | (isPage ? 3n : 1n),
    4,
  );
  // Runs whose entries differ may be answered by any of them (DDI 0487, D8.7.1).
  return entry & ~(1n << 52n);
}

/** Stage 1: 39 bits, pages, a 2 MiB block, a block in a hole. Stage 2: 32 bits, RAM at its own address, and pages of data. */
function makeTables(machine: SmmuPeers, random: Random): void {
  const table = (address: number) => perhapsWrong(random, BigInt(address) | 3n | (random.chance(5) ? random.bits(5) << 59n : 0n), 3);
  machine.store(At.tables, table(At.tables + PAGE));
  machine.store(At.tables + PAGE, table(At.tables + 2 * PAGE));
  machine.store(At.tables + PAGE + 8, leaf(random, BigInt(At.data), false, 1));
  machine.store(At.tables + PAGE + 16, leaf(random, HOLE, false, 1));
  for (let i = 0; i < 8; i++)
    machine.store(At.tables + 2 * PAGE + 8 * i, random.chance(90) ? leaf(random, BigInt(At.data + i * PAGE), true, 1) : 0n);
  machine.store(At.secondTables + 8, table(At.secondTables + PAGE));
  const ram = At.streams - 0x1_0000;
  for (let i = 0; i < 32; i++) machine.store(At.secondTables + PAGE + 8 * i, random.chance(97) ? BigInt(ram + i * 0x20_0000) | 0x7fdn : 0n);
  machine.store(At.secondTables + PAGE + 8 * 16, table(At.secondTables + 2 * PAGE));
  for (let i = 0; i < 8; i++)
    machine.store(At.secondTables + 2 * PAGE + 8 * i, random.chance(90) ? leaf(random, BigInt(At.data + (i ^ 1) * PAGE), true, 2) : 0n);
}

/** Bits of words [from, to) turned over, one in `percent` programs. */
function spoil(random: Random, words: Int32Array, to: number, percent: number): Int32Array {
  if (random.chance(percent)) words[random.below(to)] ^= 1 << random.below(32);
  return words;
}

/** QEMU 11.1 ends with an assertion where a guest says 52 bits (6), or 7, which is taken as that (5.2, 5.4). */
function sized(words: Int32Array, size: Field): Int32Array {
  if (get(words, size) > 5) put(words, size, 5);
  return words;
}

function makeEntry(random: Random): Int32Array {
  const config = random.pick([CONFIG.stage1, CONFIG.stage1, CONFIG.stage2, CONFIG.nested, CONFIG.nested, CONFIG.bypass, random.below(8)]);
  const words = structure(STE, {
    V: random.chance(97) ? 1 : 0,
    CONFIG: config,
    S1CONTEXT_PTR: At.contexts / 64,
    SHCFG: 1,
    S2VMID: random.below(4),
    S2T0SZ: 32,
    S2SL0: 1,
    S2PS: random.pick([5, 5, 4, 0]),
    S2AA64: 1,
    S2AFFD: Number(random.chance(10)),
    S2R: Number(random.chance(80)),
    S2TTB: At.secondTables / 16,
  });
  if (random.chance(15)) put(words, random.pick([STE.S2T0SZ, STE.S2SL0, STE.S2TG, STE.S2PS]), random.below(64));
  const entry = sized(spoil(random, words, 8, 12), STE.S2PS);
  // QEMU 11.1 ends with an assertion where stage 2 has tables of AArch32 (5.2, S2AA64: ILLEGAL without them).
  put(entry, STE.S2AA64, 1);
  return entry;
}

function makeContext(random: Random): Int32Array {
  const words = structure(CD, {
    V: random.chance(97) ? 1 : 0,
    AA64: 1,
    A: 1,
    R: Number(random.chance(80)),
    ASID: random.below(4),
    T0SZ: 25,
    T1SZ: 25,
    TG1: 2,
    EPD1: Number(random.chance(70)),
    IPS: random.pick([5, 5, 4, 1, 0]),
    AFFD: Number(random.chance(10)),
    TBI0: Number(random.chance(20)),
    HAD0: Number(random.chance(30)),
    TTB0: At.tables / 16,
    TTB1: At.tables / 16,
  });
  if (random.chance(12)) put(words, random.pick([CD.T0SZ, CD.TG0, CD.T1SZ, CD.TG1, CD.IPS]), random.below(64));
  return sized(spoil(random, words, 6, 12), CD.IPS);
}

/** Commands of each kind, with operands that mostly fit; now and then a bit too many. */
function command(random: Random): [bigint, bigint] {
  const stream = BigInt(random.pick(STREAMS)) << 32n;
  const vmid = BigInt(random.below(4)) << 32n;
  const asid = BigInt(random.below(4)) << 48n;
  const page = random.bits(10) << 12n;
  const range = (random.bits(2) << 12n) | (random.bits(2) << 20n);
  const kinds: [bigint, bigint][] = [
    [0x01n | stream, 0n],
    [0x03n | stream, 1n],
    [0x04n | stream, random.bits(5)],
    [0x05n | stream, 1n],
    [0x06n | stream, 0n],
    [0x10n | vmid, 0n],
    [0x11n | vmid | asid, 0n],
    [0x12n | vmid | asid, page | 1n],
    [0x12n | vmid | asid | range, page | (random.bits(2) << 10n) | (random.bits(2) << 8n)],
    [0x13n | vmid, page],
    [0x20n, 0n],
    [0x28n | vmid, 0n],
    [0x2an | vmid, page],
    [0x30n, 0n],
    [0x40n | stream, page],
    [0x41n | stream, 2n << 12n],
    [0x44n | stream, 0n],
    [0x45n | stream, 0n],
    [0x46n, 0n],
    [0x46n | (random.bits(2) << 12n), 0n],
    [random.bits(8), 0n],
  ];
  const [low, high] = random.pick(kinds);
  return [random.chance(8) ? low ^ (1n << random.bits(6)) : low, random.chance(8) ? high ^ (1n << random.bits(6)) : high];
}

const iovas = [
  0n,
  0x1000n,
  0x2010n,
  0x3008n,
  0x7000n,
  0x9000n,
  0x20_0000n,
  0x3f_0000n,
  0x40_0000n,
  0x4000_0000n,
  BigInt(At.data),
  BigInt(At.data + 0x3000),
  BigInt(At.data + 0x20_0000),
  1n << 32n,
  1n << 39n,
  1n << 44n,
  1n << 48n,
  0xffff_ff80_0000_1000n,
  0xff00_0000_0000_1000n,
  0xffff_ffff_ffff_f000n,
];

test.each(Object.keys(MACHINES) as MachineName[])('random programs: %s', async (name) => {
  peers = await SmmuPeers.start(name);
  const random = new Random(SEED);
  const wrong: string[] = [];
  const explained = new Map<string, number>();
  const counts = { accesses: 0, commands: 0, events: 0 };
  let ste: Int32Array = new Int32Array(16);
  let cd: Int32Array = new Int32Array(16);
  const configure = (machine: SmmuPeers) => {
    ste = makeEntry(random);
    cd = makeContext(random);
    for (const stream of STREAMS) machine.storeWords(At.streams + 64 * stream, ste);
    machine.storeWords(At.contexts, cd);
    machine.forget();
  };
  for (let program = 0; program < PROGRAMS && wrong.length < 10; program++) {
    peers.clear();
    makeTables(peers, random);
    configure(peers);
    for (let step = 0; step < STEPS; step++) {
      let what = 'entries';
      let words: readonly bigint[] = [];
      let landed = true;
      let sides: { ours: Side; theirs: Side };
      if (random.chance(10)) {
        configure(peers);
        sides = await peers.sides();
      } else if (random.chance(30)) {
        words = command(random);
        what = `command ${words.map((word) => `0x${word.toString(16)}`)}`;
        peers.command(words as [bigint, bigint]);
        sides = await peers.sides();
        if (sides.ours.cons !== sides.theirs.cons || sides.ours.gerror !== sides.theirs.gerror || sides.ours.gerror !== 0)
          await peers.restart();
        peers.forget();
        counts.commands++;
      } else {
        const iova = random.pick(iovas);
        const writes = random.chance(80);
        ({ landed, ...sides } = await peers.dma(iova, writes));
        what = `${writes ? 'write to' : 'read from'} 0x${iova.toString(16)}`;
        counts.accesses++;
        counts.events += sides.ours.events.length;
      }
      const observation: Observation = { ...sides, what, command: words, ste, cd, landed };
      const known = smmuDifference(observation);
      if (known === null) wrong.push(`program ${program} step ${step}: ${what}; ${told(observation)}`);
      else if (known !== 'same') explained.set(known, (explained.get(known) ?? 0) + 1);
    }
  }
  const differences = [...explained].map(([what, times]) => `\n  ${times} × ${what}`).join('');
  console.log(
    `SMMUv3, ${name}: ${PROGRAMS} programs, ${counts.accesses} accesses with ${counts.events} events, ${counts.commands} commands on ${peers.qemu.version}; explained:${differences}`,
  );
  expect(wrong).toEqual([]);
});

function told({ ours, theirs, ste, cd, landed }: Observation): string {
  const hex = (words: Int32Array) => [...words].map((word) => (word >>> 0).toString(16)).join(' ');
  const side = ({ done, events, cons, gerror }: Side) =>
    `done ${done} cons ${cons.toString(16)} gerror ${gerror} events [${events.map(hex)}]`;
  return `landed ${landed}; ours ${side(ours)}; theirs ${side(theirs)}; ste ${hex(ste.subarray(0, 8))}; cd ${hex(cd.subarray(0, 6))}`;
}
