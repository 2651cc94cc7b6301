import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { featuresOf } from '../../../src/target/smmuv3/capabilities.ts';
import { EVENT, FAULT_ABORT, type Features, Smmuv3 } from '../../../src/target/smmuv3/index.ts';
import { CD } from '../../../src/target/smmuv3/spec/cd.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG, L1STD, STE } from '../../../src/target/smmuv3/spec/ste.ts';
import { Context } from '../../../src/target/smmuv3/translation/context.ts';
import { CD_RULES } from '../../../src/target/smmuv3/translation/context-checks.ts';
import { STE_RULES, StreamEntry } from '../../../src/target/smmuv3/translation/stream-entry.ts';
import { CONTEXTS, cfgiAll, cfgiSte, contextOf, Guest, STREAM_TABLE, stage2Of, structure, sync } from './guest.ts';

const STREAM = 8;
const IOVA = 0x5000n;
const bad = (number: number) => BigInt(targetFault('smmuv3', number));

type Values = Record<string, number>;
interface Case {
  readonly rule: string;
  readonly fields: Values;
  readonly features?: Partial<Features>;
  /** The same where it is legal. */
  readonly legal: Values;
}

const STAGE_2 = { CONFIG: CONFIG.stage2, S2T0SZ: 25, S2SL0: 1, S2AA64: 1, S2PS: 5, S2TTB: 0x100 };
const STAGE_1 = { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 };
const NESTED = { ...STAGE_2, ...STAGE_1, CONFIG: CONFIG.nested };

const STE_CASES: readonly Case[] = [
  { rule: 'V', fields: { V: 0 }, legal: { CONFIG: CONFIG.bypass } },
  { rule: 'Config: stage 1 is not there', fields: STAGE_1, features: { S1P: 0 }, legal: STAGE_2 },
  { rule: 'Config: stage 2 is not there', fields: STAGE_2, features: { S2P: 0 }, legal: STAGE_1 },
  {
    rule: 'S1Fmt: two levels are not there',
    fields: { ...STAGE_1, S1CDMAX: 4, S1FMT: 2 },
    features: { CD2L: 0 },
    // 3 behaves as 0 (5.2.2).
    legal: { ...STAGE_1, S1CDMAX: 4, S1FMT: 3 },
  },
  {
    rule: 'S1ContextPtr: beyond OAS (3.4.3)',
    fields: { ...STAGE_1, S1CONTEXT_PTR: 2 ** 42 },
    features: { OAS: 5 },
    legal: { ...STAGE_1, S1CONTEXT_PTR: 2 ** 42 - 1 },
  },
  { rule: 'S1CDMax', fields: { ...STAGE_1, S1CDMAX: 21 }, legal: { ...STAGE_1, S1CDMAX: 20 } },
  { rule: 'S1STALLD', fields: { ...STAGE_1, S1STALLD: 1 }, features: { STALL_MODEL: 1 }, legal: { ...STAGE_2, S1STALLD: 1 } },
  { rule: 'EATS 1: stage 2 stalls', fields: { ...STAGE_2, EATS: 1, S2S: 1 }, legal: { ...STAGE_1, EATS: 1, S2S: 1 } },
  {
    rule: 'EATS 2: without both stages, stalling, or NS1ATS',
    fields: { ...STAGE_1, EATS: 2 },
    legal: { ...NESTED, EATS: 2 },
  },
  { rule: 'STRW', fields: { ...STAGE_1, STRW: 1 }, legal: { ...NESTED, STRW: 1 } },
  {
    rule: 'S2VMID: 8 bits',
    fields: { ...STAGE_2, S2VMID: 0x100 },
    features: { VMID16: 0 },
    legal: { CONFIG: CONFIG.bypass, S2VMID: 0x100 },
  },
  { rule: 'S2TG', fields: { ...STAGE_2, S2TG: 3 }, legal: { ...STAGE_1, S2TG: 3 } },
  { rule: 'S2T0SZ', fields: { ...STAGE_2, S2T0SZ: 40 }, features: { STT: 0 }, legal: { ...STAGE_2, S2T0SZ: 33 } },
  { rule: 'S2SL0', fields: { ...STAGE_2, S2SL0: 2, S2T0SZ: 26 }, legal: { ...STAGE_2, S2SL0: 2, S2T0SZ: 16 } },
  { rule: 'S2AA64', fields: { ...STAGE_2, S2AA64: 0 }, legal: { ...STAGE_1, S2AA64: 0 } },
  { rule: 'S2ENDI', fields: { ...STAGE_2, S2ENDI: 1 }, features: { TTENDIAN: 2 }, legal: { ...STAGE_2, S2ENDI: 0 } },
  { rule: 'S2HA', fields: { ...STAGE_2, S2HA: 1 }, features: { HTTU: 0 }, legal: { ...STAGE_1, S2HA: 1 } },
  { rule: 'S2HD', fields: { ...STAGE_2, S2HD: 1 }, features: { HTTU: 1 }, legal: { ...STAGE_2, S2HA: 1 } },
  { rule: 'S2S: stalls are not there', fields: { ...STAGE_2, S2S: 1 }, features: { STALL_MODEL: 1 }, legal: STAGE_2 },
  { rule: 'S2S: stalls are forced', fields: STAGE_2, features: { STALL_MODEL: 2 }, legal: { ...STAGE_2, S2S: 1 } },
  {
    rule: 'S2TTB: beyond S2PS, or 48 bits',
    fields: { ...STAGE_2, S2PS: 0, S2TTB: 2 ** 28 },
    legal: { ...STAGE_2, S2PS: 1, S2TTB: 2 ** 28 },
  },
];

