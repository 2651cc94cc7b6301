import { describe, expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../../../src/memory/access.ts';
import { targetFault } from '../../../../src/target/fault-codes.ts';
import { Cause, Kind } from '../../../../src/target/riscv/index.ts';
import { NO_PASID } from '../../../../src/target/target.ts';
import { type Context, Guest, Reg } from '../guest.ts';

/*
 * "Process to translate an IOVA" and the processes that it uses, step by step: what each refuses, by the request that meets it. The numbers are those
 * of version 20260222.
 */

const DEVICE = 8;
const DDT = 1;
const IOVA = 0x5000n;
const [EN_ATS, T2GPA, PDTV, DPE] = [1 << 1, 1 << 3, 1 << 5, 1 << 9];
const [PD8, PD17] = [1, 2] as const;

interface Request {
  readonly kind?: 0 | 1 | 2;
  readonly device?: number;
  readonly process?: number;
  readonly access?: number;
  readonly iova?: bigint;
}

function started(context?: Context): Guest {
  const guest = new Guest();
  guest.start();
  if (context !== undefined) guest.setContext(DEVICE, context);
  return guest;
}

/** lg2 of the answer or the negated cause. */
function ask(
  guest: Guest,
  { kind = Kind.untranslated, device = DEVICE, process = NO_PASID, access = READ, iova = IOVA }: Request = {},
): number {
  return guest.iommu.request(kind, device, process, iova, access);
}

/** Makes the load at an address fail, as data that is poisoned or as no memory. */
function spoil(guest: Guest, address: number, poisoned: boolean): void {
  const { memory } = guest;
  const load64 = memory.load64.bind(memory);
  const spoiled = Object.assign(memory, { poisoned: false });
  memory.load64 = (hi, lo) => {
    const meets = hi === 0 && lo === address;
    spoiled.poisoned = meets && poisoned;
    return meets ? -1 : load64(hi, lo);
  };
}

function store(guest: Guest, page: number, index: number, low: bigint): void {
  guest.memory.store64(0, page * 4096 + index * 8, Number(BigInt.asIntN(32, low >> 32n)), Number(BigInt.asIntN(32, low)));
}

/** A context with a process directory of one level, whose process 1 has `ta`. */
function withProcess(ta: bigint, tc = 0, fsc = 0n): { guest: Guest; pdt: number } {
  const guest = started();
  const pdt = guest.pool.allocate(1);
  store(guest, pdt, 2, ta);
  store(guest, pdt, 3, fsc);
  guest.setContext(DEVICE, { first: { mode: PD8, root: pdt, pscid: 0 }, tc: PDTV | tc });
  return { guest, pdt };
}

describe('process to translate an IOVA', () => {
  test('step 1: Off refuses everything (256)', () => {
    const guest = started({});
    guest.setMode(0);
    for (const kind of Object.values(Kind)) expect(ask(guest, { kind })).toBe(targetFault('riscv', Cause.allDisallowed));
  });

  test('step 2: Bare refuses what is ATS (260) and passes the rest', () => {
    const guest = started({});
    guest.setMode(1);
    expect(Object.values(Kind).map((kind) => ask(guest, { kind }))).toEqual([
      12,
      targetFault('riscv', Cause.typeDisallowed),
      targetFault('riscv', Cause.typeDisallowed),
    ]);
  });

  test('step 5: a device_id wider than ddtp.iommu_mode (260)', () => {
    expect(ask(started({}), { device: 64 })).toBe(targetFault('riscv', Cause.typeDisallowed));
  });

  test.each([
    ['7a: a translated request without EN_ATS', {}, { kind: Kind.translated }],
    ['7a: a translation request without EN_ATS', {}, { kind: Kind.ats }],
    ['7b: a process_id without PDTV', {}, { process: 1 }],
    ['7c: a process_id wider than pdtp.MODE', { first: { mode: PD8, root: 40, pscid: 0 }, tc: PDTV }, { process: 256 }],
  ] as const)('step %s (260)', (_, context, request) => {
    expect(ask(started(context), request)).toBe(targetFault('riscv', Cause.typeDisallowed));
  });

  test('steps 8 and 9 come before 14: translated requests need no process-context', () => {
    const { guest } = withProcess(0n, EN_ATS);
    expect(ask(guest, { process: 1 })).toBe(targetFault('riscv', Cause.pdtNotValid));
    expect(ask(guest, { kind: Kind.translated, process: 1 })).toBe(12);
  });

  test('step 9: with T2GPA the address is guest-physical, the first stage Bare', () => {
    const guest = started();
    const second = guest.table('sv39', true);
    second.table.map(5, 0x77, 1, READ);
    const { root } = guest.table('sv39');
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: 1 }, second: { mode: 8, root: second.root, gscid: 1 }, tc: EN_ATS | T2GPA });
    expect(ask(guest)).toBeLessThan(0);
    expect(ask(guest, { kind: Kind.translated })).toBe(12);
    expect(guest.iommu.translated[0]).toBe(0x77000);
  });

  test('steps 10, 12 and 13: iosatp of the context; Bare without a process_id; Bare where pdtp.MODE is', () => {
    const guest = started();
    const { table, root } = guest.table('sv39');
    table.map(5, 0x77, 1, READ);
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: 1 } });
    expect([ask(guest), guest.iommu.translated[0]]).toEqual([12, 0x77000]);
    const { guest: other } = withProcess(0n);
    expect([ask(other), other.iommu.translated[0]]).toEqual([30, 0x5000]);
    const bare = started({ first: { mode: 0, root: 0, pscid: 0 }, tc: PDTV });
    expect([ask(bare, { process: 7 }), bare.iommu.translated[0]]).toEqual([30, 0x5000]);
  });

  test('step 11: with DPE a request without process_id has process 0', () => {
    const { guest, pdt } = withProcess(0n, DPE);
    expect(ask(guest)).toBe(targetFault('riscv', Cause.pdtNotValid));
    store(guest, pdt, 0, 1n);
    expect(ask(guest)).toBe(30);
  });

  test('step 15: supervisor privilege without ENS (260)', () => {
    expect(ask(withProcess(1n).guest, { process: 1, access: READ | PRIVILEGED })).toBe(targetFault('riscv', Cause.typeDisallowed));
    expect(ask(withProcess(3n).guest, { process: 1, access: READ | PRIVILEGED })).toBe(30);
  });

  test.each([
    ['execute', EXECUTE, Cause.instructionPageFault, Cause.instructionGuestPageFault],
    ['read', READ, Cause.readPageFault, Cause.readGuestPageFault],
    ['write', WRITE, Cause.writePageFault, Cause.writeGuestPageFault],
  ])('steps 17 and 19: page faults and guest-page faults of a request to %s', (_, access, page, guestPage) => {
    const guest = started();
    const [first, second] = [guest.table('sv39'), guest.table('sv39', true)];
    guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: 1 } });
    expect(ask(guest, { access })).toBe(targetFault('riscv', page));
    const other = started({ second: { mode: 8, root: second.root, gscid: 1 } });
    other.memory.store64(0, second.root * 4096, 0, 0);
    expect(ask(other, { access })).toBe(targetFault('riscv', guestPage));
  });
});

