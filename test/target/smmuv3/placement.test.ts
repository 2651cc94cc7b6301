import { describe, expect, test } from 'vitest';
import { READ } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { EVENT, type Features } from '../../../src/target/smmuv3/index.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG, L1STD, S1DSS, S1FMT, STE } from '../../../src/target/smmuv3/spec/ste.ts';
import { CONTEXTS, contextOf, Guest, STREAM_TABLE, stage2Of, structure } from './guest.ts';

/* Where structures and tables lie, whatever low and high bits of their addresses say (6.3.24, 5.1 to 5.4, 3.4.3). */

const STREAM = 8;
const IOVA = 0x5000n;
const bad = (number: number) => BigInt(targetFault('smmuv3', number));

/** A guest that is on, with its stream table configured so. */
function started(base: number, config: number, features: Partial<Features> = {}): Guest {
  const guest = new Guest({ features }).start(0);
  guest.write(REG.CR2, 2);
  guest.write64(REG.STRTAB_BASE, BigInt(base));
  guest.write(REG.STRTAB_BASE_CFG, config);
  guest.write(REG.CR0, 0b1101);
  return guest;
}

describe('the stream table', () => {
  test('one level: aligned to LOG2SIZE', () => {
    const guest = started(STREAM_TABLE | 0x3fc0, 8);
    guest.setStream(STREAM, { CONFIG: CONFIG.bypass });
    expect(guest.access(STREAM, IOVA, READ)).toBe(IOVA);
  });

  test.each([
    [12, 0x1c0],
    [6, 0],
  ])('two levels of 2^%i streams: the first aligned to its size, the second to its span', (log2size, low) => {
    const guest = started(0x2_0000 | low, log2size | (6 << 6) | (1 << 16));
    guest.storeWords(0x2_0000, structure(L1STD, { SPAN: 7, L2PTR: (STREAM_TABLE | 0xfc0) / 64 }, 2));
    guest.setStream(STREAM, { CONFIG: CONFIG.bypass });
    expect(guest.access(STREAM, IOVA, READ)).toBe(IOVA);
    expect(guest.access(64, IOVA, READ)).toBe(bad(EVENT.C_BAD_STREAMID));
  });

  test('no StreamID is wider than IDR1.SIDSIZE, however large the table', () => {
    const guest = started(STREAM_TABLE, 8, { SIDSIZE: 6 });
    for (const stream of [63, 64]) guest.setStream(stream, { CONFIG: CONFIG.bypass });
    expect([63, 64].map((stream) => guest.access(stream, IOVA, READ))).toEqual([IOVA, bad(EVENT.C_BAD_STREAMID)]);
    // The alignment is that of LOG2SIZE as it is written (6.3.24).
    const large = started(STREAM_TABLE | 0x2000, 8, { SIDSIZE: 6 });
    large.setStream(1, { CONFIG: CONFIG.bypass });
    expect(large.access(1, IOVA, READ)).toBe(IOVA);
  });

  test('SPLIT is 6 where it is none of 6, 8 and 10; FMT 2 and 3 are one level (6.3.25)', () => {
    const guest = started(0x2_0000, 9 | (7 << 6) | (1 << 16));
    guest.storeWords(0x2_0008, structure(L1STD, { SPAN: 7, L2PTR: STREAM_TABLE / 64 }, 2));
    guest.setStream(STREAM, { CONFIG: CONFIG.bypass });
    expect(guest.access(64 + STREAM, IOVA, READ)).toBe(IOVA);
    for (const format of [2, 3]) {
      const linear = started(STREAM_TABLE, 8 | (6 << 6) | (format << 16));
      linear.setStream(STREAM, { CONFIG: CONFIG.bypass });
      expect(linear.access(STREAM, IOVA, READ)).toBe(IOVA);
    }
  });
});

