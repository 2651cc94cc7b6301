import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { Smmuv3Options } from '../../../src/target/smmuv3/index.ts';
import { OPCODE } from '../../../src/target/smmuv3/spec/commands.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG, S1FMT } from '../../../src/target/smmuv3/spec/ste.ts';
import { reaching } from '../../reaching.ts';
import { COMMANDS, CONTEXTS, cfgiAll, contextOf, Guest, RAM_PAGES, STREAM_TABLE, stage2Of, sync, tlbiAll } from './guest.ts';

/* What one operation of the guest, or one access of a device, reads at most (docs/targets/smmuv3.md, "Bounds"), by counting. */

class CountedRam extends GuestMemory {
  loads = 0;
  override load64(hi: number, lo: number): number {
    this.loads++;
    return super.load64(hi, lo);
  }
  override loadRun64(hi: number, lo: number, to: BigUint64Array, count: number): number {
    this.loads += count;
    return super.loadRun64(hi, lo, to, count);
  }
  override load64BE(hi: number, lo: number): number {
    this.loads++;
    return super.load64BE(hi, lo);
  }
}

const STREAM = 8;
const BUDGET = 1 << 19;
/** Of one access of a device, everything on its way included. */
const ACCESS_LOADS = 256;

function machine(options: Partial<Smmuv3Options> = {}) {
  const memory = new CountedRam([{ gpa: 0n, buffer: new SharedArrayBuffer(RAM_PAGES * 4096) }]);
  const guest = new Guest(options, memory);
  const loadsOf = (operation: () => unknown) => {
    const before = memory.loads;
    operation();
    return memory.loads - before;
  };
  return { guest, memory, loadsOf };
}

describe('translations', () => {
  test('stage 1: entry and descriptor of 8 doublewords each, 3 levels; then nothing', () => {
    const { guest, loadsOf } = machine();
    const table = guest.table();
    table.table.map(5, 0x80, 1, READ_WRITE);
    guest.setContext(0, contextOf(7, table));
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 });
    const translate = () => expect(guest.access(STREAM, 0x5000n, WRITE)).toBe(0x8_0000n);
    expect(loadsOf(translate)).toBe(8 + 8 + 3);
    expect(loadsOf(translate)).toBe(0);
  });

  test('both stages of 4 levels: every doubleword of the descriptor and every entry behind stage 2', () => {
    const { guest, loadsOf } = machine();
    const first = guest.table({ inputBits: 48 });
    const second = guest.table({ stage: 2, inputBits: 44, startLevel: 0 });
    for (let page = 0; page < RAM_PAGES; page++) second.table.map(page, page, 1, READ_WRITE);
    first.table.map(5, 0x80, 1, READ_WRITE);
    guest.setContext(0, contextOf(7, first));
    guest.start().setStream(STREAM, { ...stage2Of(3, second), CONFIG: CONFIG.nested, S1CONTEXT_PTR: CONTEXTS / 64, S1CDMAX: 0, S1DSS: 0 });
    const translate = () => expect(guest.access(STREAM, 0x5000n, WRITE)).toBe(0x8_0000n);
    expect(loadsOf(translate)).toBe(8 + 8 * 5 + 4 * 5 + 4);
    expect(loadsOf(translate)).toBe(0);
  });
});

test('16,384 routes are remembered; with one more all are forgotten', () => {
  const { guest, loadsOf } = machine();
  const table = guest.table();
  table.table.map(5, 0x80, 1, READ_WRITE);
  // Each first-level descriptor leads to the same 64.
  const [pointers, leaf] = [guest.pool.allocate(1), guest.pool.allocate(1)];
  for (let i = 0; i < 512; i++) guest.store(pointers * 4096 + 8 * i, BigInt(leaf * 4096) | 1n);
  for (let i = 0; i < 64; i++) guest.setContext(i, contextOf(7, table), leaf * 4096);
  guest.start().setStream(STREAM, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: pointers * 64, S1FMT: S1FMT.leaves4K, S1CDMAX: 15 });
  const loads = (substream: number) => loadsOf(() => guest.access(STREAM, 0x5000n, WRITE, substream));
  expect(loads(0)).toBe(8 + 1 + 8 + 3);
  let most = 0;
  for (let substream = 1; substream < 2 ** 14; substream++) most = Math.max(most, loads(substream));
  expect([most, loads(0)]).toEqual([1 + 8, 0]);
  expect([loads(2 ** 14), loads(0)]).toEqual([1 + 8, 1 + 8]);
});

