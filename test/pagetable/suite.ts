import { isDeepStrictEqual } from 'node:util';
import { fc } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { addressOfPfn, EXECUTE, joinHiLo, PFN_LIMIT, PRIVILEGED, READ, WRITE } from '../../src/memory/index.ts';
import {
  FAULT_INPUT_SIZE,
  faultKind,
  faultLevel,
  OUT_HI,
  OUT_LO,
  OUT_PERMISSION,
  OUT_TYPE,
  type PageTable,
  type TableAllocator,
  type TableMemory,
} from '../../src/pagetable/page-table.ts';
import { expectSame } from '../same.ts';
import { type Mapped, MappedModel } from './model.ts';
import { oracleWalk, type Rules, type Verdict } from './oracle.ts';
import { hiLo, TableRam } from './ram.ts';

/**
 * The test body of all formats. A format's test file calls it once a configuration:
 *
 *   testFormat({ name: 'x86-64, 4 levels', rules: x86Rules(4), create: (memory, root, allocator) => new X86Table(…) });
 */
export interface Format {
  readonly name: string;
  readonly rules: Rules;
  /** The table under test, its root at page `root` (zeroed, as many pages as the root table takes, aligned to its size). */
  create(memory: TableMemory, root: number, allocator: TableAllocator): PageTable;
}

const ACCESSES = [0, READ, WRITE, READ | WRITE, EXECUTE, WRITE | EXECUTE].flatMap((access) => [access, access | PRIVILEGED]);
const RUNS = Number(process.env['VIOMMU_TABLE_RUNS'] ?? 40);

export function testFormat(format: Format): void {
  describe(format.name, () => {
    describeItself(format);
    mapsEachSize(format);
    followsEdits(format);
    survivesAllocationFailure(format);
    readsEveryBit(format);
    walksLikeTheOracle(format);
    enumeratesWhatItWalks(format);
  });
}

/** Pages of the root table. */
function rootPages({ index, entryBytes }: Rules): number {
  const [highest, lowest] = index[index.length - 1];
  return Math.max(1, (2 ** (highest - lowest + 1) * entryBytes) / 4096);
}

/** A table with nothing mapped, in RAM of its own that has room for `pages` more. */
function emptyTable(format: Format, ram = roomFor(format)): { ram: TableRam; table: PageTable; root: bigint } {
  const reserved = rootPages(format.rules);
  ram.clear();
  return { ram, table: format.create(ram.memory, reserved, ram), root: addressOfPfn(reserved) };
}

/** RAM for a root at a multiple of its size and for tables of 16 MiB. */
function roomFor({ rules }: Format): TableRam {
  const reserved = rootPages(rules);
  return new TableRam(2 * reserved + 4096, 2 * reserved);
}

function enumerateAll(table: PageTable, first = 0, last = PFN_LIMIT - 1): Mapped[] {
  const runs: Mapped[] = [];
  const visit = (iova: number, output: number, pages: number, permission: number) => {
    runs.push({ iova, output, pages, permission });
    return true;
  };
  expect(table.enumerate(first, last, visit, 1e7)).toBe(last + 1);
  return runs;
}

/** What `walk` answers, in the oracle's words. */
function walked(table: PageTable, input: bigint, access: number): Verdict {
  const answer = table.walk(...hiLo(input), access);
  if (answer < 0) return { fault: faultKind(answer), level: faultLevel(answer) };
  const { out } = table;
  return { output: joinHiLo(out[OUT_HI], out[OUT_LO]), lg2: answer, permission: out[OUT_PERMISSION], type: out[OUT_TYPE] };
}

/** Pages that lie in the low and (canonical) the high half of the input, as ranges [first, last]. */
function windows({ description }: PageTable): [number, number][] {
  const pages = 2 ** (description.inputBits - 12);
  const half = pages / 2;
  if (description.upper) return [[PFN_LIMIT - pages, PFN_LIMIT - 1]];
  return description.canonical
    ? [
        [0, half - 1],
        [PFN_LIMIT - half, PFN_LIMIT - 1],
      ]
    : [[0, pages - 1]];
}

