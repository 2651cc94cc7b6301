import { test as fcTest } from '@fast-check/vitest';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { amdGuest, CommandQueue, IommufdHost, smmuv3Stage1, type Viommu, vtdStage1 } from '../../src/host/iommufd/index.ts';
import {
  amd,
  DMA_BLOCKED,
  DMA_FORBIDDEN,
  DMA_PENDING,
  DMA_UNMAPPED,
  type IommuConfig,
  simKernel,
  smmuv3,
  vtd,
} from '../../src/host/sim/index.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { ArmTable } from '../../src/pagetable/arm.ts';
import type { TableAllocator } from '../../src/pagetable/page-table.ts';
import { X86Table } from '../../src/pagetable/x86.ts';

/**
 * First stages that the guest owns, on simulated hardware that walks and remembers them: include/uapi/linux/iommufd.h for the
 * calls; VT-d 4.1 3.8, SMMUv3 (IHI 0070) 5.2 and 5.4, AMD IOMMU (48882) 2.2.6 for what the tables mean.
 */

const GUEST_PAGES = 512;
/** Guest-physical page at which the guest keeps its tables, and one for its data. */
const TABLES = 64;
const DATA = 300;
/** IOVA page that the guest maps to its data. */
const IOVA = 0x12345;

/** A guest: RAM that the kernel maps at guest-physical 0, and pages in it for tables. */
function guest(config: IommuConfig, options: { pageRequests?: boolean } = {}) {
  const kernel = simKernel({ iommus: [config], devices: [{ name: 'vfio0', ...options }] });
  const host = new IommufdHost(kernel);
  const device = host.openDevice('/dev/vfio/devices/vfio0');
  const ram = kernel.allocate(GUEST_PAGES * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const space = host.createSpace();
  expect(space.map(0, memory.hostPfn(0), GUEST_PAGES, READ_WRITE)).toBe(0);
  let next = TABLES;
  const allocator: TableAllocator = {
    allocate: (pages) => {
      const pfn = Math.ceil(next / pages) * pages;
      next = pfn + pages;
      return pfn;
    },
    free: () => {},
  };
  const sim = kernel.device();
  const byte = (page: number) => {
    const into = new Uint8Array(1);
    return sim.dmaRead(BigInt(page) << 12n, into) < 0 ? null : into[0];
  };
  new Uint8Array(ram.buffer).fill(0x5a, DATA * 4096, (DATA + 1) * 4096);
  new Uint8Array(ram.buffer).fill(0xa5, (DATA + 1) * 4096, (DATA + 2) * 4096);
  return { kernel, host, device, ram, memory, space, allocator, sim, byte };
}

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

describe('SMMUv3 stream table entry', () => {
  const config: IommuConfig = { nesting: smmuv3({ tegra241: {} }), pasidLog2: 20, reserved: [{ first: 0x800_0000n, last: 0x80f_ffffn }] };
  const VIOMMU_SMMUV3 = 1;
  const STREAM = 0x100n;
  const ASID = 7;

  /** CD of IHI 0070 5.4: 48-bit input, 4K granule, TTB1 off, 48-bit output, AArch64, ASID. */
  function contextDescriptor(root: number): readonly bigint[] {
    const cd0 = 16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 35n) | (1n << 41n) | (BigInt(ASID) << 48n);
    return [cd0, BigInt(root) << 12n];
  }

  function nested(create?: (made: ReturnType<typeof guest>, parent: ReturnType<IommufdHost['createPageTable']>) => Viommu) {
    const made = guest(config);
    const root = made.allocator.allocate(1);
    const table = new ArmTable(made.memory, {
      stage: 1,
      granuleLg2: 12,
      inputBits: 48,
      outputBits: 48,
      root: BigInt(root) << 12n,
      allocator: made.allocator,
    });
    const descriptors = made.allocator.allocate(1);
    const view = new DataView(made.ram.buffer);
    for (const [index, word] of contextDescriptor(root).entries()) view.setBigUint64(descriptors * 4096 + index * 8, word, true);
    const parent = made.host.createPageTable(made.device, made.space, { nestParent: true });
    const viommu = create?.(made, parent) ?? made.host.createViommu(made.device, parent, VIOMMU_SMMUV3);
    const ste0 = 1n | (5n << 1n) | (BigInt(descriptors) << 12n);
    return { ...made, root, table, parent, viommu, ste0, descriptors, view };
  }

  test('DMA goes through the guest’s context descriptor and tables', () => {
    const { host, device, viommu, table, ste0, byte } = nested();
    table.map(IOVA, DATA, 2, READ_WRITE);
    const stage = host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n));
    expect(stage.attach(device)).toBe(-errno.ENOENT);
    viommu.addDevice(device, STREAM);
    expect(stage.attach(device)).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    expect(byte(IOVA + 1)).toBe(0xa5);
    expect(byte(IOVA + 2)).toBeNull();
    host.close();
  });

  test('bypass and abort want no vDEVICE', () => {
    const { host, device, viommu, byte } = nested();
    expect(host.createStageOne(device, viommu, smmuv3Stage1(1n | (4n << 1n), 0n)).attach(device)).toBe(0);
    expect(byte(DATA)).toBe(0x5a);
    expect(host.createStageOne(device, viommu, smmuv3Stage1(1n, 0n)).attach(device)).toBe(0);
    expect(byte(DATA)).toBeNull();
    expect(host.createStageOne(device, viommu, smmuv3Stage1(0n, 0n)).attach(device)).toBe(0);
    expect(byte(DATA)).toBeNull();
    for (const [ste0, ste1] of [
      [1n | (6n << 1n), 0n],
      [1n | (1n << 52n), 0n],
      [1n, 1n << 40n],
      [1n, 2n << 28n],
    ]) {
      expect(() => host.createStageOne(device, viommu, smmuv3Stage1(ste0, ste1))).toThrow(/EIO/);
    }
    host.close();
  });

  test('commands make the hardware forget: by address, by ASID, all; a context descriptor too', () => {
    const { host, device, viommu, table, ste0, byte, view, descriptors, root } = nested();
    viommu.addDevice(device, STREAM);
    table.map(IOVA, DATA, 1, READ_WRITE);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    const commands = host.createSmmuInvalidations(viommu);
    const va = [(IOVA << 12) | 1, Math.floor(IOVA / 0x100000)];
    const swap = (to: number) => {
      table.unmap(IOVA, 1);
      table.map(IOVA, to, 1, READ_WRITE);
    };
    expect(byte(IOVA)).toBe(0x5a);
    swap(DATA + 1);
    expect(byte(IOVA)).toBe(0x5a);
    commands.addCommand(0x12, (ASID + 1) << 16, va[0], va[1]);
    expect(commands.flush()).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    commands.addCommand(0x12, ASID << 16, va[0], va[1]);
    expect(commands.flush()).toBe(0);
    expect(byte(IOVA)).toBe(0xa5);
    swap(DATA);
    commands.addCommand(0x11, ASID << 16, 0, 0);
    expect(commands.flush()).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    view.setBigUint64(descriptors * 4096, 0n, true);
    expect(byte(IOVA)).toBe(0x5a);
    commands.addCommand(0x05, Number(STREAM), 1, 0);
    commands.addCommand(0x30, 0, 0, 0);
    expect(commands.flush()).toBe(0);
    expect(byte(IOVA)).toBeNull();
    expect(root).toBeGreaterThan(0);
    commands.addCommand(0x10, 0, 0, 0);
    commands.addCommand(0x05, 0x200, 1, 0);
    expect(commands.flush()).toBe(-errno.EIO);
    expect(commands.done).toBe(1);
    host.close();
  });

  test('faults are events with the virtual stream ID, in order, and lost ones are counted', () => {
    const { host, device, viommu, ste0, sim } = nested();
    viommu.addDevice(device, STREAM);
    const events = viommu.createEventQueue(1, 32, 2);
    expect(() => viommu.createEventQueue(1, 32, 2)).toThrow(/EEXIST/);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    const fail = (page: number) => sim.dmaWrite(BigInt(page) << 12n, Uint8Array.of(1));
    for (const page of [1, 2, 3, 4]) expect(fail(page)).toBe(DMA_UNMAPPED);
    const read = events.read();
    expect(read.map(({ lost, data }) => [lost, data?.length ?? null])).toEqual([
      [0, 32],
      [0, 32],
      [2, null],
    ]);
    const record = new DataView((read[0].data as Uint8Array).buffer);
    expect(record.getUint8(0)).toBe(0x10);
    expect(record.getUint32(4, true)).toBe(Number(STREAM));
    expect(record.getBigUint64(16, true)).toBe(0x1000n);
    expect(events.read()).toEqual([]);
    fail(5);
    expect(events.read()[0]).toMatchObject({ lost: 0 });
    for (const page of [1, 2, 3]) fail(page);
    expect(events.wait(0)).toBe(true);
    expect(events.read()).toHaveLength(3);
    expect(() => viommu.close()).toThrow(/EBUSY/);
    host.close();
  });

  test('a guest’s own command queue is drained by the hardware, with no call to the kernel', () => {
    const answer = new Uint8Array(16);
    const made = nested(({ host, device }, parent) => host.createViommu(device, parent, 2, answer));
    const { host, device, viommu, table, ste0, byte, ram, space, kernel } = made;
    const where = new DataView(answer.buffer);
    const page = viommu.mapPage(where.getBigUint64(0, true), Number(where.getBigUint64(8, true)));
    viommu.addDevice(device, STREAM);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    const RING = 400;
    expect(() => viommu.createHardwareQueue(1, 1, BigInt(RING) << 12n, 256)).toThrow(/EIO/);
    expect(() => viommu.createHardwareQueue(1, 0, (BigInt(RING) << 12n) + 16n, 256)).toThrow(/EINVAL/);
    expect(() => viommu.createHardwareQueue(1, 0, BigInt(GUEST_PAGES) << 12n, 256)).toThrow(/ENOENT/);
    viommu.createHardwareQueue(1, 0, BigInt(RING) << 12n, 256);
    expect(() => viommu.createHardwareQueue(1, 0, BigInt(RING) << 12n, 256)).toThrow(/EEXIST/);
    expect(space.unmap(0, GUEST_PAGES)).toBe(-errno.EBUSY);
    const queue = new CommandQueue(page, 0, new Uint8Array(ram.buffer, RING * 4096, 256));
    queue.enable();
    table.map(IOVA, DATA, 1, READ_WRITE);
    expect(byte(IOVA)).toBe(0x5a);
    table.unmap(IOVA, 1);
    table.map(IOVA, DATA + 1, 1, READ_WRITE);
    const calls = kernel.hooks.total;
    expect(queue.add(0x11, ASID << 16, 0, 0)).toBe(true);
    expect(queue.add(0x46, 0, 0, 0)).toBe(true);
    expect(byte(IOVA)).toBe(0x5a);
    queue.ring();
    expect(queue.idle).toBe(false);
    kernel.step();
    expect(queue.idle).toBe(true);
    expect(byte(IOVA)).toBe(0xa5);
    for (let round = 0; round < 40; round++) {
      for (let left = 16; left > 0; left--) expect(queue.add(0x46, 0, 0, 0)).toBe(true);
      expect(queue.add(0x46, 0, 0, 0)).toBe(false);
      queue.ring();
      kernel.step();
      expect(queue.idle).toBe(true);
    }
    queue.add(0x30, 0, 0, 0);
    queue.ring();
    kernel.step();
    expect(queue.failed).toBe(true);
    expect(kernel.hooks.total).toBe(calls);
    host.close();
    expect(kernel.live()).toMatchObject({ descriptors: 0, pinnedBytes: 0, domains: 0 });
  });
});

