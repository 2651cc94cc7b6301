import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { hiOf, loOf } from '../../../src/memory/address.ts';
import type { GuestRegion } from '../../../src/memory/guest-memory.ts';
import type { AddressSpace } from '../../../src/target/target.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { UnprotectedRam } from '../../../src/target/vtd/control/protected-memory.ts';
import { FAULT_PROTECTED } from '../../../src/target/vtd/index.ts';
import { Cmd, contextGlobal, Guest, Reg } from './guest.ts';

/* Protected low and high memory (VT-d D51397-018, 11.4.8). */

const DEVICE = 0x28;
const [PMEN, PLMBASE, PLMLIMIT, PHMBASE, PHMLIMIT] = [0x64, 0x68, 0x6c, 0x70, 0x78];
const EPM = 1n << 31n;
/** 2 MiB pages of RAM, of which the second and the fourth are protected. */
const MIB_2 = 0x20_0000n;

function ready() {
  const guest = new Guest({ protectedMemory: true, deviceTlb: true }, 2560);
  guest.iommu.write(PLMBASE, 4, MIB_2);
  guest.iommu.write(PLMLIMIT, 4, MIB_2 + 0x1234n);
  guest.iommu.write(PHMBASE, 8, 3n * MIB_2);
  guest.iommu.write(PHMLIMIT, 8, 3n * MIB_2);
  const reaches = (address: bigint) => guest.iommu.translate(DEVICE, NO_PASID, hiOf(address), loOf(address), WRITE) >= 0;
  /** By 2 MiB from 0 on. */
  const reached = () => [0n, 1n, 2n, 3n, 4n].map((block) => reaches(block * MIB_2) && reaches(block * MIB_2 + MIB_2 - 1n));
  return { guest, reached };
}

const OPEN = [true, true, true, true, true];
const CLOSED = [true, false, true, false, true];

test('PMEN, bases and limits: bits below the alignment are 0, PRS follows EPM; without CAP.PLMR they are not there', () => {
  const { guest } = ready();
  const { iommu } = guest;
  expect((iommu.read(Reg.cap, 8) >> 5n) & 3n).toBe(3n);
  expect([iommu.read(PLMBASE, 4), iommu.read(PLMLIMIT, 4), iommu.read(PHMBASE, 8)]).toEqual([MIB_2, MIB_2, 3n * MIB_2]);
  iommu.write(PLMBASE, 8, -1n & 0xffff_ffff_ffff_ffffn);
  expect(iommu.read(PLMBASE, 8)).toBe(0xffe0_0000_ffe0_0000n);
  iommu.write(PMEN, 4, EPM | 0x7fff_fffen);
  expect(iommu.read(PMEN, 4)).toBe(EPM | 1n);
  iommu.write(PMEN, 4, 0n);
  expect(iommu.read(PMEN, 4)).toBe(0n);
  const without = new Guest().iommu;
  for (const register of [PMEN, PLMBASE, PLMLIMIT, PHMBASE, PHMLIMIT]) {
    without.write(register, 4, 0xffff_ffffn);
    expect(without.read(register, 4)).toBe(0n);
  }
});

