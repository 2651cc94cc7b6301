import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { EVENT, FAULT_STALLED, PRG_RESPONSE } from '../../../src/target/smmuv3/index.ts';
import { CERROR, OPCODE } from '../../../src/target/smmuv3/spec/commands.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG } from '../../../src/target/smmuv3/spec/ste.ts';
import { COMMANDS, CONTEXTS, type Command, contextOf, EVENTS, Guest, PAGE_1, PRIS, QUEUE_LG2, sync } from './guest.ts';

/* Where the queues lie and where their indices stand (6.3.26 to 6.3.35, 7.4, 8.1), and what waits for room in them (7.2.1). */

const STREAM = 8;
const BUS = 0b1111;
const SYNC_IRQ = sync(1n << 12n);
const put = (guest: Guest, at: number, [low, high]: Command) => {
  guest.store(at, low);
  guest.store(at + 8, high);
};
const pageRequest = {
  stream: STREAM,
  pasid: null,
  page: 5,
  read: true,
  write: false,
  execute: false,
  privileged: false,
  group: 3,
  last: true,
};

/** A guest that is on, one of its registers written while nothing was. */
function started(offset: number, value: number): Guest {
  const guest = new Guest().start(0);
  guest.write64(offset, BigInt(value));
  guest.write(REG.CR0, BUS);
  return guest;
}

describe('base addresses are aligned to the size of their queue (6.3.26)', () => {
  test('CMDQ_BASE', () => {
    const guest = started(REG.CMDQ_BASE, COMMANDS | 0xfe0 | QUEUE_LG2);
    guest.command(SYNC_IRQ);
    expect([guest.error, guest.interrupts]).toEqual([0, ['sync']]);
  });

  test('EVENTQ_BASE', () => {
    const guest = started(REG.EVENTQ_BASE, EVENTS | 0x1fe0 | QUEUE_LG2);
    guest.access(STREAM, 0n, READ);
    expect(guest.numbers()).toEqual([EVENT.C_BAD_STE]);
  });

  test('PRIQ_BASE', () => {
    const guest = started(REG.PRIQ_BASE, PRIS | 0xfe0 | QUEUE_LG2);
    guest.smmu.pageRequest(pageRequest);
    const [record] = guest.records(PRIS, 16, REG.PRIQ_PROD, REG.PRIQ_CONS);
    expect([record[0], record[3], record[2]]).toEqual([STREAM, 0, (5 << 12) | 3]);
  });
});

describe('a queue of one entry has no index, its wrap flag alone (6.3.27, 6.3.28)', () => {
  test('commands: each is the same entry', () => {
    const guest = started(REG.CMDQ_BASE, COMMANDS);
    put(guest, COMMANDS + 16, [0n, 0n]);
    for (const prod of [1, 0, 1]) {
      put(guest, COMMANDS, SYNC_IRQ);
      guest.write(REG.CMDQ_PROD, prod);
      expect([guest.error, guest.read(REG.CMDQ_CONS)]).toEqual([0, prod]);
    }
    expect(guest.interrupts).toEqual(['sync', 'sync', 'sync']);
    put(guest, COMMANDS, [0n, 0n]);
    guest.write(REG.CMDQ_PROD, 0);
    expect([guest.error, guest.read(REG.CMDQ_CONS) & 0xf_ffff]).toEqual([CERROR.ILL, 1]);
  });

  test('events: full with one', () => {
    const guest = started(REG.EVENTQ_BASE, EVENTS);
    const indices = () => guest.read(PAGE_1 + REG.EVENTQ_PROD);
    for (const consumed of [1, 0, 1]) {
      guest.access(STREAM, 0n, READ);
      expect(Number(guest.load(EVENTS) & 0xffn)).toBe(EVENT.C_BAD_STE);
      expect(indices()).toBe(consumed);
      guest.store(EVENTS, 0n);
      guest.write(PAGE_1 + REG.EVENTQ_CONS, consumed);
    }
    expect(guest.load(EVENTS + 32)).toBe(0n);
    guest.access(STREAM, 0n, READ);
    guest.access(STREAM, 0n, READ);
    expect(indices()).toBe(0x8000_0000);
  });
});

