import { describe, expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { ArmTable } from '../../../src/pagetable/arm.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { get } from '../../../src/target/fields.ts';
import type { Features } from '../../../src/target/smmuv3/capabilities.ts';
import { EVENT, FAULT_RAZ_WI, FAULT_STALLED } from '../../../src/target/smmuv3/index.ts';
import { CLASS, RECORD } from '../../../src/target/smmuv3/spec/events.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG } from '../../../src/target/smmuv3/spec/ste.ts';
import { BigEndianMemory } from '../../../src/target/smmuv3/translation/big-endian.ts';
import { CONTEXTS, cfgiSte, contextOf, Guest, PAGE_1, stage2Of, type Table, type TableOptions, tlbiAll } from './guest.ts';

const STREAM = 8;
const STAGE_1 = { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 };
const IOVA = 0x5000n;
const code = (number: number) => BigInt(targetFault('smmuv3', number));

function stage1(options: TableOptions = {}, cd: Record<string, number> = {}, ste: Record<string, number> = {}) {
  const guest = new Guest();
  const table = guest.table(options);
  guest.setContext(0, { ...contextOf(7, table), ...cd });
  guest.start().setStream(STREAM, { ...STAGE_1, ...ste });
  return { guest, table };
}

/** The last level's entry of a page of a 4K table. */
function entryOf(guest: Guest, { root, config }: Table, pfn: number): number {
  let table = root * 4096;
  for (let level = Math.ceil((config.inputBits - 12) / 9) - 1; level > 0; level--)
    table = Number(guest.load(table + 8 * (Math.floor(pfn / 512 ** level) % 512)) & 0xffff_ffff_f000n);
  return table + 8 * (pfn % 512);
}

describe('stage 1, both stages: events by stage and class, 7.3.12 to 7.3.16', () => {
  test('F_TRANSLATION, F_PERMISSION, F_ACCESS, F_ADDR_SIZE of stage 1: the address, read or write, privilege and instruction', () => {
    const { guest, table } = stage1({ outputBits: 32 });
    table.table.map(5, 0x80, 1, READ);
    expect(guest.access(STREAM, 0x6123n, WRITE)).toBe(code(EVENT.F_TRANSLATION));
    expect(guest.access(STREAM, IOVA, WRITE)).toBe(code(EVENT.F_PERMISSION));
    const at = entryOf(guest, table, 5);
    guest.store(at, guest.load(at) & ~(1n << 10n));
    expect(guest.access(STREAM, IOVA, EXECUTE | PRIVILEGED)).toBe(code(EVENT.F_ACCESS));
    guest.store(at, guest.load(at) | (1n << 10n) | (1n << 40n));
    expect(guest.access(STREAM, IOVA, READ)).toBe(code(EVENT.F_ADDR_SIZE));
    const told = guest
      .events()
      .map((words) => [RECORD.NUMBER, RECORD.RNW, RECORD.PNU, RECORD.IND, RECORD.S2, RECORD.CLASS].map((field) => get(words, field)));
    expect(told).toEqual([
      [EVENT.F_TRANSLATION, 0, 0, 0, 0, CLASS.IN],
      [EVENT.F_PERMISSION, 0, 0, 0, 0, CLASS.IN],
      [EVENT.F_ACCESS, 1, 1, 1, 0, CLASS.IN],
      [EVENT.F_ADDR_SIZE, 1, 0, 0, 0, CLASS.IN],
    ]);
  });

  function nested() {
    const guest = new Guest();
    const first = guest.table();
    const second = guest.table({ stage: 2, inputBits: 32 });
    second.table.map(0, 0, 512, 7);
    first.table.map(5, 0x1000, 1, READ_WRITE);
    guest.setContext(0, contextOf(7, first));
    guest.start().setStream(STREAM, { ...STAGE_1, ...stage2Of(3, second), CONFIG: CONFIG.nested });
    return { guest, first, second };
  }

  test('stage 2 of the output: S2, CLASS IN, the IPA', () => {
    const { guest, second } = nested();
    expect(guest.access(STREAM, 0x5123n, READ)).toBe(code(EVENT.F_TRANSLATION));
    expect([...guest.events()[0]]).toEqual([
      EVENT.F_TRANSLATION,
      STREAM,
      0,
      (1 << 7) | (CLASS.IN << 8) | (1 << 3),
      0x5123,
      0,
      0x100_0000,
      0,
    ]);
    second.table.map(0x1000, 0x90, 1, READ_WRITE);
    expect(guest.access(STREAM, 0x5123n, READ)).toBe(0x9_0123n);
  });

  test('stage 2 of a stage 1 table: S2, CLASS TT, its address; F_PERMISSION says that it was to be read', () => {
    const { guest, first, second } = nested();
    second.table.unmap(first.root, 1);
    guest.access(STREAM, 0x5123n, WRITE);
    second.table.map(first.root, first.root, 1, WRITE);
    guest.access(STREAM, 0x5123n, WRITE);
    const told = guest
      .events()
      .map((words) => [RECORD.NUMBER, RECORD.S2, RECORD.CLASS, RECORD.TTRNW].map((field) => get(words, field)).concat(words[6]));
    expect(told).toEqual([
      [EVENT.F_TRANSLATION, 1, CLASS.TT, 0, first.root * 4096],
      [EVENT.F_PERMISSION, 1, CLASS.TT, 1, first.root * 4096],
    ]);
  });

  test('stage 2 of the descriptor: S2, CLASS CD', () => {
    const { guest, second } = nested();
    second.table.unmap(CONTEXTS / 4096, 1);
    guest.access(STREAM, 0x5123n, READ);
    const [words] = guest.events();
    expect([get(words, RECORD.NUMBER), get(words, RECORD.S2), get(words, RECORD.CLASS), words[6]]).toEqual([
      EVENT.F_TRANSLATION,
      1,
      CLASS.CD,
      CONTEXTS,
    ]);
  });

  test('F_WALK_EABT: CLASS TT, the address of the descriptor', () => {
    const { guest, table } = stage1();
    guest.store(table.root * 4096, 0x4000_0003n);
    expect(guest.access(STREAM, IOVA, READ)).toBe(code(EVENT.F_WALK_EABT));
    expect([...guest.events()[0]]).toEqual([EVENT.F_WALK_EABT, STREAM, 0, (CLASS.TT << 8) | (1 << 3), 0x5000, 0, 0x4000_0000, 0]);
  });

  test.each([
    ['the first table', 0, 0x4000_0003n],
    ['the second', 1, 0x4000_0003n],
  ])('F_WALK_EABT of stage 2: S2, CLASS IN, the address of the descriptor: %s leads out of memory', (_, level, entry) => {
    const guest = new Guest();
    const table = guest.table({ stage: 2, inputBits: 39 });
    table.table.map(5, 0x80, 1, READ);
    let at = table.root * 4096;
    for (let i = 0; i < level; i++) at = Number(guest.load(at) & 0xffff_ffff_f000n);
    guest.store(at, entry);
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage2, ...stage2Of(3, table) });
    expect(guest.access(STREAM, 0x5008n, WRITE)).toBe(code(EVENT.F_WALK_EABT));
    const fetched = 0x4000_0000 + (level === 0 ? 0 : 5 * 8);
    expect([...guest.events()[0]]).toEqual([EVENT.F_WALK_EABT, STREAM, 0, (1 << 7) | (CLASS.IN << 8), 0x5008, 0, fetched, 0]);
  });

  test('S2S: a fault of stage 2 stalls, whatever S2R says; one of stage 1 does as the descriptor says', () => {
    const { guest, second } = nested();
    guest.setStream(STREAM, { ...STAGE_1, ...stage2Of(3, second), CONFIG: CONFIG.nested, S2S: 1, S2R: 0 });
    expect([guest.access(STREAM, IOVA, READ), guest.smmu.stag]).toEqual([BigInt(FAULT_STALLED), 0]);
    expect(guest.access(STREAM, 0x7000n, READ)).toBe(code(EVENT.F_TRANSLATION));
    const told = guest.events().map((words) => [RECORD.S2, RECORD.STALL].map((field) => get(words, field)));
    expect(told).toEqual([
      [1, 1],
      [0, 0],
    ]);
  });

  test('S2R = 0, CD.R = 0: no record; CD.A = 0: RAZ/WI', () => {
    const { guest, first, second } = nested();
    guest.setStream(STREAM, { ...STAGE_1, ...stage2Of(3, second), CONFIG: CONFIG.nested, S2R: 0 });
    expect(guest.access(STREAM, IOVA, READ)).toBe(code(EVENT.F_TRANSLATION));
    guest.setContext(0, { ...contextOf(7, first), R: 0, A: 0 });
    guest.command(cfgiSte(STREAM));
    expect(guest.access(STREAM, 0x7000n, READ)).toBe(BigInt(FAULT_RAZ_WI));
    expect(guest.numbers()).toEqual([]);
  });
});

