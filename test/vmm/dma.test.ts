import { beforeEach, describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../src/memory/access.ts';
import { GuestMemory, MEM_FAULT } from '../../src/memory/guest-memory.ts';
import type { Target } from '../../src/target/target.ts';
import { EmulatedDevice } from '../../src/vmm/dma.ts';

const FAULT = -77;

describe('an access of an emulated device is cut where a translation ends', () => {
  let memory: GuestMemory;
  let asked: [iova: string, access: number, pasid: number][];
  let device: EmulatedDevice;
  /** By page of the IOVA: where its page leads; null: a fault. */
  let leads: (iova: number) => number | null;
  let lg2: number;

  beforeEach(() => {
    memory = GuestMemory.ofBytes(1 << 16);
    for (let page = 0; page < 16; page++) memory.write(0, page << 12, new Uint8Array(4096).fill(page), 0, 4096);
    asked = [];
    lg2 = 12;
    const translated = new Int32Array(2);
    const translate: Target['translate'] = (_endpoint, pasid, hi, lo, access) => {
      const iova = (hi >>> 0) * 2 ** 32 + (lo >>> 0);
      asked.push([iova.toString(16), access, pasid]);
      const to = leads(iova);
      if (to === null) return FAULT;
      translated[0] = to + (iova % 4096);
      return lg2;
    };
    device = new EmulatedDevice(8, { translated, translate } as Target, memory);
  });

  test('across 4 GiB: the upper half goes on', () => {
    leads = (iova) => (iova < 2 ** 32 ? 0x3000 : 0x5000);
    const bytes = new Uint8Array(32);
    expect(device.read(0xffff_fff0n, bytes)).toBe(0);
    expect(asked).toEqual([
      ['fffffff0', READ, -1],
      ['100000000', READ, -1],
    ]);
    expect([...bytes]).toEqual([...new Array(16).fill(3), ...new Array(16).fill(5)]);
  });

  test('from the beginning of a page on: only what passes 4 GiB has another upper half', () => {
    leads = () => 0x2000;
    expect(device.read(0x3_0000_0000n, new Uint8Array(0x2001))).toBe(0);
    expect(asked.map(([iova]) => iova)).toEqual(['300000000', '300001000', '300002000']);
  });

  test.each([31, 32, 40])('across the end of a page of 2^%i bytes', (size) => {
    lg2 = size;
    const end = 3 * 2 ** size;
    leads = (iova) => (iova < end ? 0x3000 : 0x5000);
    expect(device.write(BigInt(end - 4), new Uint8Array(8).fill(9), 7)).toBe(0);
    expect(asked).toEqual([
      [(end - 4).toString(16), WRITE, 7],
      [end.toString(16), WRITE, 7],
    ]);
    const found = new Uint8Array(5);
    memory.read(0, 0x3ffb, found, 0, 5);
    expect([...found]).toEqual([3, 9, 9, 9, 9]);
    memory.read(0, 0x5000, found, 0, 5);
    expect([...found]).toEqual([9, 9, 9, 9, 5]);
  });

  test('a fault in a later page: what lies before it was done, and each page counts', () => {
    leads = (iova) => (iova < 0x3000 ? 0x6000 : null);
    const bytes = new Uint8Array(0x1010);
    expect(device.read(0x1ff8n, bytes)).toBe(FAULT);
    expect(asked.map(([iova]) => iova)).toEqual(['1ff8', '2000', '3000']);
    expect([bytes[0], bytes[0x1007], bytes[0x1008]]).toEqual([6, 6, 0]);
    expect([device.accesses, device.faults]).toEqual([3, 1]);
  });

  test('a translation that leads outside RAM', () => {
    leads = (iova) => (iova < 0x2000 ? 0xf000 : 0x10000);
    expect(device.write(0x1ffen, Uint8Array.of(1, 2, 3))).toBe(MEM_FAULT);
    const found = new Uint8Array(2);
    memory.read(0, 0xfffe, found, 0, 2);
    expect([...found]).toEqual([1, 2]);
    expect([device.accesses, device.faults]).toEqual([2, 1]);
  });
});
