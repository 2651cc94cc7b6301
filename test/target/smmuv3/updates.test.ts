import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { type Field, putWide, type WideField } from '../../../src/target/fields.ts';
import { EVENT, FAULT_ABORT } from '../../../src/target/smmuv3/index.ts';
import { CD } from '../../../src/target/smmuv3/spec/cd.ts';
import { CONFIG, S1DSS, S1FMT, STE } from '../../../src/target/smmuv3/spec/ste.ts';
import { CONTEXTS, type Command, cfgiCd, cfgiSte, contextOf, Guest, STREAM_TABLE, stage2Of, structure, tlbiAll } from './guest.ts';

/*
 * How drivers change an entry in use (3.21.3). The list of changes, how many invalidations each takes and which ones need V = 0 are those of
 * Linux's KUnit tests of arm-smmu-v3 (the two lists of cases, as of 2026); the steps between are its rule: what the old entry ignores first,
 * then the one doubleword that matters, then what the new entry ignores. Where two matter, the entry is invalid meanwhile.
 */

type Entry = readonly bigint[];
type Fields = readonly (Field | WideField)[];
const WORDS = 8;

function maskOf(fields: Fields): bigint[] {
  const words = new Int32Array(2 * WORDS);
  for (const field of fields) {
    if ('mask' in field) words[field.word] |= field.mask << field.shift;
    else putWide(words, field, 2 ** field.width - 1);
  }
  return doublewords(words);
}

function doublewords(words: Int32Array): bigint[] {
  return Array.from({ length: WORDS }, (_, i) => (BigInt(words[2 * i + 1] >>> 0) << 32n) | BigInt(words[2 * i] >>> 0));
}

function fieldOf(entry: Entry, { word, shift, mask }: Field): number {
  return Number((entry[word >> 1] >> BigInt(32 * (word & 1) + shift)) & BigInt(mask >>> 0));
}

const OF_STAGE_1 = [STE.S1FMT, STE.S1CONTEXT_PTR, STE.S1CDMAX, STE.S1DSS, STE.S1CIR, STE.S1COR, STE.S1CSH, STE.S1STALLD, STE.STRW];
const OF_STAGE_2 = [STE.S2FWB, STE.SHCFG, STE.S2T0SZ, STE.S2SL0, STE.S2IR0, STE.S2OR0, STE.S2SH0, STE.S2TG, STE.S2PS, STE.S2AA64];
const ALSO_OF_STAGE_2 = [STE.S2ENDI, STE.S2PTW, STE.S2S, STE.S2R, STE.S2TTB];
const OF_EITHER = [STE.EATS, STE.MEV, STE.S2VMID];

/** Bits of a stream table entry that its Config makes count (5.2). */
function usedOfSte(entry: Entry): bigint[] {
  if (fieldOf(entry, STE.V) === 0) return maskOf([STE.V]);
  const config = fieldOf(entry, STE.CONFIG);
  const fields: (Field | WideField)[] = [STE.V, STE.CONFIG];
  if (config & 1) fields.push(...OF_STAGE_1, ...OF_EITHER);
  if (config & 1 && fieldOf(entry, STE.S1DSS) === S1DSS.bypass) fields.push(STE.SHCFG);
  if (config & 2) fields.push(...OF_STAGE_2, ...ALSO_OF_STAGE_2, ...OF_EITHER);
  if (config === CONFIG.bypass) fields.push(STE.SHCFG);
  return maskOf(fields);
}

/** Bits that both entries look at and that may change at any time: MEV; EATS between off and full, the device's ATS being off then. */
function safeOfSte(from: Entry, to: Entry): bigint[] {
  const splits = [from, to].some((entry) => fieldOf(entry, STE.EATS) > 1 || fieldOf(entry, STE.S2S) === 1);
  return maskOf(splits ? [STE.MEV] : [STE.MEV, STE.EATS]);
}

/** The same of a context descriptor (5.4): all, but what EPD0 makes IGNORED. */
function usedOfCd(entry: Entry): bigint[] {
  if (fieldOf(entry, CD.V) === 0) return maskOf([CD.V]);
  const ignored = maskOf(fieldOf(entry, CD.EPD0) ? [CD.T0SZ, CD.TG0, CD.IR0, CD.OR0, CD.SH0, CD.TTB0] : []);
  return ignored.map((mask) => BigInt.asUintN(64, ~mask));
}