test('CMDQ_CONS: bits above the wrap flag do not count (6.3.28)', () => {
  const guest = new Guest().start(0);
  guest.write(REG.CMDQ_CONS, 0xf_fe00);
  guest.write(REG.CR0, BUS);
  expect([guest.error, guest.read(REG.CMDQ_CONS)]).toEqual([0, 0]);
  guest.command(SYNC_IRQ);
  expect([guest.error, guest.read(REG.CMDQ_CONS), guest.interrupts]).toEqual([0, 1, ['sync']]);
});

describe('overflow', () => {
  test('of events, 7.4: what is recorded with an overflow not acknowledged leaves OVFLG; a second one is not seen', () => {
    const guest = new Guest().start();
    const record = (count: number) => {
      for (let i = 0; i < count; i++) guest.access(STREAM, 0n, READ);
    };
    const prod = () => guest.read(PAGE_1 + REG.EVENTQ_PROD);
    record(257);
    expect(prod() >>> 0).toBe(0x8000_0100);
    // Four are taken, and nothing is acknowledged.
    guest.write(PAGE_1 + REG.EVENTQ_CONS, 4);
    record(3);
    expect(prod() >>> 0).toBe(0x8000_0103);
    record(2);
    expect(prod() >>> 0).toBe(0x8000_0104);
    guest.write(PAGE_1 + REG.EVENTQ_CONS, 0x8000_0004 | 0);
    record(1);
    expect(prod()).toBe(0x104);
  });

  test('of a host’s records: none while the queue is off', () => {
    const guest = new Guest().start(0b1001);
    guest.smmu.report({ kind: 'lost' });
    expect(guest.read(PAGE_1 + REG.EVENTQ_PROD)).toBe(0);
  });

  test('of page requests, 8.1: no interrupt for what is not written, unless PRIQ_IRQ_CFG2.LO asks for a group’s last', () => {
    const told = (lo: number) => {
      const guest = new Guest();
      guest.write(REG.PRIQ_IRQ_CFG2, lo << 31);
      guest.start(BUS);
      for (let i = 0; i < 257; i++) guest.smmu.pageRequest(pageRequest);
      // All are taken, and nothing is acknowledged.
      guest.write(PAGE_1 + REG.PRIQ_CONS, 0x100);
      guest.write(REG.IRQ_CTRL, 2);
      guest.smmu.pageRequest(pageRequest);
      return guest.interrupts;
    };
    expect([told(0), told(1)]).toEqual([[], ['pri']]);
  });

  test('of page requests with IDR3.PPS: the PASID goes with the response, whatever the entry says (8.1)', () => {
    const guest = new Guest({ features: { PPS: 1 } }).start(BUS);
    for (let i = 0; i < 257; i++) guest.smmu.pageRequest({ ...pageRequest, last: false });
    guest.smmu.pageRequest({ ...pageRequest, pasid: 6 });
    expect(guest.responses).toEqual([{ stream: STREAM, pasid: 6, group: 3, response: PRG_RESPONSE.success }]);
    expect(guest.numbers()).toEqual([]);
  });

  test.each([
    [0, []],
    [8, [EVENT.C_BAD_STE]],
  ])('of page requests: CR2 %i and an entry that PPAR cannot be asked of (8.1)', (cr2, numbers) => {
    const guest = new Guest().start(0);
    guest.write(REG.CR2, cr2);
    guest.write(REG.CR0, BUS);
    for (let i = 0; i < 257; i++) guest.smmu.pageRequest({ ...pageRequest, last: false });
    guest.smmu.pageRequest({ ...pageRequest, pasid: 6 });
    guest.smmu.pageRequest({ ...pageRequest, stream: 9999, pasid: 6 });
    expect(guest.responses).toMatchObject([{ response: PRG_RESPONSE.failure }, { response: PRG_RESPONSE.failure }]);
    // C_BAD_STREAMID with CR2.RECINVSID alone.
    expect(guest.numbers()).toEqual(numbers);
  });
});