describe('stream table entries, 5.2: C_BAD_STE', () => {
  test('each rule has its case, in the order of the specification', () => {
    expect(STE_CASES.map(({ rule }) => rule)).toEqual(STE_RULES.map(({ name }) => name));
  });

  test.each(STE_CASES)('$rule', ({ rule, fields, features = {}, legal }) => {
    const full = featuresOf(features);
    const entry = (values: Values) => new StreamEntry(STREAM, structure(STE, { V: 1, ...values }), full, false);
    expect(entry(fields).illegal).toBe(rule);
    expect(entry(legal).illegal).toBeNull();
    const guest = new Guest({ features });
    guest.start().setStream(STREAM, fields);
    expect(guest.access(STREAM, IOVA, READ)).toBe(bad(EVENT.C_BAD_STE));
    expect(guest.events()).toEqual([Int32Array.of(EVENT.C_BAD_STE, STREAM, 0, 0, 0, 0, 0, 0)]);
  });

  test.each([
    ['4K', 0, 0, 2, 43],
    ['16K', 2, 1, 2, 46],
    ['64K', 1, 1, 2, 47],
  ])('S2SL0 and S2T0SZ of %s granules: 16 tables at the first level at most', (_, tg, sl0, levels, most) => {
    const full = featuresOf({});
    const legal = (bits: number) =>
      new StreamEntry(STREAM, structure(STE, { V: 1, ...STAGE_2, S2TG: tg, S2SL0: sl0, S2T0SZ: 64 - bits }), full, false).illegal === null;
    const granule = { 0: 12, 1: 16, 2: 14 }[tg] as number;
    // Entries of the first level's table: 2 at least, 16 tables' at most.
    const least = granule + (granule - 3) * (levels - 1) + 1;
    const top = Math.min(most, granule + (granule - 3) * levels + 4);
    expect([legal(least - 1), legal(least), legal(top), legal(top + 1)]).toEqual([false, true, true, false]);
  });
});

const TABLE = { V: 1, AA64: 1, A: 1, R: 1, T0SZ: 25, IPS: 5, EPD1: 1, TTB0: 0x100 };

