import { describe, expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { AmdIommu, EVENT, FAULT_ENDPOINT } from '../../../src/target/amd/index.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { runsOf } from '../hardware.ts';
import { type Dte, Guest, invalidateAll, invalidateDevice, invalidatePages, ON, RAM_PAGES, Reg } from './guest.ts';

const DEVICE = 0x28;
const IOVA = 0x5000n;
const PAGE_FAULT = BigInt(targetFault('amd', EVENT.pageFault));

function started(dte: Dte = {}): Guest {
  const guest = new Guest();
  guest.iommu.addEndpoint(DEVICE);
  guest.start();
  guest.setDevice(DEVICE, dte);
  guest.command(invalidateAll());
  return guest;
}

/** First doubleword of an event: its code, flags from bit 48 on, domain or PASID. */
const event = (code: number, flags: number, domain = 0) =>
  (BigInt(code) << 60n) | (BigInt(flags) << 48n) | (BigInt(domain) << 32n) | BigInt(DEVICE);

describe('device table entries, 2.2.2.1', () => {
  test('off: everything passes', () => {
    const guest = new Guest();
    guest.iommu.addEndpoint(DEVICE);
    expect(guest.access(DEVICE, IOVA, WRITE)).toBe(IOVA);
    expect(guest.iommu.spaceOf(DEVICE)?.name).toBe('identity');
    expect(guest.iommu.translate(0x1_0000, -1, 0, 0, READ)).toBe(FAULT_ENDPOINT);
    expect(() => guest.iommu.addEndpoint(0x1_0000)).toThrow(RangeError);
  });

  test('V = 0 passes; TV = 0 is refused; Mode 0 passes what IR and IW grant', () => {
    expect(started({ v: false }).access(DEVICE, IOVA, READ_WRITE)).toBe(IOVA);
    const refused = started({ tv: false });
    expect(refused.access(DEVICE, IOVA, READ)).toBe(PAGE_FAULT);
    expect(refused.iommu.spaceOf(DEVICE)).toBeNull();
    const readable = started({ permission: READ });
    expect(readable.access(DEVICE, IOVA, READ)).toBe(IOVA);
    expect(readable.access(DEVICE, IOVA, WRITE)).toBe(PAGE_FAULT);
    expect(runsOf(readable.iommu.spaceOf(DEVICE)!)[0]).toEqual({ iova: 0, gpa: 0, pages: 0xfee00, permission: READ });
    expect(started({ permission: 0 }).iommu.spaceOf(DEVICE)).toBeNull();
  });

  test.each<[string, Dte, number]>([
    ['reserved bits: RZ', { bits: [4n, 0n, 0n, 0n] }, 0x80],
    ['reserved bit 106', { bits: [0n, 1n << 42n, 0n, 0n] }, 0x80],
    ['reserved bit 187', { bits: [0n, 0n, 1n << 59n, 0n] }, 0x80],
    ['reserved bit 192', { bits: [0n, 0n, 0n, 1n] }, 0x80],
    ['reserved bit 245', { bits: [0n, 0n, 0n, 1n << 53n] }, 0x80],
    ['a domain, of which the event has no field', { mode: 7, bits: [0n, 5n, 0n, 0n] }, 0],
    ['Mode 7', { mode: 7 }, 0],
    ['GLX 3', { gcr3: 9, glx: 3 }, 0],
    ['guest tables of 6 levels', { gcr3: 9, bits: [0n, 0n, 2n << 54n, 0n] }, 0],
  ])('ILLEGAL_DEV_TABLE_ENTRY: %s', (_, dte, flags) => {
    const guest = started(dte);
    expect(guest.access(DEVICE, IOVA, READ)).toBe(BigInt(targetFault('amd', EVENT.illegalDeviceEntry)));
    expect(guest.events()).toEqual([[event(EVENT.illegalDeviceEntry, flags), IOVA]]);
    expect(guest.iommu.spaceOf(DEVICE)).toBeNull();
  });

  test('DEV_TAB_HARDWARE_ERROR: behind the table, outside memory; the hardware event registers have the first', () => {
    const guest = started();
    expect(guest.access(0x1000, IOVA, WRITE)).toBe(BigInt(targetFault('amd', EVENT.deviceTableHardware)));
    const [[first, second]] = guest.events();
    // The address is that of the entry.
    expect([first >> 60n, (first >> 57n) & 3n, first & 0xffffn, second]).toEqual([3n, 2n, 0x1000n, 0x1000n + 32n * 0x1000n]);
    guest.access(0x1001, IOVA, WRITE);
    expect([guest.read(Reg.hardwareStatus), guest.read(Reg.hardwareEvent)]).toEqual([3n, first]);
    guest.write(Reg.hardwareStatus, 3n);
    expect(guest.read(Reg.hardwareStatus)).toBe(0n);
  });

  test('entries are cached until they are invalidated; segments of the table', () => {
    const guest = started();
    guest.access(DEVICE, IOVA, READ);
    guest.setDevice(DEVICE, { tv: false });
    expect(guest.access(DEVICE, IOVA, READ)).toBe(IOVA);
    guest.command(invalidateDevice(DEVICE));
    expect(guest.access(DEVICE, IOVA, READ)).toBe(PAGE_FAULT);
  });

  test.each([1, 2, 3])('2^%i segments of the device table: each from a register of its own, the first from the old one', (lg2) => {
    const guest = started();
    guest.setDevice(DEVICE, { tv: false });
    const devices = 0x1_0000 >> lg2;
    for (let segment = 1; segment < 1 << lg2; segment++) {
      const register = Reg.segment1 + 8 * (segment - 1);
      guest.write(Reg.control, ON | (BigInt(lg2) << 34n));
      const endpoint = segment * devices + DEVICE;
      expect(guest.access(endpoint, IOVA, READ)).not.toBe(PAGE_FAULT);
      guest.write(register, 0x1000n);
      expect(guest.access(endpoint, IOVA, READ)).toBe(PAGE_FAULT);
      // One page of entries: 128 devices.
      expect(guest.access(segment * devices + 128, IOVA, READ)).toBe(BigInt(targetFault('amd', EVENT.deviceTableHardware)));
      expect(guest.access(segment * devices, IOVA, READ)).toBe(IOVA);
    }
    guest.write(Reg.control, ON);
    expect(guest.access(DEVICE, IOVA, READ)).toBe(PAGE_FAULT);
  });

  test('SA suppresses page faults, SE all but the first', () => {
    const all = started({ permission: 0, bits: [0n, 1n << 34n, 0n, 0n] });
    const first = started({ permission: 0, bits: [0n, 1n << 33n, 0n, 0n] });
    for (const guest of [all, first]) for (let i = 0; i < 3; i++) guest.access(DEVICE, IOVA, READ);
    expect([all.events().length, first.events().length]).toEqual([0, 1]);
  });

  test('the exclusion range: for devices with EX, or for all', () => {
    const guest = started({ permission: 0, bits: [0n, 1n << 39n, 0n, 0n] });
    guest.write(Reg.exclusionLimit, 0x6000n);
    guest.write(Reg.exclusionBase, 0x5001n);
    expect([guest.access(DEVICE, 0x4fffn, READ), guest.access(DEVICE, 0x6fffn, WRITE)]).toEqual([PAGE_FAULT, 0x6fffn]);
    expect(runsOf(guest.iommu.spaceOf(DEVICE)!)).toEqual([{ iova: 5, gpa: 5, pages: 2, permission: READ_WRITE }]);
    guest.setDevice(DEVICE, { permission: 0 });
    guest.command(invalidateDevice(DEVICE));
    expect(guest.access(DEVICE, 0x5000n, READ)).toBe(PAGE_FAULT);
    guest.write(Reg.exclusionBase, 0x5003n);
    expect(guest.access(DEVICE, 0x5000n, READ)).toBe(0x5000n);
  });
});

describe('host tables, 2.2.3', () => {
  test.each([1, 2, 3, 4, 5, 6] as const)('%i levels; IR and IW of entry and tables', (mode) => {
    const guest = started();
    const { root, table } = guest.v1(mode);
    table.map(5, 0x80, 2, READ_WRITE);
    table.map(8, 0x90, 1, READ);
    guest.setDevice(DEVICE, { mode, root, domain: 7 });
    guest.command(invalidateDevice(DEVICE));
    expect(guest.access(DEVICE, IOVA | 0x123n, READ_WRITE)).toBe(0x80123n);
    expect(guest.access(DEVICE, 0x8000n, READ)).toBe(0x90000n);
    expect(guest.access(DEVICE, 0x8000n, WRITE)).toBe(PAGE_FAULT);
    expect(guest.access(DEVICE, 0x9000n, READ)).toBe(PAGE_FAULT);
    // PR, RW and PE; then nothing but the address (QEMU's is 0).
    expect(guest.events()).toEqual([
      [event(EVENT.pageFault, 0x70, 7), 0x8000n],
      [event(EVENT.pageFault, 0, 7), 0x9000n],
    ]);
    expect(runsOf(guest.iommu.spaceOf(DEVICE)!)).toEqual([
      { iova: 5, gpa: 0x80, pages: 2, permission: READ_WRITE },
      { iova: 8, gpa: 0x90, pages: 1, permission: READ },
    ]);
    guest.setDevice(DEVICE, { mode, root, domain: 7, permission: READ });
    guest.command(invalidateDevice(DEVICE));
    expect(guest.access(DEVICE, IOVA, WRITE)).toBe(PAGE_FAULT);
  });

  test('skipped levels and encoded sizes', () => {
    const guest = started();
    const root = guest.pool.allocate(2);
    // Level 3 leads to level 1 at once; its entry 0 maps 32 KiB: next level 7, the lowest clear bit says 2^15.
    guest.store(BigInt(root) << 12n, (3n << 61n) | (BigInt(root + 1) << 12n) | (1n << 9n) | 1n);
    guest.store(BigInt(root + 1) << 12n, (3n << 61n) | 0x103000n | (7n << 9n) | 1n);
    guest.setDevice(DEVICE, { mode: 3, root, domain: 7 });
    guest.command(invalidateDevice(DEVICE));
    expect(guest.iommu.translate(DEVICE, -1, 0, 0x123, READ)).toBe(15);
    expect(guest.access(DEVICE, 0x7123n, READ)).toBe(0x107123n);
    expect(guest.access(DEVICE, 0x20_0000n, READ)).toBe(PAGE_FAULT);
  });

  test('a reserved bit: RZ; a table outside memory: PAGE_TAB_HARDWARE_ERROR with the address of the entry', () => {
    const guest = started();
    const root = guest.pool.allocate(1);
    guest.store(BigInt(root) << 12n, (3n << 61n) | (1n << 52n) | 0x1001n);
    guest.store((BigInt(root) << 12n) + 8n, (3n << 61n) | (1n << 9n) | 0x4000_0001n);
    guest.setDevice(DEVICE, { mode: 2, root, domain: 7 });
    guest.command(invalidateDevice(DEVICE));
    expect(guest.access(DEVICE, 0n, READ)).toBe(PAGE_FAULT);
    expect(guest.access(DEVICE, 0x20_3000n, WRITE)).toBe(BigInt(targetFault('amd', EVENT.pageTableHardware)));
    const [[reserved], [hardware, address]] = guest.events();
    expect(reserved).toBe(event(EVENT.pageFault, 0x90, 7));
    expect([hardware >> 60n, address]).toEqual([4n, 0x4000_0018n]);
  });

  test('HAD: accessed at every level, dirty by the first write, whatever was cached before', () => {
    const guest = started();
    const { root, table } = guest.v1(1);
    table.map(5, 0x80, 1, READ_WRITE);
    const entry = (BigInt(root) << 12n) + 40n;
    guest.setDevice(DEVICE, { mode: 1, root, domain: 7, had: 3 });
    guest.command(invalidateDevice(DEVICE));
    guest.access(DEVICE, IOVA, READ);
    expect(guest.load(entry) & 0x60n).toBe(0x20n);
    guest.access(DEVICE, IOVA, WRITE);
    expect(guest.load(entry) & 0x60n).toBe(0x60n);
    // HAD 2 is reserved, and neither.
    guest.store(entry, guest.load(entry) & ~0x60n);
    guest.setDevice(DEVICE, { mode: 1, root, domain: 7, had: 2 });
    guest.command(invalidateDevice(DEVICE), invalidatePages(7));
    expect([guest.access(DEVICE, IOVA, READ), guest.load(entry) & 0x60n]).toEqual([0x80000n, 0n]);
  });

  test('the interrupt range: writes are messages, reads are INVALID_DEVICE_REQUEST', () => {
    const guest = started();
    expect(guest.access(DEVICE, 0xfee0_1000n, WRITE)).toBe(0xfee0_1000n);
    expect(guest.access(DEVICE, 0xfee0_1000n, READ)).toBe(BigInt(targetFault('amd', EVENT.invalidRequest)));
    expect(guest.events()[0][0] >> 57n).toBe(0x40n);
    expect(runsOf(guest.iommu.spaceOf(DEVICE)!, 0xfedff, 0xfef00)).toEqual([
      { iova: 0xfedff, gpa: 0xfedff, pages: 1, permission: READ_WRITE },
      { iova: 0xfef00, gpa: 0xfef00, pages: 1, permission: READ_WRITE },
    ]);
  });
});

describe('ranges that are no memory, 2.1.2', () => {
  const MANAGEMENT = 0xfd_f910_0000n;
  const PORTS = 0xfd_fc00_0000n;
  const INVALID = BigInt(targetFault('amd', EVENT.invalidRequest));

  /** The type of the event that an access has, or where it goes. */
  function become(guest: Guest, address: bigint, access: number): bigint | string {
    const answer = guest.access(DEVICE, address, access);
    if (answer !== INVALID) return answer;
    const [[first, second]] = guest.events();
    expect([first >> 60n, second]).toEqual([BigInt(EVENT.invalidRequest), address]);
    return `type ${(first >> 57n) & 7n}`;
  }

  test.each<[number, boolean, bigint | string, bigint | string]>([
    [0, true, 'type 3', 'type 4'],
    [1, true, MANAGEMENT, 'type 4'],
    [2, true, 'type 3', 'type 4'],
    [3, true, MANAGEMENT, MANAGEMENT],
    [3, false, 'type 7', 'type 7'],
  ])('SysMgt %i, TV %s: a write, a read', (sysMgt, tv, write, read) => {
    const guest = started({ tv, bits: [0n, BigInt(sysMgt) << 40n, 0n, 0n] });
    expect([become(guest, MANAGEMENT, WRITE), become(guest, MANAGEMENT, READ)]).toEqual([write, read]);
    const space = guest.iommu.spaceOf(DEVICE);
    const page = Number(MANAGEMENT >> 12n);
    expect(space && runsOf(space, page, page).length).toBe(tv ? (sysMgt === 3 ? 1 : 0) : null);
  });

  test.each<[number, boolean, bigint | string]>([
    [0, true, 'type 2'],
    [1, true, PORTS],
    [2, true, PORTS],
    [2, false, 'type 7'],
    [3, true, 'type 2'],
  ])('IoCtl %i, TV %s', (ioCtl, tv, answer) => {
    const guest = started({ tv, bits: [0n, BigInt(ioCtl) << 35n, 0n, 0n] });
    expect(become(guest, PORTS, READ)).toBe(answer);
    const last = PORTS + 0x1ff_ffffn;
    expect(become(guest, last, WRITE)).toBe(answer === PORTS ? last : answer);
  });

  test('requests with PASID, and addresses beside them, are of memory', () => {
    const guest = started();
    for (const address of [MANAGEMENT - 1n, MANAGEMENT + 0x10_0000n, PORTS - 1n, PORTS + 0x200_0000n])
      expect(guest.access(DEVICE, address, WRITE)).toBe(address);
    expect(guest.access(DEVICE, MANAGEMENT, WRITE, 1)).toBe(PAGE_FAULT);
  });
});

describe('guest tables, 2.2.6', () => {
  function withGuest(dte: Dte, pasid = 0, levels: 4 | 5 = 4) {
    const guest = started();
    const { root, table } = guest.v2(levels);
    table.map(5, 0x80, 2, READ_WRITE | EXECUTE);
    table.map(9, 0x90, 1, READ_WRITE);
    // GCR3 tables of as many levels as GLX says, each of them one page.
    const glx = dte.glx ?? 0;
    const pages = Array.from({ length: glx + 1 }, () => guest.pool.allocate(1));
    pages.forEach((page, i) => {
      const next = i === glx ? root : pages[i + 1];
      guest.store((BigInt(page) << 12n) + BigInt(8 * ((pasid >> (9 * (glx - i))) & 511)), (BigInt(next) << 12n) | 1n);
    });
    guest.setDevice(DEVICE, { gcr3: pages[0], domain: 7, guestLevels: levels, ...dte });
    guest.command(invalidateDevice(DEVICE));
    return { guest, root, table };
  }

  test.each([
    [0, 5, 4],
    [1, 0x1234, 5],
    [2, 0xabcde, 4],
  ] as const)('GLX %i', (glx, pasid, levels) => {
    const { guest } = withGuest({ glx }, pasid, levels);
    expect(guest.access(DEVICE, IOVA | 7n, READ_WRITE, pasid)).toBe(0x80007n);
    expect(guest.access(DEVICE, IOVA, READ, pasid ^ 1)).toBe(PAGE_FAULT);
    // GN, US; PASID in two places.
    const [[first, address]] = guest.events();
    expect([first & 0xf_ffffn, (first >> 32n) & 0xffffn, (first >> 48n) & 0xfffn, address]).toEqual([
      BigInt(DEVICE | ((pasid ^ 1) & 0xf0000)),
      BigInt((pasid ^ 1) & 0xffff),
      5n,
      IOVA,
    ]);
    expect(guest.access(DEVICE, IOVA, READ)).toBe(IOVA);
  });

  test('GIOV: requests without PASID are PASID 0’s; accessed and dirty bits; the entry as a first stage', () => {
    const { guest, root } = withGuest({ giov: true });
    expect(guest.access(DEVICE, IOVA, READ)).toBe(0x80000n);
    expect(guest.access(DEVICE, IOVA, WRITE)).toBe(0x80000n);
    // Bit 5 at every level, bit 6 of the last entry by the write.
    let page = BigInt(root) << 12n;
    const path = [0, 0, 0, 5].map((index) => {
      const entry = guest.load(page + BigInt(8 * index));
      page = entry & 0xf_ffff_ffff_f000n;
      return entry;
    });
    expect(path.map((entry) => (entry >> 5n) & 1n)).toEqual([1n, 1n, 1n, 1n]);
    expect((path[3]! >> 6n) & 1n).toBe(1n);
    const space = guest.iommu.spaceOf(DEVICE)!;
    expect(space.name).toBe('domain 7, PASID 0');
    expect(runsOf(space)[0]).toEqual({ iova: 5, gpa: 0x80, pages: 2, permission: 7 });
    const stage = guest.iommu.stageOf(DEVICE);
    expect(stage).toMatchObject({ kind: 'amd' });
    if (stage?.kind === 'amd') expect([stage.dte[0] & 3n, (stage.dte[0] >> 54n) & 3n, stage.dte[3]]).toEqual([3n, 3n, 0n]);
    expect(guest.iommu.stageOf(0x30)).toEqual({ kind: 'abort' });
    guest.write(Reg.control, ON & ~(1n << 16n));
    expect(guest.access(DEVICE, IOVA, READ)).toBe(IOVA);
    expect(guest.iommu.stageOf(DEVICE)).toEqual({ kind: 'bypass' });
  });

  test('GCR3TRPMode: the table’s root is system-physical without it, guest-physical with it', () => {
    const { guest } = withGuest({ giov: true });
    const { root, table } = guest.v1(3);
    table.map(0, 0, 0x100, READ_WRITE);
    const behind = guest.v2();
    behind.table.map(5, 0x90, 1, READ_WRITE);
    const gcr3 = guest.pool.allocate(1);
    guest.store(BigInt(gcr3) << 12n, (BigInt(behind.root) << 12n) | 1n);
    // Guest page 0x1000 is where the host has the table; page 0x1000 of the system is no memory.
    table.map(0x1000, gcr3, 1, READ_WRITE);
    guest.setDevice(DEVICE, { mode: 3, root, gcr3: 0x1000, giov: true, domain: 7 });
    guest.command(invalidateDevice(DEVICE), invalidatePages(7));
    expect(guest.access(DEVICE, IOVA, READ)).toBe(0x90000n);
    guest.write(Reg.control, ON & ~(1n << 58n));
    expect(guest.access(DEVICE, IOVA, READ)).toBe(BigInt(targetFault('amd', EVENT.pageTableHardware)));
    guest.setDevice(DEVICE, { mode: 3, root, gcr3, giov: true, domain: 7 });
    guest.command(invalidateDevice(DEVICE), invalidatePages(7));
    expect(guest.access(DEVICE, IOVA, READ)).toBe(0x90000n);
  });

  test('a GCR3 table above 2 GiB: the pointer’s bits lie in three places (2.2.2.1, table 7)', () => {
    const high = 0xa_8000_1000n;
    const memory = new GuestMemory([
      { gpa: 0n, buffer: new SharedArrayBuffer(RAM_PAGES * 4096) },
      { gpa: high, buffer: new SharedArrayBuffer(4096) },
    ]);
    const guest = new Guest({}, memory);
    guest.iommu.addEndpoint(DEVICE);
    guest.start();
    const { root, table } = guest.v2();
    table.map(5, 0x80, 1, READ_WRITE);
    guest.store(high, (BigInt(root) << 12n) | 1n);
    guest.setDevice(DEVICE, { gcr3: Number(high >> 12n), giov: true, domain: 7 });
    guest.command(invalidateDevice(DEVICE));
    expect(guest.access(DEVICE, IOVA, READ)).toBe(0x80000n);
  });

  test('INVALIDATE_IOMMU_PAGES of a PASID: where its tables are is read again', () => {
    const { guest } = withGuest({ giov: true });
    expect(guest.access(DEVICE, IOVA, READ)).toBe(0x80000n);
    const other = guest.v2();
    other.table.map(5, 0x90, 1, READ_WRITE);
    const entry = guest.load(BigInt(0x1000 + 32 * DEVICE + 8)) >> 16n;
    const gcr3 = ((entry & 0xffffn) << 15n) | ((guest.load(BigInt(0x1000 + 32 * DEVICE)) >> 46n) & 0x7000n);
    guest.store(gcr3, (BigInt(other.root) << 12n) | 1n);
    guest.command(invalidatePages(7, 0, 64, 0));
    expect(guest.access(DEVICE, IOVA, READ)).toBe(0x90000n);
  });

  test('what a supervisor may is not kept for users', () => {
    const { guest, root } = withGuest({ giov: true });
    const leaf = [0, 0, 0].reduce((page) => guest.load(page) & 0xf_ffff_ffff_f000n, BigInt(root) << 12n) + 40n;
    guest.store(leaf, guest.load(leaf) & ~4n);
    expect(guest.access(DEVICE, IOVA, READ | PRIVILEGED)).toBe(0x80000n);
    expect(guest.access(DEVICE, IOVA, READ)).toBe(PAGE_FAULT);
  });

  test('privileged and user accesses, and fetches, are not mixed up', () => {
    const { guest } = withGuest({ giov: true });
    expect(guest.access(DEVICE, IOVA, READ | PRIVILEGED)).toBe(0x80000n);
    expect(guest.access(DEVICE, IOVA, EXECUTE)).toBe(0x80000n);
    expect(guest.access(DEVICE, 0x9000n, EXECUTE)).toBe(PAGE_FAULT);
    // PR, PE, US, NX and GN.
    expect(guest.events()[0][0] >> 48n).toBe(0x2057n);
  });

  test('nested: guest tables behind host tables; whose fault it is', () => {
    const { guest } = withGuest({ giov: true });
    const { root, table } = guest.v1(3);
    table.map(0, 0, 0x100, READ_WRITE);
    table.map(0x80 + RAM_PAGES, 0x80, 1, READ_WRITE);
    const inner = guest.v2();
    inner.table.map(5, 0x80 + RAM_PAGES, 2, READ_WRITE);
    const gcr3 = guest.pool.allocate(1);
    guest.store(BigInt(gcr3) << 12n, (BigInt(inner.root) << 12n) | 1n);
    guest.setDevice(DEVICE, { mode: 3, root, gcr3, giov: true, domain: 7 });
    guest.command(invalidateDevice(DEVICE), invalidatePages(7));
    expect(guest.access(DEVICE, IOVA | 1n, READ)).toBe(0x80001n);
    expect(runsOf(guest.iommu.spaceOf(DEVICE)!)).toEqual([{ iova: 5, gpa: 0x80, pages: 1, permission: READ_WRITE }]);
    expect(guest.iommu.stageOf(DEVICE)).toBeNull();
    expect(guest.access(DEVICE, 0x6000n, READ)).toBe(PAGE_FAULT);
    expect(guest.access(DEVICE, 0x7000n, READ)).toBe(PAGE_FAULT);
    const [[host, gpa], [first, gva]] = guest.events();
    expect([(host >> 48n) & 1n, gpa, (first >> 48n) & 1n, gva]).toEqual([0n, BigInt(RAM_PAGES + 0x81) << 12n, 1n, 0x7000n]);
    // What the host table's input was invalidated for is forgotten behind guest tables too.
    table.unmap(0x80 + RAM_PAGES, 1);
    guest.command(invalidatePages(7, 0x80 + RAM_PAGES, 12));
    expect(guest.access(DEVICE, IOVA, READ)).toBe(PAGE_FAULT);
  });
});

test.each<[string, Dte]>([
  ['domain', { domain: 8 }],
  ['IR and IW', { permission: READ }],
  ['levels', { mode: 4 }],
  ['root', { root: 0x61 }],
  ['HAD', { had: 1 }],
  ['EX', { bits: [0n, 1n << 39n, 0n, 0n] }],
  ['SysMgt', { bits: [0n, 3n << 40n, 0n, 0n] }],
  ['IoCtl', { bits: [0n, 2n << 35n, 0n, 0n] }],
])('devices share a space unless their entries mean other things: %s', (_, change) => {
  const same: Dte = { mode: 3, root: 0x60, domain: 7 };
  const guest = started(same);
  const other = 0x30;
  guest.iommu.addEndpoint(other);
  guest.write(Reg.exclusionLimit, 0x6000n);
  guest.write(Reg.exclusionBase, 0x5001n);
  const spaceOf = (dte: Dte) => {
    guest.setDevice(other, dte);
    guest.command(invalidateDevice(other));
    return guest.iommu.spaceOf(other);
  };
  const space = guest.iommu.spaceOf(DEVICE)!;
  expect(spaceOf(same)).toBe(space);
  expect(spaceOf({ ...same, ...change })).not.toBe(space);
  const excluding = spaceOf({ ...same, bits: [0n, 1n << 39n, 0n, 0n] });
  guest.write(Reg.exclusionLimit, 0x7000n);
  expect(guest.iommu.spaceOf(other)).not.toBe(excluding);
});

test('NpCache: spaces are announced, and the capability block says so', () => {
  for (const npCache of [true, false]) {
    const guest = new Guest({ npCache });
    guest.iommu.addEndpoint(DEVICE);
    guest.start();
    guest.setDevice(DEVICE, { permission: READ });
    guest.command(invalidateAll());
    expect(guest.iommu.spaceOf(DEVICE)?.announced).toBe(npCache);
    expect((guest.iommu.pci.read(0) >> 26) & 1).toBe(Number(npCache));
  }
});

test('the capability block: read-only once it is enabled', () => {
  const { pci } = new AmdIommu({ memory: new Guest().memory }, { next: 0x64 });
  expect([pci.read(0) & 0xffff, (pci.read(0) >> 16) & 7, pci.base]).toEqual([0x640f, 3, null]);
  pci.write(8, 0x12);
  pci.write(4, 0xfeb8_3001);
  pci.write(4, 0);
  expect(pci.base).toBe(0x12_feb8_0000n);
});
