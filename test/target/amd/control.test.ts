import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE } from '../../../src/memory/access.ts';
import { AmdIommu, EFR, EFR2, EVENT } from '../../../src/target/amd/index.ts';
import { completionWait, DONE, Guest, INTERRUPTS, invalidateAll, invalidateDevice, invalidatePages, ON, Reg } from './guest.ts';

const DEVICE = 0x28;
const RUN = 1n << 4n;

function started(control = ON): Guest {
  const guest = new Guest();
  guest.iommu.addEndpoint(DEVICE);
  guest.start(control);
  return guest;
}

describe('registers, 3.4', () => {
  test('features are those of the table; what is left out is reserved', () => {
    const guest = new Guest();
    for (const [table, offset] of [
      [EFR, Reg.efr],
      [EFR2, Reg.efr2],
    ] as const)
      for (const { low, width, value } of table)
        expect((guest.read(offset) >> BigInt(low)) & ((1n << BigInt(width)) - 1n)).toBe(BigInt(value as number));
    const without = new Guest({ without: ['GTSup', 'PPRSup'] });
    without.write(Reg.control, 2n ** 64n - 1n);
    expect(without.read(Reg.efr) & 0x12n).toBe(0n);
    expect(without.read(Reg.control) & 0x1_e000n).toBe(0n);
    without.write(Reg.pprBase, 2n ** 64n - 1n);
    expect(without.read(Reg.pprBase)).toBe(0n);
  });

  test('without segments, HA and GCR3 translation modes: their bits of Control, and the registers of segments, are reserved', () => {
    const bits = (0x7n << 34n) | (0x3n << 46n) | (1n << 58n);
    const [all, none] = [new Guest(), new Guest({ without: ['DevTblSegSup', 'HASup', 'GCR3TRPMode'] })];
    for (const guest of [all, none]) {
      guest.write(Reg.control, 2n ** 64n - 1n);
      guest.write(Reg.segment1, 2n ** 64n - 1n);
    }
    expect(all.read(Reg.control) & bits).toBe(bits);
    expect([none.read(Reg.control) & bits, none.read(Reg.segment1)]).toEqual([0n, 0n]);
  });

  test('a log outside memory: no record is told of, and what comes later is the log’s again once it lies in memory', () => {
    const guest = new Guest();
    guest.start();
    guest.setDevice(8, { mode: 3, root: guest.v1().root });
    const base = guest.read(Reg.eventBase);
    const tail = () => guest.read(Reg.eventTail);
    guest.write(Reg.control, 0n);
    guest.write(Reg.eventBase, (0x8_0000n << 12n) | (8n << 56n));
    guest.write(Reg.control, ON);
    const before = guest.interrupts.length;
    const fault = () => guest.iommu.translate(8, -1, 0, 0x5000, READ);
    expect(fault()).toBeLessThan(0);
    expect([tail(), guest.interrupts.length]).toEqual([0n, before]);
    guest.write(Reg.eventBase, base);
    expect(fault()).toBeLessThan(0);
    expect(tail()).toBe(16n);
  });

  test('the capability says where the registers are, enabled, if the machine has put them somewhere (3.2)', () => {
    const words = (base?: bigint) => {
      const { pci } = new AmdIommu({ memory: new Guest().memory }, base === undefined ? {} : { base });
      return [pci.read(4), pci.read(8)];
    };
    expect([words(), words(0x2_fed8_0000n)]).toEqual([
      [0, 0],
      [0xfed8_0001, 2],
    ]);
  });

  test('bits that are not the guest’s; halves; what is no access', () => {
    const guest = new Guest();
    for (const [offset, mask] of [
      [Reg.deviceTable, 0x000f_ffff_ffff_f1ffn],
      [Reg.commandBase, 0x0f0f_ffff_ffff_f000n],
      [Reg.exclusionBase, 0x000f_ffff_ffff_f003n],
      [Reg.commandTail, 0x7_fff0n],
      [Reg.segment1, 0x000f_ffff_ffff_f0ffn],
      [Reg.segment1 + 48, 0x000f_ffff_ffff_f0ffn],
      [Reg.segment1 + 56, 0n],
    ] as const) {
      guest.write(offset, 2n ** 64n - 1n);
      expect(guest.read(offset)).toBe(mask);
      guest.iommu.write(offset, 4, 0n);
      guest.iommu.write(offset + 4, 4, 0n);
      expect(guest.read(offset)).toBe(0n);
    }
    const features = guest.read(Reg.efr);
    guest.write(Reg.efr, 0n);
    expect(guest.read(Reg.efr)).toBe(features);
    // Counters (4000h and on) are not there.
    expect([guest.iommu.read(0x4000, 8), guest.iommu.read(0x4_0000, 8)]).toEqual([0n, 0n]);
    expect([guest.iommu.read(1, 4), guest.iommu.read(0x3ffc, 8), guest.iommu.read(Reg.efr, 2), guest.iommu.read(-8, 8)]).toEqual([
      0n,
      0n,
      0n,
      0n,
    ]);
  });

  test('misuse is refused by name', () => {
    expect(() => new AmdIommu({ memory: {} as never })).toThrow(TypeError);
    expect(() => new AmdIommu({ memory: new Guest().memory, npCache: 1 as never })).toThrow('npCache');
    expect(() => new AmdIommu({ memory: new Guest().memory, without: ['Sup'] })).toThrow('no feature Sup');
  });
});

