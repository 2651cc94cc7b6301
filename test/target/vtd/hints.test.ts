import { expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { Fault } from '../../../src/target/vtd/index.ts';
import { type Descriptor, EVERYTHING, Guest, iotlbDomain, iotlbGlobal, iotlbPages, pasidPages, Reg, wait } from './guest.ts';

/* What may be said and makes no difference to an emulated unit, and what is not there (VT-d D51397-018, 6.5.2.3, 9.8, 11.4). */

const DEVICE = 0x28;
const DID = 3;
const PAGE_5 = 0x5000;

/** Page 5 is mapped to 600, cached, and mapped to 601; answers where it leads after the invalidation. */
function leadsTo(invalidate: (guest: Guest) => void): number {
  const guest = new Guest();
  const { root, table } = guest.secondStage();
  table.map(5, 600, 1, READ_WRITE);
  guest.setContext(DEVICE, { root, did: DID });
  guest.start();
  const reach = () => {
    guest.iommu.translate(DEVICE, NO_PASID, 0, PAGE_5, READ);
    return guest.iommu.translated[0] >>> 12;
  };
  expect(reach()).toBe(600);
  table.unmap(5, 1);
  table.map(5, 601, 1, READ_WRITE);
  expect(reach()).toBe(600);
  invalidate(guest);
  return reach();
}

const DRAINS = 3n << 6n;
const IH = 1n << 6n;
const with_ = ([low, high = 0n]: Descriptor, bits: bigint, more = 0n): Descriptor => [low | bits, high | more];

test.each<[string, (guest: Guest) => void]>([
  ['by pages, with IH', (guest) => guest.submit(with_(iotlbPages(DID, 5), 0n, IH), wait())],
  ['by pages, with DR and DW', (guest) => guest.submit(with_(iotlbPages(DID, 5), DRAINS), wait())],
  ['by domain, with DR and DW', (guest) => guest.submit(with_(iotlbDomain(DID), DRAINS), wait())],
  ['all, with DR and DW', (guest) => guest.submit(with_(iotlbGlobal, DRAINS), wait())],
  [
    'by registers, with IH, DR and DW (11.4.6.3, 11.4.6.4)',
    (guest) => {
      guest.iommu.write(Reg.iva, 8, BigInt(PAGE_5) | IH);
      guest.iommu.write(Reg.iotlb, 8, (1n << 63n) | (3n << 60n) | (3n << 48n) | (BigInt(DID) << 32n));
      expect(guest.iommu.read(Reg.iotlb, 8)).toBe((3n << 60n) | (3n << 57n) | (3n << 48n) | (BigInt(DID) << 32n));
    },
  ],
])('IH and drains leave the same forgotten: %s', (_, invalidate) => {
  expect(leadsTo(invalidate)).toBe(601);
});

test('IH of a PASID’s pages: as without (6.5.2.4)', () => {
  const guest = new Guest(EVERYTHING);
  const { root, table } = guest.firstStage();
  table.map(5, 600, 1, READ_WRITE);
  guest.setScalableContext(DEVICE);
  guest.setPasid(0, { pgtt: 1, did: DID, first: root });
  guest.start();
  const reach = () => guest.iommu.translate(DEVICE, NO_PASID, 0, PAGE_5, READ);
  expect(reach()).toBe(12);
  table.unmap(5, 1);
  expect(reach()).toBe(12);
  guest.submit(with_(pasidPages(DID, 0, 5), 0n, IH), wait());
  expect(reach()).toBe(targetFault('vtd', Fault['SFS.2']));
});

test('a second stage’s leaf: SNP and the memory type (EMT, IPAT) are taken, bit 62 is reserved (9.8)', () => {
  const guest = new Guest();
  const { root, table } = guest.secondStage();
  table.map(5, 600, 1, READ_WRITE);
  guest.setContext(DEVICE, { root, did: DID });
  guest.start();
  let at = root * 4096;
  for (let level = 3; level > 0; level--) at = Number(guest.load(at) & 0xf_ffff_ffff_f000n);
  const leaf = guest.load(at + 5 * 8);
  const reach = (bits: bigint) => {
    guest.store(at + 5 * 8, leaf | bits);
    guest.submit(iotlbGlobal, wait());
    return guest.iommu.translate(DEVICE, NO_PASID, 0, PAGE_5, WRITE);
  };
  // EMT 6 (write-back), IPAT, SNP; bits 61 to 52 and 63 are ignored.
  expect(reach((6n << 3n) | (1n << 6n) | (1n << 11n) | (0x3ffn << 52n) | (1n << 63n))).toBe(12);
  expect(guest.iommu.translated[0]).toBe(600 * 4096);
  expect(reach(1n << 62n)).toBe(targetFault('vtd', Fault['LSS.2']));
});

test('MTRRs, enhanced commands and performance monitoring are not there: their registers read 0, whatever is written', () => {
  const { iommu } = new Guest({ ...EVERYTHING, faultRecords: 8 });
  const records = { first: Reg.frcd, end: Reg.frcd + 8 * 16 };
  for (let offset = 0x100; offset < iommu.registerBytes; offset += 8) {
    if (offset >= records.first && offset < records.end) continue;
    iommu.write(offset, 8, 2n ** 64n - 1n);
    expect(iommu.read(offset, 8), `0x${offset.toString(16)}`).toBe(0n);
  }
});
