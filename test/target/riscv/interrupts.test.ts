import { describe, expect, test } from 'vitest';
import { WRITE } from '../../../src/memory/access.ts';
import { AtsCode } from '../../../src/target/riscv/index.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { EVERYTHING, fence, Guest, Reg } from './guest.ts';

const ICVEC = 760;
const MSI_CFG_TBL = 768;
const IOCOUNTINH = 92;
const IOHPMCYCLES = 96;
const IOCOUNTOVF = 88;
const FCTL_WSI = 2n;
/** An illegal command: opcode 0. */
const ILLEGAL: [bigint, bigint] = [0n, 0n];
/** IOFENCE.C with WSI. */
const FENCE_WSI: [bigint, bigint] = [2n | (1n << 11n), 0n];

const CIP = 1n;
const FIP = 2n;
const PMIP = 4n;

describe('wire-signaled interrupts ("Interrupt pending status register")', () => {
  function wired() {
    const wires: string[] = [];
    const guest = new Guest({}, 1024, { wire: (vector, asserted) => void wires.push(`${vector}${asserted ? '+' : '-'}`) });
    guest.iommu.write(Reg.fctl, 4, FCTL_WSI);
    // civ 1, fiv 2, pmiv 3, piv 2.
    guest.iommu.write(ICVEC, 8, 0x2321n);
    guest.start();
    return { guest, iommu: guest.iommu, wires };
  }

  test('a pending bit holds its wire until software clears it', () => {
    const { guest, iommu, wires } = wired();
    guest.command(FENCE_WSI);
    expect(iommu.read(Reg.ipsr, 4)).toBe(CIP);
    expect(iommu.read(Reg.cqcsr, 4) & 0x800n).toBe(0x800n);
    // fence_w_ip is still set, so the bit is at once set again.
    iommu.write(Reg.ipsr, 4, CIP);
    expect(iommu.read(Reg.ipsr, 4)).toBe(CIP);
    iommu.write(Reg.cqcsr, 4, 0x803n);
    iommu.write(Reg.ipsr, 4, CIP);
    expect(iommu.read(Reg.ipsr, 4)).toBe(0n);
    expect(wires).toEqual(['1+', '1-']);
  });

  test('causes share a wire: it falls with the last of them', () => {
    const { guest, iommu, wires } = wired();
    iommu.write(ICVEC, 8, 0x2311n);
    iommu.translate(8, NO_PASID, 0, 0x1000, WRITE);
    guest.command(ILLEGAL);
    expect(iommu.read(Reg.ipsr, 4)).toBe(CIP | FIP);
    iommu.write(Reg.ipsr, 4, FIP);
    expect(wires).toEqual(['1+']);
    // Off: or the illegal command would be met again.
    iommu.write(Reg.cqcsr, 4, 0x402n);
    iommu.write(Reg.ipsr, 4, CIP);
    expect(wires).toEqual(['1+', '1-']);
  });

  test('a device that takes up a state asserts the wires that are in it', () => {
    const { guest, iommu } = wired();
    guest.command(ILLEGAL);
    const state = JSON.parse(JSON.stringify(iommu.save()));
    const { iommu: other, wires } = wired();
    other.load(state);
    expect(wires).toEqual(['1+']);
    other.reset();
    expect(wires).toEqual(['1+', '1-']);
  });

  test('icvec moves a wire that is asserted', () => {
    const { guest, iommu, wires } = wired();
    guest.command(ILLEGAL);
    iommu.write(ICVEC, 8, 0x2325n);
    expect(wires).toEqual(['1+', '1-', '5+']);
  });

  test('the WSI bit of IOFENCE.C is reserved where interrupts are messages', () => {
    const guest = new Guest();
    guest.start();
    guest.command(FENCE_WSI);
    expect(guest.iommu.read(Reg.cqcsr, 4) & 0xf00n).toBe(0x400n);
  });
});