describe('commands, 2.4', () => {
  test('COMPLETION_WAIT: store, interrupt, both; the head goes on', () => {
    const guest = started(ON | (1n << 4n));
    guest.command(completionWait(1n, 0xabcdn));
    expect([guest.load(DONE), guest.interrupts, guest.read(Reg.commandHead)]).toEqual([0xabcdn, [], 16n]);
    guest.command(completionWait(2n, 7n), completionWait(7n, 9n));
    expect([guest.load(DONE), guest.interrupts, guest.read(Reg.status) & 4n]).toEqual([9n, [null, null], 4n]);
    guest.write(Reg.status, 4n);
    expect(guest.read(Reg.status) & 4n).toBe(0n);
  });

  test.each<[string, [bigint, bigint]]>([
    ['an opcode that there is not', [0xfn << 60n, 0n]],
    ['opcode 0', [0n, 0n]],
    ['reserved bits of COMPLETION_WAIT', [(1n << 60n) | (1n << 52n), 0n]],
    ['reserved bits of INVALIDATE_DEVTAB_ENTRY', [(2n << 60n) | (1n << 16n), 0n]],
    ['reserved bits of INVALIDATE_IOMMU_PAGES', [3n << 60n, 8n]],
    ['reserved bits of INVALIDATE_INTERRUPT_TABLE', [5n << 60n, 1n]],
    ['reserved bits of INVALIDATE_IOMMU_ALL', [(8n << 60n) | 1n, 0n]],
  ])('ILLEGAL_COMMAND_ERROR: %s: the ring stops at the command until it is enabled again', (_, command) => {
    const guest = started();
    guest.command(command, completionWait(1n, 0x77n));
    expect([guest.read(Reg.commandHead), guest.read(Reg.status) & RUN, guest.load(DONE)]).toEqual([0n, 0n, 0n]);
    expect(guest.events()).toEqual([[BigInt(EVENT.illegalCommand) << 60n, 0x4000n]]);
    // Enabled it was already: that it is written again is no beginning.
    guest.write(Reg.control, ON);
    expect(guest.read(Reg.status) & RUN).toBe(0n);
    guest.write(Reg.control, ON & ~(1n << 12n));
    guest.write(Reg.commandHead, 16n);
    guest.write(Reg.control, ON);
    expect([guest.load(DONE), guest.read(Reg.status) & RUN]).toEqual([0x77n, RUN]);
  });

  test('COMMAND_HARDWARE_ERROR: a ring, or a store, outside memory', () => {
    const guest = started();
    guest.command(completionWait(1n, 0n, 0x4000_0000n));
    expect(guest.events()).toEqual([[(BigInt(EVENT.commandHardware) << 60n) | (2n << 57n), 0x4000_0000n]]);
    guest.write(Reg.control, ON & ~(1n << 12n));
    guest.write(Reg.commandBase, 0x4000_0000n | (8n << 56n));
    guest.write(Reg.commandTail, 32n);
    guest.write(Reg.control, ON);
    expect(guest.events()).toEqual([[(BigInt(EVENT.commandHardware) << 60n) | (2n << 57n), 0x4000_0000n]]);
    // Written as it was, Control enables nothing (2.4: from 0 to 1).
    guest.write(Reg.control, ON | (1n << 4n));
    expect([guest.read(Reg.status) & RUN, guest.events()]).toEqual([0n, []]);
  });

  test('a ring shorter than 256 commands is one of 256; what is written of its tail beyond its end does not count', () => {
    const guest = new Guest();
    guest.start(0n);
    guest.write(Reg.commandBase, (4n << 12n) | (2n << 56n));
    guest.write(Reg.control, ON);
    for (let i = 0; i < 65; i++) guest.command(completionWait(1n, BigInt(i)));
    expect([guest.load(DONE), guest.read(Reg.commandHead)]).toEqual([64n, 65n * 16n]);
    guest.write(Reg.commandTail, 0x1000n + 65n * 16n);
    expect([guest.read(Reg.commandHead), guest.later.length, guest.read(Reg.status) & RUN]).toEqual([65n * 16n, 0, RUN]);
  });

  test('every other command; what is for the device is handed on', () => {
    const guest = started();
    const wait = completionWait(1n, 5n);
    guest.command([(4n << 60n) | (0x5n << 56n) | (0x34n << 48n) | (0x12n << 16n) | BigInt(DEVICE), 0x7_f000n | 5n | (2n << 4n)], wait);
    expect(guest.invalidations).toEqual([{ device: DEVICE, pasid: 0x5_1234, firstPage: 0, pages: 256, type: 2 }]);
    guest.command([(7n << 60n) | (0x5_4321n << 32n) | BigInt(DEVICE), (0x1007n << 32n) | 4n], [5n << 60n, 0n], [6n << 60n, 0n], wait);
    expect(guest.responses).toEqual([{ device: DEVICE, pasid: 0x5_4321, tag: 0x1007 }]);
    expect(guest.load(DONE)).toBe(5n);
    expect(guest.events()).toEqual([]);
  });

  test('IOTLB_INV_TIMEOUT: a device that does not answer; the address is the command’s, and what is behind it goes on', () => {
    const guest = started();
    guest.answersInvalidations = false;
    guest.command(completionWait(), [(4n << 60n) | BigInt(DEVICE), 0n], completionWait(1n, 0x55n));
    expect(guest.events()).toEqual([[(BigInt(EVENT.iotlbTimeout) << 60n) | BigInt(DEVICE), 0x4010n]]);
    expect([guest.load(DONE), guest.read(Reg.status) & RUN]).toEqual([0x55n, RUN]);
  });

  test('INVALIDATE_IOMMU_PAGES: one page, sizes, all, and other domains', () => {
    const guest = started();
    const { root, table } = guest.v1(3);
    table.map(0, 0x81, 64, READ_WRITE);
    guest.setDevice(DEVICE, { mode: 3, root, domain: 7 });
    guest.command(invalidateDevice(DEVICE));
    const landings = () => [0, 1, 2, 16].map((page) => Number(guest.access(DEVICE, BigInt(page) << 12n, READ) >> 12n));
    const before = landings();
    table.unmap(0, 64);
    table.map(0, 0xa1, 64, READ_WRITE);
    guest.command(invalidatePages(6));
    expect(landings()).toEqual(before);
    guest.command(invalidatePages(7, 0, 12));
    expect(landings()).toEqual([0xa1, 0x82, 0x83, 0x91]);
    guest.command(invalidatePages(7, 0, 13));
    expect(landings()).toEqual([0xa1, 0xa2, 0x83, 0x91]);
    guest.command(invalidatePages(7, 0, 16));
    expect(landings()).toEqual([0xa1, 0xa2, 0xa3, 0x91]);
    guest.command(invalidatePages(7));
    expect(landings()).toEqual([0xa1, 0xa2, 0xa3, 0xb1]);
  });

  test.each([
    ['all ones', 0xffff_ffff_ffff_f000n, 0, 2 ** 52 - 1],
    ['all ones but the highest bit, as Linux has it', 0x7fff_ffff_ffff_f000n, 0, 2 ** 52 - 1],
    ['the lower half of the address in ones', 0xffff_f000n, 0, 2 ** 21 - 1],
    ['ones from the middle of everything on', 0xbfff_ffff_ffff_f000n, 2 ** 51, 2 ** 52 - 1],
  ])('INVALIDATE_IOMMU_PAGES with S, %s: the block that the lowest clear bit says', (_, address, first, last) => {
    const guest = started();
    const { root, table } = guest.v1(3);
    table.map(0x1234, 0x81, 1, READ_WRITE);
    guest.setDevice(DEVICE, { mode: 3, root, domain: 7 });
    guest.command(invalidateDevice(DEVICE));
    const landing = () => Number(guest.access(DEVICE, 0x1234n << 12n, READ) >> 12n);
    expect(landing()).toBe(0x81);
    table.unmap(0x1234, 1);
    table.map(0x1234, 0xa1, 1, READ_WRITE);
    const said: unknown[] = [];
    guest.iommu.observe({ attach: () => 0, changed: (_space, from, to) => void said.push([from, to]), flush: () => 0 });
    const [command, sized] = invalidatePages(7, 0, 13);
    guest.command([command, address | (sized & 0xfffn)]);
    expect(said).toEqual([[first, last]]);
    // A cache may forget more than the block, and not less.
    expect(landing()).toBe(0xa1);
  });

  test('what the observer hears: the range, and a flush before the completion', () => {
    const guest = started();
    const { root, table } = guest.v1(3);
    table.map(0, 0x80, 4, READ_WRITE);
    guest.setDevice(DEVICE, { mode: 3, root, domain: 7 });
    guest.command(invalidateDevice(DEVICE));
    const said: unknown[] = [];
    guest.iommu.observe({
      attach: (endpoint, space) => said.push([endpoint, space?.name]) && 0,
      changed: (_, first, last) => void said.push([first, last]),
      invalidated: (words, endpoint) => void said.push([words[1] >>> 28, endpoint]),
      flush: () => said.push(['flush', guest.load(DONE)]) && 0,
    });
    guest.command(invalidatePages(7, 0x200, 21), completionWait(1n, 3n));
    expect(said).toEqual([
      [DEVICE, 'domain 7'],
      [3, -1],
      [0x200, 0x3ff],
      ['flush', 0n],
    ]);
    expect(guest.load(DONE)).toBe(3n);
  });

  test('a ring that never ends costs a bounded number of commands an access', () => {
    const guest = new Guest();
    guest.start(0n);
    guest.write(Reg.commandBase, (4n << 12n) | (15n << 56n));
    let loads = 0;
    const load = guest.memory.load64.bind(guest.memory);
    guest.memory.load64 = (hi, lo) => {
      loads++;
      return load(hi, lo);
    };
    for (let at = 0n; at < 0x2000n; at += 16n) guest.store(0x4000n + at, 8n << 60n);
    guest.write(Reg.commandTail, 0x7_fff0n);
    guest.write(Reg.control, ON);
    expect(loads).toBeLessThanOrEqual(2 * 16_384 + 4);
  });

  test('what one access leaves follows by itself: the guest waits in memory for its completion', () => {
    const later: (() => void)[] = [];
    const guest = new Guest({ schedule: (work) => void later.push(work) });
    guest.start(0n);
    guest.write(Reg.commandBase, (0x100n << 12n) | (15n << 56n));
    for (let at = 0n; at < 0x5_0000n; at += 16n) guest.store(0x10_0000n + at, 8n << 60n);
    const wait = completionWait(1n, 5n);
    wait.forEach((word, i) => void guest.store(0x15_0000n + BigInt(i) * 8n, word));
    guest.write(Reg.commandTail, 0x5_0010n);
    guest.write(Reg.control, ON);
    expect([guest.load(DONE), later.length]).toEqual([0n, 1]);
    while (later.length > 0) later.shift()!();
    expect([guest.load(DONE), guest.read(Reg.commandHead)]).toEqual([5n, 0x5_0010n]);
  });
});

