import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { StoreWatch } from '../../src/accel/store-watch.ts';
import { errno } from '../../src/host/errno.ts';
import { hostKinds, openHost } from '../../src/host/registry.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { READ, WRITE } from '../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf, pfnOfHiLo } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { reaching } from '../reaching.ts';
import { fence, Guest, type GuestTable, invalDdt, invalVma, invalVmaRange } from '../target/riscv/guest.ts';

const RAM_PAGES = 2048;
const DEVICES = [8, 16];
/** IOVA page of the mappings. */
const BASE = 0x200;

/** A RISC-V guest with two passed-through devices behind one Sv39 table. */
class RiscvGuest {
  readonly kernel: SimKernel;
  readonly guest: Guest;
  readonly machine: Machine;
  readonly table: GuestTable;
  readonly ramPfn: number;
  readonly calls: () => { map: number; unmap: number };

  constructor(hostKind = 'iommufd') {
    const iommus = hostKind === 'vfio-spapr-tce' ? [{ tce: {} }] : [{}];
    this.kernel = simKernel({ iommus, devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
    const host = openHost(hostKind, this.kernel);
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    this.ramPfn = pfnOf(ram.address);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.guest = new Guest({}, RAM_PAGES, {}, memory);
    for (const device of DEVICES) this.guest.iommu.addEndpoint(device);
    // This guest says every change by an invalidation as well.
    this.machine = new Machine({ memory, target: this.guest.iommu, host, watch: new StoreWatch() });
    this.guest.start();
    this.table = this.guest.table('sv39');
    for (const device of DEVICES) this.guest.setContext(device, { first: { mode: 8, root: this.table.root, pscid: 1 } });
    this.guest.command(...DEVICES.map(invalDdt), fence());
    DEVICES.forEach((device, i) => {
      const { path, group, name } = this.kernel.devices[i];
      this.machine.passThrough(device, hostKind === 'iommufd' ? path : `/dev/vfio/${group.number}#${name}`);
    });
    this.calls = () => ({ map: host.calls.map, unmap: host.calls.unmap });
  }

  /** Host calls that one batch of commands makes. */
  callsOf(...commands: readonly (readonly [bigint, bigint])[]): { map: number; unmap: number } {
    const before = this.calls();
    this.guest.command(...commands, fence());
    const after = this.calls();
    return { map: after.map - before.map, unmap: after.unmap - before.unmap };
  }

  software(pfn: number): string | null {
    const { iommu } = this.guest;
    return reached((access) => {
      const lg2 = iommu.translate(DEVICES[0], NO_PASID, hiOfPfn(pfn), loOfPfn(pfn), access);
      return lg2 < 0 ? -1 : pfnOfHiLo(iommu.translated[1], iommu.translated[0]);
    });
  }

  hardware(pfn: number, device = 0): string | null {
    return reached((access) => {
      const host = this.kernel.devices[device].hostPfn(pfn, access);
      return host < 0 ? -1 : host - this.ramPfn;
    });
  }
}

function reached(find: (access: number) => number): string | null {
  const read = find(READ);
  const write = find(WRITE);
  return read < 0 && write < 0 ? null : `${Math.max(read, write)}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
}

describe('host calls of a RISC-V guest (QEMU 11.1 passes nothing through)', () => {
  test.each([
    ['a range', invalVmaRange({ pscid: 1, pfn: BASE, pages: 512 })],
    ['everything', invalVma({})],
  ])('512 contiguous pages of 4 KiB, one IOTINVAL.VMA of %s: 1 map; cleared: 1 unmap', (_, inval) => {
    const riscv = new RiscvGuest();
    // An offset between iova and output keeps the guest's driver from using a megapage.
    riscv.table.table.map(BASE, 1025, 512, READ | WRITE);
    expect(riscv.callsOf(inval)).toEqual({ map: 1, unmap: 0 });
    expect(riscv.callsOf(inval)).toEqual({ map: 0, unmap: 0 });
    for (const device of [0, 1]) expect(riscv.hardware(BASE + 511, device)).toBe(`${1025 + 511}/3`);
    riscv.table.table.unmap(BASE, 512);
    expect(riscv.callsOf(inval)).toEqual({ map: 0, unmap: 1 });
    expect(riscv.hardware(BASE)).toBeNull();
  });

  test('what the guest has not invalidated may stay, what it has invalidated does not', () => {
    const riscv = new RiscvGuest();
    riscv.table.table.map(BASE, 1025, 4, READ | WRITE);
    riscv.guest.command(invalVma({ pscid: 1 }), fence());
    riscv.table.table.unmap(BASE, 4);
    riscv.guest.command(invalVma({ pscid: 1, pfn: BASE }), fence());
    expect(riscv.hardware(BASE)).toBeNull();
    riscv.guest.command(invalVma({ pscid: 1 }), fence());
    for (let page = 0; page < 4; page++) expect(riscv.hardware(BASE + page)).toBeNull();
  });

  test('a device-context that becomes invalid blocks the device (ddt cache invalidation), a valid one lets it in again', () => {
    const riscv = new RiscvGuest();
    riscv.table.table.map(BASE, 1025, 1, READ | WRITE);
    riscv.guest.command(invalVma({ pscid: 1 }), fence());
    riscv.guest.setContext(DEVICES[0], { valid: false });
    riscv.guest.command(invalDdt(DEVICES[0]), fence());
    expect([riscv.hardware(BASE, 0), riscv.hardware(BASE, 1)]).toEqual([null, '1025/3']);
    expect(riscv.machine.state.endpoints[DEVICES[0]].path).toBe('blocked');
    riscv.guest.setContext(DEVICES[0], { first: { mode: 8, root: riscv.table.root, pscid: 1 } });
    riscv.guest.command(invalDdt(DEVICES[0]), fence());
    expect(riscv.hardware(BASE, 0)).toBe('1025/3');
  });
});

const edit = fc.record({
  map: fc.boolean(),
  pfn: fc.nat(40),
  to: fc.integer({ min: 1024, max: RAM_PAGES - 64 }),
  pages: fc.integer({ min: 1, max: 24 }),
  permission: fc.constantFrom(READ, READ | WRITE),
});
const program = fc.array(edit, { minLength: 1, maxLength: 10 });
const pages = Array.from({ length: 64 }, (_, i) => BASE + i);
const EDIT = { map: true, pfn: 0, to: 1024, pages: 4, permission: READ | WRITE };
const EXAMPLE = [EDIT, { ...EDIT, map: false }, EDIT];

describe('random guests', () => {
  for (const hostKind of hostKinds()) {
    const followed = reaching(`random RISC-V guests over ${hostKind}`, 'a mapped page', 'a page that goes');
    test.prop([program], { numRuns: 30, examples: [[EXAMPLE]] })(
      `over ${hostKind}: after each invalidation the hardware has what software translates`,
      (edits) => {
        followed();
        const riscv = new RiscvGuest(hostKind);
        let before: readonly (string | null)[] = [];
        for (const { map, pfn, to, pages: count, permission } of edits) {
          if (map) riscv.table.table.map(BASE + pfn, to, count, permission);
          else riscv.table.table.unmap(BASE + pfn, count);
          riscv.guest.command(invalVma({ pscid: 1 }), fence());
          const software = pages.map((page) => riscv.software(page));
          if (software.some((page) => page !== null)) followed('a mapped page');
          if (before.some((page, i) => page !== null && software[i] === null)) followed('a page that goes');
          before = software;
          for (const device of [0, 1]) expect(pages.map((page) => riscv.hardware(page, device))).toEqual(software);
        }
      },
    );
  }

  const failed = reaching('random RISC-V guests whose host fails', 'a failed call', 'a page that is there in the end');
  test.prop([program, fc.integer({ min: 1, max: 12 })], { numRuns: 40, examples: [[EXAMPLE, 1]] })(
    'the nth host call fails: nothing stale, and later invalidations mend it',
    (edits, nth) => {
      failed();
      const riscv = new RiscvGuest();
      riscv.kernel.hooks.observe({ after: (_, result) => void (result === -errno.ENOMEM && failed('a failed call')) });
      riscv.kernel.hooks.fail({ nth, errno: errno.ENOMEM });
      for (const { map, pfn, to, pages: count, permission } of edits) {
        if (map) riscv.table.table.map(BASE + pfn, to, count, permission);
        else riscv.table.table.unmap(BASE + pfn, count);
        riscv.guest.command(invalVma({ pscid: 1 }), fence());
        const software = pages.map((page) => riscv.software(page));
        for (const device of [0, 1]) {
          pages.forEach((page, i) => {
            const found = riscv.hardware(page, device);
            if (found !== null) expect(found).toBe(software[i]);
          });
        }
      }
      riscv.kernel.hooks.reset();
      riscv.guest.command(invalVma({ pscid: 1 }), fence());
      riscv.guest.command(invalVma({ pscid: 1 }), fence());
      const software = pages.map((page) => riscv.software(page));
      expect(pages.map((page) => riscv.hardware(page))).toEqual(software);
      if (software.some((page) => page !== null)) failed('a page that is there in the end');
    },
  );
});
