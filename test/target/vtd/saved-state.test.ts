import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { DELIVER, type DeviceInvalidation, VtdIommu } from '../../../src/target/vtd/index.ts';
import { Cmd, EVERYTHING, Guest, Reg, ROOT, STATUS, wait } from './guest.ts';

/* What a saved state holds beside the registers, and what reset and load leave nothing of. */

const DEVICE = 0x28;
const OTHER_ROOT = 12;

/** Another unit, of the same kind, behind the same guest's memory, with what was saved of the guest's. */
function moved(guest: Guest, sent: DeviceInvalidation[] = []): VtdIommu {
  const surroundings = {
    memory: guest.memory,
    schedule: () => {},
    invalidateDevice: (request: DeviceInvalidation) => void sent.push(request),
  };
  const iommu = new VtdIommu(guest.options, surroundings);
  iommu.load(JSON.parse(JSON.stringify(guest.iommu.save())));
  return iommu;
}

/** Page 5 of the device reaches page 600. */
function mapped(options = {}): Guest {
  const guest = new Guest(options);
  const { root, table } = guest.secondStage();
  table.map(5, 600, 1, READ_WRITE);
  guest.setContext(DEVICE, { root, did: 1 });
  guest.start();
  return guest;
}

test('the queue comes to its end, whatever the state says of head and tail', () => {
  const guest = mapped();
  const later: (() => void)[] = [];
  const iommu = new VtdIommu(guest.options, { memory: guest.memory, schedule: (work) => void later.push(work) });
  const state = guest.iommu.save();
  for (const tail of [-1, 0x13, 0x8000_0000 | 0]) {
    const registers = state.registers.map((word, at) => (at === Reg.iqt / 4 ? tail : word));
    iommu.load({ ...state, registers });
    iommu.write(Reg.ics, 4, 0n);
    for (let round = 0; round < 100 && later.length > 0; round++) later.shift()!();
    expect(later).toEqual([]);
    expect(iommu.read(Reg.iqt, 8)).toBe(BigInt(tail & 0x7fff0));
  }
});

test('root table: the one that was set, not the one that is written', () => {
  const guest = mapped();
  guest.iommu.write(Reg.rtaddr, 8, BigInt(OTHER_ROOT) << 12n);
  const iommu = moved(guest);
  expect(iommu.translate(DEVICE, NO_PASID, 0, 0x5000, READ)).toBe(12);
  expect(iommu.read(Reg.rtaddr, 8)).toBe(BigInt(OTHER_ROOT) << 12n);
});

test('interrupt table: the one that was set', () => {
  const guest = new Guest();
  guest.store(8 * 4096, 0x0000_0001_0041_0001n, 0n);
  guest.iommu.write(Reg.irta, 8, (8n << 12n) | (1n << 11n));
  guest.global(Cmd.sirtp);
  guest.global(Cmd.ire);
  guest.iommu.write(Reg.irta, 8, BigInt(OTHER_ROOT) << 12n);
  const iommu = moved(guest);
  expect(iommu.remap(DEVICE, 0xfee0_0010 | 0, 0)).toBe(DELIVER);
  expect(iommu.interrupt).toMatchObject({ vector: 0x41, destination: 1 });
});

test('fault records: the next one is the one after the last', () => {
  const guest = new Guest({ faultRecords: 4 });
  guest.start();
  for (const device of [0x10, 0x11]) guest.iommu.translate(device, NO_PASID, 0, 0, READ);
  guest.faults();
  const iommu = moved(guest);
  iommu.translate(0x12, NO_PASID, 0, 0, READ);
  expect((iommu.read(Reg.fsts, 4) >> 8n) & 0xffn).toBe(2n);
  expect(iommu.read(Reg.frcd + 2 * 16 + 8, 8) & 0xffffn).toBe(0x12n);
});

