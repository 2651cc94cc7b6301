import { describe, expect, test } from 'vitest';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { DELIVER, Fault, type FaultName, POSTED, type VtdIommuOptions } from '../../../src/target/vtd/index.ts';
import { Cmd, Guest, Reg } from './guest.ts';

/* Interrupt remapping and posting: VT-d D51397-018 (5.10), 5.1, 5.2, 9.9 to 9.11; faults by the reasons of table 15. */

const SOURCE = 0x28;
const TABLE = 8;
const PID = 0x9000;

/** Remapping on with 16 entries, in x2APIC mode where `eime` says so. */
function remapping(eime = true, options: VtdIommuOptions = {}, changed?: (first: number, last: number) => void): Guest {
  const guest = new Guest(options, 1024, { ...(changed && { interruptsChanged: changed }) });
  guest.iommu.write(Reg.irta, 8, (BigInt(TABLE) << 12n) | (eime ? 1n << 11n : 0n) | 3n);
  guest.global(Cmd.sirtp);
  guest.global(Cmd.ire);
  return guest;
}

/** Address of a request in remappable format (5.1.2.2). */
function remappable(handle: number, shv = false): number {
  return 0xfee0_0010 | ((handle & 0x7fff) << 5) | ((handle >> 15) << 2) | (shv ? 8 : 0);
}

function setEntry(guest: Guest, index: number, low: bigint, high = 0n): void {
  guest.store(TABLE * 4096 + index * 16, low, high);
}

test('off: compatibility format passes as it is (5.1.2.1)', () => {
  const { iommu } = new Guest();
  expect(iommu.remap(SOURCE, 0xfee3_400c | 0, 0x8141)).toBe(DELIVER);
  expect(iommu.interrupt).toEqual({
    vector: 0x41,
    destination: 0x34,
    logical: true,
    redirectionHint: true,
    deliveryMode: 1,
    levelTriggered: true,
  });
});

test('on: compatibility format needs CFI, and no extended mode', () => {
  const guest = remapping(false);
  expect(guest.iommu.remap(SOURCE, 0xfee0_0000, 0x41)).toBe(targetFault('vtd', Fault['IR.25']));
  guest.global(Cmd.cfi);
  expect(guest.iommu.remap(SOURCE, 0xfee0_0000, 0x41)).toBe(DELIVER);
  expect(remapping(true).iommu.remap(SOURCE, 0xfee0_0000, 0x41)).toBe(targetFault('vtd', Fault['IR.25']));
});

test('the index is the handle, with SHV and the subhandle (5.1.3); the entry says the rest (9.9)', () => {
  const guest = remapping();
  setEntry(guest, 9, 0x1234_5678_0041_003dn);
  for (const [address, data] of [
    [remappable(9), 0xffff_ffff],
    [remappable(4, true), 5],
  ]) {
    expect(guest.iommu.remap(SOURCE, address, data)).toBe(DELIVER);
    expect(guest.iommu.interrupt).toEqual({
      vector: 0x41,
      destination: 0x1234_5678,
      logical: true,
      redirectionHint: true,
      deliveryMode: 1,
      levelTriggered: true,
    });
  }
  const small = remapping(false);
  setEntry(small, 0, 0x0000_3400_0041_0001n);
  expect(small.iommu.remap(SOURCE, remappable(0), 0)).toBe(DELIVER);
  expect(small.iommu.interrupt.destination).toBe(0x34);
});

test('what an I/O APIC sends (5.1.5.1): index in bits 63:49 and 11, format in bit 48', () => {
  const guest = remapping();
  setEntry(guest, 9, 0x0000_0001_0041_0001n);
  expect(guest.iommu.remapIoapic(SOURCE, (9 << 17) | (1 << 16), 0x41)).toBe(DELIVER);
  expect(guest.iommu.interrupt.destination).toBe(1);
  expect(guest.iommu.remapIoapic(SOURCE, (9 << 17) | (1 << 16), (1 << 11) | 0x41)).toBe(targetFault('vtd', Fault['IR.21']));
  const off = new Guest();
  expect(off.iommu.remapIoapic(SOURCE, 0x3400_0000, 0x8841)).toBe(DELIVER);
  expect(off.iommu.interrupt).toMatchObject({ vector: 0x41, destination: 0x34, logical: true, levelTriggered: true });
});

