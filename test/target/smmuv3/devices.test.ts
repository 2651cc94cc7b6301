import { describe, expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { get, getWide, put } from '../../../src/target/fields.ts';
import type { Features } from '../../../src/target/smmuv3/capabilities.ts';
import { EVENT, FAULT_ABORT, type PageRequest, PRG_RESPONSE } from '../../../src/target/smmuv3/index.ts';
import { PRI, RECORD } from '../../../src/target/smmuv3/spec/events.ts';
import { GATOS_PAR, REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG } from '../../../src/target/smmuv3/spec/ste.ts';
import type { TargetObserver } from '../../../src/target/target.ts';
import { CONTEXTS, cfgiSte, contextOf, Guest, PAGE_1, PRIS, stage2Of, type Table, tlbiAll } from './guest.ts';

const STREAM = 8;
const STAGE_1 = { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 };
const IOVA = 0x5000n;
/** SMMUEN, PRIQEN, EVENTQEN, CMDQEN; ATSCHK. */
const ON = 0b1111;
const CHECKED = ON | 16;

/** Page 5 to 0x1000 by stage 1, and that to 0x90 by stage 2. */
function nested(ste: Record<string, number> = {}, cr0 = ON, features: Partial<Features> = {}) {
  const guest = new Guest({ features });
  const first = guest.table();
  const second = guest.table({ stage: 2, inputBits: 32 });
  second.table.map(0, 0, 512, 7);
  second.table.map(0x1000, 0x90, 1, READ_WRITE);
  first.table.map(5, 0x1000, 1, READ_WRITE | EXECUTE);
  guest.setContext(0, contextOf(7, first));
  guest.start(cr0).setStream(STREAM, { ...STAGE_1, ...stage2Of(3, second), CONFIG: CONFIG.nested, EATS: 1, ...ste });
  return { guest, first, second };
}

describe('ATS translation requests, 3.9.1.2', () => {
  const ask = (guest: Guest, access: number, address = IOVA, pasid = -1) => guest.smmu.translationRequest(STREAM, pasid, address, access);

  test('full ATS: the address behind all stages, and what they grant of what was asked for', () => {
    const { guest } = nested();
    expect(ask(guest, READ_WRITE)).toEqual({ status: 'success', lg2: 12, address: 0x9_0000n, permission: READ_WRITE });
    expect(ask(guest, READ | EXECUTE)).toEqual({ status: 'success', lg2: 12, address: 0x9_0000n, permission: READ });
    expect(ask(guest, READ, 0x6000n)).toMatchObject({ status: 'success', permission: 0 });
    expect(guest.numbers()).toEqual([]);
  });

  test('split-stage ATS: the intermediate address; without CR0.ATSCHK as EATS 0', () => {
    expect(ask(nested({ EATS: 2 }, CHECKED).guest, READ_WRITE)).toEqual({
      status: 'success',
      lg2: 12,
      address: 0x100_0000n,
      permission: READ_WRITE,
    });
    const { guest } = nested({ EATS: 2 });
    expect(ask(guest, READ)).toEqual({ status: 'unsupported-request' });
    expect(guest.numbers()).toEqual([EVENT.F_BAD_ATS_TREQ]);
  });

  test('split-stage ATS: no larger than the page of either stage (13.6.3)', () => {
    const { guest, first, second } = nested({ EATS: 2 }, CHECKED);
    first.table.unmap(5, 1);
    first.table.map(0x200, 0x1200, 512, READ_WRITE);
    second.table.map(0x1203, 0x93, 1, READ_WRITE);
    expect(ask(guest, READ, 0x20_3000n)).toEqual({ status: 'success', lg2: 12, address: 0x120_3000n, permission: READ });
  });

  test('reading is implied, and without a PASID a request is for data, unprivileged (13.7)', () => {
    const { guest, first, second } = nested({ S1CDMAX: 2, S1DSS: 2 });
    guest.setContext(1, contextOf(9, first));
    second.table.unmap(0x1000, 1);
    second.table.map(0x1000, 0x90, 1, READ_WRITE | EXECUTE);
    const permission = (access: number, pasid = -1) => {
      const answer = ask(guest, access, IOVA, pasid);
      return answer.status === 'success' ? answer.permission : -1;
    };
    expect([permission(WRITE), permission(EXECUTE), permission(0)]).toEqual([READ_WRITE, READ, READ]);
    expect([permission(WRITE, 1), permission(EXECUTE, 1)]).toEqual([READ_WRITE, READ | EXECUTE]);
  });

  test.each<[string, Record<string, number>, number, number[]]>([
    // Of READ, READ | WRITE, READ | EXECUTE and all three.
    ['as it comes, RWX', {}, 7, [1, 3, 5, 7]],
    ['as it comes, RW', {}, 3, [1, 3, 1, 3]],
    ['data, RW: what is readable is executable', { INSTCFG: 2 }, 3, [1, 3, 5, 7]],
    ['instruction, RW: nothing is readable that is not executable', { INSTCFG: 3 }, 3, [0, 2, 0, 2]],
    ['instruction, RX', { INSTCFG: 3 }, 5, [1, 1, 5, 5]],
  ])('INSTCFG, 13.7.1: %s', (_, ste, granted, expected) => {
    const { guest, first, second } = nested({ S1CDMAX: 2, S1DSS: 2, ...ste });
    guest.setContext(1, contextOf(9, first));
    for (const [{ table }, page, to] of [[second, 0x1000, 0x90] as const, [first, 5, 0x1000] as const]) {
      table.unmap(page, 1);
      table.map(page, to, 1, granted);
    }
    const asked = [READ, READ_WRITE, READ | EXECUTE, READ_WRITE | EXECUTE];
    expect(asked.map((access) => ask(guest, access, IOVA, 1))).toMatchObject(expected.map((permission) => ({ permission })));
  });

  test('execution goes with reading: a page that the unprivileged may only execute is not granted (13.7.1)', () => {
    const { guest, first, second } = nested({ S1CDMAX: 2, S1DSS: 2 });
    guest.setContext(1, contextOf(9, first));
    second.table.unmap(0x1000, 1);
    second.table.map(0x1000, 0x90, 1, READ_WRITE | EXECUTE);
    const pages = Array.from({ length: 64 * 512 }, (_, i) => 0x1_0000 + 8 * i);
    const at = pages.find((entry) => (guest.load(entry) & 0xffff_f003n) === 0x100_0003n) as number;
    expect(ask(guest, READ | EXECUTE, IOVA, 1)).toMatchObject({ permission: READ | EXECUTE });
    // AP[1] 0: data is the privileged's alone.
    guest.store(at, guest.load(at) & ~(1n << 6n));
    guest.command(tlbiAll());
    expect(guest.access(STREAM, IOVA, EXECUTE, 1)).toBe(0x9_0000n);
    expect(ask(guest, READ | EXECUTE, IOVA, 1)).toMatchObject({ status: 'success', permission: 0 });
  });

  test('PRIVCFG and PAN: what the privileged are granted (5.4, PAN)', () => {
    const { guest, first } = nested({ S1CDMAX: 2, S1DSS: 2 });
    guest.setContext(1, contextOf(9, first));
    guest.setContext(2, { ...contextOf(10, first), PAN: 1 });
    expect(ask(guest, READ_WRITE | PRIVILEGED, IOVA, 1)).toMatchObject({ permission: READ_WRITE });
    for (const access of [READ, READ_WRITE])
      expect(ask(guest, access | PRIVILEGED, IOVA, 2)).toMatchObject({ status: 'success', permission: 0 });
    expect(ask(guest, READ_WRITE, IOVA, 2)).toMatchObject({ permission: READ_WRITE });
    const unprivileged = nested({ S1CDMAX: 2, S1DSS: 2, PRIVCFG: 2 });
    unprivileged.guest.setContext(2, { ...contextOf(10, unprivileged.first), PAN: 1 });
    expect(ask(unprivileged.guest, READ_WRITE | PRIVILEGED, IOVA, 2)).toMatchObject({ permission: READ_WRITE });
  });

  test('what is refused is as large as the smallest granule (3.9.1, STU)', () => {
    const guest = new Guest({ features: { GRAN4K: 0 } });
    guest.start(ON).setStream(STREAM, { ...STAGE_1, EATS: 1 });
    guest.setContext(0, contextOf(7, guest.table({ granuleLg2: 14 })));
    expect(ask(guest, READ)).toEqual({ status: 'success', lg2: 14, address: 0n, permission: 0 });
  });

  test('where stage 1 grants nothing, no fault of stage 2 is seen', () => {
    const { guest, first } = nested();
    // Behind stage 1 there is an address whose stage 2 table is not in memory.
    const { root, table } = guest.table({ stage: 2, inputBits: 32 });
    table.map(0, 0, 512, 7);
    guest.store(root * 4096 + 8, (1n << 40n) | 3n);
    guest.setStream(STREAM, {
      ...STAGE_1,
      ...stage2Of(3, { root, table, config: { ...first.config, stage: 2, inputBits: 32, root: 0n } }),
      CONFIG: CONFIG.nested,
      EATS: 1,
    });
    guest.command(cfgiSte(STREAM));
    first.table.map(6, 0x4_1000, 1, READ_WRITE);
    expect(ask(guest, READ, 0x6000n)).toEqual({ status: 'completer-abort' });
    // AP[1] 0: the privileged alone.
    const pages = Array.from({ length: 64 * 512 }, (_, i) => 0x1_0000 + 8 * i);
    const at = pages.find((entry) => (guest.load(entry) & 0xffff_f003n) === 0x4100_0003n) as number;
    guest.store(at, guest.load(at) & ~(1n << 6n));
    expect(ask(guest, READ, 0x6000n)).toMatchObject({ status: 'success', permission: 0 });
  });

  test('a request that is to write marks the page dirty', () => {
    const guest = new Guest();
    const { table, root, config } = guest.table();
    table.map(5, 0x80, 1, READ);
    guest.setContext(0, { ...contextOf(7, { table, root, config }), HA: 1, HD: 1 });
    guest.start(ON).setStream(STREAM, { ...STAGE_1, EATS: 1 });
    const pages = Array.from({ length: 64 * 512 }, (_, i) => 0x1_0000 + 8 * i);
    const at = pages.find((entry) => (guest.load(entry) & 0xf_f003n) === 0x8_0003n) as number;
    guest.store(at, guest.load(at) | (1n << 51n));
    expect(ask(guest, READ)).toMatchObject({ permission: READ });
    expect(guest.load(at) & 0x80n).toBe(0x80n);
    expect(ask(guest, READ_WRITE)).toMatchObject({ permission: READ_WRITE });
    expect(guest.load(at) & 0x80n).toBe(0n);
  });

  test.each<[string, Record<string, number>, string, number[]]>([
    ['EATS 0', { EATS: 0 }, 'unsupported-request', [EVENT.F_BAD_ATS_TREQ]],
    ['Config 4', { CONFIG: CONFIG.bypass }, 'unsupported-request', [EVENT.F_BAD_ATS_TREQ]],
    ['Config 0', { CONFIG: 0 }, 'unsupported-request', []],
    ['V = 0', { V: 0 }, 'completer-abort', []],
    ['a descriptor that is illegal', { S1CONTEXT_PTR: 0xe000 / 64 }, 'completer-abort', []],
  ])('%s', (_, ste, status, numbers) => {
    const { guest } = nested(ste);
    expect(ask(guest, READ)).toEqual({ status });
    expect(guest.numbers()).toEqual(numbers);
  });

  test('F_BAD_ATS_TREQ, 7.3.6: the page, what was asked for before the overrides, one unit', () => {
    const { guest } = nested({ EATS: 0, PRIVCFG: 2, INSTCFG: 2 });
    ask(guest, WRITE, 0x12_3456_7abcn);
    ask(guest, EXECUTE | PRIVILEGED, 0x12_3456_7abcn, 3);
    // Without a PASID nothing is privileged, nor executed (13.7).
    ask(guest, EXECUTE | PRIVILEGED);
    const record = (flags: number, low: number, address = [0x3456_7000, 0x12]) =>
      Int32Array.of(EVENT.F_BAD_ATS_TREQ | low, STREAM, (flags << 28) | 1, 0, ...address, 0, 0);
    expect(guest.events()).toEqual([record(0b1100, 0), record(0b1011, (3 << 12) | (1 << 11)), record(0b1000, 0, [0x5000, 0])]);
  });

  test('an SMMU without ATS: UR, and nothing is recorded; what skips the only stage is no wider than OAS (13.6.4)', () => {
    const { guest } = nested({}, ON, { ATS: 0 });
    expect([ask(guest, READ), guest.numbers()]).toEqual([{ status: 'unsupported-request' }, []]);
    const skipping = new Guest({ features: { OAS: 4 } });
    skipping.setContext(0, contextOf(7, skipping.table()));
    skipping.start(ON).setStream(STREAM, { ...STAGE_1, S1CDMAX: 2, S1DSS: 1, EATS: 1 });
    expect(ask(skipping, READ, 0xfff_ffff_f000n)).toMatchObject({ address: 0xfff_ffff_f000n, permission: READ_WRITE });
    expect(ask(skipping, READ, 0x1000_0000_0000n)).toMatchObject({ status: 'success', permission: 0 });
  });

  test('off: UR and F_BAD_ATS_TREQ; CR2.REC_CFG_ATS records configuration errors', () => {
    const { guest } = nested({ V: 0 }, 0b1110);
    expect(ask(guest, READ)).toEqual({ status: 'unsupported-request' });
    guest.write(REG.CR2, 2 | 8);
    guest.write(REG.CR0, ON);
    expect(ask(guest, READ)).toEqual({ status: 'completer-abort' });
    expect(guest.numbers()).toEqual([EVENT.F_BAD_ATS_TREQ, EVENT.C_BAD_STE]);
  });
});

describe('translated requests, 3.9.1.3', () => {
  const use = (guest: Guest, address: number, access = READ) => guest.smmu.translateTranslated(STREAM, 0, address, access);
  const forbidden = targetFault('smmuv3', EVENT.F_TRANSL_FORBIDDEN);

  test('pass without CR0.ATSCHK, whatever the entry says; not with the SMMU off', () => {
    const { guest } = nested({ V: 0 });
    expect([use(guest, 0x1234_5000), guest.smmu.translated[0]]).toEqual([12, 0x1234_5000]);
    guest.write(REG.CR0, 0b1100);
    expect(use(guest, 0x1234_5000)).toBe(forbidden);
    expect(guest.numbers()).toEqual([EVENT.F_TRANSL_FORBIDDEN]);
  });

  test.each<[string, Record<string, number>, number, number[]]>([
    ['full ATS', { EATS: 1 }, 12, []],
    ['EATS 0', { EATS: 0 }, forbidden, [EVENT.F_TRANSL_FORBIDDEN]],
    ['Config 4', { CONFIG: CONFIG.bypass }, forbidden, [EVENT.F_TRANSL_FORBIDDEN]],
    ['Config 0', { CONFIG: 0 }, FAULT_ABORT, []],
    ['V = 0', { V: 0 }, FAULT_ABORT, []],
  ])('checked: %s', (_, ste, answer, numbers) => {
    const { guest } = nested(ste, CHECKED);
    expect(use(guest, 0x1234_5000)).toBe(answer);
    expect(guest.numbers()).toEqual(numbers);
  });

  test('what is wider than OAS is aborted, and nothing is recorded (3.9.1.1)', () => {
    const wide = (oas: number, hi: number) => {
      const { guest } = nested({}, ON, { OAS: oas });
      return [guest.smmu.translateTranslated(STREAM, hi, 0x5000, READ), ...guest.numbers()];
    };
    // 44 bits, 32 bits.
    expect([wide(4, 0xfff), wide(4, 0x1000)]).toEqual([[12], [FAULT_ABORT]]);
    expect([wide(0, 0), wide(0, 1)]).toEqual([[12], [FAULT_ABORT]]);
  });

  test('an entry that cannot be asked is recorded where CR2.REC_CFG_ATS says so', () => {
    const { guest } = nested({ V: 0 }, 0b1110);
    guest.write(REG.CR2, 2 | 8);
    guest.write(REG.CR0, CHECKED);
    expect([use(guest, 0x1234_5000), ...guest.numbers()]).toEqual([FAULT_ABORT, EVENT.C_BAD_STE]);
  });

  test('PRIVCFG of split-stage ATS: overrides of the entry count for what stage 2 is asked (3.9.1.3)', () => {
    const { guest, second } = nested({ EATS: 2, INSTCFG: 3 }, CHECKED);
    // Stage 2 grants data, not execution: what INSTCFG makes a fetch finds nothing.
    expect(use(guest, 0x100_0008)).toBe(targetFault('smmuv3', EVENT.F_PERMISSION));
    second.table.unmap(0x1000, 1);
    second.table.map(0x1000, 0x90, 1, READ_WRITE | EXECUTE);
    expect(use(guest, 0x100_0008)).toBe(12);
  });

  test('split-stage ATS: stage 2 translates, and its faults are recorded', () => {
    const { guest } = nested({ EATS: 2 }, CHECKED);
    expect([use(guest, 0x100_0008), guest.smmu.translated[0]]).toEqual([12, 0x9_0008]);
    // PASIDTT 0: whatever it says, it is for data, unprivileged.
    expect(use(guest, 0x100_0008, EXECUTE | PRIVILEGED)).toBe(12);
    expect(use(guest, 0x2000_0000, EXECUTE | PRIVILEGED)).toBe(targetFault('smmuv3', EVENT.F_TRANSLATION));
    const fields = [RECORD.NUMBER, RECORD.S2, RECORD.IND, RECORD.PNU, RECORD.RNW];
    expect(guest.events().map((words) => fields.map((field) => get(words, field)))).toEqual([[EVENT.F_TRANSLATION, 1, 0, 0, 1]]);
  });
});

describe('page requests, chapter 8', () => {
  const request: PageRequest = {
    stream: STREAM,
    pasid: null,
    page: 0xf_1234_5678_9abc,
    read: true,
    write: true,
    execute: false,
    privileged: false,
    group: 0x155,
    last: true,
  };
  const taken = (guest: Guest) => guest.records(PRIS, 16, REG.PRIQ_PROD, REG.PRIQ_CONS);

  test('a record has all fields; CMD_PRI_RESP answers, with the PASID', () => {
    const guest = new Guest().start(ON);
    guest.smmu.pageRequest(request);
    guest.smmu.pageRequest({ ...request, pasid: 0x9_8765, execute: true, privileged: true, last: false });
    const records = taken(guest);
    const fields = [PRI.STREAM, PRI.SSV, PRI.READ, PRI.WRITE, PRI.EXECUTE, PRI.PRIVILEGED, PRI.LAST, PRI.GROUP];
    expect(records.map((words) => fields.map((field) => get(words, field)))).toEqual([
      [STREAM, 0, 1, 1, 0, 0, 1, 0x155],
      [STREAM, 1, 1, 1, 1, 1, 0, 0x155],
    ]);
    expect([getWide(records[0], PRI.PAGE), get(records[1], PRI.SUBSTREAM)]).toEqual([request.page, 0x9_8765]);
    const answer = (response: bigint): readonly [bigint, bigint] => [
      0x41n | (1n << 11n) | (0x98765n << 12n) | (BigInt(STREAM) << 32n),
      0x155n | (response << 12n),
    ];
    guest.command(answer(0n), answer(1n), answer(2n));
    expect(guest.responses).toEqual(
      [PRG_RESPONSE.failure, PRG_RESPONSE.invalidRequest, PRG_RESPONSE.success].map((response) => ({
        stream: STREAM,
        pasid: 0x98765,
        group: 0x155,
        response,
      })),
    );
  });

  test('off, every request is answered with failure; a stop marker is not', () => {
    const guest = new Guest().start(0b1110);
    guest.smmu.pageRequest({ ...request, pasid: 5 });
    guest.smmu.pageRequest({ ...request, pasid: 5, read: false, write: false });
    expect(guest.responses).toEqual([{ stream: STREAM, pasid: null, group: 0x155, response: PRG_RESPONSE.failure }]);
  });

  test('overflow: nothing is written until it is acknowledged; success for groups that end, the PASID as PPAR says', () => {
    const guest = new Guest().start(ON);
    guest.write(REG.IRQ_CTRL, 2);
    guest.setStream(STREAM, { CONFIG: CONFIG.bypass, PPAR: 1 });
    for (let i = 0; i < 256; i++) guest.smmu.pageRequest({ ...request, last: false });
    expect(guest.interrupts).toEqual(['pri']);
    guest.smmu.pageRequest({ ...request, last: false });
    guest.smmu.pageRequest(request);
    guest.smmu.pageRequest({ ...request, pasid: 5 });
    guest.setStream(STREAM, { CONFIG: CONFIG.bypass });
    guest.command(cfgiSte(STREAM));
    guest.smmu.pageRequest({ ...request, pasid: 5 });
    guest.smmu.pageRequest({ ...request, stream: 9, pasid: 5 });
    expect(guest.responses.map((response) => Object.values(response as object).slice(1))).toEqual([
      [null, 0x155, PRG_RESPONSE.success],
      [5, 0x155, PRG_RESPONSE.success],
      [null, 0x155, PRG_RESPONSE.success],
      [null, 0x155, PRG_RESPONSE.failure],
    ]);
    const prod = guest.read(PAGE_1 + REG.PRIQ_PROD);
    expect(prod >>> 31).toBe(1);
    // Room alone does not help.
    guest.write(PAGE_1 + REG.PRIQ_CONS, prod & 0x1ff);
    guest.smmu.pageRequest(request);
    expect(guest.read(PAGE_1 + REG.PRIQ_PROD)).toBe(prod);
    guest.write(PAGE_1 + REG.PRIQ_CONS, prod);
    guest.smmu.pageRequest(request);
    expect(taken(guest)).toHaveLength(1);
  });

  test('overflow without substreams: no answer has a PASID', () => {
    const guest = new Guest({ features: { SSIDSIZE: 0 } }).start(ON);
    guest.setStream(STREAM, { CONFIG: CONFIG.bypass, PPAR: 1 });
    for (let i = 0; i < 256; i++) guest.smmu.pageRequest({ ...request, last: false });
    guest.smmu.pageRequest({ ...request, pasid: 5 });
    expect(guest.responses).toEqual([{ stream: STREAM, pasid: null, group: 0x155, response: PRG_RESPONSE.success }]);
  });

  test('without substreams a request has no PASID (chapter 8, SSV)', () => {
    const guest = new Guest({ features: { SSIDSIZE: 0 } }).start(ON);
    guest.smmu.pageRequest({ ...request, pasid: 5, execute: true, privileged: true });
    const [words] = taken(guest);
    expect([PRI.SSV, PRI.SUBSTREAM, PRI.EXECUTE, PRI.PRIVILEGED].map((field) => get(words, field))).toEqual([0, 0, 0, 0]);
  });

  test('PRIQ_IRQ_CFG2.LO: an interrupt at the last of a group alone; a queue outside memory is PRIQ_ABT_ERR', () => {
    const guest = new Guest();
    guest.write(REG.PRIQ_IRQ_CFG2, 1 << 31);
    guest.start(ON);
    guest.write(REG.IRQ_CTRL, 2);
    guest.smmu.pageRequest({ ...request, last: false });
    expect(guest.interrupts).toEqual([]);
    guest.smmu.pageRequest(request);
    expect(guest.interrupts).toEqual(['pri']);
    guest.write(REG.CR0, 0b1101);
    guest.write64(REG.PRIQ_BASE, 0x4000_0008n);
    guest.write(REG.CR0, ON);
    guest.smmu.pageRequest(request);
    expect([guest.read(REG.GERROR), guest.responses.length]).toEqual([8, 1]);
  });
});

describe('address translation operations, chapter 9', () => {
  function look(guest: Guest, address: bigint, flags: number, sid = BigInt(STREAM), control: number = REG.GATOS_CTRL) {
    guest.write64(control + 8, sid);
    guest.write64(control + 0x10, address | BigInt(flags));
    guest.write(control, 1);
    expect(guest.read(control)).toBe(0);
    const par = guest.smmu.read(control + 0x18, 8);
    const words = Int32Array.of(Number(BigInt.asIntN(32, par)), Number(BigInt.asIntN(32, par >> 32n)));
    return get(words, GATOS_PAR.FAULT) === 0
      ? getWide(words, GATOS_PAR.ADDR) * 4096
      : [get(words, GATOS_PAR.FAULTCODE), get(words, GATOS_PAR.REASON)];
  }
  const RNW = 1 << 8;
  const TYPE = (stages: number) => stages << 10;

  test('both stages, one of them; faults by stage and reason; no events', () => {
    const { guest } = nested();
    expect(look(guest, IOVA, RNW | TYPE(3))).toBe(0x9_0000);
    expect(look(guest, IOVA, RNW | TYPE(1))).toBe(0x100_0000);
    expect(look(guest, 0x100_0000n, TYPE(2))).toBe(0x9_0000);
    expect(look(guest, 0x6000n, RNW | TYPE(3))).toEqual([EVENT.F_TRANSLATION, 0]);
    expect(look(guest, 0x2000_0000n, RNW | TYPE(2))).toEqual([EVENT.F_TRANSLATION, 3]);
    expect(guest.numbers()).toEqual([]);
  });

  test('what stage 2 refuses of a descriptor or a table: told by stage and address to both stages, an abort to stage 1 alone (9.1.4)', () => {
    const refusedPage = (guest: Guest) => Number((guest.smmu.read(REG.GATOS_PAR, 8) >> 12n) & 0xfff_ffff_ffffn);
    const without = (page: (first: Table) => number) => {
      const { guest, first, second } = nested();
      second.table.unmap(page(first), 1);
      const both = [look(guest, IOVA, RNW | TYPE(3)), refusedPage(guest)];
      return [both, [look(guest, IOVA, RNW | TYPE(1)), refusedPage(guest)]];
    };
    expect(without(({ root }) => root)[1]).toEqual([[EVENT.F_WALK_EABT, 0], 0]);
    expect(without(({ root }) => root)[0][0]).toEqual([EVENT.F_TRANSLATION, 2]);
    expect(without(() => CONTEXTS / 4096)).toEqual([
      [[EVENT.F_TRANSLATION, 1], CONTEXTS / 4096],
      [[EVENT.F_CD_FETCH, 0], 0],
    ]);
    const { guest } = nested();
    expect([look(guest, 0x2000_0000n, TYPE(2)), refusedPage(guest)]).toEqual([[EVENT.F_TRANSLATION, 3], 0]);
  });

  test('a page larger than 4 KiB: the lowest bit of the address that is set', () => {
    const { guest } = nested();
    expect(look(guest, 0n, RNW | TYPE(2))).toBe(0x10_0000);
  });

  test('HTTUI: access flag and dirty state count as updated, and are not', () => {
    const guest = new Guest();
    const { table, root, config } = guest.table();
    table.map(5, 0x80, 1, READ);
    const second = guest.table({ stage: 2, inputBits: 32 });
    second.table.map(0, 0, 511, 7);
    guest.setContext(0, { ...contextOf(7, { table, root, config }), HA: 1, HD: 1 });
    guest.start(ON).setStream(STREAM, { ...STAGE_1, ...stage2Of(3, second), CONFIG: CONFIG.nested, S2HA: 1, S2HD: 1 });
    const pages = Array.from({ length: 64 * 512 }, (_, i) => 0x1_0000 + 8 * i);
    const leaf = (page: bigint, stage: bigint) =>
      pages.filter((entry) => (guest.load(entry) & 0xf_f033n) === ((page << 12n) | 3n | stage))[0];
    // DBM, no AF; of stage 2, behind which the page is, as well.
    const first = leaf(0x80n, 0n);
    const behind = leaf(0x80n, 0x30n);
    guest.store(first, (guest.load(first) & ~(1n << 10n)) | (1n << 51n));
    guest.store(behind, (guest.load(behind) & ~((1n << 10n) | (1n << 7n))) | (1n << 51n));
    const state = () => [guest.load(first), guest.load(behind)];
    const before = state();
    const HTTUI = 1 << 6;
    expect(look(guest, IOVA, HTTUI | TYPE(3))).toBe(0x8_0000);
    expect(look(guest, IOVA, HTTUI | TYPE(1))).toBe(0x8_0000);
    expect(state()).toEqual(before);
    expect(look(guest, IOVA, TYPE(3))).toBe(0x8_0000);
    expect(state().map((entry) => (entry >> 10n) & 1n)).toEqual([1n, 1n]);
    expect([(guest.load(first) >> 7n) & 1n, (guest.load(behind) >> 7n) & 1n]).toEqual([0n, 1n]);
  });

  test('HTTUI: the descriptor is fetched behind stage 2 without an update, and fetched again when one counts', () => {
    const { guest, second } = nested({ S2HA: 1 });
    // Pages, not one block.
    second.table.unmap(0, 512);
    second.table.map(0, 0, 511, 7);
    const pages = Array.from({ length: 64 * 512 }, (_, i) => 0x1_0000 + 8 * i);
    // The leaf of stage 2 that leads to the descriptor.
    const at = pages.find((entry) => (guest.load(entry) & 0xffff_ffff_f033n) === (BigInt(CONTEXTS) | 0x33n)) as number;
    guest.store(at, guest.load(at) & ~(1n << 10n));
    const accessed = () => (guest.load(at) >> 10n) & 1n;
    expect([look(guest, IOVA, (1 << 6) | RNW | TYPE(3)), accessed()]).toEqual([0x9_0000, 0n]);
    expect([look(guest, IOVA, RNW | TYPE(3)), accessed()]).toEqual([0x9_0000, 1n]);
  });

  test('what skips stage 1 is told in granules that there are (9.1.3)', () => {
    const sizes = [{}, { GRAN4K: 0 }, { GRAN4K: 0, GRAN16K: 0 }].map((features) => {
      const guest = new Guest({ features }).start(ON);
      guest.setStream(STREAM, { ...STAGE_1, S1CDMAX: 2, S1DSS: 1 });
      return look(guest, 0x50_0000n, RNW | TYPE(1));
    });
    // The lowest bit that is set is half of the size.
    expect(sizes).toEqual([0x50_0000, 0x50_2000, 0x50_8000]);
  });

  test('stage 1 of two, skipped by S1DSS: the address itself, as large as the smallest granule (9.1.3)', () => {
    const { guest } = nested({ S1CDMAX: 2, S1DSS: 1 });
    expect(look(guest, 0x12_3456_7000n, RNW | TYPE(1))).toBe(0x12_3456_7000);
    expect(look(guest, 0x100_0000n, RNW | TYPE(3))).toBe(0x9_0000);
  });

  test('GATOS_SID: what is beyond the sizes of identifiers is RES0 (6.3.38)', () => {
    const sid = (features: Record<string, number>) => {
      const guest = new Guest({ features });
      guest.write64(REG.GATOS_SID, 2n ** 64n - 1n);
      return guest.smmu.read(REG.GATOS_SID, 8);
    };
    expect([sid({}), sid({ SIDSIZE: 10, SSIDSIZE: 8 }), sid({ SSIDSIZE: 0 })]).toEqual([
      0x1f_ffff_0000_ffffn,
      0x10_00ff_0000_03ffn,
      0xffffn,
    ]);
  });

  describe('VATOS, 6.2.3 and 9.1.6', () => {
    const VATOS = 0x2_0a00;
    const features = { VATOS: 1 };
    const asVm = (guest: Guest, vmid: number, flags = RNW | TYPE(1), address = IOVA) => {
      guest.write(REG.VATOS_SEL, vmid);
      return look(guest, address, flags, BigInt(STREAM), VATOS);
    };

    test('stage 1 alone, of streams that have VATOS_SEL’s VMID alone', () => {
      const { guest } = nested({}, ON, features);
      expect([asVm(guest, 3), asVm(guest, 3, RNW | TYPE(1), 0x6000n)]).toEqual([0x100_0000, [EVENT.F_TRANSLATION, 0]]);
      // Step 1: what a virtual machine may not ask, before any structure is looked at.
      expect([0, 2, 3].map((type) => asVm(guest, 4, RNW | TYPE(type)))).toEqual([
        [0xff, 0],
        [0xff, 0],
        [0xff, 0],
      ]);
      // Step 4; GATOS has no such limit.
      expect([asVm(guest, 4), look(guest, IOVA, RNW | TYPE(1))]).toEqual([[EVENT.C_BAD_STE, 0], 0x100_0000]);
      expect(guest.numbers()).toEqual([]);
    });

    test('what has no VMID is C_BAD_STE (step 3), stage 2 alone INV_STAGE (step 5)', () => {
      const { guest, second } = nested({}, ON, features);
      const of = (ste: Parameters<Guest['setStream']>[1]) => {
        guest.setStream(STREAM, ste);
        guest.command(cfgiSte(STREAM));
        return asVm(guest, 3);
      };
      expect(of({ CONFIG: CONFIG.bypass, S2VMID: 3 })).toEqual([EVENT.C_BAD_STE, 0]);
      expect(of({ CONFIG: 0, S2VMID: 3 })).toEqual([EVENT.C_BAD_STE, 0]);
      expect(of({ ...STAGE_1, STRW: 2, S2VMID: 3 })).toEqual([EVENT.C_BAD_STE, 0]);
      expect(of({ ...STAGE_1, S2VMID: 3 }), 'stage 1 alone has one too').toBe(0x100_0000);
      expect(of({ ...stage2Of(3, second), CONFIG: CONFIG.stage2 })).toEqual([0xfe, 0]);
    });

    test('what stage 2 refuses of stage 1’s structures is an abort (9.1.4)', () => {
      const { guest, first, second } = nested({}, ON, features);
      second.table.unmap(first.root, 1);
      expect(asVm(guest, 3)).toEqual([EVENT.F_WALK_EABT, 0]);
      second.table.unmap(CONTEXTS / 4096, 1);
      guest.command([0x04n, 31n]);
      expect(asVm(guest, 3)).toEqual([EVENT.F_CD_FETCH, 0]);
    });

    test('registers: VATOS_SEL of 8 or 16 bits, nothing around them, nothing while it is off or not there', () => {
      const guest = new Guest({ features });
      const all = (offset: number) => {
        guest.write64(offset, 2n ** 64n - 1n);
        return guest.smmu.read(offset, 8);
      };
      expect([all(REG.VATOS_SEL), all(VATOS + 8), all(VATOS + 0x10), all(VATOS + 0x18), all(VATOS)]).toEqual([
        0xffffn,
        0x1f_ffff_0000_ffffn,
        0xffff_ffff_ffff_ffc0n,
        0n,
        0n,
      ]);
      expect([all(VATOS - 8), all(VATOS + 0x20), all(0x3_0000), all(REG.VATOS_CTRL), all(REG.VATOS_SID)]).toEqual([0n, 0n, 0n, 0n, 0n]);
      guest.smmu.load(JSON.parse(JSON.stringify(guest.smmu.save())));
      expect(guest.smmu.read(VATOS + 8, 8)).toBe(0x1f_ffff_0000_ffffn);
      const narrow = new Guest({ features: { ...features, VMID16: 0 } });
      narrow.write(REG.VATOS_SEL, -1);
      expect(narrow.read(REG.VATOS_SEL)).toBe(0xff);
      const without = new Guest();
      for (const offset of [REG.VATOS_SEL, VATOS + 8]) {
        without.write64(offset, 1n);
        expect(without.smmu.read(offset, 8)).toBe(0n);
      }
    });
  });

  test('INV_REQ, INV_STAGE, and what is wrong with the configuration', () => {
    const { guest } = nested();
    expect(look(guest, IOVA, RNW)).toEqual([0xff, 0]);
    expect(look(guest, IOVA, RNW | TYPE(2), BigInt(STREAM) | (1n << 52n))).toEqual([0xff, 0]);
    expect(look(guest, IOVA, RNW | TYPE(3), 300n)).toEqual([EVENT.C_BAD_STREAMID, 0]);
    expect(look(guest, IOVA, RNW | TYPE(3), 9n)).toEqual([EVENT.C_BAD_STE, 0]);
    expect(look(guest, IOVA, RNW | TYPE(1), BigInt(STREAM) | (1n << 52n))).toEqual([EVENT.C_BAD_SUBSTREAMID, 0]);
    guest.setStream(STREAM, STAGE_1);
    guest.command(cfgiSte(STREAM));
    expect(look(guest, IOVA, RNW | TYPE(3))).toEqual([0xfe, 0]);
    expect(look(new Guest({ features: { S2P: 0 } }).start(), IOVA, TYPE(2))).toEqual([0xff, 0]);
  });
});

describe('what hardware says that walks the guest’s tables', () => {
  test('a record becomes the guest’s, an interrupt follows; lost ones are an overflow', () => {
    const guest = new Guest().start();
    guest.write(REG.IRQ_CTRL, 4);
    const words = new Int32Array(8);
    put(words, RECORD.NUMBER, EVENT.F_TRANSLATION);
    put(words, RECORD.STREAM, STREAM);
    guest.smmu.report({ kind: 'record', words });
    expect([guest.interrupts, guest.events()]).toEqual([['event'], [words]]);
    guest.smmu.report({ kind: 'lost' });
    expect(guest.read(PAGE_1 + REG.EVENTQ_PROD) >>> 31).toBe(1);
  });

  test('a page request goes to the PRI queue; the observer hears the guest’s answer', () => {
    const guest = new Guest().start(ON);
    const answers: unknown[] = [];
    const observer: TargetObserver = {
      attach: () => 0,
      changed: () => undefined,
      flush: () => 0,
      answered: (...answer) => void answers.push(answer),
    };
    guest.smmu.observe(observer);
    const event = {
      kind: 'page-request',
      endpoint: STREAM,
      pasid: 3,
      group: 4,
      last: true,
      access: READ | WRITE,
      address: 0x7000n,
    } as const;
    guest.smmu.report(event);
    expect(guest.records(PRIS, 16, REG.PRIQ_PROD, REG.PRIQ_CONS)).toHaveLength(1);
    guest.command([0x41n | (1n << 11n) | (3n << 12n) | (BigInt(STREAM) << 32n), 4n | (2n << 12n)]);
    guest.write(REG.CR0, 0b1101);
    guest.smmu.report({ ...event, pasid: -1 });
    expect(answers).toEqual([
      [STREAM, 3, 4, 'success'],
      [STREAM, -1, 4, 'invalid'],
    ]);
    // Where the guest takes none it hears of a fault.
    expect(guest.numbers()).toEqual([EVENT.F_TRANSLATION]);
  });
});
