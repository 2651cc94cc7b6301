import { beforeEach, describe, expect, test } from 'vitest';
import { PRIVILEGED, READ } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { Cause } from '../../../src/target/riscv/index.ts';
import { Guest, invalDdt, invalPdt, invalVma } from './guest.ts';

const DEVICE = 8;
const PROCESS = 1;
const PD8 = 1;
const PDTV = 1 << 5;

test('PC.ta.ENS 0: supervisor privilege faults, in the IOTLB or not ("Process to translate an IOVA", step 15)', () => {
  const guest = new Guest();
  const { iommu } = guest;
  guest.start();
  const pdt = guest.pool.allocate(1);
  // Process-context: ta has V and nothing else, fsc is Bare.
  guest.memory.store64(0, pdt * 4096 + PROCESS * 16, 0, 1);
  guest.setContext(DEVICE, { first: { mode: PD8, root: pdt, pscid: 0 }, tc: PDTV });
  expect(iommu.translate(DEVICE, PROCESS, 0, 0x5000, READ | PRIVILEGED)).toBe(targetFault('riscv', Cause.typeDisallowed));
  expect(iommu.translate(DEVICE, PROCESS, 0, 0x5000, READ)).toBeGreaterThanOrEqual(12);
  expect(iommu.translate(DEVICE, PROCESS, 0, 0x5000, READ | PRIVILEGED)).toBe(targetFault('riscv', Cause.typeDisallowed));
});

test('IODIR.INVAL_PDT: the next request of the same process is translated by its new context', () => {
  const guest = new Guest();
  const { iommu, memory } = guest;
  guest.start();
  const pdt = guest.pool.allocate(1);
  const [one, other] = [guest.table('sv39'), guest.table('sv39')];
  one.table.map(5, 0x99, 1, READ);
  other.table.map(5, 0x77, 1, READ);
  // ta: V; fsc: Sv39 (mode 8).
  const put = (root: number) => memory.store64(0, pdt * 4096 + PROCESS * 16 + 8, 8 << 28, root);
  memory.store64(0, pdt * 4096 + PROCESS * 16, 0, 1);
  put(one.root);
  guest.setContext(DEVICE, { first: { mode: PD8, root: pdt, pscid: 0 }, tc: PDTV });
  const reached = () => (iommu.translate(DEVICE, PROCESS, 0, 0x5000, READ) < 0 ? -1 : iommu.translated[0] >>> 12);
  expect([reached(), reached()]).toEqual([0x99, 0x99]);
  put(other.root);
  guest.command(invalVma({}), invalPdt(DEVICE, PROCESS));
  expect([reached(), reached()]).toEqual([0x77, 0x77]);
});

test('IODIR.INVAL_PDT of process 0 is of requests without a process too, where they have it (DPE)', () => {
  const guest = new Guest();
  const { iommu, memory } = guest;
  guest.start();
  const pdt = guest.pool.allocate(1);
  const [one, other] = [guest.table('sv39'), guest.table('sv39')];
  one.table.map(5, 0x99, 1, READ);
  other.table.map(5, 0x77, 1, READ);
  const put = (root: number) => memory.store64(0, pdt * 4096 + 8, 8 << 28, root);
  memory.store64(0, pdt * 4096, 0, 1);
  put(one.root);
  guest.setContext(DEVICE, { first: { mode: PD8, root: pdt, pscid: 0 }, tc: PDTV | (1 << 9) });
  const reached = () => (iommu.translate(DEVICE, -1, 0, 0x5000, READ) < 0 ? -1 : iommu.translated[0] >>> 12);
  expect(reached()).toBe(0x99);
  put(other.root);
  guest.command(invalVma({}), invalPdt(DEVICE, 0));
  expect(reached()).toBe(0x77);
});

test.each([-1, -0x8000_0000])('a request of device %i, which there is not: a fault, before any other request and after', (device) => {
  const guest = new Guest();
  guest.start();
  guest.setContext(DEVICE, {});
  expect(guest.iommu.translate(device, -1, 0, 0x5000, READ)).toBeLessThan(0);
  expect(guest.iommu.translate(DEVICE, -1, 0, 0x5000, READ)).toBeGreaterThanOrEqual(12);
  expect(guest.iommu.translate(device, -1, 0, 0x5000, READ)).toBeLessThan(0);
});

describe('processes of a device that an observer is told of', () => {
  const SBE = 1 << 10;
  const START = 0x5000;
  let guest: Guest;
  let pdt: number;

  const swapped = (value: bigint) => BigInt(`0x${value.toString(16).padStart(16, '0').match(/../g)!.reverse().join('')}`);
  /** Process-contexts 1 and 3 are valid: ta has V, fsc is Bare. */
  const fill = (bigEndian: boolean) => {
    for (const process of [1, 3]) {
      const ta = bigEndian ? swapped(1n) : 1n;
      guest.memory.store64(0, pdt * 4096 + process * 16, Number(BigInt.asIntN(32, ta >> 32n)), Number(BigInt.asIntN(32, ta)));
    }
  };
  const told = () => {
    guest.iommu.addEndpoint(DEVICE);
    guest.iommu.observe({ attach: () => 0, changed: () => {}, flush: () => 0 });
    return guest.iommu.pasidsOf(DEVICE);
  };

  beforeEach(() => {
    guest = new Guest();
    guest.start();
    pdt = guest.pool.allocate(1);
  });

  test.each([
    ['little-endian', 0],
    ['big-endian (DC.tc.SBE)', SBE],
  ])('%s directory', (_, sbe) => {
    fill(sbe !== 0);
    guest.setContext(DEVICE, { first: { mode: PD8, root: pdt, pscid: 0 }, tc: PDTV | sbe });
    expect(told()).toEqual([1, 3]);
    expect(guest.iommu.translate(DEVICE, 3, 0, START, READ)).toBeGreaterThanOrEqual(12);
  });

  test('behind a second stage: where that has the directory, and none where it has not', () => {
    fill(false);
    const second = guest.table('sv39', true);
    const AT = 0x400;
    second.table.map(AT, pdt, 1, READ);
    const rooted = (root: number) => {
      guest.setContext(DEVICE, { first: { mode: PD8, root, pscid: 0 }, second: { mode: 8, root: second.root, gscid: 1 }, tc: PDTV });
      guest.command(invalDdt(DEVICE));
      return guest.iommu.pasidsOf(DEVICE);
    };
    told();
    expect([rooted(AT), rooted(AT + 1)]).toEqual([[1, 3], []]);
  });

  test('of a directory that is no memory there are none', () => {
    guest.setContext(DEVICE, { first: { mode: PD8, root: 0xf_0000, pscid: 0 }, tc: PDTV });
    expect(told()).toEqual([]);
  });
});