describe('AMD device table entry', () => {
  const V = 1n;
  const GV = 1n << 55n;
  const GIOV = 1n << 54n;

  test('DMA goes through the GCR3 table and the guest’s tables, by PASID', () => {
    const { host, device, memory, allocator, space, byte, sim, ram } = guest({ nesting: amd(), pasidLog2: 16 });
    const root = allocator.allocate(1);
    const table = new X86Table(memory, { levels: 4, root, allocator });
    table.map(IOVA, DATA, 1, READ_WRITE);
    const gcr3 = allocator.allocate(1);
    new DataView(ram.buffer).setBigUint64(gcr3 * 4096, (BigInt(root) << 12n) | 1n, true);
    new DataView(ram.buffer).setBigUint64(gcr3 * 4096 + 24, (BigInt(root) << 12n) | 1n, true);
    const address = BigInt(gcr3) << 12n;
    const dte = [V | GV | GIOV | (((address >> 12n) & 7n) << 58n), ((address >> 15n) & 0xffffn) << 16n, 0n, 0n];
    const parent = host.createPageTable(device, space, { nestParent: true });
    expect(() => host.createStageOne(device, parent, amdGuest(dte))).toThrow(/EOPNOTSUPP/);
    const viommu = host.createViommu(device, parent, 1);
    const stage = host.createStageOne(device, viommu, amdGuest(dte));
    expect(stage.attach(device)).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    expect(sim.dmaRead(BigInt(IOVA) << 12n, new Uint8Array(1), 3)).toBe(0);
    expect(sim.dmaRead(BigInt(IOVA) << 12n, new Uint8Array(1), 4)).toBe(DMA_BLOCKED);
    for (const wrong of [
      [V | (1n << 9n), 0n, 0n, 0n],
      [V | GV, 0n, 0n, 0n],
      [V, 0n, 2n << 54n, 0n],
      [V | (3n << 56n), 0n, 0n, 0n],
    ]) {
      expect(() => host.createStageOne(device, viommu, amdGuest(wrong))).toThrow(/EINVAL/);
    }
    host.close();
  });
});