interface Step {
  readonly entry: Entry;
  /** The last store before an invalidation. */
  readonly synchronized: boolean;
}
interface Rules {
  readonly valid: Field;
  used(entry: Entry): readonly bigint[];
  safe(from: Entry, to: Entry): readonly bigint[];
}
const STE_RULES: Rules = { valid: STE.V, used: usedOfSte, safe: safeOfSte };
const CD_RULES: Rules = { valid: CD.V, used: usedOfCd, safe: () => maskOf([]) };

/** Every state on the way, one store after the other. */
function stepsOf(from: Entry, to: Entry, { used, safe }: Rules): Step[] {
  const steps: Step[] = [];
  let now = from;
  const store = (values: Entry, places: readonly number[]) => {
    const before = steps.length;
    for (const i of places) {
      if (now[i] === values[i]) continue;
      now = now.with(i, values[i]);
      steps.push({ entry: now, synchronized: false });
    }
    if (steps.length > before) steps[steps.length - 1] = { entry: now, synchronized: true };
  };
  const all = [...from.keys()];
  const [usedFrom, usedTo, mayChange] = [used(from), used(to), safe(from, to)];
  const held = usedFrom.map((mask, i) => mask & ~(mayChange[i] & usedTo[i]));
  const first = from.map((word, i) => (word & held[i]) | (to[i] & ~held[i]));
  const critical = all.filter((i) => (first[i] & usedTo[i]) !== to[i]);
  if (critical.length === 1) {
    store(first.with(critical[0], from[critical[0]]), all);
    store(to, critical);
    store(to, all);
  } else if (critical.length > 1) {
    store(first.with(0, 0n), [0]);
    store(to, all.slice(1));
    store(to, [0]);
  } else store(to, all);
  return steps;
}

const STREAM = 8;
const IOVA = 0x5000n;
const BAD = (event: number) => String(targetFault('smmuv3', event));

/** Stage 1 leads to 0x80 (its substream 1 to 0xa0), stage 2 to 0x90. */
function machine() {
  const guest = new Guest();
  const [table, other] = [guest.table(), guest.table()];
  const second = guest.table({ stage: 2, inputBits: 32 });
  table.table.map(5, 0x80, 1, 3);
  other.table.map(5, 0xa0, 1, 3);
  // Behind both stages descriptors and tables are where they are.
  second.table.map(0, 0, 5, 7);
  second.table.map(5, 0x90, 1, 3);
  second.table.map(6, 6, 0x100 - 6, 7);
  // First-level descriptors of 2^20 substreams, and a leaf of 64 KiB (5.3).
  const [pointers, leaf] = [guest.pool.allocate(2), guest.pool.allocate(16)];
  guest.store(pointers * 4096, BigInt(leaf * 4096) | 1n);
  guest.setContext(0, contextOf(7, table), leaf * 4096);
  guest.setContext(1, contextOf(9, other), leaf * 4096);
  guest.setContext(0, contextOf(7, table));
  guest.start();

  const entry = (values: Parameters<typeof structure<typeof STE>>[1]) => doublewords(structure(STE, { V: 1, ...values }));
  const descriptors = {
    CONFIG: CONFIG.stage1,
    S1CONTEXT_PTR: pointers * 64,
    S1FMT: S1FMT.leaves64K,
    S1CDMAX: 20,
    S1DSS: S1DSS.substream0,
    S1CIR: 1,
    S1COR: 1,
    S1CSH: 3,
    S1STALLD: 1,
  };
  const bypassing = { ...descriptors, S1DSS: S1DSS.bypass, SHCFG: 1 };
  const stage2 = { CONFIG: CONFIG.stage2, SHCFG: 1, S2PTW: 1, ...stage2Of(0, second) };
  const entries = {
    abort: entry({ CONFIG: 0 }),
    bypass: entry({ CONFIG: CONFIG.bypass, SHCFG: 1 }),
    'stage 1': entry({ ...descriptors, EATS: 1 }),
    'stage 1, no ATS': entry(descriptors),
    'stage 1, MEV': entry({ ...descriptors, EATS: 1, MEV: 1 }),
    'stage 1, stalls': entry({ ...descriptors, S1STALLD: 0 }),
    'stage 1, S1DSS bypass': entry({ ...bypassing, EATS: 1 }),
    'stage 1, S1DSS bypass, other table': entry({ ...bypassing, EATS: 1, S1CONTEXT_PTR: CONTEXTS / 64, S1FMT: 0, S1CDMAX: 5 }),
    'stage 2': entry({ ...stage2, EATS: 1 }),
    'stage 2, no ATS': entry(stage2),
    'stage 2, stalls': entry({ ...stage2, S2S: 1 }),
    'stage 2, VMID 3': entry({ ...stage2, EATS: 1, S2VMID: 3 }),
    'both stages, S1DSS bypass, MEV': entry({ ...bypassing, ...stage2, CONFIG: CONFIG.nested, EATS: 1, MEV: 1 }),
  };
  const contexts = {
    nothing: doublewords(new Int32Array(16)),
    'stage 1': doublewords(structure(CD, { ...contextOf(7, table), ASET: 1 })),
    'stage 1, other ASID': doublewords(structure(CD, { ...contextOf(9, table), ASET: 1 })),
    process: doublewords(structure(CD, contextOf(7, other))),
    'process that ended': doublewords(structure(CD, { V: 1, AA64: 1, A: 1, R: 1, ASID: 7, EPD0: 1, EPD1: 1, IPS: 5 })),
  };

  const answer = (substream: number, access: number) => String(guest.access(STREAM, IOVA, access, substream));
  /** What requests meet without and with a substream, and a translation request of the device. */
  const probe = () => {
    const { status } = guest.smmu.translationRequest(STREAM, -1, IOVA, READ | WRITE);
    return { requests: [answer(-1, READ), answer(-1, WRITE), answer(1, READ)].join(), ats: status };
  };
  /** Stores an entry; `commands` make it count. */
  const put = (at: number, words: Entry, ...commands: readonly Command[]) => {
    for (const [i, word] of words.entries()) guest.store(at + 8 * i, word);
    if (commands.length > 0) guest.command(...commands, tlbiAll());
    return probe();
  };
  const replay = (at: number, from: Entry, to: Entry, { rules, command }: { rules: Rules; command: Command }) => {
    const before = put(at, from, command);
    const steps = stepsOf(from, to, rules);
    const between = steps.flatMap(({ entry }) => [put(at, entry), put(at, entry, command)]);
    const isInvalid = steps.some(({ entry }) => fieldOf(entry, rules.valid) === 0);
    const syncs = steps.filter(({ synchronized }) => synchronized).length;
    return { before, after: put(at, to, command), between, isInvalid, syncs, last: steps.at(-1)?.entry };
  };
  return { entries, contexts, replay, put };
}