test('CMD_PRI_RESP is ignored while the SMMU is off (6.3.9.6)', () => {
  const guest = new Guest().start(0b1110);
  guest.command([BigInt(OPCODE.PRI_RESP) | (BigInt(STREAM) << 32n), 3n], sync());
  expect([guest.error, guest.read(REG.CMDQ_CONS), guest.responses]).toEqual([0, 2, []]);
});

describe('stalls that cannot be told of are made again when they can (7.2.1)', () => {
  function stalling(features = {}) {
    const guest = new Guest({ features });
    guest.setContext(0, { ...contextOf(7, guest.table()), S: 1 });
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 });
    const stall = (iova: bigint) => {
      expect(guest.access(STREAM, iova, WRITE)).toBe(BigInt(FAULT_STALLED));
      return guest.smmu.stag;
    };
    return { guest, stall };
  }
  const stallTerm = (stream: number): Command => [BigInt(OPCODE.STALL_TERM) | (BigInt(stream) << 32n), 0n];
  const resume = (stag: number, flags: bigint): Command => [BigInt(OPCODE.RESUME) | flags | (BigInt(STREAM) << 32n), BigInt(stag)];

  test('the queue is enabled', () => {
    const { guest, stall } = stalling();
    guest.write(REG.CR0, 0b1001);
    expect([stall(0x5000n), guest.untagged]).toEqual([-1, []]);
    guest.write(REG.CR0, 0b1101);
    expect(guest.untagged).toEqual(['retry']);
  });

  test('its error is acknowledged', () => {
    const { guest, stall } = stalling();
    guest.write(REG.CR0, 0b1001);
    guest.write64(REG.EVENTQ_BASE, 0x4000_0008n);
    guest.write(REG.CR0, 0b1101);
    guest.access(STREAM + 1, 0n, READ);
    expect([guest.read(REG.GERROR), stall(0x5000n), guest.untagged]).toEqual([4, -1, []]);
    guest.write(REG.GERRORN, 4);
    expect(guest.untagged).toEqual(['retry']);
  });

  test('CMD_STALL_TERM makes room for those of other streams', () => {
    const { guest, stall } = stalling({ STALL_MAX: 1 });
    expect([stall(0x5000n), stall(0x6000n)]).toEqual([0, -1]);
    guest.command(stallTerm(STREAM));
    expect([guest.ended, guest.untagged]).toEqual([[{ stream: STREAM, stag: 0, action: 'abort' }], ['retry']]);
  });

  test('CMD_RESUME of an SMMU that aborts alone (IDR0.TERM_MODEL 1): Ab is ignored (4.7.1)', () => {
    const guest = new Guest({ features: { TERM_MODEL: 1 } });
    guest.setContext(0, { ...contextOf(7, guest.table()), S: 1 });
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 });
    guest.access(STREAM, 0x5000n, READ);
    guest.command(resume(0, 0n));
    expect(guest.ended).toEqual([{ stream: STREAM, stag: 0, action: 'abort' }]);
  });

  test('a reset leaves none; a load goes on with the next tag', () => {
    const { guest, stall } = stalling({ STALL_MAX: 2 });
    expect([stall(0x5000n), stall(0x6000n), stall(0x7000n)]).toEqual([0, 1, -1]);
    guest.command(resume(0, 1n << 12n));
    const state = structuredClone(guest.smmu.save());
    // One waits when it is reset.
    expect([stall(0x8000n), stall(0x9000n)]).toEqual([0, -1]);
    guest.smmu.reset();
    expect(guest.smmu.save()).toEqual(new Guest({ features: { STALL_MAX: 2 } }).smmu.save());
    guest.untagged.length = 0;
    guest.start();
    expect(guest.untagged).toEqual([]);
    guest.smmu.reset();
    guest.smmu.load(state);
    guest.command(resume(1, 1n << 12n));
    expect([stall(0x5000n), stall(0x6000n)]).toEqual([0, 1]);
    const last = stalling({ STALL_MAX: 3 });
    last.stall(0x5000n);
    last.guest.command(resume(0, 1n << 12n));
    const loaded = new Guest({ features: { STALL_MAX: 3 } }, last.guest.memory);
    loaded.smmu.load(last.guest.smmu.save());
    loaded.access(STREAM, 0x6000n, WRITE);
    expect(loaded.smmu.stag).toBe(1);
  });
});