describe('context descriptors', () => {
  function substreams(values: Parameters<Guest['setStream']>[1], features: Partial<Features> = {}) {
    const guest = new Guest({ features });
    const table = guest.table();
    table.table.map(5, 0x80, 1, READ);
    for (const index of [0, 1]) guest.setContext(index, contextOf(7, table));
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage1, S1DSS: S1DSS.substream0, ...values });
    return guest;
  }

  test('one level: aligned to S1CDMax (5.2, S1Fmt)', () => {
    const guest = substreams({ S1CDMAX: 2, S1CONTEXT_PTR: CONTEXTS / 64 + 3 });
    expect(guest.access(STREAM, IOVA, READ, 1)).toBe(0x8_0000n);
  });

  test('two levels: the first aligned to its size', () => {
    const guest = substreams({ S1CDMAX: 11, S1FMT: S1FMT.leaves4K, S1CONTEXT_PTR: 0x3_8000 / 64 + 3 });
    guest.store(0x3_8000, BigInt(CONTEXTS) | 1n);
    expect(guest.access(STREAM, IOVA, READ, 1)).toBe(0x8_0000n);
  });

  test.each([
    [4, EVENT.C_BAD_SUBSTREAMID],
    [5, EVENT.F_CD_FETCH],
  ])('L1CD.L2Ptr beyond OAS %i is C_BAD_SUBSTREAMID (3.4.3, 3)', (OAS, number) => {
    const guest = substreams({ S1CDMAX: 11, S1FMT: S1FMT.leaves4K, S1CONTEXT_PTR: 0x3_8000 / 64 }, { OAS });
    guest.store(0x3_8000, (1n << 44n) | 1n);
    expect(guest.access(STREAM, IOVA, READ, 1)).toBe(bad(number));
  });
});

describe('translation tables', () => {
  const PAGE_AT_2_45 = 2 ** 33;

  test.each([
    [4, bad(EVENT.F_ADDR_SIZE)],
    [5, 2n ** 45n],
  ])('CD.IPS beyond OAS %i is OAS (5.4)', (OAS, expected) => {
    const guest = new Guest({ features: { OAS } });
    const table = guest.table();
    table.table.map(5, PAGE_AT_2_45, 1, READ);
    guest.setContext(0, { ...contextOf(7, table), IPS: 6 });
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 });
    expect(guest.access(STREAM, IOVA, READ)).toBe(expected);
  });

  test.each([
    [4, bad(EVENT.F_ADDR_SIZE)],
    [5, 2n ** 45n],
  ])('STE.S2PS beyond OAS %i is OAS (5.2)', (OAS, expected) => {
    const guest = new Guest({ features: { OAS } });
    const table = guest.table({ stage: 2 });
    table.table.map(5, PAGE_AT_2_45, 1, READ);
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage2, ...stage2Of(1, table), S2PS: 6 });
    expect(guest.access(STREAM, IOVA, READ)).toBe(expected);
  });

  test.each([
    ['48 bits: to the table’s own size', 5, bad(EVENT.F_TRANSLATION)],
    ['52 bits: to 64 bytes at least', 6, 0x8_0000n],
  ])('the first table is aligned; output of %s (5.4, TTB0)', (_, IPS, expected) => {
    const guest = new Guest();
    // Two entries in the first table: 16 bytes.
    const table = guest.table({ granuleLg2: 16, inputBits: 43 });
    table.table.map(0, 0x80, 16, READ);
    guest.setContext(0, { ...contextOf(7, table), IPS, TTB0: table.root * 256 + 1 });
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 });
    expect(guest.access(STREAM, 0n, READ)).toBe(expected);
  });
});

test('no more than 16,384 routes are remembered: one more, and all are forgotten (docs/targets/smmuv3.md, Bounds)', () => {
  const ROUTES = 2 ** 14;
  const guest = new Guest({}, GuestMemory.ofBytes(4 << 20)).start(0);
  const table = 2 << 20;
  guest.write64(REG.STRTAB_BASE, BigInt(table));
  guest.write(REG.STRTAB_BASE_CFG, 15);
  guest.write(REG.CR0, 0b1101);
  const entry = structure(STE, { V: 1, CONFIG: CONFIG.bypass });
  for (let stream = 0; stream <= ROUTES; stream++) guest.storeWords(table + 64 * stream, entry);
  for (let stream = 0; stream < ROUTES; stream++) guest.access(stream, IOVA, READ);
  // What is remembered needs CFGI_STE to be read again.
  guest.store(table, 0n);
  expect(guest.access(0, IOVA, READ)).toBe(IOVA);
  guest.access(ROUTES, IOVA, READ);
  expect(guest.access(0, IOVA, READ)).toBe(bad(EVENT.C_BAD_STE));
});