test('TBI1 alone: the top byte of lower addresses counts, whatever is cached (3.4.1)', () => {
  const guest = new Guest();
  const [lower, upper] = [guest.table(), guest.table({ upper: true })];
  lower.table.map(5, 0x80, 1, READ);
  upper.table.map(2 ** 52 - 8, 0x90, 1, READ);
  guest.setContext(0, { ...contextOf(7, lower, upper), TBI1: 1 });
  guest.start().setStream(STREAM, { ...STAGE_1 });
  expect(guest.access(STREAM, 0x5000n, READ)).toBe(0x8_0000n);
  expect(guest.access(STREAM, 0x0100_0000_0000_5000n, READ)).toBe(code(EVENT.F_TRANSLATION));
  expect(guest.access(STREAM, 0xffff_ffff_ffff_8000n, READ)).toBe(0x9_0000n);
  expect(guest.access(STREAM, 0x00ff_ffff_ffff_8000n, READ)).toBe(0x9_0000n);
});

test('C_BAD_SUBSTREAMID has the substream, and no SSV, which it would always have (7.3.9)', () => {
  const { guest } = stage1();
  expect(guest.access(STREAM, 0x5000n, READ, 3)).toBe(code(EVENT.C_BAD_SUBSTREAMID));
  const [words] = guest.events();
  expect([RECORD.NUMBER, RECORD.SSV, RECORD.SUBSTREAM].map((field) => get(words, field))).toEqual([EVENT.C_BAD_SUBSTREAMID, 0, 3]);
});