function describeItself(format: Format): void {
  it('describes itself as its rules do', () => {
    const { table } = emptyTable(format);
    const { levels, inputBits, pageLg2s, fields } = table.description;
    expect(levels.map(({ shift, bits }) => [shift + bits - 1, shift])).toEqual(format.rules.index);
    expect(levels.at(-1)!.shift + levels.at(-1)!.bits).toBe(inputBits);
    expect(pageLg2s).toEqual([...pageLg2s].sort((a, b) => a - b));
    expect(pageLg2s[0]).toBe(levels[0].shift);
    for (const { shift, leaf } of levels) expect(pageLg2s.includes(shift)).toBe(leaf);
    for (const [lowest, highest] of Object.values(fields)) {
      expect(lowest).toBeLessThanOrEqual(highest);
      expect(highest).toBeLessThan(format.rules.entryBytes * 8);
    }
    expect(table.description.specification).not.toBe('');
  });

  it('refuses what is wider than its input, and permissions that it has not', () => {
    const { table } = emptyTable(format);
    const top = table.description.levels.length - 1;
    for (const [, last] of windows(table)) {
      if (last + 1 === PFN_LIMIT) continue;
      expect(walked(table, addressOfPfn(last + 1), READ)).toEqual({ fault: FAULT_INPUT_SIZE, level: top });
    }
    expect(() => table.map(0, 0, 2 ** (table.description.pageLg2s[0] - 12), 0)).toThrow(RangeError);
  });
}

function mapsEachSize(format: Format): void {
  it('maps each size with one mapping, at both ends of input and output, and splits it', () => {
    const { table, ram } = emptyTable(format);
    const { pageLg2s, permissions, outputBits } = table.description;
    const granule = 2 ** (pageLg2s[0] - 12);
    for (const lg2 of pageLg2s) {
      const size = 2 ** (lg2 - 12);
      const outputs = lg2 < outputBits ? [0, 2 ** (outputBits - 12) - size] : [0];
      for (const [first, last] of windows(table)) {
        for (const iova of [first, last + 1 - size]) {
          for (const output of outputs) {
            const permission = permissions[(iova + output + lg2) % permissions.length];
            expect(table.map(iova, output, size, permission)).toBe(size);
            for (const offset of new Set([0, size - 1])) {
              const verdict = walked(table, addressOfPfn(iova + offset) + 0x123n, permission);
              expect(verdict).toMatchObject({ output: addressOfPfn(output + offset) + 0x123n, lg2, permission });
            }
            expect(enumerateAll(table)).toEqual([{ iova, output, pages: size, permission }]);
            if (lg2 > pageLg2s[0]) {
              const hole = iova + size / 2;
              expect(table.unmap(hole, granule)).toBe(granule);
              const rest = { iova: hole + granule, output: output + size / 2 + granule, pages: size / 2 - granule, permission };
              expect(enumerateAll(table)).toEqual([{ iova, output, pages: size / 2, permission }, ...(rest.pages > 0 ? [rest] : [])]);
              expect(table.unmap(iova, size)).toBe(size - granule);
            } else {
              expect(table.unmap(iova, size)).toBe(size);
            }
            expect(ram.inUse).toBe(0);
          }
        }
      }
    }
  });
}

interface Edit {
  readonly unmap: boolean;
  readonly iova: number;
  readonly output: number;
  readonly pages: number;
  readonly permission: number;
}

