import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import type { DeviceInvalidation } from '../../../src/target/vtd/index.ts';
import {
  Cmd,
  type Descriptor,
  EVERYTHING,
  Guest,
  iotlbDomain,
  iotlbGlobal,
  iotlbPages,
  pasidGlobal,
  pasidSelective,
  Reg,
  wait,
} from './guest.ts';

/* What invalidations drop whoever asks, and at which ends of their fields: VT-d D51397-018 (5.10), 6.5.1, 6.5.2, tables 21 to 24. */

const DEVICE = 0x28;
const DID = 3;

/** Page 5 of the device reaches page 600, which the unit has looked up, and then 700 by other entries or by other tables. */
function stale(what: 'entry' | 'table', device = DEVICE) {
  const guest = new Guest();
  const [old, other] = [guest.secondStage(), guest.secondStage()];
  old.table.map(5, 600, 1, READ_WRITE);
  other.table.map(5, 700, 1, READ_WRITE);
  guest.setContext(device, { root: old.root, did: DID });
  guest.start();
  const page = () => (guest.iommu.translate(device, NO_PASID, 0, 0x5000, READ) < 0 ? -1 : guest.iommu.translated[0] >>> 12);
  expect(page()).toBe(600);
  if (what === 'entry') guest.setContext(device, { root: other.root, did: DID + 1 });
  else {
    old.table.unmap(5, 1);
    old.table.map(5, 700, 1, READ_WRITE);
  }
  expect(page()).toBe(600);
  return { guest, page };
}

const ICC = 1n << 63n;
const ccmd = (granularity: bigint, low: bigint, fm = 0n) => ICC | (granularity << 61n) | (fm << 32n) | low;

describe('context-cache (6.5.1.1, 6.5.2.1)', () => {
  test.each<[string, bigint, boolean]>([
    ['global', ccmd(1n, 0n), true],
    ['of its domain', ccmd(2n, BigInt(DID)), true],
    ['of the device', ccmd(3n, BigInt(DEVICE) << 16n), true],
    ['of another function', ccmd(3n, BigInt(DEVICE | 5) << 16n), false],
    ['of all functions', ccmd(3n, BigInt(DEVICE | 5) << 16n, 3n), true],
    ['of functions that differ in bit 2', ccmd(3n, BigInt(DEVICE | 5) << 16n, 1n), false],
    ['reserved', ccmd(0n, 0n), false],
  ])('register, %s', (_, command, forgotten) => {
    const { guest, page } = stale('entry');
    guest.iommu.write(Reg.ccmd, 8, command);
    expect(page()).toBe(forgotten ? 700 : 600);
  });

  test('descriptor, of its domain', () => {
    const { guest, page } = stale('entry');
    guest.submit([0x21n | (BigInt(DID) << 16n)], wait());
    expect(page()).toBe(700);
  });

  test.each([0, 1, 2, 3, 4, 5, 6, 7])('function mask 11 names function %i', (part) => {
    const { guest, page } = stale('entry', 0x28 | part);
    guest.submit([0x31n | (0x28n << 32n) | (3n << 48n)], wait());
    expect(page()).toBe(700);
  });

  test.each<[string, Descriptor]>([
    ['domain-selective', [0x07n | (3n << 16n)]],
    ['PASID-selective', pasidSelective(DID, 0)],
    ['global', pasidGlobal],
  ])('PASID-cache, %s (6.5.2.2)', (_, descriptor) => {
    const guest = new Guest(EVERYTHING);
    const [old, other] = [guest.secondStage(), guest.secondStage()];
    other.table.map(5, 700, 1, READ_WRITE);
    old.table.map(5, 600, 1, READ_WRITE);
    guest.setScalableContext(DEVICE);
    guest.setPasid(0, { pgtt: 2, did: DID, second: old.root });
    guest.start();
    guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, READ);
    guest.setPasid(0, { pgtt: 2, did: DID + 1, second: other.root });
    guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, READ);
    expect(guest.iommu.translated[0] >>> 12).toBe(600);
    guest.submit(descriptor, wait());
    guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, READ);
    expect(guest.iommu.translated[0] >>> 12).toBe(700);
  });
});

describe('IOTLB by registers (6.5.1.2)', () => {
  const did = (domain: number) => BigInt(domain) << 32n;
  test.each<[string, bigint, bigint, boolean]>([
    ['global', 0n, (1n << 60n) | did(9), true],
    ['its domain', 0n, (2n << 60n) | did(DID), true],
    ['another domain', 0n, (2n << 60n) | did(DID + 1), false],
    ['its page', 0x5000n, (3n << 60n) | did(DID), true],
    ['a range around it', 0x4001n, (3n << 60n) | did(DID), true],
    ['another page', 0x4000n, (3n << 60n) | did(DID), false],
    ['the page in another domain', 0x5000n, (3n << 60n) | did(DID + 1), false],
  ])('%s', (_, address, command, forgotten) => {
    const { guest, page } = stale('table');
    guest.iommu.write(Reg.iva, 8, address);
    guest.iommu.write(Reg.iotlb, 8, (1n << 63n) | command);
    expect(page()).toBe(forgotten ? 700 : 600);
  });

  test('not in scalable mode, which answers with granularity 00', () => {
    const guest = new Guest(EVERYTHING);
    guest.start();
    guest.iommu.write(Reg.iotlb, 8, (1n << 63n) | (1n << 60n));
    expect((guest.iommu.read(Reg.iotlb, 8) >> 57n) & 0x43n).toBe(0n);
    guest.iommu.write(Reg.ccmd, 8, ccmd(1n, 0n));
    expect((guest.iommu.read(Reg.ccmd, 8) >> 59n) & 0x13n).toBe(0n);
  });
});