const CD_CASES: readonly (Case & { readonly ste?: Values })[] = [
  { rule: 'V', fields: { V: 0 }, legal: {} },
  { rule: 'TG0', fields: { TG0: 1 }, features: { GRAN64K: 0 }, legal: { TG0: 2 } },
  { rule: 'T0SZ', fields: { T0SZ: 15 }, legal: { T0SZ: 16 } },
  { rule: 'ENDI', fields: { ENDI: 1 }, features: { TTENDIAN: 2 }, legal: { ENDI: 1, EPD0: 1 } },
  { rule: 'TG1', fields: { EPD1: 0, T1SZ: 25, TG1: 0 }, legal: { EPD1: 0, T1SZ: 25, TG1: 2 } },
  { rule: 'T1SZ', fields: { EPD1: 0, TG1: 2, T1SZ: 49 }, legal: { EPD1: 0, TG1: 2, T1SZ: 48 } },
  { rule: 'AA64', fields: { AA64: 0 }, legal: {} },
  { rule: 'HD', fields: { HD: 1 }, features: { HTTU: 1 }, legal: { HA: 1 } },
  { rule: 'HA', fields: { HA: 1 }, features: { HTTU: 0 }, legal: { AFFD: 1 } },
  { rule: 'S: STE.S1STALLD', fields: { S: 1 }, ste: { S1STALLD: 1 }, legal: {} },
  { rule: 'S: stalls are not there', fields: { S: 1 }, features: { STALL_MODEL: 1 }, legal: {} },
  { rule: 'S: stalls are forced', fields: { S: 0 }, features: { STALL_MODEL: 2 }, legal: { S: 1 } },
  { rule: 'A: RAZ/WI is not there', fields: { A: 0 }, features: { TERM_MODEL: 1 }, legal: {} },
  { rule: 'ASID: 8 bits', fields: { ASID: 0x100 }, features: { ASID16: 0 }, legal: { ASID: 0xff } },
  { rule: 'TTB0: beyond IPS, or 48 bits', fields: { IPS: 6, TTB0: 2 ** 44 }, legal: { IPS: 6, DS: 1, TTB0: 2 ** 44 } },
  {
    rule: 'TTB1: beyond IPS, or 48 bits',
    fields: { EPD1: 0, TG1: 2, T1SZ: 25, IPS: 0, TTB1: 2 ** 28 },
    legal: { EPD1: 0, TG1: 2, T1SZ: 25, IPS: 1, TTB1: 2 ** 28 },
  },
];

describe('context descriptors, 5.4 and 5.5: C_BAD_CD', () => {
  test('each rule has its case', () => {
    expect(CD_CASES.map(({ rule }) => rule)).toEqual(CD_RULES.map(({ name }) => name));
  });

  test.each(CD_CASES)('$rule', ({ rule, fields, features = {}, legal, ste = {} }) => {
    const full = featuresOf(features);
    const entry = new StreamEntry(STREAM, structure(STE, { V: 1, ...STAGE_1, ...ste }), full, false);
    const context = (values: Values) => new Context(structure(CD, { ...TABLE, ...values }), entry, full);
    expect(context(fields).illegal).toBe(rule);
    expect(context(legal).illegal).toBeNull();
    const guest = new Guest({ features });
    guest.start().setStream(STREAM, { ...STAGE_1, ...ste });
    guest.setContext(0, { ...TABLE, ...fields });
    expect(guest.access(STREAM, IOVA, READ)).toBe(bad(EVENT.C_BAD_CD));
    expect(guest.events()).toEqual([Int32Array.of(EVENT.C_BAD_CD, STREAM, 0, 0, 0, 0, 0, 0)]);
  });
});

