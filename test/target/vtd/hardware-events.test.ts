import { beforeEach, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { NO_PASID, type PageAnswer } from '../../../src/target/target.ts';
import { EVERYTHING, Guest, Reg } from './guest.ts';

/* What hardware that walks the guest's first stage reports: VT-d D51397-018 (5.10), 7.2.1, 7.4 and 7.6. */

const DEVICE = 0x28;
const PAGES = 12;

interface Answered {
  readonly endpoint: number;
  readonly pasid: number;
  readonly group: number;
  readonly answer: PageAnswer;
}

let guest: Guest;
let answers: Answered[];
let toDevice: unknown[];

beforeEach(() => {
  toDevice = [];
  answers = [];
  guest = new Guest(EVERYTHING, 1024, { respond: (response) => toDevice.push(response) });
  guest.iommu.addEndpoint(DEVICE);
  guest.iommu.observe({
    attach: () => 0,
    changed: () => {},
    flush: () => 0,
    answered: (endpoint, pasid, group, answer) => answers.push({ endpoint, pasid, group, answer }),
  });
  const { root } = guest.firstStage();
  // DTE and PRE of the context entry; a first stage for requests without PASID and for PASID 5.
  guest.setScalableContext(DEVICE, 1n << 4n);
  for (const pasid of [0, 5]) guest.setPasid(pasid, { pgtt: 1, did: 8, first: root });
  guest.iommu.write(Reg.pqa, 8, BigInt(PAGES) << 12n);
  guest.start();
});

const request = { kind: 'page-request', endpoint: DEVICE, pasid: 5, group: 3, last: true, access: READ | WRITE, address: 0x7000n } as const;

test('a page request becomes a descriptor in the queue of the guest, whose response goes back', () => {
  guest.iommu.report(request);
  expect(guest.iommu.read(Reg.pqt, 8)).toBe(32n);
  // Type 1, PP, requester, PASID; read, write, last, group, address (7.4.1.1).
  expect(guest.load(PAGES * 4096)).toBe(0x01n | (1n << 8n) | (BigInt(DEVICE) << 16n) | (5n << 32n));
  expect(guest.load(PAGES * 4096 + 8)).toBe(7n | (3n << 3n) | 0x7000n);
  expect(answers).toEqual([]);
  // A page group response (7.6.1): type 9, PP, requester, PASID; group; code 0.
  guest.submit([9n | (1n << 4n) | (BigInt(DEVICE) << 16n) | (5n << 32n), 3n << 3n]);
  expect(answers).toEqual([{ endpoint: DEVICE, pasid: 5, group: 3, answer: 'success' }]);
  expect(toDevice).toEqual([{ device: DEVICE, pasid: 5, group: 3, code: 0 }]);
});

test('a queue of two pages (PQS 1, 11.4.11.3): its size is no part of where it lies, and it goes round behind its second page', () => {
  guest.iommu.write(Reg.pqa, 8, (BigInt(PAGES) << 12n) | 1n);
  guest.iommu.write(Reg.pqt, 8, 8192n - 32n);
  guest.iommu.write(Reg.pqh, 8, 4096n);
  guest.iommu.report(request);
  expect([guest.iommu.read(Reg.pqt, 8), guest.load((PAGES + 2) * 4096 - 32) & 0xffn]).toEqual([0n, 1n]);
  guest.iommu.report({ ...request, group: 4 });
  expect([guest.iommu.read(Reg.pqt, 8), guest.load(PAGES * 4096) & 0xffn]).toEqual([32n, 1n]);
});

test.each<[bigint, PageAnswer]>([
  [1n, 'invalid'],
  [15n, 'failure'],
])('response code %i of the guest is %s', (code, answer) => {
  guest.iommu.report({ ...request, pasid: NO_PASID });
  guest.submit([9n | (code << 12n) | (BigInt(DEVICE) << 16n), 3n << 3n]);
  expect(answers).toEqual([{ endpoint: DEVICE, pasid: NO_PASID, group: 3, answer }]);
});

test('a request that the guest cannot hear of is answered at once: no such PASID (table 31)', () => {
  guest.iommu.report({ ...request, pasid: 9, last: false });
  expect(answers).toEqual([]);
  guest.iommu.report({ ...request, pasid: 9 });
  expect(answers).toEqual([{ endpoint: DEVICE, pasid: 9, group: 3, answer: 'invalid' }]);
});

test('a unit without page requests answers as invalid', () => {
  const plain = new Guest({ scalableMode: true });
  const heard: unknown[] = [];
  plain.iommu.observe({ attach: () => 0, changed: () => {}, flush: () => 0, answered: (...words) => heard.push(words) });
  plain.iommu.report(request);
  expect(heard).toEqual([[DEVICE, 5, 3, 'invalid']]);
});

test('a fault record becomes a fault record: reason, source and address are kept, and the index goes on', () => {
  // Reason 0x80 of a read, page 0x5 (11.4.7.6).
  const words = Int32Array.of(0x5000, 1, DEVICE | (1 << 30), 0x80);
  guest.iommu.report({ kind: 'record', words });
  expect(guest.iommu.read(Reg.frcd, 8)).toBe(0x1_0000_5000n);
  expect(guest.iommu.read(Reg.frcd + 8, 8)).toBe((1n << 63n) | (0x80n << 32n) | (1n << 30n) | BigInt(DEVICE));
  expect(guest.iommu.read(Reg.fsts, 4)).toBe(2n);
  expect(guest.faults()).toEqual([0x80]);
});

test('records that were lost are the overflow of the log (PFO)', () => {
  guest.iommu.report({ kind: 'lost' });
  expect(guest.iommu.read(Reg.fsts, 4) & 1n).toBe(1n);
});