test('devices that have not answered: the wait descriptor still waits for them, and for them only', () => {
  const guest = new Guest(EVERYTHING);
  guest.start();
  guest.submit([3n | (BigInt(DEVICE) << 32n), 0x5000n], [3n | (0x30n << 32n), 0x5000n], wait(7));
  const iommu = moved(guest);
  expect(guest.load(STATUS * 4096)).toBe(0n);
  expect([iommu.invalidationCompletion(0x30, 0), iommu.invalidationCompletion(-1, 2)]).toEqual([false, false]);
  expect(iommu.invalidationCompletion(DEVICE, 0)).toBe(true);
  expect(guest.load(STATUS * 4096)).toBe(0n);
  expect(iommu.invalidationCompletion(0x30, 1)).toBe(true);
  expect(guest.load(STATUS * 4096)).toBe(7n);
});

test('ITE of one device: what another has not answered is still waited for', () => {
  const guest = new Guest(EVERYTHING);
  guest.start();
  guest.submit([3n | (BigInt(DEVICE) << 32n), 0x5000n], [3n | (0x30n << 32n), 0x5000n]);
  guest.iommu.invalidationTimeout(-1);
  expect(guest.iommu.read(Reg.fsts, 4) & 0x40n).toBe(0n);
  guest.iommu.invalidationTimeout(DEVICE);
  guest.iommu.write(Reg.fsts, 4, 0x40n);
  guest.submit(wait(7));
  expect(guest.load(STATUS * 4096)).toBe(0n);
  expect(guest.iommu.invalidationCompletion(0x30, 1)).toBe(true);
  expect(guest.load(STATUS * 4096)).toBe(7n);
});

test('capabilities stay the unit’s, whatever was saved', () => {
  const guest = new Guest({ cachingMode: false });
  const iommu = new VtdIommu({ cachingMode: true }, { memory: guest.memory });
  iommu.load(guest.iommu.save());
  expect((iommu.read(Reg.cap, 8) >> 7n) & 1n).toBe(1n);
});

test('of a saved state with all bits set stays what software or the unit can have set (11.4)', () => {
  const { iommu } = new Guest({ ...EVERYTHING, faultRecords: 1 });
  const before = iommu.save();
  iommu.load({ ...before, registers: before.registers.map(() => -1), root: [-1, -1], interruptTable: [-1, -1] });
  const { registers, root, interruptTable } = iommu.save();
  const event = (at: number) =>
    [
      [at, 0xc000_0000],
      [at + 4, 0xffff],
      [at + 8, 0xffff_fffc],
      [at + 12, 0xffff_ffff],
    ] as const;
  const expected = new Map<number, number>([
    // VER, CAP and ECAP are the unit's.
    ...[0, 2, 3, 4, 5].map((i) => [4 * i, before.registers[i] >>> 0] as const),
    [0x1c, 0xc780_0000],
    ...([
      [0x20, 0xffff_fc00],
      [0x24, 0xffff],
    ] as const),
    ...([
      [0x28, 0xffff_ffff],
      [0x2c, 0x7800_0003],
    ] as const),
    // FRI names no record that there is not.
    [0x34, 0x73],
    ...event(0x38),
    [0x64, 0x8000_0001],
    ...([
      [0x68, 0xffe0_0000],
      [0x6c, 0xffe0_0000],
      [0x70, 0xffe0_0000],
      [0x74, 0xffff],
      [0x78, 0xffe0_0000],
      [0x7c, 0xffff],
    ] as const),
    ...([
      [0x80, 0x7_fff0],
      [0x88, 0x7_fff0],
      [0x90, 0xffff_f807],
      [0x94, 0xffff],
      [0x9c, 1],
    ] as const),
    ...event(0xa0),
    ...([
      [0xb0, 0xf],
      [0xb4, 0xffff_ffff],
      [0xb8, 0xffff_f80f],
      [0xbc, 0xffff],
    ] as const),
    ...([
      [0xc0, 0x7_ffe0],
      [0xc8, 0x7_ffe0],
      [0xd0, 0xffff_f007],
      [0xd4, 0xffff],
      [0xdc, 3],
    ] as const),
    ...event(0xe0),
    ...([
      [0xf0, 0xffff_f07f],
      [0xf4, 0xffff_ffff],
      [0xfc, 0x3603_ffff],
    ] as const),
    ...[0x220, 0x224, 0x228, 0x22c].map((at) => [at, 0xffff_ffff] as const),
  ]);
  const found = registers.map((word, i) => [4 * i, word >>> 0] as const).filter(([, word]) => word !== 0);
  expect(new Map(found)).toEqual(expected);
  expect([root, interruptTable].map((words) => words.map((word) => word >>> 0))).toEqual([
    [0xffff_fc00, 0xffff],
    [0xffff_f80f, 0xffff],
  ]);
});