describe('stream tables, 5.1 and 6.3.24', () => {
  test('C_BAD_STREAMID: beyond LOG2SIZE; recorded with CR2.RECINVSID alone', () => {
    const guest = new Guest().start();
    expect(guest.access(256, IOVA, READ)).toBe(bad(EVENT.C_BAD_STREAMID));
    expect(guest.numbers()).toEqual([EVENT.C_BAD_STREAMID]);
    guest.write(REG.CR0, 0b1100);
    guest.write(REG.CR2, 0);
    guest.write(REG.CR0, 0b1101);
    expect(guest.access(256, IOVA, READ)).toBe(bad(EVENT.C_BAD_STREAMID));
    expect(guest.access(-1, IOVA, READ)).toBe(bad(EVENT.C_BAD_STREAMID));
    expect(guest.numbers()).toEqual([]);
  });

  function twoLevels(split: number, span: number, l2 = 0x2_0000): Guest {
    const guest = new Guest();
    guest.write(REG.STRTAB_BASE_CFG, 9 | (split << 6) | (1 << 16));
    guest.start();
    guest.write(REG.CR0, 0b1100);
    guest.write(REG.STRTAB_BASE_CFG, 9 | (split << 6) | (1 << 16));
    guest.write(REG.CR0, 0b1101);
    for (const at of [0, 8]) guest.storeWords(STREAM_TABLE + at, structure(L1STD, { SPAN: span, L2PTR: l2 / 64 }, 2));
    return guest;
  }

  test.each([
    ['a: Span 0', 0],
    ['b: Span 12', 12],
    ['c: more than SPLIT + 1', 8],
    ['d: the stream lies behind it', 3],
  ])('C_BAD_STREAMID, two levels, 2%s', (_, span) => {
    const guest = twoLevels(6, span);
    expect(guest.access(STREAM, IOVA, READ)).toBe(bad(EVENT.C_BAD_STREAMID));
  });

  test('two levels: the entry is found by SPLIT, and a descriptor outside memory is F_STE_FETCH with its address', () => {
    const guest = twoLevels(6, 7);
    guest.storeWords(0x2_0000 + 64 * STREAM, structure(STE, { V: 1, CONFIG: CONFIG.bypass }));
    expect(guest.access(STREAM, IOVA, READ)).toBe(IOVA);
    expect(guest.access(64 + STREAM, IOVA, READ)).toBe(IOVA);
    const far = twoLevels(6, 7, 0x4000_0000);
    expect(far.access(STREAM, IOVA, READ)).toBe(bad(EVENT.F_STE_FETCH));
    expect(far.events()).toEqual([Int32Array.of(EVENT.F_STE_FETCH, STREAM, 0, 0, 0, 0, 0x4000_0000 + 64 * STREAM, 0)]);
  });

  test('valid entries are cached until CFGI_STE; wrong ones are read each time', () => {
    const guest = new Guest().start();
    guest.setStream(STREAM, { V: 0 });
    expect(guest.access(STREAM, IOVA, READ)).toBe(bad(EVENT.C_BAD_STE));
    guest.setStream(STREAM, { CONFIG: CONFIG.bypass });
    expect(guest.access(STREAM, IOVA, READ)).toBe(IOVA);
    guest.setStream(STREAM, { CONFIG: 0 });
    expect(guest.access(STREAM, IOVA, READ)).toBe(IOVA);
    guest.command(cfgiSte(STREAM + 1));
    expect(guest.access(STREAM, IOVA, READ)).toBe(IOVA);
    guest.command(cfgiSte(STREAM));
    expect(guest.access(STREAM, IOVA, READ)).toBe(BigInt(FAULT_ABORT));
  });

  test('CFGI_STE_RANGE covers all its streams, aligned, and CFGI_ALL all', () => {
    const guest = new Guest().start();
    const streams = [15, 16, 23, 31, 32];
    const all = (config: number) => {
      for (const stream of streams) guest.setStream(stream, { CONFIG: config });
    };
    const answers = () => streams.map((stream) => guest.access(stream, IOVA, READ) === IOVA);
    all(CONFIG.bypass);
    expect(answers()).toEqual([true, true, true, true, true]);
    all(0);
    guest.command([4n | (21n << 32n), 2n]);
    expect(answers()).toEqual([true, false, false, true, true]);
    guest.command([4n | (21n << 32n), 3n]);
    expect(answers()).toEqual([true, false, false, false, true]);
    guest.command(cfgiAll());
    expect(answers()).toEqual([false, false, false, false, false]);
  });
});

