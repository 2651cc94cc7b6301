import { afterEach, expect, test } from 'vitest';
import { GuestMemory, hiOf, joinHiLo, loOf, READ, WRITE } from '../../src/memory/index.ts';
import { AmdV1Table } from '../../src/pagetable/amd-v1.ts';
import { faultKind, faultLevel, OUT_HI, OUT_LO, type PageTable, type TableMemory } from '../../src/pagetable/page-table.ts';
import { VtdSecondStageTable } from '../../src/pagetable/vtd-second-stage.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { amdRules } from '../pagetable/amd-v1-rules.ts';
import type { Rules } from '../pagetable/oracle.ts';
import { vtdRules } from '../pagetable/vtd-second-stage-rules.ts';
import { x86Rules } from '../pagetable/x86-rules.ts';
import { AmdPeer } from './amd.ts';
import { type PeerAnswer, type PeerIommu, Q35 } from './q35.ts';
import { Random } from './random.ts';
import { DATA, RAM_BYTES, TABLES, TableProgram } from './table-programs.ts';
import { VtdPeer } from './vtd.ts';
import { AMD_V1, type Comparison, type Difference, VTD_FIRST_STAGE, VTD_SECOND_STAGE } from './x86-differences.ts';

/*
 * The walkers of VT-d and AMD tables against QEMU's IOMMUs: random tables, each access a DMA of a device, compared by where
 * the data went, which fault was recorded, and what the access left in the entries (accessed, dirty).
 *
 * VIOMMU_PEER_ACCESSES: accesses a format (default 1,200). VIOMMU_PEER_SEED: another set of programs.
 */
const ACCESSES = Number(process.env['VIOMMU_PEER_ACCESSES'] ?? 1200);
const SEED = Number(process.env['VIOMMU_PEER_SEED'] ?? 1);
const ACCESSES_A_PROGRAM = 30;

interface Variant {
  readonly name: string;
  readonly rules: Rules;
  create(memory: TableMemory): PageTable;
  use(peer: PeerIommu): void;
}

interface PeerFormat {
  readonly name: string;
  readonly device: string;
  attach(machine: Q35): PeerIommu;
  readonly variants: readonly Variant[];
  /** Reasons that the specification gives for our fault. */
  reasons(comparison: Comparison): readonly number[];
  readonly differences: readonly Difference[];
}

const root = TABLES / 4096;

function secondStage(levels: 3 | 4): Variant {
  // QEMU 11.1: CAP.MGAW and the host address width are aw-bits; 2 MiB and 1 GiB pages; no snoop control, no A/D in legacy mode.
  const config = { levels, outputBits: 48, pages2M: true, pages1G: true, snoopControl: false, accessedDirty: false, execute: false };
  return {
    name: `${levels} levels`,
    rules: vtdRules(config),
    create: (memory) => new VtdSecondStageTable(memory, { ...config, root }),
    use: (peer) => (peer as VtdPeer).useSecondStage(TABLES, levels),
  };
}

function firstStage(writeProtect: boolean): Variant {
  // QEMU 11.1 has no extended accessed bit (ECAP.EAFS 0).
  const config = { levels: 4 as const, outputBits: 48, gigabytePages: true, noExecute: true, writeProtect, extendedAccessed: false };
  return {
    name: `WPE ${writeProtect}`,
    rules: x86Rules(config),
    create: (memory) => new X86Table(memory, { ...config, root }),
    use: (peer) => (peer as VtdPeer).useFirstStage(TABLES, writeProtect),
  };
}

function amd(levels: 1 | 2 | 3 | 4 | 5 | 6): Variant {
  return {
    name: `${levels} levels`,
    rules: amdRules({ levels, accessedDirty: 'none' }),
    create: (memory) => new AmdV1Table(memory, { levels, root }),
    use: (peer) => (peer as AmdPeer).use(TABLES, levels),
  };
}