type Replayed = ReturnType<ReturnType<typeof machine>['replay']>;

function expectOldOrNew({ before, after, between, isInvalid }: Replayed, bad: string): void {
  const invalid = `${bad},${bad},${bad}`;
  for (const { requests, ats } of between) {
    expect(isInvalid ? [before.requests, after.requests, invalid] : [before.requests, after.requests]).toContain(requests);
    expect(isInvalid ? [before.ats, after.ats, 'completer-abort'] : [before.ats, after.ats]).toContain(ats);
  }
}

type Name = keyof ReturnType<typeof machine>['entries'];
const NO_SUBSTREAM = BAD(EVENT.C_BAD_SUBSTREAMID);
const ABORTED = String(FAULT_ABORT);
const ONE = `${0x8_0000},${0x8_0000},${0xa_0000}`;
const TWO = `${0x9_0000},${0x9_0000},${NO_SUBSTREAM}`;
const PAST_ONE = `${IOVA},${IOVA},${0xa_0000}`;
const REQUESTS: Readonly<Record<Name, string>> = {
  abort: `${ABORTED},${ABORTED},${ABORTED}`,
  bypass: `${IOVA},${IOVA},${NO_SUBSTREAM}`,
  'stage 1': ONE,
  'stage 1, no ATS': ONE,
  'stage 1, MEV': ONE,
  'stage 1, stalls': ONE,
  'stage 1, S1DSS bypass': PAST_ONE,
  'stage 1, S1DSS bypass, other table': `${IOVA},${IOVA},${BAD(EVENT.C_BAD_CD)}`,
  'stage 2': TWO,
  'stage 2, no ATS': TWO,
  'stage 2, stalls': TWO,
  'stage 2, VMID 3': TWO,
  'both stages, S1DSS bypass, MEV': `${0x9_0000},${0x9_0000},${0xa_0000}`,
};