describe('events and page requests, 2.5 and 2.6', () => {
  test('a full log overflows and stops; an interrupt each; enabled again it goes on', () => {
    const guest = started(ON | (1n << 3n));
    guest.setDevice(DEVICE, { tv: false });
    guest.command(invalidateAll());
    for (let i = 0; i < 300; i++) guest.access(DEVICE, BigInt(i) << 12n, READ);
    expect(guest.read(Reg.status) & 0xbn).toBe(0x3n);
    expect(guest.interrupts).toHaveLength(256);
    expect(guest.events()).toHaveLength(255);
    // No event is logged until the overflow is cleared and EventLogEn written with 1: it need not have been 0.
    guest.write(Reg.control, ON & ~4n);
    guest.write(Reg.control, ON);
    expect(guest.read(Reg.status) & 0x9n).toBe(1n);
    guest.write(Reg.status, 3n);
    guest.access(DEVICE, 0x1000n, READ);
    expect(guest.events()).toHaveLength(0);
    guest.write(Reg.control, ON);
    expect(guest.read(Reg.status) & 0x9n).toBe(8n);
    guest.access(DEVICE, 0x1000n, READ);
    expect(guest.events()).toHaveLength(1);
  });

  test('x2APIC interrupts of its own', () => {
    const guest = started(ON | (1n << 3n) | (1n << 51n));
    guest.write(Reg.xtGeneral, (0x12n << 56n) | (0x40n << 32n) | (0x345678n << 8n) | 4n);
    guest.access(0x1000, 0n, READ);
    expect(guest.interrupts).toEqual([{ destination: 0x1234_5678, vector: 0x40, logical: true }]);
    // Page requests have a register of their own.
    guest.write(Reg.control, ON | (1n << 14n) | (1n << 51n));
    guest.write(Reg.xtPpr, (0x41n << 32n) | (7n << 8n));
    guest.setDevice(DEVICE, { bits: [1n << 52n, 0n, 0n, 0n] });
    guest.command(invalidateDevice(DEVICE));
    const access = { read: true, write: false, execute: false, user: false };
    guest.iommu.pageRequest({ device: DEVICE, pasid: null, page: 1, group: 0, last: true, ...access });
    expect(guest.interrupts.slice(1)).toEqual([{ destination: 7, vector: 0x41, logical: false }]);
  });

  test('page requests: logged where the entry has PPR, answered as invalid elsewhere', () => {
    const guest = started();
    const request = {
      device: DEVICE,
      pasid: 0x5_4321,
      page: 0x1_2345_6789,
      read: true,
      write: true,
      execute: false,
      user: true,
      group: 3,
      last: true,
    };
    guest.iommu.pageRequest(request);
    // A stop marker wants no answer (PCIe 10.4.1.2.1).
    guest.iommu.pageRequest({ ...request, read: false, write: false });
    expect(guest.responses).toEqual([{ device: DEVICE, pasid: 0x5_4321, tag: 0x1003 }]);
    // Without PASID there are none, and with TV = 0 no PPR.
    guest.iommu.pageRequest({ ...request, pasid: null, read: false, write: false });
    guest.setDevice(DEVICE, { tv: false, bits: [1n << 52n, 0n, 0n, 0n] });
    guest.command(invalidateDevice(DEVICE));
    guest.iommu.pageRequest(request);
    expect(guest.responses.splice(1)).toEqual([
      { device: DEVICE, pasid: null, tag: 0x1003 },
      { device: DEVICE, pasid: 0x5_4321, tag: 0x1003 },
    ]);
    guest.setDevice(DEVICE, { bits: [1n << 52n, 0n, 0n, 0n] });
    guest.command(invalidateDevice(DEVICE));
    guest.iommu.pageRequest(request);
    // Code 1; GN, user, write and read; PASID in two places; PRG index 3, last.
    const first = (1n << 60n) | (0x164n << 48n) | (5n << 42n) | (0x203n << 32n) | (0x4321n << 16n) | BigInt(DEVICE);
    expect(guest.pageRequests()).toEqual([[first, 0x1_2345_6789n << 12n]]);
    for (let i = 0; i < 256; i++) guest.iommu.pageRequest(request);
    expect([guest.read(Reg.status) & 0xe0n, guest.responses.length]).toEqual([0x60n, 2]);
  });
});

