import { beforeEach, describe, expect, test } from 'vitest';
import { READ } from '../../../../src/memory/access.ts';
import { NO_PASID } from '../../../../src/target/target.ts';
import { Guest, invalVma, Reg } from '../guest.ts';

/* "Performance-monitoring": what event counters count, whatever the device under test remembers of the request before. */

const IOCOUNTOVF = 88;
const IOCOUNTINH = 92;
const IOHPMCTR = 104;
const IOHPMEVT = 352;
const DEVICE = 8;

/** "iohpmevt": eventID, DMASK, PID_PSCID, DID_GSCID, PV_PSCV, DV_GSCV, IDT, OF. */
const [UNTRANSLATED, TLB_MISS, DDT_WALK, FIRST_WALK, SECOND_WALK] = [1n, 4n, 5n, 7n, 8n];
const did = (device: number) => (BigInt(device) << 36n) | (1n << 61n);
const DMASK = 1n << 15n;
const pid = (process: number) => (BigInt(process) << 16n) | (1n << 60n);
const IDT = 1n << 62n;
const OF = 1n << 63n;

describe('event counters', () => {
  let guest: Guest;

  beforeEach(() => {
    guest = new Guest();
    guest.start();
    const { root, table } = guest.table('sv39');
    for (let page = 0; page < 64; page++) table.map(page, 0x99, 1, READ);
    for (const [device, pscid] of [
      [DEVICE, 3],
      [DEVICE + 1, 4],
    ])
      guest.setContext(device, { first: { mode: 8, root, pscid } });
  });

  const select = (counter: number, event: bigint) => guest.iommu.write(IOHPMEVT + 8 * (counter - 1), 8, event);
  const count = (counter: number) => Number(guest.iommu.read(IOHPMCTR + 8 * (counter - 1), 8));
  const request = (page: number, device = DEVICE) =>
    expect(guest.iommu.translate(device, NO_PASID, 0, page << 12, READ)).toBeGreaterThan(0);

  test('count every request, and every page that is not known, of one device in a row as of many in turn', () => {
    // The device under test knows the device already.
    request(0);
    select(1, UNTRANSLATED);
    select(2, TLB_MISS);
    for (let i = 0; i < 5; i++) request(1);
    expect([count(1), count(2)]).toEqual([5, 1]);
    for (let page = 2; page < 6; page++) request(page);
    expect([count(1), count(2)]).toEqual([9, 5]);
    guest.command(invalVma({ pscid: 3 }));
    request(1);
    expect([count(1), count(2)]).toEqual([10, 6]);
  });

  test('by device, by a group of devices (DMASK), by process, by PSCID (IDT)', () => {
    select(1, UNTRANSLATED | did(DEVICE));
    // The lowest 0 of DID and what lies below it does not matter: 8 and 9.
    select(2, UNTRANSLATED | did(DEVICE) | DMASK);
    select(3, UNTRANSLATED | pid(0));
    select(4, TLB_MISS | IDT | pid(4));
    // Not one of those that can be filtered so.
    select(5, UNTRANSLATED | IDT | pid(4));
    request(1);
    request(1, DEVICE + 1);
    request(2, DEVICE + 1);
    expect([1, 2, 3, 4, 5].map(count)).toEqual([1, 3, 0, 2, 0]);
  });

  test('a group of devices is as large as the ones below the lowest 0 say', () => {
    select(1, UNTRANSLATED | did(0b1011) | DMASK);
    select(2, UNTRANSLATED | did(0b1001) | DMASK);
    for (const device of [DEVICE, DEVICE + 1]) request(1, device);
    expect([1, 2].map(count)).toEqual([2, 2]);
    select(3, UNTRANSLATED | did(0b1000) | DMASK);
    request(1, DEVICE + 1);
    select(4, UNTRANSLATED | did(0b0111) | DMASK);
    request(1, DEVICE + 1);
    expect([3, 4].map(count)).toEqual([2, 1]);
  });

  test('walks of the second stage by themselves, those for tables of the first among them', () => {
    const second = guest.table('sv39', true);
    second.table.map(0, 0, 1024, READ);
    const first = guest.table('sv39');
    first.table.map(0, 0x99, 1, READ);
    guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: 3 }, second: { mode: 8, root: second.root, gscid: 1 } });
    select(1, FIRST_WALK);
    select(2, SECOND_WALK);
    request(0);
    // Three entries of the first stage, before each of them the second, and once more for the address.
    expect([count(1), count(2) % 4, count(2) / count(1) > 1]).toEqual([3, 0, true]);
  });

  test('not while inhibited, and not what another event is', () => {
    select(1, UNTRANSLATED);
    select(2, DDT_WALK);
    guest.iommu.write(IOCOUNTINH, 4, 2n);
    request(1);
    expect([count(1), count(2) > 0]).toEqual([0, true]);
    guest.iommu.write(IOCOUNTINH, 4, 0n);
    request(1);
    expect(count(1)).toBe(1);
    select(1, 0n);
    request(1);
    expect(count(1)).toBe(1);
  });

  test('set OF when they wrap, and interrupt at its edge', () => {
    select(1, FIRST_WALK);
    guest.iommu.write(IOHPMCTR, 8, 2n ** 64n - 1n);
    request(1);
    expect([count(1) < 10, guest.iommu.read(IOCOUNTOVF, 4), guest.iommu.read(IOHPMEVT, 8) & OF]).toEqual([true, 2n, OF]);
    expect(guest.iommu.read(Reg.ipsr, 4)).toBe(4n);
    guest.iommu.write(Reg.ipsr, 4, 4n);
    guest.iommu.write(IOHPMCTR, 8, 2n ** 64n - 1n);
    request(2);
    expect(guest.iommu.read(Reg.ipsr, 4), 'OF is set already').toBe(0n);
  });
});