/** Edits around the boundaries of the format's sizes, and around both ends of its input. */
function edits(table: PageTable): fc.Arbitrary<Edit[]> {
  const { pageLg2s, permissions } = table.description;
  const granule = 2 ** (pageLg2s[0] - 12);
  const sizes = pageLg2s.map((lg2) => 2 ** (lg2 - 12));
  const anchors = windows(table).flatMap(([first, last]) => [first, ...sizes.map((size) => first + size), last + 1]);
  const edit = fc.record({
    unmap: fc.boolean(),
    anchor: fc.constantFrom(...anchors),
    offset: fc.integer({ min: -8, max: 8 }),
    size: fc.constantFrom(0, ...sizes),
    times: fc.integer({ min: 0, max: 2 }),
    more: fc.integer({ min: 0, max: 16 }),
    skew: fc.constantFrom(0, 0, granule),
    permission: fc.constantFrom(...permissions),
  });
  return fc.array(
    edit.map(({ unmap, anchor, offset, size, times, more, skew, permission }) => {
      const iova = Math.min(PFN_LIMIT - granule, Math.max(0, anchor + offset * granule));
      const pages = Math.min(PFN_LIMIT - iova, size * times + more * granule);
      // An output that is not congruent to the input makes small pages only: not for more than a few tables of them.
      const output = (iova % sizes[sizes.length - 1]) + (pages > 1024 * granule ? 0 : skew);
      return { unmap, iova, output, pages, permission };
    }),
    { maxLength: 12 },
  );
}

function followsEdits(format: Format): void {
  it('maps, unmaps, splits and frees as the model does; enumerate, walk and oracle agree', () => {
    const ram = roomFor(format);
    fc.assert(
      fc.property(edits(emptyTable(format).table), (program) => {
        const { table, root } = emptyTable(format, ram);
        const model = new MappedModel();
        for (const edit of program) {
          applyEdit(table, model, edit);
          expectSame(enumerateAll(table), model.runs(0, PFN_LIMIT - 1));
          expectSame(enumerateAll(table, edit.iova + 1, edit.iova + edit.pages), model.runs(edit.iova + 1, edit.iova + edit.pages));
          for (const pfn of [edit.iova - 1, edit.iova, edit.iova + edit.pages - 1, edit.iova + edit.pages]) {
            if (pfn >= 0 && pfn < PFN_LIMIT) probe(format, ram, table, root, model, pfn);
          }
        }
        for (const { iova, pages } of model.runs(0, PFN_LIMIT - 1)) expectSame(table.unmap(iova, pages), pages);
        expectSame(ram.inUse, 0);
      }),
      { numRuns: RUNS },
    );
  });
}

/** Pages of an edit that lie within input and output. */
function possible(table: PageTable, { iova, output, pages }: Edit): number {
  const window = windows(table).find(([first, last]) => iova >= first && iova <= last);
  return window === undefined ? 0 : Math.min(pages, window[1] + 1 - iova, 2 ** (table.description.outputBits - 12) - output);
}

function applyEdit(table: PageTable, model: MappedModel, edit: Edit): void {
  const { unmap, iova, output, pages, permission } = edit;
  if (unmap) {
    expectSame(table.unmap(iova, pages), model.remove(iova, pages));
  } else {
    const done = model.free(iova, possible(table, edit));
    expectSame(table.map(iova, output, pages, permission), done);
    model.add({ iova, output, pages: done, permission });
  }
}

/** One page: model, walk and oracle say the same. */
function probe(format: Format, ram: TableRam, table: PageTable, root: bigint, model: MappedModel, pfn: number): void {
  const input = addressOfPfn(pfn) + 0xff8n;
  const mapped = model.at(pfn);
  for (const access of [READ, WRITE]) {
    const verdict = walked(table, input, access);
    expectSame(verdict, oracleWalk(format.rules, ram, root, input, access));
    if (mapped === undefined || (access & ~mapped.permission) !== 0) expectSame('fault' in verdict, true);
    else expectReached(verdict, addressOfPfn(mapped.output + pfn - mapped.iova) + 0xff8n, mapped.permission);
  }
}

function expectReached(verdict: Verdict, output: bigint, permission: number): void {
  if ('fault' in verdict || verdict.output !== output || verdict.permission !== permission)
    expect(verdict).toMatchObject({ output, permission });
}