describe('source validation (SVT, SQ, SID)', () => {
  test.each<[string, bigint, number, boolean]>([
    ['none', 0n, 0x999, true],
    ['all 16 bits', 0x4_0028n, 0x28, true],
    ['all 16 bits, another function', 0x4_0028n, 0x29, false],
    ['SQ 01: bit 2 does not count', 0x5_0028n, 0x2c, true],
    ['SQ 01: bit 1 counts', 0x5_0028n, 0x2a, false],
    ['SQ 10: bits 2:1 do not count', 0x6_0028n, 0x2e, true],
    ['SQ 11: no function counts', 0x7_0028n, 0x2f, true],
    ['SQ 11: the device counts', 0x7_0028n, 0x30, false],
    ['a bus of a range', 0x8_0305n, 0x4_18, true],
    ['the first bus of a range', 0x8_0305n, 0x3_18, true],
    ['the last bus of a range', 0x8_0305n, 0x5_18, true],
    ['a bus before the range', 0x8_0305n, 0x2_f8, false],
    ['a bus after the range', 0x8_0305n, 0x6_18, false],
  ])('%s', (_, high, source, allowed) => {
    const guest = remapping();
    setEntry(guest, 0, 0x0000_0001_0041_0001n, high);
    expect(guest.iommu.remap(source, remappable(0), 0)).toBe(allowed ? DELIVER : targetFault('vtd', Fault['IR.26']));
    expect(guest.faults()).toEqual(allowed ? [] : [Fault['IR.26']]);
  });
});

function remapWith(guest: Guest, low: bigint, high = 0n): number {
  setEntry(guest, 0, low, high);
  return guest.iommu.remap(SOURCE, remappable(0), 0);
}

const posted = BigInt(PID & 0xffff_ffc0) << 32n;

describe('faults (5.1.4.1, table 15)', () => {
  const present = 0x0000_0001_0041_0001n;
  test.each<[FaultName, string, (guest: Guest) => number]>([
    ['IR.20', 'reserved data bits with SHV', (guest) => guest.iommu.remap(SOURCE, remappable(0, true), 1 << 16)],
    ['IR.21', 'an index beyond the table', (guest) => guest.iommu.remap(SOURCE, remappable(16), 0)],
    ['IR.22', 'no entry', (guest) => guest.iommu.remap(SOURCE, remappable(1), 0)],
    [
      'IR.23',
      'a table outside memory',
      (guest) => {
        guest.iommu.write(Reg.irta, 8, 1n << 40n);
        guest.global(Cmd.sirtp);
        return guest.iommu.remap(SOURCE, remappable(0), 0);
      },
    ],
    ['IR.24', 'a reserved bit of the entry', (guest) => remapWith(guest, present | (1n << 12n))],
    ['IR.24', 'SVT 11', (guest) => remapWith(guest, present, 0xc_0000n)],
    ['IR.27', 'a posted descriptor outside memory', (guest) => remapWith(guest, 0x41_8001n, 1n << 40n)],
    [
      'IR.28',
      'a reserved bit of a posted descriptor',
      (guest) => {
        guest.store(PID + 40, 1n);
        setEntry(guest, 0, posted | 0x41_8001n);
        return guest.iommu.remap(SOURCE, remappable(0), 0);
      },
    ],
  ])('%s: %s', (name, _, act) => {
    const guest = remapping();
    setEntry(guest, 0, present);
    expect(act(guest)).toBe(targetFault('vtd', Fault[name]));
    expect(guest.faults()).toEqual([Fault[name]]);
  });

  test.each<[FaultName, string, bigint, bigint]>([
    ['IR.22', 'which counts without P', 0n, 0n],
    ['IR.24', 'a reserved bit', present | (1n << 12n), 0n],
    ['IR.26', 'another source', present, 0x4_0029n],
    ['IR.27', 'a posted descriptor outside memory', 0x41_8001n, 1n << 40n],
    ['IR.28', 'a reserved bit of a posted descriptor', posted | 0x41_8001n, 0n],
  ])('FPD: no record of %s, %s', (name, _, low, high) => {
    const guest = remapping();
    guest.store(PID + 40, 1n);
    expect(remapWith(guest, low | 2n, high)).toBe(targetFault('vtd', Fault[name]));
    expect(guest.faults()).toEqual([]);
    expect(remapWith(guest, low, high)).toBe(targetFault('vtd', Fault[name]));
    expect(guest.faults()).toEqual([Fault[name]]);
  });

  test.each<[string, bigint]>([
    ['remapped: a reserved bit', present | (1n << 12n)],
    ['remapped: delivery mode 011', present | (3n << 5n)],
    ['remapped: delivery mode 110', present | (6n << 5n)],
    ['posted: a reserved bit', posted | 0x41_8001n | (1n << 12n)],
  ])('what is wrongly programmed is so for everybody: IR.24 before IR.26 (5.1.4), %s', (_, low) => {
    const guest = remapping();
    expect(remapWith(guest, low, 0x4_0099n)).toBe(targetFault('vtd', Fault['IR.24']));
  });

  test('posted, xAPIC mode: notification destination bits that it has not are reserved; address bits above HAW are', () => {
    const guest = remapping(false);
    guest.store(PID + 32, 0x0001_0000_00f2_0000n);
    expect(remapWith(guest, posted | 0x41_8001n)).toBe(targetFault('vtd', Fault['IR.28']));
    guest.store(PID + 32, 0x0000_0700_00f2_0000n);
    expect(remapWith(guest, posted | 0x41_8001n)).toBe(DELIVER);
    expect(guest.iommu.interrupt.destination).toBe(7);
    expect(remapWith(guest, posted | 0x41_8001n, 1n << 48n)).toBe(targetFault('vtd', Fault['IR.24']));
    expect(remapWith(guest, posted | 0x41_8001n, 1n << 47n)).toBe(targetFault('vtd', Fault['IR.27']));
  });

  test('the record: index in FI[63:48], the source', () => {
    const guest = remapping();
    guest.iommu.remap(SOURCE, remappable(5), 0);
    expect(guest.iommu.read(Reg.frcd, 8)).toBe(5n << 48n);
    expect(guest.iommu.read(Reg.frcd + 8, 8)).toBe((1n << 63n) | (0x22n << 32n) | BigInt(SOURCE));
  });

  test('xAPIC mode: destination bits that it has not are reserved', () => {
    const guest = remapping(false);
    setEntry(guest, 0, present);
    expect(guest.iommu.remap(SOURCE, remappable(0), 0)).toBe(targetFault('vtd', Fault['IR.24']));
  });

  test('without posted interrupts the mode bit is reserved', () => {
    const guest = remapping(true, { postedInterrupts: false });
    setEntry(guest, 0, present | 0x8000n);
    expect(guest.iommu.remap(SOURCE, remappable(0), 0)).toBe(targetFault('vtd', Fault['IR.24']));
  });
});

