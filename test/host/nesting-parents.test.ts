import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { HostDevice, NestingHardware, StageEvent } from '../../src/host/host.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { DMA_BLOCKED, DMA_PENDING, type IommuConfig, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';

/* Nesting parents whose devices stand behind several IOMMUs, or change from one guest to another, and calls of theirs that fail. */

const PAGES = 64;
const SMMU: IommuConfig = { nesting: smmuv3(), reserved: [] };
const TRACKS: IommuConfig = { nesting: vtd(), dirtyTracking: true };

/** A device behind each of the IOMMUs, and a parent of the first, with memory. */
function machine(iommus: readonly IommuConfig[], { pageRequests = false, queue = false } = {}) {
  const devices = iommus.map((_, iommu) => ({ name: `vfio${iommu}`, iommu, pageRequests }));
  const kernel = simKernel({ iommus, devices });
  const host = new IommufdHost(kernel);
  const opened = kernel.devices.map(({ path }) => host.openDevice(path));
  const hardware = host.nesting.hardwareOf(opened[0]) as NestingHardware;
  const ram = kernel.allocate(PAGES * 4096);
  const createParent = () => {
    const parent = host.nesting.createParent(opened[0], hardware, queue);
    expect(parent.space.map(0, pfnOf(ram.address), PAGES, READ_WRITE)).toBe(0);
    return parent;
  };
  const count = (kind: string) => kernel.hooks.counts.get(kind) ?? 0;
  const fail = (kind: string, code: number, nth = 1, times = 1) => kernel.hooks.fail({ kind, nth, errno: code, times });
  return { kernel, host, opened, createParent, parent: createParent(), count, fail };
}

/** Word 0 of a stream table entry (IHI 0070, 5.2) that goes through a first stage whose descriptors are zero: C_BAD_CD. */
const S1 = 1n | (5n << 1n);
const BAD_CD = 0x0a;

describe('first stages', () => {
  test('of an entry that is not valid nothing counts, and it aborts', () => {
    const { kernel, host, opened, parent } = machine([SMMU]);
    const ste = [0xffff_ffff_ffff_fffen, 0xffff_ffff_ffff_ffffn] as const;
    expect(parent.install(opened[0], { kind: 'smmuv3', ste }).attach(opened[0])).toBe(0);
    expect(kernel.device().dmaWrite(0n, Uint8Array.of(1))).toBe(DMA_BLOCKED);
    host.close();
  });

  test('of other hardware are a mistake', () => {
    const { host, opened, parent } = machine([SMMU]);
    expect(() => parent.install(opened[0], { kind: 'vtd', root: 0n, addressWidth: 48 })).toThrow(
      new TypeError('no vtd stage behind smmuv3'),
    );
    host.close();
  });

  test('have no queue where the vIOMMU was not made for one', () => {
    const { host, parent } = machine([SMMU]);
    expect(() => parent.openQueues(0x100, 0x101)).toThrow('IOMMU_HW_QUEUE_ALLOC: EOPNOTSUPP (no vIOMMU that can have a queue)');
    host.close();
  });

  test('have no queue in a page where something is', () => {
    const { host, parent } = machine([{ nesting: smmuv3({ tegra241: {} }), reserved: [] }], { queue: true });
    expect(() => parent.openQueues(1, 2)).toThrow(/^IOMMU_IOAS_MAP \[0x2000, 0x2fff\]: EEXIST/);
    host.close();
  });
});

describe('names of devices', () => {
  test('on one more IOMMU whose vIOMMU refuses the device: it is none of the parent’s, and can be tried again', () => {
    const { kernel, host, opened, parent, fail } = machine([SMMU, SMMU]);
    const before = kernel.live();
    // The first answers that it is not the device's.
    fail('IOMMU_VDEVICE_ALLOC', errno.ENOMEM, 2);
    expect(parent.name(opened[1], 7)).toBe(-errno.ENOMEM);
    expect(kernel.live()).toEqual(before);
    expect(parent.name(opened[1], 7)).toBe(0);
    host.close();
  });

  test('behind another kind of IOMMU there are none', () => {
    const { kernel, host, opened, parent } = machine([SMMU, { nesting: vtd() }]);
    const before = kernel.live();
    expect(parent.name(opened[1], 7)).toBe(-errno.EOPNOTSUPP);
    expect(kernel.live()).toEqual(before);
    host.close();
  });

  test('the first that comes after commands that met none has them carried out, or does not come', () => {
    const { kernel, host, opened, parent, fail } = machine([SMMU]);
    parent.commands?.add(Int32Array.of(0x10, 0, 0, 0));
    fail('IOMMU_HWPT_INVALIDATE', errno.EIO, 1, Number.POSITIVE_INFINITY);
    const before = kernel.live();
    expect(parent.name(opened[0], 7)).toBe(-errno.EIO);
    expect(kernel.live()).toEqual(before);
    kernel.hooks.reset();
    expect([parent.name(opened[0], 7), kernel.hooks.counts.get('IOMMU_HWPT_INVALIDATE')]).toEqual([0, 1]);
    host.close();
  });

  test('one that another parent could not have, and that could not be given back, is given back when it is used', () => {
    const { kernel, host, opened, parent, createParent, fail } = machine([SMMU]);
    const other = createParent();
    const [device] = opened;
    const stage = parent.install(device, { kind: 'smmuv3', ste: [S1, 0n] });
    expect([parent.name(device, 7), stage.attach(device)]).toEqual([0, 0]);
    const vdevices = () => kernel.live()['vdevice'] ?? 0;
    fail('IOMMU_VDEVICE_ALLOC', errno.ENOMEM, 1, 2);
    expect([other.name(device, 8), vdevices()]).toEqual([-errno.ENOMEM, 0]);
    expect([stage.attach(device), vdevices()]).toEqual([0, 1]);
    kernel.device().dmaWrite(0n, Uint8Array.of(1));
    const [event] = parent.events() as Extract<StageEvent, { kind: 'record' }>[];
    expect([event.words[0] & 0xff, event.words[1]], 'by the same stream').toEqual([BAD_CD, 7]);
    host.close();
  });
});

