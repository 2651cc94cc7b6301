import { describe, expect, test } from 'vitest';
import type { AddressSpace } from '../../../src/target/target.ts';
import { contextDevice, EVERYTHING, Guest, iotlbGlobal, iotlbPages, pasidGlobal, pasidPages, wait } from './guest.ts';

const DEVICE = 8;
const DID = 5;
/** IOVA page of a large leaf, and the guest-physical page behind it. */
const LEAF = 0x400;
const GUEST = 0x2_0000;

/** A path that has asked what the space means, as far as what it was told of since then. */
function observed(guest: Guest): { first: number; last: number }[] {
  const changes: { first: number; last: number }[] = [];
  guest.iommu.addEndpoint(DEVICE);
  guest.iommu.observe({
    attach: (_endpoint: number, space: AddressSpace | null) => {
      for (const { first, last } of space?.apertures ?? []) space?.enumerate(first, last, () => true);
      return 0;
    },
    changed: (_space, first, last) => changes.push({ first, last }),
    flush: () => 0,
  });
  changes.length = 0;
  return changes;
}

/** Second-stage pages that lie in no order, so that no run of the two stages is longer than a page. */
function nested(): { guest: Guest; first: ReturnType<Guest['firstStage']> } {
  const guest = new Guest(EVERYTHING, 1024);
  const second = guest.secondStage(4);
  second.table.map(0, 0, 1024, 3);
  for (let i = 0; i < 512; i++) second.table.map(GUEST + i, i ^ 1, 1, 3);
  const first = guest.firstStage();
  guest.setScalableContext(DEVICE, 0n, BigInt(DEVICE));
  guest.setPasid(DEVICE, { pgtt: 3, did: DID, first: first.root, second: second.root });
  guest.start();
  guest.submit(contextDevice(DEVICE), pasidGlobal, iotlbGlobal, wait());
  return { guest, first };
}

describe('an invalidation of one page means all that the leaf which covered it had mapped (6.5.3.2)', () => {
  test('a first-stage leaf of 2 MiB over second-stage pages of 4 KiB', () => {
    const { guest, first } = nested();
    expect(first.table.map(LEAF, GUEST, 512, 3)).toBe(512);
    const changes = observed(guest);
    first.table.unmap(LEAF, 512);
    guest.submit(pasidPages(DID, DEVICE, LEAF + 300), wait());
    expect(changes).toContainEqual({ first: LEAF, last: LEAF + 511 });
  });

  test('a second-stage leaf of 2 MiB', () => {
    const guest = new Guest({}, 2048);
    const { root, table } = guest.secondStage();
    table.map(LEAF, 512, 512, 3);
    guest.setContext(DEVICE, { root, did: DID });
    guest.start();
    const changes = observed(guest);
    table.unmap(LEAF, 512);
    guest.submit(iotlbPages(DID, LEAF + 300), wait());
    expect(changes).toContainEqual({ first: LEAF, last: LEAF + 511 });
  });

  test('pages of 4 KiB in a row are no leaf: what is named is what is told', () => {
    const guest = new Guest({}, 2048);
    const { root, table } = guest.secondStage();
    table.map(LEAF, 513, 512, 3);
    guest.setContext(DEVICE, { root, did: DID });
    guest.start();
    const changes = observed(guest);
    table.unmap(LEAF + 300, 1);
    guest.submit(iotlbPages(DID, LEAF + 300), wait());
    expect(changes).toEqual([{ first: LEAF + 300, last: LEAF + 300 }]);
  });
});