describe('off, disabled and bypassing', () => {
  test('off: GBPA lets pass what OAS allows, or aborts; no event', () => {
    const guest = new Guest({ features: { OAS: 5 } });
    expect(guest.access(STREAM, 2n ** 48n - 1n, WRITE)).toBe(2n ** 48n - 1n);
    expect(guest.access(STREAM, 2n ** 48n, WRITE)).toBe(BigInt(FAULT_ABORT));
    guest.write(REG.GBPA, 1 << 20);
    expect(guest.access(STREAM, IOVA, WRITE)).toBe(IOVA);
    guest.write(REG.GBPA, (1 << 31) | (1 << 20));
    expect(guest.read(REG.GBPA)).toBe(1 << 20);
    expect(guest.access(STREAM, IOVA, WRITE)).toBe(BigInt(FAULT_ABORT));
  });

  test.each([0, 1, 2, 3])('Config %i aborts silently', (config) => {
    const guest = new Guest().start();
    guest.setStream(STREAM, { CONFIG: config });
    expect(guest.access(STREAM, IOVA, READ)).toBe(BigInt(FAULT_ABORT));
    expect(guest.numbers()).toEqual([]);
  });

  test('Config 4: the address is the request’s, F_ADDR_SIZE beyond OAS; a substream is C_BAD_SUBSTREAMID', () => {
    const guest = new Guest({ features: { OAS: 5 } }).start();
    guest.setStream(STREAM, { CONFIG: CONFIG.bypass });
    expect(guest.access(STREAM, 2n ** 48n - 1n, READ)).toBe(2n ** 48n - 1n);
    expect(guest.access(STREAM, 2n ** 48n, WRITE)).toBe(bad(EVENT.F_ADDR_SIZE));
    expect(guest.access(STREAM, IOVA, READ, 5)).toBe(bad(EVENT.C_BAD_SUBSTREAMID));
    expect(guest.events()).toEqual([
      // CLASS IN, a write.
      Int32Array.of(EVENT.F_ADDR_SIZE, STREAM, 0, 2 << 8, 0, 1 << 16, 0, 0),
      Int32Array.of(EVENT.C_BAD_SUBSTREAMID | (5 << 12), STREAM, 0, 0, 0, 0, 0, 0),
    ]);
  });
});

describe('substreams, 5.2 S1DSS and S1Fmt', () => {
  function substreams(values: Values) {
    const guest = new Guest();
    const tables = [0, 1, 2].map(() => guest.table());
    tables.forEach(({ table }, i) => {
      table.map(5, 0x80 + i, 1, 3);
      guest.setContext(i, contextOf(1 + i, tables[i]));
    });
    guest.start().setStream(STREAM, { ...STAGE_1, S1CDMAX: 2, ...values });
    return { guest, tables };
  }

  test('S1DSS 0: without a substream F_STREAM_DISABLED; with one its descriptor', () => {
    const { guest } = substreams({ S1DSS: 0 });
    expect(guest.access(STREAM, IOVA, READ)).toBe(bad(EVENT.F_STREAM_DISABLED));
    expect(guest.access(STREAM, IOVA, READ, 0)).toBe(0x8_0000n);
    expect(guest.access(STREAM, IOVA, READ, 1)).toBe(0x8_1000n);
    expect(guest.access(STREAM, IOVA, READ, 3)).toBe(bad(EVENT.C_BAD_CD));
    expect(guest.access(STREAM, IOVA, READ, 4)).toBe(bad(EVENT.C_BAD_SUBSTREAMID));
    expect(guest.events().map((words) => [words[0], words[1]])).toEqual([
      [EVENT.F_STREAM_DISABLED, STREAM],
      [EVENT.C_BAD_CD | (1 << 11) | (3 << 12), STREAM],
      [EVENT.C_BAD_SUBSTREAMID | (4 << 12), STREAM],
    ]);
  });

  test('S1DSS 1: without a substream stage 1 is bypassed', () => {
    const { guest } = substreams({ S1DSS: 1 });
    expect(guest.access(STREAM, IOVA, READ)).toBe(IOVA);
    expect(guest.access(STREAM, IOVA, READ, 0)).toBe(0x8_0000n);
  });

  test('S1DSS 2: without a substream descriptor 0, which substream 0 may not use', () => {
    const { guest } = substreams({ S1DSS: 2 });
    expect(guest.access(STREAM, IOVA, READ)).toBe(0x8_0000n);
    expect(guest.access(STREAM, IOVA, READ, 0)).toBe(bad(EVENT.F_STREAM_DISABLED));
    expect(guest.access(STREAM, IOVA, READ, 2)).toBe(0x8_2000n);
  });

  test.each([
    ['4K', 1, 6],
    ['64K', 2, 10],
  ])('two levels with %s leaves; a first-level descriptor that is not valid is C_BAD_SUBSTREAMID', (_, format, split) => {
    const { guest, tables } = substreams({ S1FMT: format, S1CDMAX: split + 1, S1CONTEXT_PTR: 0x3_8000 / 64 });
    guest.store(0x3_8000, 0n);
    guest.store(0x3_8008, 0x4_0001n);
    guest.setContext(2, contextOf(3, tables[2]), 0x4_0000);
    expect(guest.access(STREAM, IOVA, READ, 2 ** split + 2)).toBe(0x8_2000n);
    expect(guest.access(STREAM, IOVA, READ, 2)).toBe(bad(EVENT.C_BAD_SUBSTREAMID));
    guest.store(0x3_8000, 0x4000_0001n);
    expect(guest.access(STREAM, IOVA, READ, 2)).toBe(bad(EVENT.F_CD_FETCH));
    expect(guest.events().at(-1)).toEqual(Int32Array.of(EVENT.F_CD_FETCH | (1 << 11) | (2 << 12), STREAM, 0, 0, 0, 0, 0x4000_0080, 0));
  });

  test('SSIDSIZE 0: S1CDMax is ignored, a substream is C_BAD_SUBSTREAMID', () => {
    const guest = new Guest({ features: { SSIDSIZE: 0 } });
    const table = guest.table();
    table.table.map(5, 0x80, 1, 3);
    guest.setContext(0, contextOf(1, table));
    guest.start().setStream(STREAM, { ...STAGE_1, S1CDMAX: 4 });
    expect(guest.access(STREAM, IOVA, READ)).toBe(0x8_0000n);
    expect(guest.access(STREAM, IOVA, READ, 0)).toBe(bad(EVENT.C_BAD_SUBSTREAMID));
  });
});