describe('what the hardware says', () => {
  test('is read from each IOMMU that has something, and more than there was room for is lost', () => {
    const { kernel, host, opened, parent } = machine([SMMU, SMMU]);
    const stage = parent.install(opened[0], { kind: 'smmuv3', ste: [S1, 0n] });
    for (const [i, device] of opened.entries()) expect([parent.name(device, 7 + i), stage.attach(device)]).toEqual([0, 0]);
    expect(parent.events()).toEqual([]);
    const fault = (name: string) => kernel.device(name).dmaWrite(0n, Uint8Array.of(1));
    fault('vfio1');
    expect(parent.events()).toMatchObject([{ kind: 'record', words: { 1: 8 } }]);
    for (let i = 0; i < 1026; i++) fault('vfio0');
    const kinds = new Map<string, number>();
    for (let events = parent.events(); events.length > 0; events = parent.events())
      for (const { kind } of events) kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    expect([...kinds]).toEqual([
      ['record', 1024],
      ['lost', 1],
    ]);
    host.close();
  });

  test('a page that a device without a name asks for is not there, once all of its request has come', () => {
    const { kernel, host, opened, parent } = machine([{ nesting: vtd() }], { pageRequests: true });
    const stage = parent.install(opened[0], { kind: 'vtd', root: 0n, addressWidth: 48 }, { pageRequests: true });
    expect(stage.attach(opened[0])).toBe(0);
    const ask = () => kernel.device().dmaRead(0x1000n, new Uint8Array(1));
    expect(ask()).toBe(DMA_PENDING);
    expect([parent.events(), kernel.device().responses]).toEqual([[], [1]]);
    expect(ask()).toBe(DMA_PENDING);
    const { read } = kernel;
    kernel.read = (fd, into, bytes) => {
      const result = read.call(kernel, fd, into, bytes);
      // Another page of the same group follows.
      if (result > 0) new DataView(into.buffer).setUint32(0, 0, true);
      return result;
    };
    expect([parent.events(), kernel.device().responses]).toEqual([[], [1]]);
    parent.respond(99, true);
    kernel.read = read;
    expect(parent.name(opened[0], 7)).toBe(0);
    expect(ask()).toBe(DMA_PENDING);
    expect(parent.events()).toMatchObject([{ kind: 'page-request', id: 7, address: 0x1000n, last: true }]);
    host.close();
  });
});

describe('dirty bits of a second stage', () => {
  const dirty = ({ space }: ReturnType<typeof machine>['parent']) => {
    const pages: number[] = [];
    space.dirty?.read(0, PAGES, (first, last) => pages.push(...Array.from({ length: last - first + 1 }, (_, i) => first + i)));
    return pages;
  };

  test('are kept from then on, of an IOMMU that comes later too', () => {
    const made = machine([TRACKS, TRACKS]);
    const { kernel, host, parent, count } = made;
    const opened: readonly HostDevice[] = made.opened;
    const bypass = parent.fixed(opened[0], 'bypass');
    expect(bypass.attach(opened[0])).toBe(0);
    expect([parent.space.dirty, parent.space.trackDirty(true), parent.space.trackDirty(true)]).toEqual([null, 0, 0]);
    expect(count('IOMMU_HWPT_SET_DIRTY_TRACKING')).toBe(1);
    expect(bypass.attach(opened[1])).toBe(0);
    expect(count('IOMMU_HWPT_SET_DIRTY_TRACKING')).toBe(2);
    expect(kernel.device('vfio1').dmaWrite(0x5000n, Uint8Array.of(1))).toBe(0);
    expect([dirty(parent).includes(5), dirty(parent), parent.space.dirty?.inexact]).toEqual([true, [], null]);
    host.close();
  });

  test('that cannot be asked for make everything dirty; that cannot be given up are no matter', () => {
    const { host, parent, fail } = machine([TRACKS]);
    fail('IOMMU_HWPT_SET_DIRTY_TRACKING', errno.EIO);
    expect(parent.space.trackDirty(true)).toBe(0);
    expect([parent.space.dirty?.inexact, dirty(parent).length]).toEqual(['IOMMU_HWPT_SET_DIRTY_TRACKING: EIO', PAGES]);
    fail('IOMMU_HWPT_SET_DIRTY_TRACKING', errno.EIO);
    expect([parent.space.trackDirty(false), parent.space.dirty]).toEqual([0, null]);
    expect([parent.space.trackDirty(true), parent.space.dirty?.inexact]).toEqual([0, null]);
    host.close();
  });

  test('are none where the kernel has them in first stages only; another failure is the parent’s', () => {
    const { host, parent, count } = machine([{ ...SMMU, dirtyTracking: true }]);
    expect([count('IOMMU_HWPT_ALLOC'), parent.space.trackDirty(true), parent.space.dirty]).toEqual([2, -errno.EOPNOTSUPP, null]);
    host.close();
    const failing = machine([TRACKS]);
    const before = failing.kernel.live();
    failing.fail('IOMMU_HWPT_ALLOC', errno.ENOMEM);
    expect(() => failing.createParent()).toThrow(/IOMMU_HWPT_ALLOC: ENOMEM/);
    expect(failing.kernel.live()).toEqual(before);
    failing.host.close();
  });
});