function survivesAllocationFailure(format: Format): void {
  it('maps less, or unmaps nothing, when memory for tables runs out', () => {
    const ram = roomFor(format);
    fc.assert(
      fc.property(edits(emptyTable(format).table), fc.integer({ min: 0, max: 8 }), (program, allowed) => {
        const { table } = emptyTable(format, ram);
        const model = new MappedModel();
        for (const edit of program) {
          const { unmap, iova, output, pages, permission } = edit;
          ram.allowed = allowed;
          ram.refused = 0;
          if (unmap) {
            const unmapped = table.unmap(iova, pages);
            if (unmapped < 0) expect(ram.refused).toBeGreaterThan(0);
            else expectSame(unmapped, model.remove(iova, pages));
          } else {
            const done = table.map(iova, output, pages, permission);
            const expected = model.free(iova, possible(table, edit));
            if (ram.refused > 0) expect(done).toBeLessThan(expected);
            else expectSame(done, expected);
            model.add({ iova, output, pages: done, permission });
          }
          expectSame(enumerateAll(table), model.runs(0, PFN_LIMIT - 1));
        }
        ram.allowed = Infinity;
        for (const { iova, pages } of model.runs(0, PFN_LIMIT - 1)) expectSame(table.unmap(iova, pages), pages);
        expectSame(ram.inUse, 0);
      }),
      { numRuns: RUNS },
    );
  });
}

/** Entries that stand in a random table: in which frame and slot, read at which level, made how, pointing where, with which bits flipped. */
interface Planted {
  readonly frame: number;
  readonly slot: number;
  readonly level: number | null;
  readonly sample: number;
  readonly target: number | null;
  readonly noise: readonly number[];
}

const FRAMES = 6;
const SLOTS = 5;

/** Random tables: a root and a few frames that hold tables of any level, pointing at each other, at themselves and elsewhere. */
class RandomTables {
  readonly ram: TableRam;
  readonly table: PageTable;
  readonly root: bigint;
  readonly #format: Format;
  readonly #frameBytes: bigint;