describe('commands', () => {
  test.each([
    ['each that is read ahead once', OPCODE.TLBI_NH_VA, 1],
    ['each other one thrice, but the last, after which there is nothing to read ahead', OPCODE.TLBI_NH_ALL, 3],
  ])('the longest queue is what one access carries out: it fetches %s', (_, opcode, times) => {
    const { guest, loadsOf } = machine();
    const lg2 = 14;
    const base = 0x10_0000;
    for (let i = 0; i < 2 ** lg2; i++) guest.storeWords(base + 16 * i, [opcode, 0, 0x5000, 0]);
    // IDR1.CMDQS caps what is written.
    guest.write64(REG.CMDQ_BASE, BigInt(base | 19));
    guest.write(REG.CMDQ_PROD, 1 << lg2);
    expect(loadsOf(() => guest.write(REG.CR0, 8))).toBe(2 * (times * 2 ** lg2 - (times === 1 ? 0 : 1)));
    expect(guest.read(REG.CMDQ_CONS)).toBe(1 << lg2);
  });

  test('tables that are met over and over, and invalidations of everything: an access ends, and the rest follows by itself', () => {
    const later: (() => void)[] = [];
    const { guest, loadsOf } = machine({ schedule: (work) => void later.push(work) });
    const { config, root, table } = guest.table({ inputBits: 48 });
    // Four tables: 4 × 512 × 512 pages, two budgets.
    const [upper, middle, lower] = [1, 2, 3].map(() => guest.pool.allocate(1));
    const fill = (page: number, entries: number, to: number) => {
      for (let i = 0; i < entries; i++) guest.store(page * 4096 + 8 * i, BigInt(to * 4096) | 0x403n);
    };
    fill(root, 1, upper);
    fill(upper, 4, middle);
    fill(middle, 512, lower);
    fill(lower, 512, lower);
    guest.setContext(0, contextOf(7, { config, root, table }));
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 });
    guest.smmu.addEndpoint(STREAM);
    let changes: (() => void)[] = [];
    let reads = true;
    guest.smmu.observe({
      attach: () => 0,
      changed: (space, first, last) => void changes.push(() => void space.enumerate(first, last, () => true)),
      flush: () => {
        if (reads) for (const change of changes) change();
        changes = [];
        return 0;
      },
    });
    const commands = Array.from({ length: 3 }, () => [cfgiAll(), tlbiAll(), sync()]).flat();
    const loads = loadsOf(() => guest.command(...commands));
    // What was announced before the bound was reached is read to its end.
    expect(loads).toBeGreaterThan(BUDGET);
    expect(loads).toBeLessThanOrEqual(4 * BUDGET);
    reads = false;
    while (later.length > 0) later.shift()!();
    expect(guest.read(REG.CMDQ_CONS)).toBe(commands.length);
  });
});

/** Numbers that lead somewhere: into RAM, to the structures and tables themselves above all; with the bits of a descriptor. */
const pointer = fc.oneof(
  fc.integer({ min: 0x10, max: 0x30 }).map((page) => BigInt(page) << 12n),
  fc.constantFrom(BigInt(STREAM_TABLE), BigInt(COMMANDS), BigInt(CONTEXTS), 0n, 1n << 40n, 0xf_ffff_ffff_f000n),
);
const descriptor = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(pointer, fc.constantFrom(3n, 0x403n, 0x4c3n, 0x8_0000_0000_04c3n, 1n)).map(([at, low]) => at | low) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
);
/** Of the first entries of a page among those that hold tables, or of a descriptor. */
const spoilt = fc.tuple(
  fc.oneof(
    fc.tuple(fc.integer({ min: 0x10, max: 0x1c }), fc.nat(7)).map(([page, entry]) => page * 4096 + 8 * entry),
    fc.nat(31).map((i) => CONTEXTS + 8 * i),
  ),
  descriptor,
);

const reached = reaching(
  'SMMUv3: counted',
  'a translation',
  'a fault',
  'a translation request that is granted something',
  'more than 60 loads',
);
property.prop(
  [
    fc.array(spoilt, { maxLength: 6 }),
    fc.array(fc.tuple(fc.nat(7), fc.nat(15), fc.integer({ min: -1, max: 3 })), { minLength: 8, maxLength: 8 }),
  ],
  {
    numRuns: 25,
  },
)('wherever structures and tables lead: an access reads at most 256 doublewords', (stores, accesses) => {
  const { guest, loadsOf } = machine();
  reached();
  const first = guest.table({ inputBits: 48 });
  const second = guest.table({ stage: 2, inputBits: 44, startLevel: 0 });
  for (let page = 0; page < RAM_PAGES; page++) second.table.map(page, page, 1, 7);
  first.table.map(0, 0x80, 8, READ_WRITE);
  // Two levels of descriptors, which have substreams 0 to 3; those that are odd restrict the privileged.
  guest.store(CONTEXTS, BigInt(CONTEXTS + 0x1000) | 1n);
  for (let index = 0; index < 4; index++)
    guest.setContext(index, { ...contextOf(7 + index, first), HA: 1, HD: 1, PAN: index % 2 }, CONTEXTS + 0x1000);
  guest.start(0b1_1111).setStream(STREAM, {
    ...stage2Of(3, second),
    CONFIG: CONFIG.nested,
    S1CONTEXT_PTR: CONTEXTS / 64,
    S1FMT: 1,
    S1CDMAX: 2,
    S1DSS: 1,
    S2HA: 1,
    S2HD: 1,
    EATS: 1,
  });
  for (const [at, value] of stores) guest.store(at, value);
  for (const [page, access, substream] of accesses) {
    const iova = BigInt(page) << 12n;
    const loads = loadsOf(() => reached(guest.access(STREAM, iova, access, substream) >= 0n ? 'a translation' : 'a fault'));
    expect(loads).toBeLessThanOrEqual(ACCESS_LOADS);
    if (loads > 60) reached('more than 60 loads');
    // A request walks up to four times: what stage 1 grants, what both do, the page made dirty, and the answer.
    const asked = loadsOf(() => {
      const answer = guest.smmu.translationRequest(STREAM, substream, iova, access);
      if (answer.status === 'success' && answer.permission !== 0) reached('a translation request that is granted something');
    });
    expect(asked).toBeLessThanOrEqual(4 * ACCESS_LOADS);
    guest.write64(REG.GATOS_SID, BigInt(STREAM) | (substream < 0 ? 0n : (BigInt(substream) << 32n) | (1n << 52n)));
    guest.write64(REG.GATOS_ADDR, iova | 0xd00n);
    expect(loadsOf(() => guest.write(REG.GATOS_CTRL, 1))).toBeLessThanOrEqual(ACCESS_LOADS);
  }
});