describe('message-signaled interrupts ("MSI configuration table")', () => {
  function messages() {
    const stores: [bigint, number][] = [];
    const guest = new Guest({}, 1024, { storeDevice: (address, value) => stores.push([address, value]) > 0 });
    guest.iommu.write(ICVEC, 8, 0x0021n);
    for (const [vector, address, data] of [
      [1, 0x2800_0000n, 17n],
      [2, 0x2800_1000n, 18n],
    ] as const) {
      guest.iommu.write(MSI_CFG_TBL + 16 * vector, 8, address);
      guest.iommu.write(MSI_CFG_TBL + 16 * vector + 8, 4, data);
    }
    guest.start();
    return { guest, iommu: guest.iommu, stores };
  }

  test('an edge sends one message; a masked vector sends it when the mask is cleared', () => {
    const { guest, iommu, stores } = messages();
    iommu.translate(8, NO_PASID, 0, 0x1000, WRITE);
    iommu.translate(8, NO_PASID, 0, 0x1000, WRITE);
    expect(stores).toEqual([[0x2800_1000n, 18]]);
    iommu.write(MSI_CFG_TBL + 16 + 12, 4, 1n);
    guest.command(ILLEGAL);
    expect(stores).toHaveLength(1);
    iommu.write(MSI_CFG_TBL + 16 + 12, 4, 0n);
    iommu.write(MSI_CFG_TBL + 16 + 12, 4, 0n);
    expect(stores).toEqual([
      [0x2800_1000n, 18],
      [0x2800_0000n, 17],
    ]);
  });

  test('a message that waits is part of the saved state', () => {
    const { guest, iommu, stores } = messages();
    iommu.write(MSI_CFG_TBL + 16 + 12, 4, 1n);
    guest.command(ILLEGAL);
    const state = JSON.parse(JSON.stringify(iommu.save()));
    iommu.reset();
    iommu.load(state);
    iommu.write(MSI_CFG_TBL + 16 + 12, 4, 0n);
    expect(stores).toEqual([[0x2800_0000n, 17]]);
  });

  test('a message that nobody takes is cause 273 with msi_addr in iotval', () => {
    const guest = new Guest();
    guest.iommu.write(MSI_CFG_TBL, 8, 0x2800_0000n);
    guest.start();
    // No interrupt for the record itself, which nobody would take either.
    guest.iommu.write(Reg.fqcsr, 4, 1n);
    guest.command(ILLEGAL);
    expect(guest.takeFaults().map(([low, , iotval]) => [low, iotval])).toEqual([[273n, 0x2800_0000n]]);
  });
});

/** fqof and pqof. */
const OVERFLOW = 0x200n;

test('records that a queue has no room for are lost, and so are all until the driver clears fqof ("Fault/Event-Queue")', () => {
  const guest = new Guest();
  const { iommu } = guest;
  guest.start();
  const fault = () => void iommu.translate(8, NO_PASID, 0, 0x1000, WRITE);
  for (let i = 0; i < 127; i++) fault();
  expect(iommu.read(Reg.fqcsr, 4) & OVERFLOW).toBe(0n);
  fault();
  expect(iommu.read(Reg.fqcsr, 4) & OVERFLOW).toBe(OVERFLOW);
  expect(guest.takeFaults().length).toBe(127);
  fault();
  expect(guest.takeFaults()).toEqual([]);
  iommu.write(Reg.fqcsr, 4, 3n | OVERFLOW);
  fault();
  expect(guest.takeFaults().length).toBe(1);
});

test('page requests that the queue has no room for are answered, and so are all until the driver clears pqof ("Page-Request-Queue")', () => {
  const answered: bigint[] = [];
  const guest = new Guest({}, 1024, { sendMessage: ({ payload }) => void answered.push(payload) });
  const { iommu } = guest;
  guest.start();
  // EN_ATS and EN_PRI.
  guest.setContext(8, { tc: 6 });
  const message = { code: AtsCode.pageRequest, tag: 0, requester: 8, segment: null, pasid: null, privileged: false, execute: false };
  const ask = () => iommu.pageRequest({ ...message, payload: 0x5007n });
  const tail = () => iommu.read(Reg.pqt, 4);
  for (let i = 0; i < 255; i++) ask();
  expect([tail(), answered]).toEqual([255n, []]);
  // Success (0), for the device asks again where it still needs the page.
  ask();
  expect([tail(), iommu.read(Reg.pqcsr, 4) & OVERFLOW, answered]).toEqual([255n, OVERFLOW, [8n << 48n]]);
  iommu.write(Reg.pqh, 4, 10n);
  ask();
  expect([tail(), answered.length]).toEqual([255n, 2]);
  iommu.write(Reg.pqcsr, 4, 3n | OVERFLOW);
  ask();
  expect([tail(), answered.length]).toEqual([0n, 2]);
});

