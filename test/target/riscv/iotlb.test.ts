import { expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOfHiLo } from '../../../src/memory/address.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { fence, Guest, invalVma } from './guest.ts';

const DEVICE = 8;
const PSCID = 5;
const GSCID = 3;

/** The page that a page goes to, -1: none. */
function reached({ iommu }: Guest, pfn: number): number {
  const lg2 = iommu.translate(DEVICE, NO_PASID, hiOfPfn(pfn), loOfPfn(pfn), READ);
  return lg2 < 0 ? -1 : pfnOfHiLo(iommu.translated[1], iommu.translated[0]);
}

/* IOTINVAL.VMA with AV: "... entries that contain leaf page table entries corresponding to the IOVA": whatever was made of the leaf. */

test('a first-stage leaf of 2 MiB over second-stage pages of 4 KiB: each cached piece goes with any address of the leaf', () => {
  const guest = new Guest();
  const first = guest.table('sv39');
  const second = guest.table('sv39', true);
  guest.start();
  second.table.map(0, 0, 0x200, READ | WRITE);
  for (let page = 0; page < 512; page++) second.table.map(0x10000 + page, 0x800 + (page ^ 1), 1, READ | WRITE);
  first.table.map(0x400, 0x10000, 512, READ | WRITE);
  guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: PSCID }, second: { mode: 8, root: second.root, gscid: GSCID } });
  expect([0x400, 0x433, 0x5ff].map((pfn) => reached(guest, pfn))).toEqual([0x801, 0x832, 0x9fe]);
  first.table.unmap(0x400, 512);
  expect(reached(guest, 0x433)).toBe(0x832);
  guest.command(invalVma({ gscid: GSCID, pscid: PSCID, pfn: 0x501 }), fence());
  expect([0x400, 0x433, 0x5ff].map((pfn) => reached(guest, pfn))).toEqual([-1, -1, -1]);
});

test('a first-stage leaf of 4 MiB (Sv32) over Bare, which is cached as 2 MiB', () => {
  const SXL = 1 << 11;
  const guest = new Guest({ gxlWritable: true });
  const { table, root } = guest.table('sv32');
  guest.start();
  table.map(0x400, 0x800, 1024, READ | WRITE);
  guest.setContext(DEVICE, { first: { mode: 8, root, pscid: PSCID }, tc: SXL });
  expect([0x400, 0x7ff].map((pfn) => reached(guest, pfn))).toEqual([0x800, 0xbff]);
  table.unmap(0x400, 1024);
  guest.command(invalVma({ pscid: PSCID, pfn: 0x400 }), fence());
  expect([0x400, 0x7ff].map((pfn) => reached(guest, pfn))).toEqual([-1, -1]);
});
