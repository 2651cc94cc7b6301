import { afterAll, beforeAll, expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/index.ts';
import { type RiscvMode, RiscvTable } from '../../src/pagetable/riscv.ts';
import type { Rules } from '../pagetable/oracle.ts';
import { riscvRules } from '../pagetable/riscv-rules.ts';
import { Random } from './random.ts';
import { type Comparison, DIFFERENCES } from './riscv-differences.ts';
import { DDT, FQ, RAM, RAM_BYTES, Reg, RiscvPeers, rangeOf } from './riscv-machine.ts';

/*
 * RISC-V table formats against QEMU's riscv-iommu: random tables, each access a debug translation on both, compared by
 * outcome, cause, page and size of the range.
 *
 * VIOMMU_PEER_ACCESSES: accesses a format (default 1,200). VIOMMU_PEER_SEED: another set of programs.
 */
const ACCESSES = Number(process.env['VIOMMU_PEER_ACCESSES'] ?? 1200);
const SEED = Number(process.env['VIOMMU_PEER_SEED'] ?? 1);
const ACCESSES_A_PROGRAM = 40;
const DEVICE = 8;

/** Where random tables and the second stage that is one to one lie. */
const TABLES = 0x8010_0000;
const SECOND = 0x8020_0000;

interface Format {
  readonly name: string;
  readonly mode: RiscvMode | null;
  readonly secondStage: boolean;
  /** The random tables are a first stage behind a second one that maps RAM one to one. */
  readonly nested?: boolean;
}

const formats: readonly Format[] = [
  ...(['sv39', 'sv48', 'sv57'] as const).flatMap((mode) => [
    { name: mode, mode, secondStage: false },
    { name: `${mode}x4`, mode, secondStage: true },
  ]),
  { name: 'sv39 behind sv39x4', mode: 'sv39', secondStage: false, nested: true },
  { name: 'bare', mode: null, secondStage: false },
];

const MODES: Readonly<Record<RiscvMode, bigint>> = { sv32: 8n, sv39: 8n, sv48: 9n, sv57: 10n };

let peers: RiscvPeers;
const used = new Map<string, number>();

beforeAll(async () => {
  peers = await RiscvPeers.start();
});
afterAll(async () => {
  await peers?.dispose();
});

/** Random tables, mostly well-formed: a root and two tables of each lower level, all of whose entries the walks can meet. */
class Program {
  readonly entries = new Map<number, bigint>();
  readonly rules: Rules;
  readonly #random: Random;
  readonly #slots: number[][];

  constructor(random: Random, rules: Rules) {
    this.rules = rules;
    this.#random = random;
    const top = rules.index.length - 1;
    this.#slots = rules.index.map(([highest, lowest]) => Array.from({ length: 5 }, () => random.below(2 ** (highest - lowest + 1))));
    for (let level = top; level >= 0; level--) for (const frame of this.#frames(level)) this.#plant(level, frame);
  }

  #frames(level: number): number[] {
    const depth = this.rules.index.length - 1 - level;
    return depth === 0 ? [TABLES] : [TABLES + 0x4000 + (2 * depth - 2) * 4096, TABLES + 0x4000 + (2 * depth - 1) * 4096];
  }

  #plant(level: number, frame: number): void {
    for (const slot of this.#slots[level]) this.entries.set(frame + slot * 8, this.#entry(level));
  }

  #entry(level: number): bigint {
    const random = this.#random;
    const down = level > 0 && random.chance(75);
    const address = down ? BigInt(random.pick(this.#frames(level - 1))) : random.bits(random.pick([30, 34, 56]));
    const samples = this.rules.samples(level, address);
    const wanted = samples.filter((entry) => this.rules.read(level, entry, 0n).is === (down ? 'table' : 'leaf'));
    const entry = random.chance(70) ? wanted[0] : random.pick(wanted);
    if (random.chance(4)) return 0n;
    return random.chance(8) ? entry ^ (1n << BigInt(random.below(64))) : entry;
  }

  input(): bigint {
    const random = this.#random;
    if (random.chance(4)) return random.bits(64);
    let input = random.bits(12);
    for (const [level, [, lowest]] of this.rules.index.entries()) {
      const slots = this.#slots[level];
      input |= BigInt(random.chance(97) ? random.pick(slots) : random.below(512)) << BigInt(lowest);
    }
    const top = this.rules.index.at(-1)![0];
    const signed = this.rules.input((1n << 64n) - 1n) === 0;
    return signed ? BigInt.asUintN(64, BigInt.asIntN(top + 1, input)) : input;
  }

  /** Entries that a walk reads, root first. */
  path(input: bigint): bigint[] {
    const path: bigint[] = [];
    let table = BigInt(TABLES);
    for (let level = this.rules.index.length - 1; ; ) {
      const [highest, lowest] = this.rules.index[level];
      const index = (input >> BigInt(lowest)) & ((1n << BigInt(highest - lowest + 1)) - 1n);
      const entry = this.entries.get(Number(table + index * 8n)) ?? 0n;
      path.push(entry);
      const reading = this.rules.read(level, entry, input);
      if (reading.is !== 'table') return path;
      table = reading.address;
      level = reading.next;
    }
  }
}

/** The device-context of a format; the second stage of a nested one is made once. */
function setContext({ mode, secondStage, nested }: Format): void {
  const root = BigInt(TABLES / 4096);
  const second = nested ? (8n << 60n) | BigInt(SECOND / 4096) : 0n;
  const gatp = mode !== null && secondStage ? (MODES[mode] << 60n) | root : second;
  const satp = mode !== null && !secondStage ? (MODES[mode] << 60n) | root : 0n;
  const words = [1n, gatp, 0n, satp, 0n, 0n, 0n, 0n];
  for (const [i, word] of words.entries()) peers.store(DDT + DEVICE * 64 + i * 8, word);
}

/** Sv39x4 tables that map RAM one to one, and 16 GiB below the random outputs. */
function makeSecondStage(): void {
  let next = SECOND / 4096 + 4;
  const scratch = new GuestMemory([{ gpa: BigInt(RAM), buffer: new SharedArrayBuffer(RAM_BYTES) }]);
  const allocator = { allocate: () => next++, free: () => undefined };
  const table = new RiscvTable({ mode: 'sv39', secondStage: true, memory: scratch, root: SECOND / 4096, allocator });
  table.map(RAM / 4096, RAM / 4096, RAM_BYTES / 4096, 7);
  table.map(0, 0x40000, 0x40000, 3);
  for (let at = SECOND; at < next * 4096; at += 8) {
    scratch.load64(0, at | 0);
    const [lo, hi] = scratch.word;
    if ((lo | hi) !== 0) peers.store(at, (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0));
  }
}

/** Cause of our fault, from the record that the debug translation left. */
function takeCause(): number {
  const head = Number(peers.ours.read(Reg.fqh, 4));
  const tail = Number(peers.ours.read(Reg.fqt, 4));
  if (head === tail) return 0;
  const last = (tail + 127) % 128;
  peers.write(Reg.fqh, 4, BigInt(tail));
  return Number(peers.load(FQ + last * 32) & 0xfffn);
}

async function compareOne(format: Format, program: Program | null, random: Random): Promise<string | null> {
  const input = program === null ? random.bits(56) : program.input();
  const write = random.chance(50);
  const [ours, theirs] = await peers.debug(DEVICE, input, write ? 0n : 1n << 3n);
  const causes = { ours: ours.fault ? takeCause() : 0, theirs: theirs.fault ? Number((theirs.response >> 10n) & 0xfffn) : 0 };
  if (causes.ours === causes.theirs && (ours.fault || pageOf(ours.response, input) === pageOf(theirs.response, input))) return null;
  const comparison: Comparison = {
    entries: program?.path(input) ?? [],
    write,
    secondStage: format.secondStage || format.nested === true,
    ...causes,
    range: rangeOf(ours.response).pages,
    pages: { ours: pageOf(ours.response, input), theirs: pageOf(theirs.response, input) },
  };
  const difference = DIFFERENCES.find((known) => known.explains(comparison));
  if (difference === undefined) {
    const entries = comparison.entries.map((entry) => `0x${entry.toString(16)}`).join(' ');
    return `${format.name} ${write ? 'write' : 'read'} 0x${input.toString(16)}: ours ${causes.ours} ${ours.response.toString(16)}, QEMU ${causes.theirs} ${theirs.response.toString(16)}; entries ${entries}`;
  }
  used.set(difference.what, (used.get(difference.what) ?? 0) + 1);
  return null;
}

/** The page of an address in the range that a response tells. */
function pageOf(response: bigint, input: bigint): bigint {
  const range = rangeOf(response);
  return range.page | ((input >> 12n) & (range.pages - 1n));
}

test.each(formats)('$name', async (format) => {
  const random = new Random(SEED);
  const rules =
    format.mode === null
      ? null
      : riscvRules({
          mode: format.mode,
          secondStage: format.secondStage,
          bigEndian: false,
          svpbmt: false,
          svrsw60t59b: true,
          updateAccessedDirty: false,
          sum: false,
        });
  await peers.setUp();
  makeSecondStage();
  const wrong: string[] = [];
  let accesses = 0;
  let programs = 0;
  for (; accesses < ACCESSES; programs++) {
    const program = rules === null ? null : new Program(random, rules);
    for (const [address, entry] of program?.entries ?? []) peers.store(address, entry);
    setContext(format);
    await peers.forget();
    for (let i = 0; i < ACCESSES_A_PROGRAM; i++, accesses++) {
      const difference = await compareOne(format, program, random);
      if (difference !== null) wrong.push(difference);
    }
    for (const address of program?.entries.keys() ?? []) peers.store(address, 0n);
  }
  const explained = [...used].map(([what, times]) => `${times} × ${what}`);
  console.log(
    `${format.name}: ${programs} programs, ${accesses} accesses on ${peers.qemu.version}; explained so far: ${explained.join('; ') || 'none'}`,
  );
  expect(wrong.slice(0, 10)).toEqual([]);
});