describe('the cycle counter ("Performance-monitoring cycles counter")', () => {
  test('follows the clock unless inhibited, and interrupts when it overflows', () => {
    let now = 1000;
    const guest = new Guest({ capabilities: EVERYTHING }, 1024, { cycles: () => now });
    const { iommu } = guest;
    iommu.write(IOHPMCYCLES, 8, 0n);
    now += 500;
    expect(iommu.read(IOHPMCYCLES, 8)).toBe(500n);
    iommu.write(IOCOUNTINH, 4, 1n);
    now += 500;
    expect(iommu.read(IOHPMCYCLES, 8)).toBe(500n);
    iommu.write(IOCOUNTINH, 4, 0n);
    iommu.write(IOHPMCYCLES, 8, 2n ** 63n - 10n);
    now += 15;
    expect(iommu.read(IOCOUNTOVF, 4)).toBe(1n);
    expect(iommu.read(IOHPMCYCLES, 8)).toBe((1n << 63n) | 5n);
    expect(iommu.read(Reg.ipsr, 4)).toBe(PMIP);
  });
});

describe('the command queue is bounded ("Command-Queue")', () => {
  test('one register access processes 16384 commands; reading the head goes on', () => {
    const guest = new Guest({}, 1024);
    const { iommu, memory } = guest;
    // 2^15 entries of 16 bytes from page 256 on: 512 KiB of IOTINVAL.VMA.
    for (let at = 0; at < 2 ** 19; at += 16) memory.store64(0, 256 * 4096 + at, 0, 1);
    iommu.write(Reg.cqb, 8, (256n << 10n) | 14n);
    iommu.write(Reg.cqcsr, 4, 1n);
    iommu.write(Reg.cqt, 4, 0x7fffn);
    expect(iommu.read(Reg.cqh, 4)).toBe(0x7fffn);
    iommu.write(Reg.cqt, 4, 0x7ffen);
    expect(iommu.read(Reg.cqh, 4)).toBe(0x7ffen);
  });

  test('a queue of 2^32 entries at the end of RAM ends in a memory fault', () => {
    const guest = new Guest({}, 64);
    const { iommu } = guest;
    guest.memory.store64(0, 63 * 4096, 0, 1);
    iommu.write(Reg.cqb, 8, (63n << 10n) | 31n);
    iommu.write(Reg.cqcsr, 4, 1n);
    iommu.write(Reg.cqt, 4, 0xffff_ffffn);
    // Zeros after the first command are illegal ones.
    expect([iommu.read(Reg.cqh, 4), iommu.read(Reg.cqcsr, 4) & 0x700n]).toEqual([1n, 0x400n]);
    for (let at = 0; at < 4096; at += 16) guest.memory.store64(0, 63 * 4096 + at, 0, 1);
    iommu.write(Reg.cqcsr, 4, 0x401n);
    // The base is not aligned to such a size: its bits and the index's are or-ed, until they leave RAM.
    expect([iommu.read(Reg.cqh, 4), iommu.read(Reg.cqcsr, 4) & 0x700n]).toEqual([0x4000n, 0x100n]);
  });

  test('commands wait for processCommands where the embedder says so', () => {
    const guest = new Guest({ deferCommands: true });
    guest.start();
    guest.command(fence(1), fence(2), fence(3));
    expect(guest.iommu.read(Reg.cqh, 4)).toBe(0n);
    guest.iommu.processCommands(2);
    expect(guest.iommu.read(Reg.cqh, 4)).toBe(2n);
  });
});

test.each([
  ['PAS', { capabilities: 0x10n }],
  ['counters', { counters: 1 }],
  ['invalidationTags', { invalidationTags: 33 }],
  ['Iotlb', { iotlbEntries: 17 }],
])('a configuration that cannot be is refused: %s', (what, config) => {
  expect(() => new Guest(config)).toThrow(RangeError);
  expect(() => new Guest(config)).toThrow(what);
});