describe('what a new root table forgets (6.6, ESRTPS)', () => {
  test.each(['entry', 'table'] as const)('what came of another %s', (what) => {
    const { guest, page } = stale(what);
    guest.global(Cmd.srtp);
    expect(page()).toBe(700);
  });
});

describe('PASID-based IOTLB, PASID-selective (6.5.2.4)', () => {
  test.each([
    ['a first stage', 1],
    ['a second stage', 2],
    ['nested', 3],
  ])('%s: its translations go, and whoever backs it hears', (_, pgtt) => {
    const guest = new Guest(EVERYTHING);
    const [first, second] = [guest.firstStage(), guest.secondStage()];
    first.table.map(5, 600, 1, READ_WRITE);
    second.table.map(0, 0, 1024, READ_WRITE);
    guest.setScalableContext(DEVICE);
    guest.setPasid(0, { pgtt, did: DID, first: first.root, second: second.root });
    guest.start();
    guest.iommu.addEndpoint(DEVICE);
    const changes: string[] = [];
    guest.iommu.observe({
      attach: (_endpoint, space) => {
        space?.enumerate(0, 0xffff, () => true);
        return 0;
      },
      changed: (space) => void changes.push(space.name),
      flush: () => 0,
    });
    const page = () => (guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, WRITE) < 0 ? -1 : guest.iommu.translated[0] >>> 12);
    const before = page();
    if (pgtt === 2) {
      second.table.unmap(0, 1024);
      second.table.map(5, 700, 1, READ_WRITE);
    } else {
      first.table.unmap(5, 1);
      first.table.map(5, 700, 1, READ_WRITE);
    }
    changes.length = 0;
    guest.submit([0x26n | (BigInt(DID + 1) << 16n)], [0x26n | (BigInt(DID) << 16n) | (7n << 32n)], wait());
    // A second stage's carry no PASID here, so all of its domain went.
    if (pgtt !== 2) expect(page()).toBe(before);
    guest.submit([0x26n | (BigInt(DID) << 16n)], wait());
    expect(page()).toBe(700);
    expect(changes.length).toBeGreaterThan(0);
  });
});

test('device-TLB invalidation: sizes by the lowest clear bit of the address (PCIe ATS), up to everything', () => {
  const sent: DeviceInvalidation[] = [];
  const guest: Guest = new Guest(EVERYTHING, 1024, {
    invalidateDevice: (request) => {
      sent.push(request);
      guest.iommu.invalidationCompletion(request.device, request.tag);
    },
  });
  guest.start();
  const all = 0xffff_ffff_ffff_f000n;
  const clearAt = [12n, 13n, 20n, 30n, 31n, 32n, 33n, 62n, 63n];
  guest.submit(...clearAt.map((bit): Descriptor => [3n | (BigInt(DEVICE) << 32n), (all & ~(1n << bit)) | 1n]));
  expect(sent.map(({ lg2 }) => lg2)).toEqual([13, 14, 21, 31, 32, 33, 34, 63, 64]);
  expect(sent.map(({ address, lg2 }) => address % (1n << BigInt(lg2)))).toEqual(sent.map(() => 0n));
  sent.length = 0;
  guest.submit([3n | (BigInt(DEVICE) << 32n), all | 1n], [3n | (BigInt(DEVICE) << 32n), all]);
  expect(sent.map(({ address, lg2 }) => [address, lg2])).toEqual([
    [0n, 64],
    [all, 12],
  ]);
});

test('interrupt entries: an index within its block, a block at the end of the table, any mask (6.5.2.8)', () => {
  const changes: [number, number][] = [];
  const guest = new Guest({}, 1024, { interruptsChanged: (first, last) => void changes.push([first, last]) });
  guest.startQueue();
  changes.length = 0;
  const indexes = (index: number, im: bigint): Descriptor => [0x14n | (im << 27n) | (BigInt(index) << 32n)];
  guest.submit(indexes(5, 0n), indexes(0xffff, 4n), indexes(0x1234, 15n), indexes(0xffff, 31n));
  expect(changes).toEqual([
    [5, 5],
    [0xfff0, 0xffff],
    [0, 0x7fff],
    [0, 0xffff],
  ]);
});

describe('reserved bits of the descriptors that come often are errors too (IQEI 4)', () => {
  test.each<[string, Descriptor, boolean]>([
    ['IOTLB pages, address bit 7', iotlbPages(1, 5).map((word, i) => (i === 1 ? word | 0x80n : word)), false],
    ['IOTLB pages, bit 32', iotlbPages(1, 5).map((word, i) => (i === 0 ? word | (1n << 32n) : word)), false],
    ['PASID IOTLB pages, address bit 11', [0x36n, 0x5800n], true],
    ['PASID IOTLB pages, bit 52', [0x36n | (1n << 52n), 0x5000n], true],
    ['PASID IOTLB pages, third doubleword', [0x36n, 0x5000n, 1n], true],
    ['PASID IOTLB pages, fourth doubleword', [0x36n, 0x5000n, 0n, 1n << 63n], true],
  ])('%s', (_, descriptor, scalable) => {
    const guest = new Guest(scalable ? EVERYTHING : {});
    guest.start();
    guest.submit(scalable ? iotlbDomain(1) : iotlbGlobal, descriptor, wait());
    expect(guest.iommu.read(Reg.iqh, 8)).toBe(scalable ? 32n : 16n);
    expect(guest.iommu.read(Reg.iqercd, 8) & 0xfn).toBe(4n);
  });
});