test('S2HA and S2HD: a page that was read before is marked dirty by its first write (5.2, 3.13)', () => {
  const guest = new Guest();
  const second = guest.table({ stage: 2, inputBits: 39, startLevel: 1 });
  second.table.map(5, 0x80, 1, READ);
  guest.start().setStream(STREAM, { CONFIG: CONFIG.stage2, ...stage2Of(3, second), S2HA: 1, S2HD: 1 });
  const at = Array.from({ length: 240 * 512 }, (_, i) => 0x1_0000 + 8 * i).find(
    (entry) => (guest.load(entry) & 0xffff_f003n) === 0x8_0003n,
  )!;
  // DBM; S2AP[1], bit 7, says that it is dirty.
  guest.store(at, guest.load(at) | (1n << 51n));
  expect([guest.access(STREAM, 0x5000n, READ), guest.load(at) & 0x80n]).toEqual([0x8_0000n, 0n]);
  expect([guest.access(STREAM, 0x5000n, WRITE), guest.load(at) & 0x80n]).toEqual([0x8_0000n, 0x80n]);
});

describe('what a descriptor says of addresses and permissions, 5.4', () => {
  test('HAD0, HAD1: APTable of the table descriptors of one half does not count', () => {
    const answers = (cd: Record<string, number>) => {
      const { guest, table } = stage1({}, cd);
      table.table.map(5, 0x80, 1, 3);
      // APTable[1], bit 62: nothing below may be written.
      guest.store(table.root * 4096, guest.load(table.root * 4096) | (1n << 62n));
      return [READ, WRITE].map((access) => guest.access(STREAM, 0x5000n, access));
    };
    const refused = code(EVENT.F_PERMISSION);
    expect(answers({})).toEqual([0x8_0000n, refused]);
    expect(answers({ HAD0: 1 })).toEqual([0x8_0000n, 0x8_0000n]);
    expect(answers({ HAD1: 1 })).toEqual([0x8_0000n, refused]);
  });

  test('TTB0 and TTB1 by bit 55; TBI; EPD', () => {
    const guest = new Guest();
    const lower = guest.table();
    const upper = guest.table({ upper: true });
    lower.table.map(5, 0x80, 1, READ_WRITE);
    upper.table.map(2 ** 52 - 2, 0x90, 1, READ_WRITE);
    guest.setContext(0, { ...contextOf(7, lower, upper), TBI0: 1 });
    guest.start().setStream(STREAM, STAGE_1);
    expect(guest.access(STREAM, IOVA, READ)).toBe(0x8_0000n);
    expect(guest.access(STREAM, 0x1234_0000_0000_5008n & ~(0xffn << 48n), READ)).toBe(0x8_0008n);
    expect(guest.access(STREAM, 0xffff_ffff_ffff_e010n, READ)).toBe(0x9_0010n);
    expect(guest.access(STREAM, 0x12ff_ffff_ffff_e010n, READ)).toBe(code(EVENT.F_TRANSLATION));
    // What is cached with one top byte goes with the address of another.
    lower.table.unmap(5, 1);
    guest.command([0x12n | (7n << 48n), 0x5000n]);
    expect(guest.access(STREAM, 0x1200_0000_0000_5000n, READ)).toBe(code(EVENT.F_TRANSLATION));
    guest.setContext(0, { ...contextOf(7, lower, upper), EPD1: 1 });
    guest.command(cfgiSte(STREAM), tlbiAll());
    expect(guest.access(STREAM, 0xffff_ffff_ffff_e010n, READ)).toBe(code(EVENT.F_TRANSLATION));
  });

  test('WXN, PAN, E0PD; PRIVCFG and INSTCFG', () => {
    const { guest, table } = stage1();
    table.table.map(5, 0x80, 1, READ_WRITE | EXECUTE);
    const with_ = (cd: Record<string, number>, ste: Record<string, number> = {}) => {
      guest.setContext(0, { ...contextOf(7, table), ...cd });
      guest.setStream(STREAM, { ...STAGE_1, ...ste });
      guest.command(cfgiSte(STREAM), tlbiAll());
      return [READ, WRITE, EXECUTE, READ | PRIVILEGED, EXECUTE | PRIVILEGED].map(
        (access) => guest.access(STREAM, IOVA, access) === 0x8_0000n,
      );
    };
    // What the unprivileged write, the privileged do not execute.
    expect(with_({})).toEqual([true, true, true, true, false]);
    expect(with_({ WXN: 1 })).toEqual([true, true, false, true, false]);
    expect(with_({ PAN: 1 })).toEqual([true, true, true, false, false]);
    expect(with_({ E0PD0: 1 })).toEqual([false, false, false, true, false]);
    expect(with_({}, { PRIVCFG: 3 })).toEqual([true, true, false, true, false]);
    expect(with_({}, { PRIVCFG: 2 })).toEqual([true, true, true, true, true]);
    expect(with_({}, { PRIVCFG: 3, INSTCFG: 3 })).toEqual([false, true, false, false, false]);
    expect(with_({}, { PRIVCFG: 3, INSTCFG: 2 })).toEqual([true, true, true, true, true]);
  });

  test('E0PD1 keeps the unprivileged off the upper table alone (5.4)', () => {
    const guest = new Guest();
    const [lower, upper] = [guest.table(), guest.table({ upper: true })];
    lower.table.map(5, 0x80, 1, READ);
    upper.table.map(2 ** 52 - 2, 0x90, 1, READ);
    guest.setContext(0, { ...contextOf(7, lower, upper), E0PD1: 1 });
    guest.start().setStream(STREAM, STAGE_1);
    const high = 0xffff_ffff_ffff_e000n;
    expect([guest.access(STREAM, high, READ), guest.access(STREAM, high, READ | PRIVILEGED), guest.access(STREAM, IOVA, READ)]).toEqual([
      code(EVENT.F_TRANSLATION),
      0x9_0000n,
      0x8_0000n,
    ]);
  });

  test('EPAN: what the unprivileged may only execute is kept from the privileged too (5.4)', () => {
    const reads = (cd: Record<string, number>, features: Partial<Features> = { EPAN: 1 }) => {
      const guest = new Guest({ features });
      const table = guest.table();
      table.table.map(5, 0x80, 1, READ_WRITE | EXECUTE);
      // AP[1] 0: data is the privileged's alone.
      const at = entryOf(guest, table, 5);
      guest.store(at, guest.load(at) & ~(1n << 6n));
      guest.setContext(0, { ...contextOf(7, table), ...cd });
      guest.start().setStream(STREAM, STAGE_1);
      return [READ | PRIVILEGED, READ, EXECUTE].map((access) => guest.access(STREAM, IOVA, access) === 0x8_0000n);
    };
    expect(reads({ PAN: 1 })).toEqual([true, false, true]);
    expect(reads({ PAN: 1, EPAN: 1 })).toEqual([false, false, true]);
    expect(reads({ EPAN: 1 })).toEqual([true, false, true]);
    expect(reads({ PAN: 1, EPAN: 1 }, {}), 'IDR3.EPAN 0, the default: ignored').toEqual([true, false, true]);
  });

  test('HTTU: HA sets AF; HD marks a page dirty with the first write, cached or not', () => {
    const { guest, table } = stage1({}, { HA: 1, HD: 1 });
    table.table.map(5, 0x80, 1, READ);
    const at = entryOf(guest, table, 5);
    guest.store(at, (guest.load(at) & ~(1n << 10n)) | (1n << 51n));
    expect(guest.access(STREAM, IOVA, READ)).toBe(0x8_0000n);
    expect((guest.load(at) >> 7n) & 9n).toBe(9n);
    expect(guest.access(STREAM, IOVA, WRITE)).toBe(0x8_0000n);
    expect((guest.load(at) >> 7n) & 9n).toBe(8n);
  });

  test('EL2: one privilege, no second table, no ASID; EL2-E2H has its own', () => {
    const { guest, table } = stage1({}, { EPD1: 0, EPD0: 1 }, { STRW: 2 });
    table.table.map(5, 0x80, 1, READ_WRITE | EXECUTE);
    expect(guest.access(STREAM, IOVA, EXECUTE | PRIVILEGED)).toBe(0x8_0000n);
    table.table.unmap(5, 1);
    guest.command([0x30n, 0n]);
    guest.command([0x12n | (7n << 48n), 0x5000n]);
    guest.command([0x22n | (7n << 48n), 0x5000n]);
    expect(guest.access(STREAM, IOVA, EXECUTE | PRIVILEGED)).toBe(code(EVENT.F_TRANSLATION));
    expect(guest.access(STREAM, 0xffff_ffff_ffff_e010n, READ)).toBe(code(EVENT.F_TRANSLATION));
  });

  test('big-endian tables, of either stage', () => {
    const guest = new Guest();
    const big = (stage: 1 | 2) => {
      const made = guest.table({ stage, inputBits: 32 });
      return { ...made, table: new ArmTable(new BigEndianMemory(guest.memory), { ...made.config, allocator: guest.pool }) };
    };
    const [first, second] = [big(1), big(2)];
    first.table.map(5, 0x20_0000 / 4096, 1, READ_WRITE);
    second.table.map(0, 0, 512, 7);
    second.table.map(0x200, 0x91, 1, READ_WRITE);
    guest.setContext(0, { ...contextOf(7, first), ENDI: 1, HA: 1 });
    guest.start().setStream(STREAM, { ...STAGE_1, ...stage2Of(3, second), CONFIG: CONFIG.nested, S2ENDI: 1 });
    expect(guest.access(STREAM, 0x5008n, READ)).toBe(0x9_1008n);
  });

  test('big-endian tables: HTTU changes the entry as it lies in memory', () => {
    const { guest, table } = stage1({}, { ENDI: 1, HA: 1, HD: 1 });
    const big = new ArmTable(new BigEndianMemory(guest.memory), { ...table.config, allocator: guest.pool });
    big.map(5, 0x80, 1, READ);
    const swapped = (word: bigint) => BigInt(`0x${word.toString(16).padStart(16, '0').match(/../g)!.reverse().join('')}`);
    let at = table.root * 4096;
    for (let level = 0; level < 2; level++) at = Number(swapped(guest.load(at)) & 0xffff_ffff_f000n);
    at += 5 * 8;
    const clean = (swapped(guest.load(at)) & ~(1n << 10n)) | (1n << 51n);
    guest.store(at, swapped(clean));
    expect(guest.access(STREAM, IOVA, READ)).toBe(0x8_0000n);
    expect(swapped(guest.load(at))).toBe(clean | (1n << 10n));
    expect(guest.access(STREAM, IOVA, WRITE)).toBe(0x8_0000n);
    expect(swapped(guest.load(at))).toBe((clean | (1n << 10n)) & ~(1n << 7n));
  });

  test.each([
    ['4K with DS', 12, 1],
    ['16K with DS', 14, 1],
    ['64K', 16, 0],
  ] as const)('52-bit input and output: %s', (_, granuleLg2, ds) => {
    const { guest, table } = stage1({ granuleLg2, inputBits: 52, outputBits: 52, wide: true }, { DS: ds });
    const pages = 2 ** (granuleLg2 - 12);
    table.table.map(2 ** 40 - pages, 2 ** 39, pages, READ_WRITE);
    expect(guest.access(STREAM, 2n ** 52n - 2n ** BigInt(granuleLg2) + 8n, WRITE)).toBe(2n ** 51n + 8n);
  });

  test('the table of a 4K granule with 52 bits begins at level -1 in stage 2', () => {
    const guest = new Guest();
    const table = guest.table({ stage: 2, inputBits: 52, outputBits: 52, wide: true, startLevel: -1 });
    table.table.map(2 ** 40 - 1, 0x80, 1, READ_WRITE);
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage2, ...stage2Of(1, table), S2DS: 1 });
    expect(guest.access(STREAM, 2n ** 52n - 8n, READ)).toBe(0x8_0ff8n);
  });
});