describe('what the hardware says of itself', () => {
  test.each([
    ['vtd', vtd({ cap: 0x123n, ecap: 1n << 26n }), { kind: 'vtd', flags: 0, cap: 0x123n, ecap: 1n << 26n }],
    ['smmuv3', smmuv3({ idr: [1, 2, 3, 4, 5, 6] }), { kind: 'smmuv3', flags: 0, idr: [1, 2, 3, 4, 5, 6], iidr: 0x43b, aidr: 2 }],
    ['amd', amd({ efr: 0x10n, efr2: 2n }), { kind: 'amd', efr: 0x10n, efr2: 2n }],
  ])('%s', (_name, nesting, data) => {
    const { host, device } = guest({ nesting, dirtyTracking: true, pasidLog2: 16 });
    expect(host.hwInfo(device)).toMatchObject({ data, dirtyTracking: true, pasidLog2: 16 });
    host.close();
  });

  test('Tegra241’s queues are asked for by type', () => {
    const { host, device } = guest({ nesting: smmuv3({ tegra241: { log2vcmdqs: 1, log2vsids: 4 } }) });
    expect(host.hwInfo(device).data.kind).toBe('smmuv3');
    expect(host.hwInfo(device, 3).data).toEqual({ kind: 'tegra241', version: 1, log2vcmdqs: 1, log2vsids: 4 });
    expect(() => host.hwInfo(device, 1)).toThrow(/EOPNOTSUPP/);
    host.close();
  });

  test('hardware that nests nothing says nothing', () => {
    const { host, device, space } = guest({});
    expect(host.hwInfo(device).data).toEqual({ kind: 'other', type: 0, bytes: new Uint8Array(0) });
    for (const options of [{ nestParent: true }, { dirtyTracking: true }, { forPasid: true }]) {
      expect(() => host.createPageTable(device, space, options)).toThrow(/IOMMU_HWPT_ALLOC: EOPNOTSUPP/);
    }
    host.close();
  });
});