describe('process to locate the device-context', () => {
  test.each([
    ['step 8: no memory', false, Cause.ddtAccessFault],
    ['step 8: poisoned data', true, Cause.ddtCorruption],
  ])('%s', (_, poisoned, cause) => {
    const guest = started({});
    spoil(guest, DDT * 4096 + DEVICE * 64, poisoned);
    expect(ask(guest)).toBe(targetFault('riscv', cause));
  });

  test('step 9: V is 0', () => {
    expect(ask(started({ valid: false }))).toBe(targetFault('riscv', Cause.ddtNotValid));
  });

  test('steps 3 to 6, in a directory of two levels: no memory, poisoned data, V, reserved bits', () => {
    const twoLevels = () => {
      const guest = started();
      guest.setMode(0);
      guest.setMode(3);
      return guest;
    };
    const unreadable = twoLevels();
    spoil(unreadable, DDT * 4096, false);
    expect(ask(unreadable)).toBe(targetFault('riscv', Cause.ddtAccessFault));
    const poisoned = twoLevels();
    spoil(poisoned, DDT * 4096, true);
    expect(ask(poisoned)).toBe(targetFault('riscv', Cause.ddtCorruption));
    expect(ask(twoLevels())).toBe(targetFault('riscv', Cause.ddtNotValid));
    for (const reserved of [1n << 1n, 1n << 9n, 1n << 54n, 1n << 63n]) {
      const guest = twoLevels();
      store(guest, DDT, 0, 1n | (40n << 10n) | reserved);
      expect(ask(guest)).toBe(targetFault('riscv', Cause.ddtMisconfigured));
    }
  });
});