const formats: readonly PeerFormat[] = [
  {
    name: 'VT-d second stage',
    device: 'intel-iommu,aw-bits=48',
    attach: (machine) => new VtdPeer(machine.qemu, false),
    variants: [secondStage(3), secondStage(4)],
    ...VTD_SECOND_STAGE,
  },
  {
    name: 'VT-d first stage',
    device: 'intel-iommu,scalable-mode=on,fsts=on,aw-bits=48',
    attach: (machine) => new VtdPeer(machine.qemu, true),
    variants: [firstStage(true), firstStage(false)],
    ...VTD_FIRST_STAGE,
  },
  {
    name: 'AMD v1',
    device: 'amd-iommu,dma-remap=on',
    attach: (machine) => new AmdPeer(machine.qemu),
    variants: [amd(1), amd(2), amd(3), amd(4), amd(5), amd(6)],
    ...AMD_V1,
  },
];

/** Our side: the same RAM, and the addresses of the entries that a walk read. */
class Ours {
  readonly ram = new GuestMemory([{ gpa: 0n, buffer: new SharedArrayBuffer(RAM_BYTES) }]);
  read: number[] = [];
  readonly memory: TableMemory = {
    word: this.ram.word,
    load64: (hi, lo) => {
      this.read.push((hi >>> 0) * 2 ** 32 + (lo >>> 0));
      return this.ram.load64(hi, lo);
    },
    load64BE: this.ram.load64BE.bind(this.ram),
    load32: this.ram.load32.bind(this.ram),
    load32BE: this.ram.load32BE.bind(this.ram),
    store64: this.ram.store64.bind(this.ram),
    store64BE: this.ram.store64BE.bind(this.ram),
    store32: this.ram.store32.bind(this.ram),
    store32BE: this.ram.store32BE.bind(this.ram),
    compareExchange64: this.ram.compareExchange64.bind(this.ram),
  };

  store(address: number, value: bigint): void {
    this.ram.store64(0, address, hiOf(value), loOf(value));
  }
  load(address: number): bigint {
    this.ram.load64(0, address);
    return joinHiLo(this.ram.word[1], this.ram.word[0]);
  }
}

/** What a walk read, without the usual-case attempt that it began with and gave up: that read the same entries first. */
function lastPass(read: readonly number[]): readonly number[] {
  for (let given = read.length >> 1; given > 0; given--) {
    if (read.slice(0, given).every((address, i) => address === read[given + i])) return read.slice(given);
  }
  return read;
}

class Comparer {
  readonly #format: PeerFormat;
  readonly #machine: Q35;
  readonly #peer: PeerIommu;
  readonly #ours = new Ours();

  constructor(format: PeerFormat, machine: Q35) {
    this.#format = format;
    this.#machine = machine;
    this.#peer = format.attach(machine);
  }