describe('dirty tracking', () => {
  test('written pages are told once, or kept', () => {
    const { host, device, space, sim } = guest({ dirtyTracking: true });
    const table = host.createPageTable(device, space, { dirtyTracking: true });
    expect(table.attach(device)).toBe(0);
    const write = (page: number) => expect(sim.dmaWrite(BigInt(page) << 12n, Uint8Array.of(1))).toBe(0);
    const dirty = (options = {}) => {
      const runs: number[][] = [];
      table.readDirty(0, GUEST_PAGES, (first, last) => runs.push([first, last]), options);
      return runs;
    };
    write(1);
    table.setDirtyTracking(true);
    expect(dirty()).toEqual([]);
    expect(sim.dmaRead(0n, new Uint8Array(1))).toBe(0);
    expect(dirty()).toEqual([]);
    write(9);
    const seen = dirty({ keep: true });
    // The guest's 2 MiB lie in one large page, and hardware knows no smaller unit than the page that it maps.
    expect(seen).toEqual([[0, GUEST_PAGES - 1]]);
    expect(dirty()).toEqual(seen);
    expect(dirty()).toEqual([]);
    expect(space.unmap(0, GUEST_PAGES)).toBe(0);
    expect(dirty()).toEqual([]);
    host.close();
  });

  test('small pages are told one by one', () => {
    const { host, device, space, sim, memory } = guest({ dirtyTracking: true });
    space.unmap(0, GUEST_PAGES);
    for (let page = 0; page < 130; page++) space.map(page, memory.hostPfn(page), 1, READ_WRITE);
    const table = host.createPageTable(device, space, { dirtyTracking: true });
    table.attach(device);
    table.setDirtyTracking(true);
    for (const page of [0, 63, 64, 65, 129]) sim.dmaWrite(BigInt(page) << 12n, Uint8Array.of(1));
    const runs: number[][] = [];
    table.readDirty(0, 130, (first, last) => runs.push([first, last]));
    expect(runs).toEqual([
      [0, 0],
      [63, 65],
      [129, 129],
    ]);
    host.close();
  });
});