  constructor(format: Format) {
    const pages = rootPages(format.rules);
    this.#format = format;
    const tables = format.rules.index.map(([highest, lowest]) => 2 ** (highest - lowest + 1) * format.rules.entryBytes);
    this.#frameBytes = BigInt(Math.max(4096, ...tables));
    const all = Number(this.#frameBytes / 4096n) * (FRAMES + 1);
    this.ram = new TableRam(all, all);
    this.table = format.create(this.ram.memory, 0, this.ram);
    this.root = addressOfPfn(0);
    expect(pages * 4096).toBeLessThanOrEqual(Number(this.#frameBytes));
  }

  /** A frame of tables (0: the root), or something else to point at. */
  address(target: number): bigint {
    const others = [0x4000_0000n, 0x40_0020_0000n, 0x123_4567_8000n, 0xf_ffff_ffff_f000n, this.#frameBytes * BigInt(FRAMES + 1)];
    return target <= FRAMES ? this.#frameBytes * BigInt(target) : others[(target - FRAMES - 1) % others.length];
  }

  plant(planted: Planted): void {
    const { index } = this.#format.rules;
    const level = (planted.level ?? 6 * index.length - 1 - planted.frame) % index.length;
    this.plantEntry(planted.frame, level, planted.slot, this.#entry(level, planted));
  }

  #entry(level: number, { frame, sample, target, noise }: Planted): bigint {
    const { rules } = this.#format;
    const samples = rules.samples(level, this.address(target ?? frame + 1));
    let entry = samples[sample % samples.length];
    for (const bit of noise) entry ^= 1n << BigInt(bit % (rules.entryBytes * 8));
    return entry;
  }

  entryAddress(frame: number, level: number, slot: number): bigint {
    return this.address(frame) + this.#slot(level, slot) * BigInt(this.#format.rules.entryBytes);
  }

  /** Puts an entry into a slot of a frame that holds a table of `level`. */
  plantEntry(frame: number, level: number, slot: number, entry: bigint): void {
    const { rules } = this.#format;
    this.ram.store(this.entryAddress(frame, level, slot), rules.entryBytes, rules.bigEndian, entry);
  }

  /** Few slots a table, so that addresses meet entries; the first two may be parts of one mapping. */
  #slot(level: number, slot: number): bigint {
    const [highest, lowest] = this.#format.rules.index[level];
    const last = (1n << BigInt(highest - lowest + 1)) - 1n;
    return [0n, 1n, 3n, last / 2n + 1n, last][slot % SLOTS] & last;
  }

  /** The input address that goes through these slots, root first, then to `offset` in the page. */
  input(slots: readonly number[], offset: number): bigint {
    const { index } = this.#format.rules;
    let input = 0n;
    for (let level = 0; level < index.length; level++) input |= this.#slot(level, slots[level] ?? 0) << BigInt(index[level][1]);
    input |= BigInt(offset) & ((1n << BigInt(index[0][1])) - 1n);
    const { inputBits, canonical, upper } = this.table.description;
    if (upper) return input | (2n ** 64n - 2n ** BigInt(inputBits));
    return canonical ? BigInt.asUintN(64, BigInt.asIntN(inputBits, input)) : input;
  }
}

/** Frame k mostly holds a table of the k-th level from the root on and points to the next frame, so that walks get deep. */
const planted = fc.array(
  fc.record({
    frame: fc.nat(FRAMES),
    slot: fc.nat(SLOTS - 1),
    level: fc.option(fc.nat(5), { freq: 4 }),
    sample: fc.nat(1000),
    target: fc.option(fc.nat(FRAMES + 5), { freq: 2 }),
    noise: fc.oneof(
      { weight: 4, arbitrary: fc.constant([]) },
      { weight: 2, arbitrary: fc.array(fc.nat(63), { maxLength: 2 }) },
      { weight: 1, arbitrary: fc.array(fc.nat(63), { maxLength: 40 }) },
    ),
  }),
  { minLength: 40, maxLength: 120, size: 'max' },
);
const inputs = fc.array(
  fc.record({
    slots: fc.array(fc.nat(SLOTS - 1), { minLength: 6, maxLength: 6 }),
    offset: fc.nat(0xffff),
    wild: fc.option(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { freq: 20 }),
    access: fc.constantFrom(...ACCESSES),
  }),
  { minLength: 10, maxLength: 40, size: 'max' },
);

function walksLikeTheOracle(format: Format): void {
  it('walks random and malformed tables as the oracle does, A/D bits included, in bounded work', () => {
    const tables = new RandomTables(format);
    const zeros = tables.ram.snapshot();
    const levels = format.rules.index.length;
    fc.assert(
      fc.property(planted, inputs, (entries, accesses) => {
        tables.ram.restore(zeros);
        for (const entry of entries) tables.plant(entry);
        for (const { slots, offset, wild, access } of accesses) {
          const input = wild ?? tables.input(slots, offset);
          const before = tables.ram.snapshot();
          const expected = oracleWalk(format.rules, tables.ram, tables.root, input, access);
          const after = tables.ram.snapshot();
          tables.ram.restore(before);
          tables.ram.reads = 0;
          expectSame(walked(tables.table, input, access), expected);
          // A walk may start over once, where what it met is not the usual case.
          if (tables.ram.reads > 2 * levels) expect(tables.ram.reads).toBeLessThanOrEqual(2 * levels);
          expectSame(Buffer.compare(tables.ram.snapshot(), after), 0);
        }
      }),
      { numRuns: RUNS },
    );
  });
}

/** Entries that point down from a frame to the next one, by level: what reads as a table, or the first leaf. */
function chain({ rules }: Format, tables: RandomTables): bigint[] {
  return rules.index.map((_, level) => {
    const samples = rules.samples(level, tables.address(rules.index.length - level));
    return samples.find((entry) => level > 0 && rules.read(level, entry, 0n).is === 'table') ?? samples[0];
  });
}

function readsEveryBit(format: Format): void {
  it.each([false, true])('reads each bit of each level as the oracle does (accessed and dirty before: %s)', (before) => {
    const { rules } = format;
    const tables = new RandomTables(format);
    const { ram, table, root } = tables;
    const levels = rules.index.length;
    const slot = 2;
    const input = tables.input(Array(levels).fill(slot), 0x678);
    const leaf = (level: number, entry: bigint) => rules.read(level, entry, input).is === 'leaf';
    const marked = (level: number, entry: bigint) => (before ? (rules.mark(level, entry, WRITE, leaf(level, entry)) ?? entry) : entry);
    const straight = chain(format, tables).map((entry, level) => marked(level, entry));
    const plantAll = (level: number, entry: bigint) => {
      for (const [at, usual] of straight.entries()) tables.plantEntry(levels - 1 - at, at, slot, at === level ? entry : usual);
    };
    const load = () =>
      straight.map((_, level) => ram.load(tables.entryAddress(levels - 1 - level, level, slot), rules.entryBytes, rules.bigEndian));
    for (let level = 0; level < levels; level++) {
      for (const sample of new Set(rules.samples(level, tables.address(levels - level)))) {
        for (let bit = -1; bit < rules.entryBytes * 8; bit++) {
          const entry = marked(level, sample) ^ (bit < 0 ? 0n : 1n << BigInt(bit));
          plantAll(level, entry);
          const page = Number(input >> 12n);
          compareRun(format, tables, enumerateAll(table, page, page), page);
          for (const access of [READ, WRITE, WRITE | PRIVILEGED, EXECUTE, WRITE | EXECUTE]) {
            plantAll(level, entry);
            const expected = { verdict: oracleWalk(rules, ram, root, input, access), entries: load() };
            plantAll(level, entry);
            const got = { verdict: walked(table, input, access), entries: load() };
            if (!isDeepStrictEqual(got, expected))
              expect({ level, bit, entry, access, ...got }).toEqual({ level, bit, entry, access, ...expected });
          }
        }
      }
    }
  });
}

function enumeratesWhatItWalks(format: Format): void {
  it('enumerates random tables as the sum of the oracle walks, in pieces of a bounded budget', () => {
    const tables = new RandomTables(format);
    const zeros = tables.ram.snapshot();
    fc.assert(
      fc.property(planted, inputs, fc.integer({ min: 8, max: 3000 }), (entries, accesses, budget) => {
        tables.ram.restore(zeros);
        for (const entry of entries) tables.plant(entry);
        const before = tables.ram.snapshot();
        for (const { slots, offset } of accesses.slice(0, 8)) {
          const pfn = Number(tables.input(slots, offset) >> 12n);
          const seen = resume(tables, pfn, Math.min(PFN_LIMIT - 1, pfn + 5000), budget);
          for (const probed of [pfn, pfn + 1, ...seen.flatMap(({ iova, pages }) => [iova - 1, iova, iova + pages - 1, iova + pages])]) {
            if (probed >= pfn && probed <= Math.min(PFN_LIMIT - 1, pfn + 5000)) compareRun(format, tables, seen, probed);
          }
        }
        // What only looks sets neither accessed nor dirty bits.
        expectSame(Buffer.compare(tables.ram.snapshot(), before), 0);
      }),
      { numRuns: RUNS },
    );
  });
}

/** Enumerates with a budget, again and again from where it stopped, 20 times at most. */
function resume({ table, ram }: RandomTables, first: number, last: number, budget: number): Mapped[] {
  const seen: Mapped[] = [];
  for (let from = first; from <= last; ) {
    ram.reads = 0;
    const piece: Mapped[] = [];
    const reached = table.enumerate(
      from,
      last,
      (iova, output, pages, permission) => {
        piece.push({ iova, output, pages, permission });
        return true;
      },
      budget,
    );
    if (ram.reads > budget || reached <= from) expect({ reads: ram.reads, reached }).toBe(`at most ${budget}, and beyond ${from}`);
    const model = new MappedModel();
    model.ranges = piece;
    expectSame(model.runs(from, reached - 1), piece);
    seen.push(...piece);
    from = reached;
  }
  return seen;
}

function compareRun(format: Format, { ram, root }: RandomTables, seen: Mapped[], pfn: number): void {
  const run = seen.find(({ iova, pages }) => pfn >= iova && pfn < iova + pages);
  const verdict = oracleWalk(format.rules, ram, root, addressOfPfn(pfn), null);
  if (run === undefined) {
    if (!('fault' in verdict)) expectSame(verdict.permission, 0);
  } else {
    expectReached(verdict, addressOfPfn(run.output + pfn - run.iova), run.permission);
  }
}