  /** Makes the table, the program in both memories. */
  load(variant: Variant, program: TableProgram): PageTable {
    const { qemu } = this.#machine;
    qemu.fill(TABLES, program.bytes, 0);
    for (let at = TABLES; at < TABLES + program.bytes; at += 8) this.#ours.store(at, 0n);
    for (const [address, value] of program.entries) {
      qemu.writeq(address, value);
      this.#ours.store(address, value);
    }
    variant.use(this.#peer);
    return variant.create(this.#ours.memory);
  }

  /** One access on both sides; null when it would hit tables or the machine's structures. */
  async compare(table: PageTable, rules: Rules, input: bigint, access: number): Promise<Comparison | null> {
    this.#ours.read = [];
    // What our walk changes in the entries is what QEMU's should: both start from the same.
    const code = table.walk(hiOf(input), loOf(input), access);
    const output = joinHiLo(table.out[OUT_HI], table.out[OUT_LO]);
    const inData = code >= 0 && output >= BigInt(DATA) && output < BigInt(RAM_BYTES);
    const read = lastPass(this.#ours.read).filter((address) => address < RAM_BYTES);
    if (code >= 0 && output < BigInt(DATA) && output >= 0x20_0000n) {
      await this.#copyEntries(read);
      return null;
    }
    const expected = inData ? output : null;
    const peer = await (access === WRITE
      ? this.#machine.write(this.#peer, input, expected)
      : this.#machine.read(this.#peer, input, expected));
    if (expected !== null) await this.#copyEntries([Number(expected & ~7n)]);
    const theirs = await Promise.all(read.map((address) => this.#machine.qemu.readq(address)));
    const entries = read.map((address) => this.#ours.load(address));
    await this.#copyEntries(read);
    return { rules, levels: rules.index.length, input, access, code: Math.min(0, code), output: expected, entries, theirs, peer };
  }

  /** Takes over what stands in QEMU's memory. */
  async #copyEntries(addresses: readonly number[]): Promise<void> {
    for (const address of addresses) this.#ours.store(address, await this.#machine.qemu.readq(address));
  }

  agrees(comparison: Comparison): boolean {
    const { code, output, entries, theirs, peer } = comparison;
    if (entries.some((entry, i) => entry !== theirs[i])) return false;
    if (code < 0) return !peer.done && this.#format.reasons(comparison).includes(peer.fault);
    return peer.fault === 0 && (output === null || peer.landed);
  }
}

function describeComparison({ levels, input, access, code, output, entries, theirs, peer }: Comparison): string {
  const ours = code < 0 ? `fault ${faultKind(code)} at level ${faultLevel(code)}` : `0x${output?.toString(16)}`;
  const pairs = entries.map((entry, i) => `${entry.toString(16)}${entry === theirs[i] ? '' : `/${theirs[i].toString(16)}`}`);
  return `${levels} levels, input 0x${input.toString(16)} access ${access}: ours ${ours}, QEMU ${JSON.stringify(peer satisfies PeerAnswer)}; entries ${pairs.join(' ')}`;
}

let machine: Q35 | null = null;
afterEach(async () => {
  await machine?.dispose();
  machine = null;
});

test.each(formats.map((format) => [format.name, format] as const))('%s walks as QEMU does', async (name, format) => {
  machine = await Q35.start(format.device);
  const comparer = new Comparer(format, machine);
  await machine.qemu.fill(DATA, RAM_BYTES - DATA, 0);
  const random = new Random(SEED * 7 + formats.indexOf(format));
  const explained = format.differences.map(() => 0);
  const unexplained: string[] = [];
  let [programs, accesses, translated] = [0, 0, 0];
  for (; accesses < ACCESSES; programs++) {
    const variant = format.variants[programs % format.variants.length];
    const program = new TableProgram(random, variant.rules);
    const table = comparer.load(variant, program);
    for (let i = 0; i < ACCESSES_A_PROGRAM; i++) {
      const comparison = await comparer.compare(table, variant.rules, program.input(table), random.pick([READ, WRITE]));
      if (comparison === null) continue;
      accesses++;
      if (comparison.code === 0) translated++;
      if (comparer.agrees(comparison)) continue;
      // Wherever QEMU's device wrote, the next access meets the tables as they were made.
      comparer.load(variant, program);
      const difference = format.differences.findIndex(({ explains }) => explains(comparison));
      if (difference >= 0) explained[difference]++;
      else unexplained.push(`${variant.name}: ${describeComparison(comparison)}`);
    }
  }
  // Whatever is still on its way arrives before QEMU goes.
  await machine.qemu.readl(DATA);
  const differences = format.differences.flatMap(({ section, what }, i) =>
    explained[i] > 0 ? [`\n  ${explained[i]} × ${what} (${section})`] : [],
  );
  console.log(
    `${name}: ${programs} programs, ${accesses} accesses (${translated} translated) compared with ${machine.qemu.version}; ` +
      `explained differences: ${differences.join('') || 'none'}`,
  );
  expect(unexplained.slice(0, 10)).toEqual([]);
  // Neither all faults nor none.
  expect(translated).toBeGreaterThan(accesses / 10);
  expect(translated).toBeLessThan(accesses);
});
