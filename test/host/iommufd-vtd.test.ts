import { test as fcTest } from '@fast-check/vitest';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { smmuv3Stage1, vtdStage1 } from '../../src/host/iommufd/index.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { DMA_BLOCKED, DMA_FORBIDDEN, DMA_PENDING, DMA_UNMAPPED, type IommuConfig, vtd } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { DATA, GUEST_PAGES, guest, IOVA, TABLES } from './guest-tables.ts';

describe('VT-d first stage', () => {
  const config: IommuConfig = { nesting: vtd(), pasidLog2: 20 };

  function nested(options = {}) {
    const made = guest(config, options);
    const root = made.allocator.allocate(1);
    const table = new X86Table(made.memory, { levels: 4, root, allocator: made.allocator });
    const parent = made.host.createPageTable(made.device, made.space, { nestParent: true });
    const stage = made.host.createStageOne(made.device, parent, vtdStage1({ root: BigInt(root) << 12n, addressWidth: 48 }));
    return { ...made, table, parent, stage };
  }

  test('DMA goes through the guest’s tables and then through ours', () => {
    const { table, stage, device, byte, sim, memory, host } = nested();
    expect(table.map(IOVA, DATA, 2, READ_WRITE)).toBe(2);
    expect(stage.attach(device)).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    expect(byte(IOVA + 1)).toBe(0xa5);
    expect(byte(IOVA + 2)).toBeNull();
    expect(sim.hostPfn(IOVA, READ)).toBe(memory.hostPfn(DATA));
    host.close();
  });

  test('the first stage’s permission counts, and so does the second’s', () => {
    const { table, stage, device, sim, space, host, memory } = nested();
    table.map(IOVA, DATA, 1, READ);
    table.map(IOVA + 1, DATA + 1, 1, READ_WRITE);
    // The data’s second page, and that alone, is read-only to the kernel’s tables.
    expect(space.unmap(0, GUEST_PAGES)).toBe(0);
    expect(space.map(0, memory.hostPfn(0), DATA + 1, READ_WRITE)).toBe(0);
    expect(space.map(DATA + 1, memory.hostPfn(DATA + 1), 1, READ)).toBe(0);
    expect(stage.attach(device)).toBe(0);
    const write = (page: number) => sim.dmaWrite(BigInt(page) << 12n, Uint8Array.of(1));
    expect(write(IOVA)).toBe(DMA_FORBIDDEN);
    expect(write(IOVA + 1)).toBe(DMA_FORBIDDEN);
    expect(sim.dmaRead(BigInt(IOVA) << 12n, new Uint8Array(8192))).toBe(0);
    host.close();
  });

  test('what is written to the interrupt window is no DMA, whatever the tables say (VT-d 4.1, 3.14)', () => {
    const { table, stage, device, sim, host } = nested();
    const MSI = 0xfee00;
    table.map(MSI, DATA, 1, READ_WRITE);
    table.map(MSI + 0x100, DATA, 1, READ_WRITE);
    expect(stage.attach(device)).toBe(0);
    expect(sim.dmaWrite(BigInt(MSI) << 12n, Uint8Array.of(1))).toBe(DMA_BLOCKED);
    expect(sim.dmaRead(BigInt(MSI) << 12n, new Uint8Array(1))).toBe(DMA_BLOCKED);
    expect(sim.hostPfn(MSI, WRITE)).toBe(DMA_BLOCKED);
    expect(sim.dmaWrite(BigInt(MSI + 0x100) << 12n, Uint8Array.of(1))).toBe(0);
    host.close();
  });

  test('tables that the kernel no longer maps translate nothing', () => {
    const { table, stage, device, byte, space, host } = nested();
    table.map(IOVA, DATA, 1, READ);
    stage.attach(device);
    expect(space.unmap(0, GUEST_PAGES)).toBe(0);
    expect(byte(IOVA)).toBeNull();
    host.close();
  });

  /** What a device sees: what it has looked at stays until it is invalidated, and the second stage is always the newest. */
  const step = fc.oneof(
    fc.record({ kind: fc.constant('map' as const), page: fc.nat(7), to: fc.nat(7) }),
    fc.record({ kind: fc.constant('unmap' as const), page: fc.nat(7), to: fc.constant(0) }),
    fc.record({ kind: fc.constant('access' as const), page: fc.nat(7), to: fc.constant(0) }),
    fc.record({ kind: fc.constant('invalidate' as const), page: fc.nat(7), to: fc.nat(3) }),
    fc.record({ kind: fc.constant('second' as const), page: fc.constant(0), to: fc.nat(7) }),
  );

  fcTest.prop([fc.array(step, { maxLength: 60 })], { numRuns: 100 })(
    'random tables and invalidations are what the model remembers',
    (program) => {
      const { table, stage, device, sim, space, host, memory } = nested();
      stage.attach(device);
      // The data lie in 8 mappings of their own, so that the second stage can lose one of them.
      space.unmap(0, GUEST_PAGES);
      space.map(0, memory.hostPfn(0), DATA, READ_WRITE);
      for (let page = 0; page < 8; page++) space.map(DATA + page, memory.hostPfn(DATA + page), 1, READ_WRITE);
      const entries = new Map<number, number>();
      const remembered = new Map<number, number>();
      const second = new Set([0, 1, 2, 3, 4, 5, 6, 7]);
      const invalidations = host.createVtdInvalidations(stage);
      for (const { kind, page, to } of program) {
        if (kind === 'map' || kind === 'unmap') {
          table.unmap(IOVA + page, 1);
          entries.delete(page);
        }
        if (kind === 'map') {
          table.map(IOVA + page, DATA + to, 1, READ);
          entries.set(page, to);
        } else if (kind === 'invalidate') {
          invalidations.addPages(IOVA + page, to + 1, true);
          expect(invalidations.flush()).toBe(0);
          for (let at = page; at <= page + to; at++) remembered.delete(at);
        } else if (kind === 'second') {
          if (second.delete(to)) expect(space.unmap(DATA + to, 1)).toBe(0);
          else {
            second.add(to);
            expect(space.map(DATA + to, memory.hostPfn(DATA + to), 1, READ_WRITE)).toBe(0);
          }
        } else if (kind === 'access') {
          const guest = remembered.get(page) ?? entries.get(page);
          if (guest !== undefined) remembered.set(page, guest);
          const expected = guest === undefined || !second.has(guest) ? DMA_UNMAPPED : memory.hostPfn(DATA + guest);
          expect(sim.hostPfn(IOVA + page, READ)).toBe(expected);
          expect(sim.dmaRead(BigInt(IOVA + page) << 12n, new Uint8Array(1))).toBe(Math.min(expected, 0));
        }
      }
      host.close();
    },
  );

  test('a changed entry is not seen until it is invalidated, and then it is', () => {
    const { table, stage, device, byte, host } = nested();
    table.map(IOVA, DATA, 1, READ_WRITE);
    stage.attach(device);
    expect(byte(IOVA)).toBe(0x5a);
    table.unmap(IOVA, 1);
    table.map(IOVA, DATA + 1, 1, READ_WRITE);
    expect(byte(IOVA)).toBe(0x5a);
    const invalidations = host.createVtdInvalidations(stage);
    expect(invalidations.addPages(IOVA + 1, 4, true)).toBe(0);
    expect(invalidations.flush()).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    invalidations.addPages(IOVA, 1, true);
    expect(invalidations.flush()).toBe(0);
    expect(byte(IOVA)).toBe(0xa5);
    table.unmap(IOVA, 1);
    invalidations.addAll();
    expect(invalidations.flush()).toBe(0);
    expect(invalidations.done).toBe(1);
    expect(byte(IOVA)).toBeNull();
    host.close();
  });

  test.each([2 ** 20, 2 ** 32, 2 ** 32 + 1, 2 ** 40])('an invalidation of %i pages takes all of them, and none before', (pages) => {
    const { table, stage, device, byte, host } = nested();
    table.map(IOVA, DATA, 1, READ_WRITE);
    stage.attach(device);
    expect(byte(IOVA)).toBe(0x5a);
    table.unmap(IOVA, 1);
    const invalidations = host.createVtdInvalidations(stage);
    invalidations.addPages(IOVA + 1, pages, true);
    expect(invalidations.flush()).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    invalidations.addPages(0, pages, true);
    expect(invalidations.flush()).toBe(0);
    expect(byte(IOVA)).toBeNull();
    host.close();
  });

  test('an invalidation that is wrong stops the array there, and says how far it came', () => {
    const { host, stage } = nested();
    const invalidations = host.createInvalidations(stage, 0, 24);
    invalidations.add([0, 0, 1, 0, 0, 0]);
    invalidations.add([0x1000, 0, 1, 0, 1, 0]);
    invalidations.add([0x1000, 0, 1, 0, 2, 0]);
    invalidations.add([0x1000, 0, 1, 0, 0, 0]);
    expect(invalidations.flush()).toBe(-errno.EOPNOTSUPP);
    expect(invalidations.done).toBe(2);
    expect(invalidations.error?.message).toContain('entry 2');
    invalidations.add([0x800, 0, 1, 0, 0, 0]);
    expect(invalidations.flush()).toBe(-errno.EINVAL);
    expect(invalidations.done).toBe(0);
    const wrongType = host.createInvalidations(stage, 1, 16);
    wrongType.add([0x11, 0, 0, 0]);
    expect(wrongType.flush()).toBe(-errno.EINVAL);
    host.close();
  });

  test('what a first stage may be is checked', () => {
    const { host, device, parent, space } = nested();
    expect(() => host.createStageOne(device, parent, smmuv3Stage1(0n, 0n))).toThrow(/EOPNOTSUPP/);
    const plain = host.createPageTable(device, space);
    expect(() => host.createStageOne(device, plain, vtdStage1({ root: 0n, addressWidth: 48 }))).toThrow(/EINVAL/);
    expect(() => parent.close()).toThrow(/EBUSY/);
    const bad = host.createStageOne(device, parent, { ...vtdStage1({ root: 0n, addressWidth: 48 }), bytes: new Uint8Array(24) });
    expect(bad.attach(device)).toBe(-errno.EINVAL);
    expect(bad.error?.message).toContain('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
    host.close();
  });

  test('what the PASID-table entry cannot say is refused when the device comes', () => {
    const less = vtd({ cap: 0n, ecap: 1n << 26n });
    const { host, device, space, allocator, memory, byte } = guest({ nesting: less });
    const parent = host.createPageTable(device, space, { nestParent: true });
    const stage = (options: object) => host.createStageOne(device, parent, vtdStage1({ root: 0n, addressWidth: 48, ...options }));
    for (const options of [{ addressWidth: 57 }, { supervisor: true }, { extendedAccess: true }]) {
      expect(stage(options).attach(device), JSON.stringify(options)).toBe(-errno.EINVAL);
    }
    const root = allocator.allocate(1);
    new X86Table(memory, { levels: 4, root, allocator }).map(IOVA, DATA, 1, READ_WRITE);
    expect(stage({ root: BigInt(root) << 12n, writeProtect: true }).attach(device)).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    host.close();
  });

  test('five levels reach what four cannot', () => {
    const { host, device, space, allocator, memory, byte } = guest(config);
    const root = allocator.allocate(1);
    const far = 2 ** 40;
    new X86Table(memory, { levels: 5, root, allocator }).map(far, DATA, 1, READ_WRITE);
    const parent = host.createPageTable(device, space, { nestParent: true });
    expect(host.createStageOne(device, parent, vtdStage1({ root: BigInt(root) << 12n, addressWidth: 57 })).attach(device)).toBe(0);
    expect(byte(far)).toBe(0x5a);
    host.close();
  });

  test('attaching from a space to a first stage and back has no gap', () => {
    const { table, stage, device, byte, space, host } = nested();
    table.map(DATA, DATA, 1, READ_WRITE);
    expect(space.attach(device)).toBe(0);
    expect(byte(DATA)).toBe(0x5a);
    expect(stage.attach(device)).toBe(0);
    expect(byte(DATA)).toBe(0x5a);
    expect(space.attach(device)).toBe(0);
    expect(byte(DATA)).toBe(0x5a);
    host.close();
  });

  test('each PASID has an attachment of its own', () => {
    const { host, device, parent, space, sim, table, stage } = nested();
    const root = BigInt(TABLES) << 12n;
    table.map(IOVA, DATA, 1, READ_WRITE);
    const plain = host.createPageTable(device, space, { forPasid: true });
    const one = host.createStageOne(device, parent, vtdStage1({ root, addressWidth: 48 }), { forPasid: true });
    expect(stage.attachPasid(device, 5)).toBe(-errno.EINVAL);
    expect(plain.attach(device)).toBe(0);
    expect(one.attachPasid(device, 5)).toBe(0);
    expect(sim.dmaRead(BigInt(IOVA) << 12n, new Uint8Array(1), 5)).toBe(0);
    expect(sim.dmaRead(BigInt(IOVA) << 12n, new Uint8Array(1))).toBe(DMA_UNMAPPED);
    expect(sim.dmaRead(BigInt(IOVA) << 12n, new Uint8Array(1), 6)).toBe(DMA_BLOCKED);
    expect(one.attachPasid(device, 1 << 20)).toBe(-errno.EINVAL);
    expect(device.detachPasid(5)).toBe(0);
    expect(sim.dmaRead(BigInt(IOVA) << 12n, new Uint8Array(1), 5)).toBe(DMA_BLOCKED);
    host.close();
  });

  test('a PASID that the kernel does not detach keeps neither the others nor the device: the first failure is what closing returns', () => {
    const { kernel, host, device, space } = nested();
    const plain = host.createPageTable(device, space, { forPasid: true });
    expect(plain.attach(device)).toBe(0);
    for (const pasid of [5, 6, 7]) expect(plain.attachPasid(device, pasid)).toBe(0);
    const before = kernel.hooks.counts.get('VFIO_DEVICE_DETACH_IOMMUFD_PT') ?? 0;
    const region = kernel.mmap(device.fd, 4096, 0n) as PortMemory;
    kernel.hooks.fail({ kind: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', nth: 1, errno: errno.EIO });
    kernel.hooks.fail({ kind: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', nth: 4, errno: errno.ENOMEM });
    expect(device.close()?.message).toMatch(/VFIO_DEVICE_DETACH_IOMMUFD_PT: EIO .*still mapped/);
    expect(kernel.hooks.counts.get('VFIO_DEVICE_DETACH_IOMMUFD_PT')! - before, 'three PASIDs and the device').toBe(4);
    // What the kernel still holds, by the region, is what could not be detached.
    const reached = (pasid: number) => kernel.device().dmaRead(BigInt(DATA) << 12n, new Uint8Array(1), pasid) !== DMA_BLOCKED;
    expect([5, 6, 7, -1].map(reached)).toEqual([true, false, false, true]);
    region.release();
    expect([5, 6, 7, -1].map(reached)).toEqual([false, false, false, false]);
    host.close();
  });

  test('page requests are read, answered, and tried again', () => {
    const made = guest(config, { pageRequests: true });
    const { host, device, space, sim, allocator, memory } = made;
    const root = allocator.allocate(1);
    const table = new X86Table(memory, { levels: 4, root, allocator });
    const parent = host.createPageTable(device, space, { nestParent: true });
    const faults = host.createFaultQueue();
    const stage = host.createStageOne(device, parent, vtdStage1({ root: BigInt(root) << 12n, addressWidth: 48 }), { faults });
    expect(stage.attach(device)).toBe(0);
    expect(faults.wait(0)).toBe(false);
    expect(faults.read()).toEqual([]);
    expect(sim.dmaWrite(BigInt(IOVA) << 12n, Uint8Array.of(1))).toBe(DMA_PENDING);
    expect(faults.wait(0)).toBe(true);
    const [fault] = faults.read();
    expect(fault).toMatchObject({ device: device.id, pasid: -1, access: WRITE, address: BigInt(IOVA) << 12n, last: true });
    expect(() => faults.respond(fault.cookie + 1, true)).toThrow(/EINVAL/);
    table.map(IOVA, DATA, 1, READ_WRITE);
    faults.respond(fault.cookie, true);
    expect(sim.responses).toEqual([0]);
    expect(sim.dmaWrite(BigInt(IOVA) << 12n, Uint8Array.of(1))).toBe(0);
    expect(sim.dmaRead(BigInt(IOVA + 7) << 12n, new Uint8Array(1))).toBe(DMA_PENDING);
    expect(space.attach(device)).toBe(0);
    expect(sim.responses).toEqual([0, 1]);
    stage.close();
    faults.close();
    host.close();
  });

  test('a device without page requests cannot have a page table that hears of them', () => {
    const { host, device, space } = guest(config);
    const table = host.createPageTable(device, space, { faults: host.createFaultQueue() });
    expect(table.attach(device)).toBe(-errno.ENODEV);
    host.close();
  });
});