describe('posting (5.2.3)', () => {
  test('the request bit, one notification until ON is cleared, none while SN says so unless urgent', () => {
    const guest = remapping();
    const vectors = [0x41, 0xc3];
    setEntry(guest, 3, posted | 0xc001n | (0xe1n << 16n));
    // RH, DM, TM and a delivery mode of another kind are none of a notification's.
    setEntry(guest, 4, 0x3dn);
    expect([guest.iommu.remap(SOURCE, remappable(4), 0), guest.iommu.interrupt]).toMatchObject([
      DELIVER,
      { redirectionHint: true, logical: true },
    ]);
    for (const [i, vector] of vectors.entries()) setEntry(guest, i, posted | 0x8001n | (BigInt(vector) << 16n));
    setEntry(guest, 2, posted | 0xc001n | (0x42n << 16n));
    guest.store(PID + 32, 0x0000_0007_00f2_0000n);
    expect(guest.iommu.remap(SOURCE, remappable(0), 0)).toBe(DELIVER);
    expect(guest.iommu.interrupt).toEqual({
      vector: 0xf2,
      destination: 7,
      logical: false,
      redirectionHint: false,
      deliveryMode: 0,
      levelTriggered: false,
    });
    expect([guest.load(PID + 8), guest.load(PID + 32) & 3n]).toEqual([2n, 1n]);
    expect(guest.iommu.remap(SOURCE, remappable(1), 0)).toBe(POSTED);
    expect(guest.load(PID + 24)).toBe(8n);
    guest.store(PID + 32, 0x0000_0007_00f2_0002n);
    expect(guest.iommu.remap(SOURCE, remappable(0), 0)).toBe(POSTED);
    expect(guest.load(PID + 32) & 3n).toBe(2n);
    expect(guest.iommu.remap(SOURCE, remappable(2), 0)).toBe(DELIVER);
    expect([guest.load(PID + 8), guest.load(PID + 32) & 3n]).toEqual([6n, 3n]);
    expect(guest.iommu.remap(SOURCE, remappable(3), 0)).toBe(POSTED);
    expect(guest.load(PID + 24)).toBe(8n | (1n << 33n));
  });
});

test('the machine hears which entries may have changed: IEC invalidations, new tables, on and off', () => {
  const changes: [number, number][] = [];
  const guest = remapping(true, {}, (first, last) => void changes.push([first, last]));
  guest.startQueue();
  changes.length = 0;
  guest.submit([0x4n], [0x14n | (3n << 27n) | (21n << 32n)]);
  guest.global(Cmd.ire, false);
  expect(changes).toEqual([
    [0, 0xffff],
    [16, 23],
    [0, 0xffff],
  ]);
});