describe('embedders that misuse it', () => {
  test('options and endpoints are refused by name', () => {
    const { memory } = new Guest();
    expect(() => new Smmuv3({} as { memory: typeof memory })).toThrow(new TypeError('Smmuv3: memory is no GuestMemory'));
    const make = (features: object) => () => new Smmuv3({ memory, features: features as Partial<Features> });
    expect(make({ S3P: 1 })).toThrow(new RangeError('Smmuv3: features: there is no field S3P'));
    expect(make({ TTF: 3 })).toThrow(new RangeError('Smmuv3: features: TTF cannot be 3'));
    expect(make({ S1P: 0, S2P: 0 })).toThrow(RangeError);
    expect(make({ MSI: 1 })).toThrow(TypeError);
    expect(make({ STALL_MODEL: 0 })).toThrow(TypeError);
    expect(() => new Smmuv3({ memory }).addEndpoint(0x1_0000)).toThrow(RangeError);
  });

  test('what the embedder cannot do is not advertised', () => {
    const smmu = new Smmuv3({ memory: new Guest().memory });
    const idr0 = Number(smmu.read(REG.IDR0, 4));
    expect([(idr0 >> 13) & 1, (idr0 >> 24) & 3]).toEqual([0, 1]);
  });
});

test('stage 2 of each granule finds its first level', () => {
  for (const granuleLg2 of [12, 14, 16] as const) {
    const guest = new Guest();
    const inputBits = { 12: 39, 14: 36, 16: 42 }[granuleLg2];
    const table = guest.table({ stage: 2, granuleLg2, inputBits });
    table.table.map(2 ** (granuleLg2 - 12), 0x40, 2 ** (granuleLg2 - 12), 3);
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage2, ...stage2Of(1, table) });
    guest.command(cfgiSte(STREAM), sync());
    expect(guest.access(STREAM, BigInt(2 ** granuleLg2), WRITE)).toBe(0x4_0000n);
  }
});
