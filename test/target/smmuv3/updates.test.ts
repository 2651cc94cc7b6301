import { describe, expect, test } from 'vitest';
import { READ } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { EVENT, FAULT_ABORT } from '../../../src/target/smmuv3/index.ts';
import { CONFIG, STE } from '../../../src/target/smmuv3/spec/ste.ts';
import { CONTEXTS, cfgiCd, cfgiSte, contextOf, Guest, STREAM_TABLE, stage2Of, structure, tlbiAll } from './guest.ts';

/*
 * How drivers change an entry in use (3.21.3; Linux's arm_smmu_write_entry): what the old entry does not look at first, then the one
 * doubleword that matters, then what the new entry does not look at. Where more than one matters, V = 0 stands in between.
 */

const STREAM = 8;
const IOVA = 0x5000n;
const BAD = BigInt(targetFault('smmuv3', EVENT.C_BAD_STE));

/** Bits that an entry looks at, by its Config (5.2). */
function used(entry: readonly bigint[]): bigint[] {
  const config = Number((entry[0] >> 1n) & 7n);
  if ((entry[0] & 1n) === 0n) return [1n, 0n, 0n, 0n];
  const mask = [0xfn, 0n, 0n, 0n];
  if ((config & 4) === 0) return mask;
  mask[1] |= (3n << 44n) | (3n << 48n) | (3n << 50n);
  if (config & 1) {
    mask[0] |= 0xf8ff_ffff_ffff_fff0n;
    mask[1] |= 0xffn | (1n << 27n) | (3n << 28n) | (3n << 30n) | (1n << 19n);
    mask[2] |= 0xffffn;
  }
  if (config & 2) {
    mask[1] |= (3n << 28n) | (1n << 19n);
    mask[2] |= (0xffff_ffffn << 32n) | 0xffffn;
    mask[3] |= 0xffff_ffff_ffff_fffcn;
  }
  return mask;
}

/** Each state of the entry on its way, the last one the new entry. */
function* states(from: readonly bigint[], to: readonly bigint[]): Generator<readonly bigint[]> {
  const usedFrom = used(from);
  const usedTo = used(to);
  let now = [...from];
  const store = function* (i: number, value: bigint): Generator<readonly bigint[]> {
    if (now[i] === value) return;
    now = now.with(i, value);
    yield now;
  };
  for (let i = 0; i < 4; i++) yield* store(i, (now[i] & usedFrom[i]) | (to[i] & ~usedFrom[i]));
  const critical = [0, 1, 2, 3].filter((i) => ((now[i] ^ to[i]) & (usedFrom[i] | usedTo[i]) & usedTo[i]) !== 0n);
  if (critical.length > 1) {
    yield* store(0, 0n);
    for (const i of [1, 2, 3]) yield* store(i, to[i]);
    yield* store(0, to[0]);
  } else for (const i of critical) yield* store(i, to[i]);
  for (let i = 0; i < 4; i++) yield* store(i, to[i]);
}

function machine() {
  const guest = new Guest();
  const table = guest.table();
  const second = guest.table({ stage: 2, inputBits: 32 });
  table.table.map(5, 0x80, 1, 3);
  second.table.map(5, 0x90, 1, 3);
  guest.setContext(0, contextOf(7, table));
  guest.start();
  const words = (values: Parameters<typeof structure<typeof STE>>[1]) => {
    const made = structure(STE, { V: 1, ...values });
    return [0, 1, 2, 3].map((i) => (BigInt(made[2 * i + 1] >>> 0) << 32n) | BigInt(made[2 * i] >>> 0));
  };
  const stage1 = { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64, S1DSS: 2, S1CIR: 1, S1COR: 1, S1CSH: 3, SHCFG: 1 };
  const entries = {
    abort: words({ CONFIG: 0 }),
    bypass: words({ CONFIG: CONFIG.bypass, SHCFG: 1 }),
    'stage 1': words(stage1),
    'stage 1 with ATS': words({ ...stage1, EATS: 1 }),
    'stage 1 with MEV': words({ ...stage1, MEV: 1 }),
    'stage 1 with substreams': words({ ...stage1, S1CDMAX: 5, S1FMT: 0, S1CONTEXT_PTR: CONTEXTS / 64 }),
    'stage 1, bypassing without substream': words({ ...stage1, S1CDMAX: 5, S1DSS: 1 }),
    'stage 2': words({ CONFIG: CONFIG.stage2, SHCFG: 1, ...stage2Of(3, second) }),
  };
  const put = (entry: readonly bigint[]) => {
    for (const [i, value] of entry.entries()) guest.store(STREAM_TABLE + 64 * STREAM + 8 * i, value);
    guest.command(cfgiSte(STREAM));
    return guest.access(STREAM, IOVA, READ);
  };
  return { guest, table, entries, put };
}

type Name = keyof ReturnType<typeof machine>['entries'];
const ANSWERS: Readonly<Record<Name, bigint>> = {
  abort: BigInt(FAULT_ABORT),
  bypass: IOVA,
  'stage 1': 0x8_0000n,
  'stage 1 with ATS': 0x8_0000n,
  'stage 1 with MEV': 0x8_0000n,
  'stage 1 with substreams': 0x8_0000n,
  'stage 1, bypassing without substream': IOVA,
  'stage 2': 0x9_0000n,
};
const NAMES = Object.keys(ANSWERS) as Name[];
/** Between these there is no V = 0. */
const WITHOUT_A_GAP: readonly Name[] = ['abort', 'bypass', 'stage 1', 'stage 1 with ATS', 'stage 1 with MEV'];

describe('a stream table entry changes store by store: every state answers as the old or the new one', () => {
  const pairs = NAMES.flatMap((from) => NAMES.filter((to) => to !== from).map((to) => [from, to] as const));

  test.each(pairs)('%s > %s', (from, to) => {
    const { entries, put } = machine();
    expect(put(entries[from])).toBe(ANSWERS[from]);
    const answers: bigint[] = [];
    let gap = false;
    for (const state of states(entries[from], entries[to])) {
      gap ||= (state[0] & 1n) === 0n;
      answers.push(put(state));
    }
    expect(answers.at(-1)).toBe(ANSWERS[to]);
    for (const answer of answers) expect(gap ? [ANSWERS[from], ANSWERS[to], BAD] : [ANSWERS[from], ANSWERS[to]]).toContain(answer);
    if (WITHOUT_A_GAP.includes(from) && WITHOUT_A_GAP.includes(to)) expect(gap).toBe(false);
  });
});

test('a context descriptor in use: TTB0 changes in one store, everything with V = 0 between', () => {
  const { guest, table, entries, put } = machine();
  put(entries['stage 1']);
  const other = guest.table();
  other.table.map(5, 0xa0, 1, 3);
  const access = () => {
    guest.command(cfgiCd(STREAM), tlbiAll());
    return guest.access(STREAM, IOVA, READ);
  };
  guest.store(CONTEXTS + 8, BigInt(other.root * 4096));
  expect(access()).toBe(0xa_0000n);
  guest.store(CONTEXTS, guest.load(CONTEXTS) & ~(1n << 31n));
  expect(access()).toBe(BigInt(targetFault('smmuv3', EVENT.C_BAD_CD)));
  guest.setContext(0, contextOf(9, table));
  expect(access()).toBe(0x8_0000n);
});