describe('process to locate the process-context', () => {
  test('step 3: the second stage refuses the directory: a guest-page fault of the original access, bit 0 of iotval2', () => {
    const guest = started();
    const { root } = guest.table('sv39', true);
    guest.setContext(DEVICE, { first: { mode: PD8, root: 0x123, pscid: 0 }, second: { mode: 8, root, gscid: 1 }, tc: PDTV });
    expect(ask(guest, { process: 1, access: WRITE })).toBe(targetFault('riscv', Cause.writeGuestPageFault));
    expect(guest.takeFaults()[0][3]).toBe(0x123_011n);
  });

  test('steps 5 to 8, in a directory of two levels: no memory, poisoned data, V, reserved bits', () => {
    const make = (entry: bigint) => {
      const guest = started();
      const pdt = guest.pool.allocate(1);
      store(guest, pdt, 0, entry);
      guest.setContext(DEVICE, { first: { mode: PD17, root: pdt, pscid: 0 }, tc: PDTV });
      return { guest, pdt };
    };
    for (const [poisoned, cause] of [
      [false, Cause.pdtAccessFault],
      [true, Cause.pdtCorruption],
    ] as const) {
      const { guest, pdt } = make(1n);
      spoil(guest, pdt * 4096, poisoned);
      expect(ask(guest, { process: 1 })).toBe(targetFault('riscv', cause));
    }
    expect(ask(make(0n).guest, { process: 1 })).toBe(targetFault('riscv', Cause.pdtNotValid));
    for (const reserved of [1n << 1n, 1n << 9n, 1n << 54n, 1n << 63n])
      expect(ask(make(1n | (40n << 10n) | reserved).guest, { process: 1 })).toBe(targetFault('riscv', Cause.pdtMisconfigured));
  });

  test('steps 10 to 12: no memory, poisoned data, V, the configuration checks', () => {
    for (const [poisoned, cause] of [
      [false, Cause.pdtAccessFault],
      [true, Cause.pdtCorruption],
    ] as const) {
      const { guest, pdt } = withProcess(1n);
      spoil(guest, pdt * 4096 + 16, poisoned);
      expect(ask(guest, { process: 1 })).toBe(targetFault('riscv', cause));
    }
    expect(ask(withProcess(0n).guest, { process: 1 })).toBe(targetFault('riscv', Cause.pdtNotValid));
    expect(ask(withProcess(1n | (1n << 3n)).guest, { process: 1 })).toBe(targetFault('riscv', Cause.pdtMisconfigured));
  });
});

