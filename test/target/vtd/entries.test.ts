import { describe, expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { DELIVER, Fault, POSTED, type VtdIommuOptions } from '../../../src/target/vtd/index.ts';
import { Cmd, CONTEXT, contextGlobal, EVERYTHING, Guest, PASID_DIRECTORY, PASID_TABLE, Reg, ROOT, wait } from './guest.ts';

/* Bits of entries that count wherever they stand, what may be cached of them, and entries that somebody else changes meanwhile: VT-d D51397-018 (5.10), chapters 6, 7 and 9. */

const DEVICE = 0x28;
const DID = 3;
const PAGE_5 = 0x5000;

function scalable(options: VtdIommuOptions = EVERYTHING) {
  const guest = new Guest(options);
  const first = guest.firstStage();
  first.table.map(5, 600, 1, READ_WRITE);
  guest.setScalableContext(DEVICE);
  guest.setPasid(0, { pgtt: 1, did: DID, first: first.root });
  guest.start();
  return { guest, first };
}

const reach = ({ iommu }: Guest, access = READ, pasid = NO_PASID) => iommu.translate(DEVICE, pasid, 0, PAGE_5, access);

describe('FPD of any entry on the way (7.1.1)', () => {
  test.each<[string, number]>([
    ['directory entry', PASID_DIRECTORY * 4096],
    ['PASID table entry', PASID_TABLE * 4096],
  ])('%s', (_, at) => {
    const { guest } = scalable();
    guest.store(PASID_TABLE * 4096 + 56, 1n);
    guest.store(at, guest.load(at) | 2n);
    expect(reach(guest)).toBe(targetFault('vtd', Fault['SPT.3']));
    expect(guest.faults()).toEqual([]);
  });
});

describe('what is reserved (chapter 9)', () => {
  test.each<[string, bigint, number, keyof typeof Fault]>([
    ['directory pointer above HAW', 1n << 48n, PASID_DIRECTORY * 4096, 'SPD.3'],
    ['second-stage pointer above HAW', 1n << 48n, PASID_TABLE * 4096, 'SPT.3'],
    ['first-stage pointer above HAW', 1n << 48n, PASID_TABLE * 4096 + 16, 'SPT.3'],
  ])('%s', (_, bit, at, name) => {
    const { guest } = scalable();
    guest.store(at, guest.load(at) | bit);
    expect(reach(guest)).toBe(targetFault('vtd', Fault[name]));
  });

  test.each<[string, bigint, VtdIommuOptions, boolean]>([
    ['DTE without device-TLBs', 4n, { scalableMode: true }, false],
    ['DTE with device-TLBs', 4n, { scalableMode: true, deviceTlb: true }, true],
    ['PRE without page requests', 16n, { scalableMode: true, deviceTlb: true }, false],
    ['PRE with page requests', 16n, EVERYTHING, true],
  ])('%s', (_, bit, options, allowed) => {
    const { guest } = scalable(options);
    guest.setScalableContext(DEVICE, bit);
    expect(reach(guest)).toBe(allowed ? 12 : targetFault('vtd', Fault['SCT.3']));
  });
});

describe('what may not be answered from the IOTLB', () => {
  test('the first write to a page that was read: the tables have to say that it is dirty', () => {
    const { guest, first } = scalable();
    expect(reach(guest, READ)).toBe(12);
    const leaf = () => {
      let table = first.root * 4096;
      for (let level = 3; level > 0; level--) table = Number(guest.load(table) & 0xf_ffff_ffff_f000n);
      return guest.load(table + 5 * 8) & 0x60n;
    };
    expect(leaf()).toBe(0x20n);
    expect(reach(guest, WRITE)).toBe(12);
    expect(leaf()).toBe(0x60n);
  });

  test('what a supervisor was granted is nothing for a user', () => {
    const { guest, first } = scalable();
    let table = first.root * 4096;
    for (let level = 3; level > 0; level--) table = Number(guest.load(table) & 0xf_ffff_ffff_f000n);
    guest.store(table + 5 * 8, guest.load(table + 5 * 8) & ~4n);
    guest.setScalableContext(DEVICE, 0n, 9n);
    guest.setPasid(7, { pgtt: 1, did: DID, first: first.root, flags: 1n });
    expect(reach(guest, READ | PRIVILEGED, 7)).toBe(12);
    expect(reach(guest, READ, 7)).toBe(targetFault('vtd', Fault['SGN.2']));
  });
});

test('each bus has a root entry of its own (9.1)', () => {
  const guest = new Guest();
  const { root, table } = guest.secondStage();
  table.map(5, 600, 1, READ_WRITE);
  guest.setContext(DEVICE, { root, did: DID });
  guest.start();
  const asked = (bus: number) => guest.iommu.translate((bus << 8) | DEVICE, NO_PASID, 0, PAGE_5, READ);
  expect([0, 1, 2, 255].map(asked)).toEqual([12, ...Array(3).fill(targetFault('vtd', Fault['LRT.2']))]);
  for (const bus of [2, 255]) guest.store(ROOT * 4096 + 16 * bus, (BigInt(CONTEXT) << 12n) | 1n);
  guest.submit(contextGlobal, wait());
  expect([0, 1, 2, 255].map(asked)).toEqual([12, targetFault('vtd', Fault['LRT.2']), 12, 12]);
});

test('legacy mode marks nothing: A and D of second stages are scalable mode’s (3.7.2, 9.3)', () => {
  const guest = new Guest();
  const { root, table } = guest.secondStage();
  table.map(5, 600, 1, READ_WRITE);
  guest.setContext(DEVICE, { root, did: DID });
  guest.start();
  expect(reach(guest, READ_WRITE)).toBe(12);
  let at = root * 4096;
  for (let level = 3; level > 0; level--) at = Number(guest.load(at) & 0xf_ffff_ffff_f000n);
  expect(guest.load(at + 5 * 8)).toBe((600n << 12n) | 3n);
});

test('a device is told of a page that it may only write, or only read (4.1)', () => {
  const guest = new Guest({ deviceTlb: true });
  const { root, table } = guest.secondStage();
  table.map(5, 600, 1, WRITE);
  table.map(6, 601, 1, READ);
  guest.setContext(DEVICE, { root, did: DID, tt: 1 });
  guest.start();
  const asked = (address: bigint) => guest.iommu.translationRequest({ device: DEVICE, pasid: null, address });
  expect(asked(0x5000n)).toMatchObject({ status: 'success', address: 600n << 12n, read: false, write: true });
  expect(asked(0x6000n)).toMatchObject({ status: 'success', address: 601n << 12n, read: true, write: false });
});

test('requests without PASID neither execute nor are a supervisor’s (9.4)', () => {
  const { guest } = scalable();
  expect(reach(guest, EXECUTE)).toBe(12);
  expect(reach(guest, READ | EXECUTE | PRIVILEGED)).toBe(12);
  const write = new Guest();
  const { root, table } = write.secondStage();
  table.map(5, 600, 1, WRITE);
  write.setContext(DEVICE, { root, did: DID });
  write.start();
  // Executing is reading.
  expect(reach(write, EXECUTE)).toBe(targetFault('vtd', Fault['LGN.3']));
  const asked = guest.iommu.translationRequest({ device: DEVICE, pasid: null, address: BigInt(PAGE_5), privileged: true });
  expect(asked).toMatchObject({ status: 'success', read: true, write: true });
});

test('entries cached: no more than contextEntries, whatever was forgotten between', () => {
  const guest = new Guest({ contextEntries: 4 });
  const [old, other] = [guest.secondStage(), guest.secondStage()];
  for (const { table } of [old, other]) table.map(5, 600, 1, READ_WRITE);
  for (let device = 0; device < 8; device++) guest.setContext(device, { root: old.root, did: DID });
  guest.start();
  const isCached = (device: number) => {
    guest.setContext(device, null);
    const answer = guest.iommu.translate(device, NO_PASID, 0, PAGE_5, READ) >= 0;
    guest.setContext(device, { root: old.root, did: DID });
    return answer;
  };
  const visit = (...devices: number[]) => {
    for (const device of devices) guest.iommu.translate(device, NO_PASID, 0, PAGE_5, READ);
  };
  visit(0, 1, 2, 3);
  // Forgotten ones make room: of four the first is still there.
  guest.submit([0x31n | (3n << 32n)], wait());
  visit(4);
  expect(isCached(0)).toBe(true);
  visit(5);
  expect(isCached(0)).toBe(false);
});

describe('what somebody else changes meanwhile', () => {
  /** Somebody who acts once, before the unit reads, or exchanges, what stands at an address. */
  class Shared extends GuestMemory {
    at = -1;
    act: (() => void) | null = null;
    override load64(hi: number, lo: number): number {
      this.#meet(lo);
      return super.load64(hi, lo);
    }
    override compareExchange64(...words: Parameters<GuestMemory['compareExchange64']>): number {
      this.#meet(~words[1]);
      return super.compareExchange64(...words);
    }
    #meet(address: number): void {
      const { act } = this;
      if (address !== this.at || act === null) return;
      this.act = null;
      act();
    }
  }

  function remapping() {
    const memory = new Shared([{ gpa: 0n, buffer: new SharedArrayBuffer(1024 * 4096) }]);
    const guest = new Guest({}, 1024, {}, memory);
    guest.iommu.write(Reg.irta, 8, (8n << 12n) | (1n << 11n));
    guest.global(Cmd.sirtp);
    guest.global(Cmd.ire);
    return { guest, memory };
  }

  test('an IRTE of 128 bits is never half of one and half of another', () => {
    const { guest, memory } = remapping();
    guest.store(8 * 4096, 0x0000_0001_0041_0001n, 0x4_0000n | BigInt(DEVICE));
    memory.at = 8 * 4096 + 8;
    memory.act = () => guest.store(8 * 4096, 0x0000_0002_0042_0001n, 0x4_0099n);
    expect(guest.iommu.remap(0x99, 0xfee0_0010 | 0, 0)).toBe(DELIVER);
    expect([memory.act, guest.iommu.interrupt]).toMatchObject([null, { vector: 0x42, destination: 2 }]);
  });

  test('a notification is sent by whoever set ON', () => {
    const { guest, memory } = remapping();
    const control = 0x9020;
    guest.store(8 * 4096, (0x9000n << 32n) | 0x41_8001n, 0n);
    guest.store(control, 0x0000_0007_00f2_0000n);
    memory.at = ~control;
    memory.act = () => guest.store(control, 0x0000_0007_00f2_0001n);
    expect(guest.iommu.remap(DEVICE, 0xfee0_0010 | 0, 0)).toBe(POSTED);
    expect([memory.act, guest.load(0x9008)]).toEqual([null, 2n]);
  });
});