describe('interrupt remapping, 2.2.5', () => {
  const TABLE = BigInt(INTERRUPTS) << 12n;
  const REMAP = 2n << 60n;
  function remapping(dte2: bigint, control = ON) {
    const guest = started(control);
    guest.setDevice(DEVICE, { bits: [0n, 0n, dte2 | TABLE, 0n] });
    guest.command(invalidateAll());
    return guest;
  }
  const LENGTH_512 = (9n << 1n) | 1n;

  test('32-bit entries', () => {
    const guest = remapping(REMAP | LENGTH_512);
    guest.store(TABLE, (0x0026_0301n << 32n) | 0x0031_0045n);
    expect(guest.iommu.remap(DEVICE, 0xfee0_0000 | 0, 1)).toEqual({
      kind: 'remap',
      destination: 3,
      logical: false,
      vector: 0x26,
      delivery: 0,
    });
    expect(guest.iommu.remap(DEVICE, 0xfee0_0000 | 0, 0)).toEqual({
      kind: 'remap',
      destination: 0,
      logical: true,
      vector: 0x31,
      delivery: 1,
    });
  });

  test('a table of 2,048 entries, the longest', () => {
    const guest = remapping(REMAP | (11n << 1n) | 1n);
    guest.store(TABLE + 8188n - 4n, 0x0077_0401n << 32n);
    expect(guest.iommu.remap(DEVICE, 0xfee0_0000 | 0, 2047)).toMatchObject({ destination: 4, vector: 0x77 });
    expect(guest.events()).toEqual([]);
  });

  test('a table ends where its length says, and begins at a multiple of 128 bytes', () => {
    const entry = 0x0077_0401n;
    const guest = remapping(REMAP | (3n << 1n) | 1n | 64n);
    guest.store(TABLE, entry | (entry << 32n));
    guest.store(TABLE + 32n, entry);
    expect(guest.iommu.remap(DEVICE, 0xfee0_0000 | 0, 0)).toMatchObject({ vector: 0x77 });
    expect(guest.iommu.remap(DEVICE, 0xfee0_0000 | 0, 8)).toEqual({ kind: 'abort' });
  });

  test('128-bit entries; destinations of 8 and of 32 bits', () => {
    const guest = remapping(REMAP | LENGTH_512, ON | (1n << 17n));
    guest.store(TABLE + 16n, (0x345678n << 8n) | 1n);
    guest.store(TABLE + 24n, (0x12n << 56n) | 0x55n);
    expect(guest.iommu.remap(DEVICE, 0, 1)).toMatchObject({ destination: 0x78, vector: 0x55 });
    guest.write(Reg.control, ON | (1n << 17n) | (1n << 50n));
    expect(guest.iommu.remap(DEVICE, 0, 1)).toMatchObject({ destination: 0x1234_5678 });
  });

  test.each<[string, bigint, bigint, number | null, number]>([
    ['behind the table', REMAP | (3n << 1n) | 1n, 0n, EVENT.pageFault, 8],
    ['not enabled', REMAP | LENGTH_512, 0n, EVENT.pageFault, 0],
    ['not enabled, suppressed', REMAP | LENGTH_512, 2n, null, 0],
    ['not enabled, ignored', REMAP | LENGTH_512 | (1n << 5n), 0n, null, 0],
    ['a reserved type', REMAP | LENGTH_512, 0x1dn, EVENT.pageFault, 0],
    ['guest mode', REMAP | LENGTH_512, 0x81n, EVENT.pageFault, 0],
    ['IntCtl 3', (3n << 60n) | LENGTH_512, 1n, EVENT.illegalDeviceEntry, 0],
    ['a table of 4,096', REMAP | (12n << 1n) | 1n, 1n, EVENT.illegalDeviceEntry, 0],
  ])('aborted: %s', (_, dte2, irte, code, index) => {
    const guest = remapping(dte2);
    guest.store(TABLE, irte);
    expect(guest.iommu.remap(DEVICE, 0xfee0_0000 | 0, index)).toEqual({ kind: 'abort' });
    const events = guest.events();
    expect(events.map(([first]) => [Number(first >> 60n), Number((first >> 51n) & 1n)])).toEqual(code === null ? [] : [[code, 1]]);
  });

  test('IntCtl 0: INVALID_DEVICE_REQUEST of fixed and arbitrated interrupts, with its type and address', () => {
    const guest = remapping(LENGTH_512);
    for (const mode of [0, 1, 2, 4]) expect(guest.iommu.remap(DEVICE, 0xfee0_1004 | 0, mode << 8)).toEqual({ kind: 'abort' });
    // Linux prints flags=0x0a00 for one of hardware.
    const event = [(BigInt(EVENT.invalidRequest) << 60n) | (0xa00n << 48n) | BigInt(DEVICE), 0xfee0_1004n];
    expect(guest.events()).toEqual([event, event]);
  });

  test('an interrupt table outside memory: PAGE_TAB_HARDWARE_ERROR with I and the address of the entry', () => {
    const guest = remapping(REMAP | LENGTH_512 | 0x4000_0000n);
    expect(guest.iommu.remap(DEVICE, 0xfee0_0000 | 0, 3)).toEqual({ kind: 'abort' });
    const [[first, second]] = guest.events();
    expect([first >> 60n, (first >> 51n) & 1n, second]).toEqual([4n, 1n, (TABLE | 0x4000_0000n) + 12n]);
  });

  test('passed: off, IV = 0, IntCtl 1; NMI, INIT and ExtINT by their bits', () => {
    const pass = { kind: 'pass' };
    expect(started(0n).iommu.remap(DEVICE, 0, 0)).toEqual(pass);
    expect(remapping(0n).iommu.remap(DEVICE, 0, 0)).toEqual(pass);
    const guest = remapping((1n << 60n) | LENGTH_512 | (1n << 58n));
    expect(guest.iommu.remap(DEVICE, 0, 0x31)).toEqual(pass);
    expect(guest.iommu.remap(DEVICE, 0, 4 << 8)).toEqual(pass);
    expect(guest.iommu.remap(DEVICE, 0, 5 << 8)).toEqual({ kind: 'abort' });
    expect(guest.iommu.remap(DEVICE, 0, 7 << 8)).toEqual({ kind: 'abort' });
  });
});
