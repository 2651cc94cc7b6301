import { beforeEach, describe, expect, test } from 'vitest';
import { PRIVILEGED, READ, WRITE } from '../../../src/memory/access.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { fence, Guest, invalDdt } from './guest.ts';

/* "Fault/Event-Queue": which faults are recorded, and what a record has of its own request alone. */

const DEVICE = 8;
const DTF = 1 << 4;
const PDTV = 1 << 5;

describe('fault records', () => {
  let guest: Guest;
  const refused = (device = DEVICE, process = NO_PASID, access = READ, page = 0x40) =>
    expect(guest.iommu.translate(device, process, 0, page << 12, access)).toBeLessThan(0);
  const causes = () => guest.takeFaults().map(([word]) => Number(word & 0xfffn));

  beforeEach(() => {
    guest = new Guest();
    guest.start();
  });

  test('DTF: of a device whose faults are not wanted none, however many in a row; of one behind no directory entry all the same', () => {
    const { root, table } = guest.table('sv39');
    table.map(5, 0x99, 1, READ);
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: 0 }, tc: DTF });
    expect(guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, READ)).toBe(12);
    for (let i = 0; i < 3; i++) refused();
    expect(causes()).toEqual([]);
    // A device_id wider than the mode (260), right behind.
    refused(0x1000);
    expect(causes()).toEqual([260]);
    refused();
    expect(causes()).toEqual([]);
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: 0 } });
    guest.command(invalDdt(DEVICE), fence());
    refused();
    refused();
    expect(causes()).toEqual([13, 13]);
  });

  test('DTF is no reason to keep silent of what is no fault of its translation: a directory entry that is misconfigured', () => {
    guest.setContext(DEVICE, { first: { mode: 1, root: 0, pscid: 0 }, tc: DTF });
    refused();
    expect(causes()).toEqual([259]);
  });

  test('PRIV, and PID, are of requests with a process alone', () => {
    const pdt = guest.pool.allocate(1);
    guest.memory.store64(0, pdt * 4096 + 16, 0, 3);
    guest.memory.store64(0, pdt * 4096 + 24, 8 << 28, guest.table('sv39').root);
    guest.setContext(DEVICE, { first: { mode: 1, root: pdt, pscid: 0 }, tc: PDTV });
    for (const access of [READ, READ | PRIVILEGED]) refused(DEVICE, 1, access);
    refused(0x1000, NO_PASID, READ | PRIVILEGED);
    // PV in bit 32, PRIV in bit 33, PID in 31:12.
    expect(guest.takeFaults().map(([word]) => [(word >> 32n) & 3n, (word >> 12n) & 0xf_ffffn])).toEqual([
      [1n, 1n],
      [3n, 1n],
      [0n, 0n],
    ]);
  });

  test('iotval2 is of the second stage, and of this request: the next one that is refused elsewhere has 0', () => {
    const first = guest.table('sv39');
    const second = guest.table('sv39', true);
    second.table.map(0, 0, 1024, READ | WRITE);
    first.table.map(5, 0x1_2345_6000 / 4096, 1, READ);
    guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: 0 }, second: { mode: 8, root: second.root, gscid: 1 } });
    refused(DEVICE, NO_PASID, READ, 5);
    refused(DEVICE, NO_PASID, READ, 0x40);
    refused(0x1000);
    expect(guest.takeFaults().map(([word, , , iotval2]) => [word & 0xfffn, iotval2])).toEqual([
      [21n, 0x1_2345_6000n],
      [13n, 0n],
      [260n, 0n],
    ]);
  });
});