function expectSteps(from: Name, to: Name, syncs: number, isInvalid: boolean): void {
  const { entries, replay } = machine();
  const replayed = replay(STREAM_TABLE + 64 * STREAM, entries[from], entries[to], { rules: STE_RULES, command: cfgiSte(STREAM) });
  expect(replayed).toMatchObject({ syncs, isInvalid, last: entries[to] });
  expect([replayed.before.requests, replayed.after.requests]).toEqual([REQUESTS[from], REQUESTS[to]]);
  expectOldOrNew(replayed, BAD(EVENT.C_BAD_STE));
}

describe('a stream table entry changes store by store: each state answers as the old or the new one', () => {
  test.each<[Name, Name, number]>([
    ['bypass', 'abort', 2],
    ['abort', 'bypass', 2],
    ['stage 1', 'abort', 2],
    ['abort', 'stage 1', 2],
    ['stage 1', 'bypass', 3],
    ['bypass', 'stage 1', 3],
    ['stage 1', 'stage 1, S1DSS bypass', 1],
    ['stage 1, S1DSS bypass', 'stage 1', 1],
    ['stage 1, S1DSS bypass', 'bypass', 2],
    ['bypass', 'stage 1, S1DSS bypass', 2],
    ['stage 2', 'abort', 2],
    ['abort', 'stage 2', 2],
    ['stage 2', 'bypass', 2],
    ['bypass', 'stage 2', 2],
    ['stage 1', 'stage 2', 3],
    ['stage 2', 'stage 1', 3],
    ['stage 1, stalls', 'stage 2, stalls', 3],
    ['stage 2, stalls', 'stage 1, stalls', 3],
    ['both stages, S1DSS bypass, MEV', 'stage 2, no ATS', 3],
    ['stage 2, no ATS', 'both stages, S1DSS bypass, MEV', 2],
    // Not in that list: EATS and MEV of an entry in use.
    ['stage 1', 'stage 1, no ATS', 1],
    ['stage 1, no ATS', 'stage 1', 1],
    ['stage 1', 'stage 1, MEV', 1],
    ['stage 1, MEV', 'stage 1', 1],
    ['stage 1, MEV', 'stage 1, no ATS', 1],
  ])('%s > %s: never invalid, %i invalidations', (from, to, syncs) => {
    expectSteps(from, to, syncs, false);
  });

  test.each<[Name, Name, number]>([
    ['stage 1', 'stage 1, S1DSS bypass, other table', 3],
    ['stage 1', 'stage 2, VMID 3', 3],
    ['stage 2, VMID 3', 'stage 1', 3],
  ])('%s > %s: invalid meanwhile, %i invalidations', (from, to, syncs) => {
    expectSteps(from, to, syncs, true);
  });
});

describe('a context descriptor changes store by store: each state answers as the old or the new one', () => {
  type Context = keyof ReturnType<typeof machine>['contexts'];
  const lands = (at: number) => `${at},${at},${NO_SUBSTREAM}`;
  const missing = (event: number) => `${BAD(event)},${BAD(event)},${NO_SUBSTREAM}`;
  const answers: Readonly<Record<Context, string>> = {
    nothing: missing(EVENT.C_BAD_CD),
    'stage 1': lands(0x8_0000),
    'stage 1, other ASID': lands(0x8_0000),
    process: lands(0xa_0000),
    'process that ended': missing(EVENT.F_TRANSLATION),
  };

  test.each<[Context, Context, number, boolean]>([
    ['nothing', 'stage 1', 2, true],
    ['stage 1', 'nothing', 2, true],
    ['stage 1', 'stage 1, other ASID', 1, false],
    ['stage 1, other ASID', 'stage 1', 1, false],
    ['nothing', 'process', 2, true],
    ['process', 'nothing', 2, true],
    ['process', 'process that ended', 2, false],
    ['process that ended', 'process', 2, false],
  ])('%s > %s: %i invalidations, invalid: %s', (from, to, syncs, isInvalid) => {
    const { entries, contexts, put, replay } = machine();
    put(STREAM_TABLE + 64 * STREAM, entries['stage 1'].with(0, BigInt(CONTEXTS) | 0xbn), cfgiSte(STREAM));
    const replayed = replay(CONTEXTS, contexts[from], contexts[to], { rules: CD_RULES, command: cfgiCd(STREAM) });
    expect(replayed).toMatchObject({ syncs, isInvalid, last: contexts[to] });
    expect([replayed.before.requests, replayed.after.requests]).toEqual([answers[from], answers[to]]);
    expectOldOrNew(replayed, BAD(EVENT.C_BAD_CD));
  });
});