test('FRI names a record that there is: the last one, and none behind it', () => {
  const guest = new Guest({ faultRecords: 2 });
  const state = guest.iommu.save();
  for (const index of [1, 2]) {
    guest.iommu.load({ ...state, registers: state.registers.map((word, i) => (i === Reg.fsts / 4 ? index << 8 : word)) });
    expect(guest.iommu.read(Reg.fsts, 4)).toBe(index < 2 ? 0x100n : 0n);
  }
});

test('PPF is what the records say, whatever was saved of it: the next fault is told (7.3)', () => {
  let told = 0;
  const guest = new Guest({ faultRecords: 2 }, undefined, { sendInterrupt: () => void told++ });
  guest.start();
  const state = guest.iommu.save();
  guest.iommu.load({ ...state, registers: state.registers.map((word, i) => (i === Reg.fsts / 4 ? 2 : i === Reg.fectl / 4 ? 0 : word)) });
  expect(guest.iommu.read(Reg.fsts, 4)).toBe(0n);
  guest.iommu.translate(0x10, NO_PASID, 0, 0, READ);
  expect(told).toBe(1);
});

describe('nothing that was looked up before outlives', () => {
  /** The same places of memory mean something else: page 5 reaches page 700 by other tables. */
  function changed(guest: Guest): void {
    const { root, table } = guest.secondStage();
    table.map(5, 700, 1, READ_WRITE);
    guest.setContext(DEVICE, { root, did: 1 });
  }
  const page = ({ iommu }: Guest) => (iommu.translate(DEVICE, NO_PASID, 0, 0x5000, WRITE) < 0 ? -1 : iommu.translated[0] >>> 12);

  test('load', () => {
    const guest = mapped();
    const saved = guest.iommu.save();
    expect(page(guest)).toBe(600);
    changed(guest);
    expect(page(guest)).toBe(600);
    guest.iommu.load(saved);
    expect(page(guest)).toBe(700);
  });

  test('reset: tables, records, devices that are asked', () => {
    const guest = mapped({ deviceTlb: true, faultRecords: 4 });
    expect(page(guest)).toBe(600);
    guest.iommu.translate(0x10, NO_PASID, 0, 0, READ);
    guest.submit([3n | (BigInt(DEVICE) << 32n), 0x5000n]);
    changed(guest);
    guest.iommu.reset();
    expect(guest.iommu.save()).toEqual(new VtdIommu(guest.options, { memory: guest.memory }).save());
    expect(guest.iommu.invalidationCompletion(DEVICE, 0)).toBe(false);
    guest.iommu.write(Reg.fsts, 4, 0x7fn);
    guest.iommu.write(Reg.rtaddr, 8, BigInt(ROOT) << 12n);
    guest.global(Cmd.srtp);
    guest.global(Cmd.te);
    expect(page(guest)).toBe(700);
  });

  test('reset: whoever backs a device hears that it reaches RAM as it is', () => {
    const guest = mapped();
    guest.iommu.addEndpoint(DEVICE);
    const told: (string | undefined)[] = [];
    guest.iommu.observe({ attach: (_, space) => told.push(space?.name) * 0, changed: () => {}, flush: () => 0 });
    guest.iommu.reset();
    expect(told).toEqual(['domain 1: second stage, 4 levels', guest.iommu.spaceOf(DEVICE)?.name]);
    expect(guest.iommu.spaceOf(DEVICE)?.owner).toBe('target');
  });
});