describe('what does not reach protected memory (11.4.8.1)', () => {
  test('requests while translation is off; no fault is recorded', () => {
    const { guest, reached } = ready();
    expect(reached()).toEqual(OPEN);
    guest.iommu.write(PMEN, 4, EPM);
    expect(reached()).toEqual(CLOSED);
    expect(guest.iommu.translate(DEVICE, NO_PASID, 0, Number(MIB_2), WRITE)).toBe(FAULT_PROTECTED);
    expect(guest.faults()).toEqual([]);
    guest.iommu.write(PMEN, 4, 0n);
    expect(reached()).toEqual(OPEN);
  });

  test('a limit below its base protects nothing', () => {
    const { guest, reached } = ready();
    guest.iommu.write(PLMLIMIT, 4, 0n);
    guest.iommu.write(PMEN, 4, EPM);
    expect(reached()).toEqual([true, true, true, false, true]);
  });

  test('pass-through and translated requests; what tables decide about does', () => {
    const { guest, reached } = ready();
    guest.iommu.write(PMEN, 4, EPM);
    guest.setContext(DEVICE, { root: 0, did: 1, tt: 2 });
    guest.start();
    expect(reached()).toEqual(CLOSED);
    const { root, table } = guest.secondStage();
    table.map(0x200, 0x200, 1, READ_WRITE);
    guest.setContext(DEVICE, { root, did: 1, tt: 1 });
    guest.submit(contextGlobal);
    expect(guest.iommu.translate(DEVICE, NO_PASID, 0, 0x20_0000, READ)).toBe(12);
    expect(guest.iommu.translatedRequest(DEVICE, MIB_2, WRITE)).toBe(FAULT_PROTECTED);
    expect(guest.iommu.translatedRequest(DEVICE, 0n, WRITE)).toBe(0);
    expect(guest.faults()).toEqual([]);
  });

  test('devices that somebody backs: another space, and no bypass of hardware; reset and load follow', () => {
    const { guest } = ready();
    const { iommu } = guest;
    iommu.addEndpoint(DEVICE);
    const told: (AddressSpace | null)[] = [];
    iommu.observe({ attach: (_, space) => told.push(space) && 0, changed: () => {}, flush: () => 0 });
    const runs = () => {
      const pages: [number, number][] = [];
      iommu.spaceOf(DEVICE)!.enumerate(0, 0xffff, (iova, _gpa, count) => pages.push([iova, count]) > 0);
      return pages;
    };
    expect(runs()).toEqual([[0, 2560]]);
    iommu.write(PMEN, 4, EPM);
    const closed = [
      [0, 512],
      [1024, 512],
      [2048, 512],
    ];
    expect(runs()).toEqual(closed);
    expect(told).toHaveLength(2);
    expect(told[1]).toBe(iommu.spaceOf(DEVICE));
    expect(iommu.stageOf(DEVICE)).toBeNull();
    const saved = iommu.save();
    iommu.reset();
    expect(runs()).toEqual([[0, 2560]]);
    expect(iommu.stageOf(DEVICE)).toEqual({ kind: 'bypass' });
    iommu.load(saved);
    expect(runs()).toEqual(closed);
  });

  test('other bounds, said by another write of PMEN: what devices that somebody backs reach is another space', () => {
    const { guest, reached } = ready();
    const { iommu } = guest;
    iommu.addEndpoint(DEVICE);
    let told = 0;
    iommu.observe({ attach: () => told++ && 0, changed: () => {}, flush: () => 0 });
    iommu.write(PMEN, 4, EPM);
    const before = iommu.spaceOf(DEVICE);
    iommu.write(PMEN, 4, EPM);
    expect([told, iommu.spaceOf(DEVICE) === before], 'the same bounds').toEqual([2, true]);
    iommu.write(PHMLIMIT, 8, 4n * MIB_2);
    iommu.write(PMEN, 4, EPM);
    expect([told, iommu.spaceOf(DEVICE) === before, reached()]).toEqual([3, false, [true, false, true, false, false]]);
    iommu.write(PLMBASE, 4, 0n);
    iommu.write(PMEN, 4, EPM);
    expect([told, reached()]).toEqual([4, [false, false, true, false, false]]);
  });

  test('regions that are moved while they are protected', () => {
    const { guest, reached } = ready();
    guest.iommu.write(PMEN, 4, EPM);
    guest.iommu.write(PLMBASE, 4, 0n);
    guest.iommu.write(PMEN, 4, EPM);
    expect(reached()).toEqual([false, false, true, false, true]);
    guest.iommu.write(PLMLIMIT, 4, 0n);
    guest.iommu.write(PMEN, 4, EPM);
    expect(reached()).toEqual([false, true, true, false, true]);
  });

  test('remapping that is turned on, off again: protected memory stays', () => {
    const { guest, reached } = ready();
    guest.iommu.write(PMEN, 4, EPM);
    guest.start();
    expect(reached()).toEqual([false, false, false, false, false]);
    guest.global(Cmd.te, false);
    expect(reached()).toEqual(CLOSED);
  });
});

describe('guest RAM without what is protected', () => {
  const [PAGE, GIB_4] = [4096, 0x1_0000_0000];
  const buffer = new ArrayBuffer(16 * PAGE);
  /** Pages 2 to 15 of the buffer, from 4 GiB on; of a file from byte 0x3000 on, at 0x7000_0000_0000 in this process. */
  const region: GuestRegion = {
    gpa: BigInt(GIB_4),
    buffer,
    offset: 2 * PAGE,
    hostAddress: 0x7000_0000_0000n,
    file: { fd: 5, offset: 0x3000n },
  };
  const first = GIB_4 / PAGE;
  const left = (from: number, to: number, regions: readonly GuestRegion[] = [region]) =>
    new UnprotectedRam({ regions }, [{ first: from, last: to }]).regions.map(({ gpa, offset, bytes, hostAddress, file }) => [
      Number(gpa) / PAGE - first,
      (offset ?? 0) / PAGE,
      (bytes ?? 0) / PAGE,
      hostAddress && Number(hostAddress - 0x7000_0000_0000n) / PAGE,
      file && Number(file.offset) / PAGE,
    ]);

  test('is what lies below and above it: the same bytes of buffer, process and file', () => {
    expect(left(first + 4, first + 5)).toEqual([
      [0, 2, 4, 0, 3],
      [6, 8, 8, 6, 9],
    ]);
    expect(left(0, first + 5)).toEqual([[6, 8, 8, 6, 9]]);
    expect(left(first + 13, first + 100)).toEqual([[0, 2, 13, 0, 3]]);
    expect(left(0, 2 ** 40)).toEqual([]);
    expect(left(0, first - 1)).toEqual([[0, 2, 14, 0, 3]]);
  });

  test('follows what comes and goes, and is the same as long as nothing does', () => {
    const memory = { regions: [region] as readonly GuestRegion[] };
    const ram = new UnprotectedRam(memory, [{ first, last: first }]);
    const before = ram.regions;
    expect(ram.regions).toBe(before);
    memory.regions = [];
    expect(ram.regions).toEqual([]);
    memory.regions = [region];
    expect(ram.regions).toEqual(before);
  });
});