describe('process to translate addresses of MSIs', () => {
  const MSI_PT = 60;
  const FILE = 0x28000n;

  /** The one interrupt file is page 0x28 of the guest; its entry. */
  function withEntry(low: bigint, high = 0n): Guest {
    const guest = started();
    const { root } = guest.table('sv39', true);
    guest.setContext(DEVICE, { second: { mode: 8, root, gscid: 1 } });
    const at = (DEVICE * 64) / 8;
    store(guest, DDT, at + 4, (1n << 60n) | BigInt(MSI_PT));
    store(guest, DDT, at + 6, 0x28n);
    store(guest, MSI_PT, 0, low);
    store(guest, MSI_PT, 1, high);
    return guest;
  }
  const VALID = 1n;
  const BASIC = VALID | (3n << 1n) | (0x99n << 10n);
  const MRIF = VALID | (1n << 1n) | (0x321n << 7n);
  const write = (guest: Guest) => ask(guest, { iova: FILE, access: WRITE });

  test.each([
    ['step 7: no memory', false, Cause.msiAccessFault],
    ['step 8: poisoned data', true, Cause.msiCorruption],
  ])('%s', (_, poisoned, cause) => {
    const guest = withEntry(BASIC);
    spoil(guest, MSI_PT * 4096, poisoned);
    expect(write(guest)).toBe(targetFault('riscv', cause));
  });

  test.each([
    ['step 9: V is 0', 0n, 0n, Cause.msiNotValid],
    ['step 10: C, which nothing here interprets', BASIC | (1n << 63n), 0n, Cause.msiMisconfigured],
    ['step 12: M is 0', VALID, 0n, Cause.msiMisconfigured],
    ['step 12: M is 2', VALID | (2n << 1n), 0n, Cause.msiMisconfigured],
    ['step 13a: reserved bit 3', BASIC | (1n << 3n), 0n, Cause.msiMisconfigured],
    ['step 13a: reserved bit 54', BASIC | (1n << 54n), 0n, Cause.msiMisconfigured],
    ['step 14b: reserved bit 3', MRIF | (1n << 3n), 0n, Cause.msiMisconfigured],
    ['step 14b: reserved bit 59 of the second doubleword', MRIF, 1n << 59n, Cause.msiMisconfigured],
  ] as const)('%s', (_, low, high, cause) => {
    expect(write(withEntry(low, high))).toBe(targetFault('riscv', cause));
  });

  test("step 13: the second doubleword is software's", () => {
    const guest = withEntry(BASIC, 0xdead_beef_dead_beefn);
    expect([write(guest), guest.iommu.translated[0], guest.iommu.answer.interruptFile]).toEqual([12, 0x99000, true]);
  });

  test('step 14a: without capabilities.MSI_MRIF; 14c to 14e: file, notice and identity', () => {
    const guest = withEntry(MRIF, (0x77n << 10n) | (1n << 60n) | 5n);
    expect([write(guest), guest.iommu.answer.mrif]).toEqual([12, true]);
    const { msi } = guest.iommu;
    expect([msi.mrifLo, msi.pageLo, msi.notice]).toEqual([0x321 * 512, 0x77000, 0x405]);
  });

  test('step 15a: nothing is executed there (1)', () => {
    expect(ask(withEntry(BASIC), { iova: FILE, access: EXECUTE })).toBe(targetFault('riscv', Cause.instructionAccessFault));
  });

  test("the first stage's memory type stays with the page of an interrupt file", () => {
    const guest = started();
    const [first, second] = [guest.table('sv39'), guest.table('sv39', true)];
    second.table.map(0, 0, 0x20, READ | WRITE);
    second.table.map(0x30, 0x30, 0x100, READ | WRITE);
    first.table.map(5, 0x28, 1, READ | WRITE);
    guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: 1 }, second: { mode: 8, root: second.root, gscid: 1 } });
    const at = (DEVICE * 64) / 8;
    store(guest, DDT, at + 4, (1n << 60n) | BigInt(MSI_PT));
    store(guest, DDT, at + 6, 0x28n);
    store(guest, MSI_PT, 0, BASIC);
    expect([ask(guest, { access: WRITE }), guest.iommu.answer.pbmt]).toEqual([12, 0]);
    // The leaf's PBMT: NC.
    let page = first.root;
    for (let level = 2; level > 0; level--) {
      guest.memory.load64(0, page * 4096);
      page = guest.memory.word[0] >>> 10;
    }
    guest.memory.load64(0, page * 4096 + 5 * 8);
    guest.memory.store64(0, page * 4096 + 5 * 8, guest.memory.word[1] | (1 << 29), guest.memory.word[0]);
    guest.command([1n | (1n << 33n) | (1n << 44n), 0n]);
    expect([ask(guest, { access: WRITE }), guest.iommu.answer.pbmt]).toEqual([12, 1]);
    expect(guest.iommu.read(Reg.cqcsr, 4) & 0xf00n).toBe(0n);
  });
});