describe('stalls, 3.12.2', () => {
  function stalling(options = {}) {
    const guest = new Guest(options);
    const table = guest.table();
    guest.setContext(0, { ...contextOf(7, table), S: 1, R: 0 });
    guest.start().setStream(STREAM, STAGE_1);
    return { guest, table };
  }
  const resume = (stag: number, flags: bigint, stream = STREAM): readonly [bigint, bigint] => [
    0x44n | flags | (BigInt(stream) << 32n),
    BigInt(stag),
  ];

  test('the event has Stall and a tag; CMD_RESUME retries, aborts or ignores; another stream’s tag has no effect', () => {
    const { guest } = stalling();
    const tags = [0x5000n, 0x6000n, 0x7000n].map((iova) => {
      expect(guest.access(STREAM, iova, READ)).toBe(BigInt(FAULT_STALLED));
      return guest.smmu.stag;
    });
    expect(guest.events().map((words) => [get(words, RECORD.STALL), get(words, RECORD.STAG)])).toEqual(tags.map((stag) => [1, stag]));
    guest.command(
      resume(tags[0], 1n << 13n, STREAM + 1),
      resume(tags[0], 1n << 12n),
      resume(tags[1], 1n << 13n),
      resume(tags[2], 0n),
      resume(tags[2], 0n),
    );
    expect(guest.ended).toEqual([
      { stream: STREAM, stag: tags[0], action: 'retry' },
      { stream: STREAM, stag: tags[1], action: 'abort' },
      { stream: STREAM, stag: tags[2], action: 'raz-wi' },
    ]);
  });

  test('the same reason again: no second event; it comes again when the first is resumed, however (3.12.2.1)', () => {
    const { guest } = stalling();
    for (const [iova, access] of [[0x5000n, READ] as const, [0x5008n, READ] as const, [0x5008n, WRITE] as const])
      expect(guest.access(STREAM, iova, access)).toBe(BigInt(FAULT_STALLED));
    expect(guest.events().map((words) => [get(words, RECORD.RNW), get(words, RECORD.STAG)])).toEqual([
      [1, 0],
      [0, 1],
    ]);
    // The guest has taken events: it may come again, and stalls as before.
    expect([guest.ended, guest.untagged]).toEqual([[], ['retry']]);
    guest.access(STREAM, 0x5008n, READ);
    guest.command(resume(0, 1n << 13n));
    expect([guest.ended, guest.untagged]).toEqual([[{ stream: STREAM, stag: 0, action: 'abort' }], ['retry', 'retry']]);
    // It has an event of its own then.
    guest.access(STREAM, 0x5008n, READ);
    expect([guest.smmu.stag, guest.events().length]).toEqual([2, 1]);
  });

  test('SMMUEN = 0 terminates those without a tag too (6.3.9.6)', () => {
    const { guest } = stalling({ features: { STALL_MAX: 1 } });
    for (const iova of [0x5000n, 0x6000n]) guest.access(STREAM, iova, READ);
    guest.write(REG.CR0, 0b1100);
    expect([guest.ended, guest.untagged]).toEqual([[{ stream: STREAM, stag: 0, action: 'abort' }], ['abort']]);
  });

  test('CMD_STALL_TERM ends a stream’s, SMMUEN = 0 all', () => {
    const { guest } = stalling();
    guest.access(STREAM, IOVA, READ);
    guest.command([0x45n | (BigInt(STREAM + 1) << 32n), 0n]);
    expect(guest.ended).toEqual([]);
    guest.command([0x45n | (BigInt(STREAM) << 32n), 0n]);
    guest.access(STREAM, IOVA, READ);
    guest.write(REG.CR0, 0b1100);
    expect(guest.ended).toMatchObject([{ action: 'abort' }, { action: 'abort' }]);
  });

  test('STALL_MAX, and a queue that is full: what cannot be told waits, and is retried when there is room', () => {
    const { guest } = stalling({ features: { STALL_MAX: 2 } });
    for (const iova of [0x5000n, 0x6000n, 0x7000n]) guest.access(STREAM, iova, READ);
    expect([guest.smmu.stag, guest.untagged, guest.events().length]).toEqual([-1, [], 2]);
    guest.command(resume(0, 1n << 12n));
    expect(guest.untagged).toEqual(['retry']);
    const full = stalling().guest;
    for (let i = 0; i < 256; i++) full.access(99, 0n, READ);
    full.access(STREAM, IOVA, READ);
    expect([full.smmu.stag, full.read(PAGE_1 + REG.EVENTQ_PROD) >>> 31]).toEqual([-1, 0]);
    full.events();
    expect(full.untagged).toEqual(['retry']);
  });

  test('saved and loaded: tags go on', () => {
    const { guest } = stalling();
    guest.access(STREAM, IOVA, READ);
    const state = structuredClone(guest.smmu.save());
    guest.smmu.reset();
    guest.smmu.load(state);
    guest.command(resume(0, 1n << 12n));
    expect(guest.ended).toEqual([{ stream: STREAM, stag: 0, action: 'retry' }]);
  });

  test('saved and loaded: what waits for a tag is retried when there is one', () => {
    const { guest } = stalling({ features: { STALL_MAX: 1 } });
    for (const iova of [0x5000n, 0x6000n]) guest.access(STREAM, iova, READ);
    const state = structuredClone(guest.smmu.save());
    guest.smmu.reset();
    guest.untagged.length = 0;
    guest.smmu.load(state);
    guest.command(resume(0, 1n << 12n));
    expect([guest.ended.length, guest.untagged]).toEqual([1, ['retry']]);
  });
});
