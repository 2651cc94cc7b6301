import { expect, test } from 'vitest';
import { READ, READ_WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { type AddressSpace, NO_PASID } from '../../../src/target/target.ts';
import { VtdIommu, type VtdIommuOptions } from '../../../src/target/vtd/index.ts';
import { Cmd, contextDevice, EVERYTHING, Guest, iotlbPages, pasidSelective, Reg, wait } from './guest.ts';

/* What the observer of a unit is told, and the values that it may ask for (docs/targets/vtd.md, "Address spaces and paths"). */

const DEVICE = 0x28;
const DID = 3;
const LAST = 2 ** 52 - 1;

interface Change {
  readonly space: AddressSpace;
  readonly first: number;
  readonly last: number;
}

function observed(options: VtdIommuOptions): { guest: Guest; changes: Change[]; answers: unknown[] } {
  const guest = new Guest(options);
  const changes: Change[] = [];
  const answers: unknown[] = [];
  guest.iommu.addEndpoint(DEVICE);
  guest.iommu.observe({
    attach: () => 0,
    changed: (space, first, last) => void changes.push({ space, first, last }),
    flush: () => 0,
    answered: (...words) => void answers.push(words),
  });
  guest.start();
  return { guest, changes, answers };
}

/** The device's requests without PASID go through this. */
function setStages(guest: Guest, entry: { pgtt: number; first?: number; second?: number; levels?: number; flags?: bigint }): void {
  guest.setScalableContext(DEVICE);
  guest.setPasid(0, { did: DID, ...entry });
  guest.submit(contextDevice(DEVICE), pasidSelective(DID, 0), wait());
}

test('of an endpoint that is not known hardware is to let nothing through', () => {
  const { guest } = observed({});
  expect(guest.iommu.stageOf(DEVICE + 1)).toEqual({ kind: 'abort' });
  expect(guest.iommu.spaceOf(DEVICE + 1)).toBeNull();
  for (const device of [-1, 0x1_0000, 1.5]) expect(() => guest.iommu.addEndpoint(device)).toThrow(RangeError);
});

test('a first stage of five levels has 57 bits (9.6, FSPM), with SRE, WPE and EAFE as the entry has them', () => {
  const { guest } = observed(EVERYTHING);
  const { root } = guest.firstStage(5);
  setStages(guest, { pgtt: 1, first: root, flags: 4n | 1n | 16n | 128n });
  expect(guest.iommu.stageOf(DEVICE)).toEqual({
    kind: 'vtd',
    root: BigInt(root) << 12n,
    addressWidth: 57,
    supervisor: true,
    extendedAccess: true,
    writeProtect: true,
  });
});

test('an invalidation of second-stage pages: behind a first stage any page may have changed (table 23), alone those pages', () => {
  const { guest, changes } = observed(EVERYTHING);
  const second = guest.secondStage();
  second.table.map(0, 0, 1024, READ_WRITE);
  const first = guest.firstStage();
  setStages(guest, { pgtt: 3, first: first.root, second: second.root });
  expect(guest.iommu.stageOf(DEVICE)).toBeNull();
  const nested = guest.iommu.spaceOf(DEVICE)!;
  changes.length = 0;
  guest.submit(iotlbPages(DID, 5), wait());
  expect(changes).toEqual([{ space: nested, first: 0, last: LAST }]);
  setStages(guest, { pgtt: 2, second: second.root });
  const alone = guest.iommu.spaceOf(DEVICE)!;
  changes.length = 0;
  guest.submit(iotlbPages(DID, 5), wait());
  expect(changes).toEqual([{ space: alone, first: 5, last: 5 }]);
  expect(nested.apertures).not.toEqual([]);
});

test('second stages that mark pages are other ones than those that do not (9.6, SSADE); so are requests with a PASID', () => {
  const { guest } = observed(EVERYTHING);
  const { root } = guest.secondStage();
  setStages(guest, { pgtt: 2, second: root });
  const plain = guest.iommu.spaceOf(DEVICE)!;
  guest.setPasid(0, { pgtt: 2, did: DID, second: root, low: 1n << 9n });
  guest.submit(pasidSelective(DID, 0), wait());
  const marking = guest.iommu.spaceOf(DEVICE)!;
  expect(marking).not.toBe(plain);
  guest.setPasid(5, { pgtt: 2, did: DID, second: root, low: 1n << 9n });
  guest.submit(pasidSelective(DID, 5), wait());
  const process = guest.iommu.spaceOf(DEVICE, 5)!;
  // The interrupt range is no part of what requests without a PASID reach (3.14).
  expect(process.apertures).toEqual([{ first: 0, last: 2 ** 36 - 1 }]);
  expect(marking.apertures).toEqual([
    { first: 0, last: 0xfedff },
    { first: 0xfef00, last: 2 ** 36 - 1 },
  ]);
});

test('runs around what would reach the interrupt range end where who looks at them has enough', () => {
  const { guest } = observed({});
  const { root, table } = guest.secondStage();
  table.map(0x10, 0xfedf8, 8 + 256 + 8, READ_WRITE);
  guest.setContext(DEVICE, { root, did: DID });
  guest.submit(contextDevice(DEVICE), wait());
  const space = guest.iommu.spaceOf(DEVICE)!;
  const upTo = (count: number) => {
    const runs: number[][] = [];
    const next = space.enumerate(0, 0xffff, (iova, gpa, pages) => runs.push([iova, gpa, pages]) < count);
    return { runs, next };
  };
  // FEE0_0000h to FEEF_FFFFh are 256 pages.
  const below = [0x10, 0xfedf8, 8];
  const above = [0x10 + 264, 0xfef00, 8];
  expect(upTo(9)).toEqual({ runs: [below, above], next: 0x1_0000 });
  expect(upTo(1).runs).toEqual([below]);
  expect(upTo(2).runs).toEqual([below, above]);
});

test('without caching mode its tables are told, by the same object until the root table is another one', () => {
  const { guest } = observed({ cachingMode: false });
  const told = guest.iommu.directoryOf(DEVICE);
  expect(told).not.toBeNull();
  guest.submit(contextDevice(DEVICE), wait());
  expect(guest.iommu.directoryOf(DEVICE)).toBe(told);
  guest.setMode(0n);
  expect(guest.iommu.directoryOf(DEVICE)).not.toBe(told);
});

test('a page request that is not the last of its group wants no answer of a unit without page requests', () => {
  const { guest, answers } = observed({ scalableMode: true });
  const request = { kind: 'page-request', endpoint: DEVICE, pasid: NO_PASID, group: 3, access: READ, address: 0n } as const;
  guest.iommu.report({ ...request, last: false });
  expect(answers).toEqual([]);
  guest.iommu.report({ ...request, last: true });
  expect(answers).toEqual([[DEVICE, NO_PASID, 3, 'invalid']]);
});

test('a record of hardware that has not its size, or whose source has one pending, is not adopted (7.2.1)', () => {
  const { guest } = observed(EVERYTHING);
  const record = (page: number) => Int32Array.of(page << 12, 0, DEVICE, 0x80);
  guest.iommu.report({ kind: 'record', words: record(1).subarray(0, 3) });
  expect(guest.iommu.read(Reg.fsts, 4)).toBe(0n);
  guest.iommu.report({ kind: 'record', words: record(1) });
  guest.iommu.report({ kind: 'record', words: record(2) });
  expect([guest.iommu.read(Reg.frcd, 8), guest.iommu.read(Reg.frcd + 16, 8)]).toEqual([0x1000n, 0n]);
});

test('memory that is no GuestMemory translates all the same, and is nobody’s (Target.memory)', () => {
  const memory = GuestMemory.ofBytes(1 << 20);
  const wrapped = {
    word: memory.word,
    regions: memory.regions,
    ...Object.fromEntries(
      (['load64', 'store64', 'store32', 'compareExchange64'] as const).map((name) => [name, memory[name].bind(memory)]),
    ),
  } as unknown as GuestMemory;
  const iommu = new VtdIommu({}, { memory: wrapped });
  expect(iommu.memory).toBeUndefined();
  expect(iommu.translate(DEVICE, NO_PASID, 0, 0x1000, READ)).toBe(12);
});

test('commands in registers do something with their start bit alone (11.4.6.1, 11.4.6.3); IWC stays until it is written', () => {
  const { guest, changes } = observed({});
  const { root, table } = guest.secondStage();
  table.map(5, 600, 1, READ_WRITE);
  guest.setContext(DEVICE, { root, did: DID });
  guest.submit(contextDevice(DEVICE), wait());
  changes.length = 0;
  guest.iommu.write(Reg.ccmd, 8, 1n << 61n);
  guest.iommu.write(Reg.iotlb, 8, 1n << 60n);
  expect(changes).toEqual([]);
  guest.iommu.write(Reg.iotlb, 8, (1n << 63n) | (1n << 60n));
  expect(changes).not.toEqual([]);
  guest.submit([0x15n]);
  guest.iommu.write(Reg.ics, 4, 0n);
  expect([guest.iommu.read(Reg.ics, 4), guest.iommu.read(Reg.iectl, 4)]).toEqual([1n, 0xc000_0000n]);
  guest.iommu.write(Reg.ics, 4, 1n);
  expect([guest.iommu.read(Reg.ics, 4), guest.iommu.read(Reg.iectl, 4)]).toEqual([0n, 0x8000_0000n]);
});

test('without interrupt remapping its bits in GCMD, its table and what was saved of it mean nothing (11.4.4.1, 11.4.10)', () => {
  const { guest } = observed({ interruptRemapping: false });
  for (const bit of [Cmd.sirtp, Cmd.ire, Cmd.cfi]) guest.global(bit);
  expect(guest.iommu.read(Reg.gsts, 4) & (Cmd.sirtp | Cmd.ire | Cmd.cfi)).toBe(0n);
  const state = guest.iommu.save();
  guest.iommu.load({ ...state, interruptTable: [0x8000, 1] });
  expect(guest.iommu.save().interruptTable).toEqual([0, 0]);
});
