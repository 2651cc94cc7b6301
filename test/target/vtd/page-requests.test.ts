import { describe, expect, test } from 'vitest';
import { READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import type { PageGroupResponse } from '../../../src/target/vtd/index.ts';
import { EVERYTHING, Guest, Reg } from './guest.ts';

/* Page requests: what they drop of the IOTLB (VT-d D51397-018, 6.5.3.1, table 27), what the queue holds of them and what of the fault log (7.4). */

const DEVICE = 0x28;
const DID = 3;
const PRE = 16n;
const REQUEST = { device: DEVICE, pasid: null, address: 0x5000n, read: true, write: true, group: 1, last: true } as const;

function machine(queue = 9n << 12n) {
  const responses: PageGroupResponse[] = [];
  const sent: number[] = [];
  const guest = new Guest(EVERYTHING, 1024, {
    respond: (response) => responses.push(response),
    sendInterrupt: (_, data) => void sent.push(data),
  });
  guest.setScalableContext(DEVICE, PRE);
  guest.start();
  guest.iommu.write(Reg.pqa, 8, queue);
  return { guest, responses, sent };
}

describe('a page request drops what it may be about (6.5.3.1)', () => {
  test.each([
    ['a first stage: its page', 1, 5, true],
    ['a first stage: no other page', 1, 6, false],
    ['a second stage: its page', 2, 5, true],
    ['a second stage: no other page', 2, 6, false],
    ['nested: the whole domain', 3, 6, true],
  ])('%s', (_, pgtt, page, forgotten) => {
    const { guest } = machine();
    const [first, second] = [guest.firstStage(), guest.secondStage()];
    // One by one, so that there are no large pages.
    for (let at = 0; at < 1024; at++) second.table.map(at, at, 1, READ_WRITE);
    first.table.map(5, 600, 2, READ_WRITE);
    guest.setPasid(0, { pgtt, did: DID, first: first.root, second: second.root });
    const reached = () => guest.iommu.translate(DEVICE, NO_PASID, 0, page << 12, WRITE) >= 0;
    expect(reached()).toBe(true);
    if (pgtt === 2) second.table.unmap(0, 1024);
    else first.table.unmap(5, 2);
    expect(reached()).toBe(true);
    guest.iommu.pageRequest(REQUEST);
    expect(reached()).toBe(!forgotten);
  });
});

test('execute and privilege of requests with PASID only (7.4.1.1)', () => {
  const { guest } = machine();
  for (const pasid of [0, 7]) guest.setPasid(pasid, { pgtt: 4, did: DID });
  guest.iommu.pageRequest({ ...REQUEST, execute: true, privileged: true });
  guest.iommu.pageRequest({ ...REQUEST, pasid: 7, execute: true });
  guest.iommu.pageRequest({ ...REQUEST, pasid: 7, privileged: true });
  expect([0, 32, 64].map((at) => guest.load(0x9000 + at) >> 52n)).toEqual([0n, 1n, 2n]);
  expect([0, 32, 64].map((at) => guest.load(0x9000 + at + 16) | guest.load(0x9000 + at + 24))).toEqual([0n, 0n, 0n]);
});

test('a queue outside memory: an invalid request, and the tail stays', () => {
  const { guest, responses } = machine(1n << 40n);
  guest.setPasid(0, { pgtt: 4, did: DID });
  guest.iommu.pageRequest(REQUEST);
  expect(responses).toEqual([{ device: DEVICE, pasid: null, group: 1, code: 1 }]);
  expect([guest.iommu.read(Reg.pqt, 8), guest.iommu.read(Reg.prs, 4)]).toEqual([0n, 0n]);
});

test('FPD of each entry on the way suppresses the record, and the response stays', () => {
  const { guest, responses } = machine();
  const { iommu } = guest;
  guest.setPasid(0, { pgtt: 4, did: DID, low: 2n });
  guest.setScalableContext(DEVICE);
  iommu.pageRequest(REQUEST);
  expect([responses.length, guest.faults()]).toEqual([1, []]);
  guest.setScalableContext(0x30, 2n);
  iommu.pageRequest({ ...REQUEST, device: 0x30 });
  expect([responses.length, guest.faults()]).toEqual([2, []]);
  guest.store(6 * 4096, guest.load(6 * 4096) | 2n);
  guest.setPasid(0, null);
  guest.setScalableContext(0x38, PRE);
  iommu.pageRequest({ ...REQUEST, device: 0x38 });
  expect([responses.length, guest.faults()]).toEqual([3, []]);
});

test('events: held while masked, taken back when PRS is cleared before (7.5)', () => {
  const { guest, sent } = machine();
  const { iommu } = guest;
  guest.setPasid(0, { pgtt: 4, did: DID });
  iommu.write(Reg.pectl + 4, 4, 0x61n);
  iommu.pageRequest(REQUEST);
  expect([sent, iommu.read(Reg.pectl, 4)]).toEqual([[], 0xc000_0000n]);
  iommu.write(Reg.prs, 4, 1n);
  expect(iommu.read(Reg.pectl, 4)).toBe(0x8000_0000n);
  iommu.write(Reg.pectl, 4, 0n);
  expect(sent).toEqual([]);
  iommu.pageRequest(REQUEST);
  iommu.pageRequest(REQUEST);
  expect(sent).toEqual([0x61]);
});
