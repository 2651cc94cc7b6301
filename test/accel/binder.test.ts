import { beforeEach, describe, expect, test, vi } from 'vitest';
import { Binder } from '../../src/accel/binder.ts';
import { shadow } from '../../src/accel/shadow.ts';
import { errno, HostError } from '../../src/host/errno.ts';
import type { Host, HostDevice } from '../../src/host/host.ts';
import { openHost } from '../../src/host/registry.ts';
import { type SimDevice, type SimKernel, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { IdentitySpace } from '../../src/target/identity-space.ts';
import { ToySpace } from './toy-space.ts';

const ATTACH = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';
const DETACH = 'VFIO_DEVICE_DETACH_IOMMUFD_PT';

/** A space that maps its first pages to guest pages from `gpa` on. */
function spaceAt(gpa: number, owner: 'target' | 'guest' = 'target', base?: number): ToySpace {
  const space = new ToySpace(owner, base);
  space.set(0, 4, gpa, 3);
  return space;
}

describe.each(['iommufd', 'vfio-type1'])('Binder over %s', (hostKind) => {
  let kernel: SimKernel;
  let host: Host;
  let binder: Binder;
  let devices: HostDevice[];
  let first: bigint;
  const moved = vi.fn();

  function start(group?: number): void {
    kernel = simKernel({ devices: ['vfio0', 'vfio1'].map((name) => ({ name, ...(group !== undefined && { group }) })) });
    host = openHost(hostKind, kernel);
    const ram = kernel.allocate(64 * 4096);
    first = ram.address >> 12n;
    moved.mockReset();
    binder = new Binder(host, new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]), { moved });
    devices = kernel.devices.map(({ path, group: { number }, name }) =>
      host.openDevice(hostKind === 'iommufd' ? path : `/dev/vfio/${number}#${name}`),
    );
  }

  /** The guest page that the first page of a toy space reaches, or null. */
  const reaches = (device: SimDevice, space = 0x1000): number | null => {
    const page = device.hostPfn(space, WRITE);
    return page < 0 ? null : page - Number(first);
  };

  beforeEach(() => start());

  test('the host says which devices the hardware cannot tell apart', () => {
    expect(devices[0].iommuGroup).not.toBe(devices[1].iommuGroup);
    start(7);
    expect(devices.map(({ iommuGroup }) => iommuGroup)).toEqual(['7', '7']);
  });

  test('devices of one group reach a space when all of them are meant to, and nothing until then', () => {
    start(7);
    const [a, b] = kernel.devices;
    const [one, other] = [spaceAt(0), spaceAt(16)];
    expect(binder.add(1, devices[0], one)).toBe(0);
    expect(binder.add(2, devices[1], one)).toBe(0);
    expect([reaches(a), reaches(b)]).toEqual([0, 0]);
    expect(binder.attach(1, other)).toBe(0);
    expect([reaches(a), reaches(b)]).toEqual([null, null]);
    expect(moved.mock.calls.flat()).toContain(2);
    expect(binder.choiceOf(1)).toMatchObject({
      path: 'blocked',
      refused: [{ reason: expect.stringMatching(/group 7 with endpoint 0x2, which reaches toy/) }],
    });
    expect(binder.attach(2, other)).toBe(0);
    expect([reaches(a), reaches(b)]).toEqual([16, 16]);
    expect(binder.attach(1, null)).toBe(0);
    expect([reaches(a), reaches(b)]).toEqual([null, null]);
    // Who leaves no longer keeps the others out.
    expect(binder.remove(1)).toBe(0);
    expect(reaches(b)).toBe(16);
    expect(binder.close()).toEqual([]);
    expect(reaches(b)).toBe(null);
  });

  test('a device that comes again to a group that others are in is one of them still', () => {
    start(7);
    const [one, other] = [spaceAt(0), spaceAt(16)];
    binder.add(1, devices[0], one);
    binder.add(2, devices[1], one);
    expect(binder.remove(1)).toBe(0);
    expect(binder.add(1, devices[0], other)).toBe(0);
    expect(kernel.devices.map((device) => [reaches(device), reaches(device, 0x1010)])).toEqual([
      [null, null],
      [null, null],
    ]);
    expect(binder.choiceOf(2)?.refused.at(-1)?.reason).toMatch(/group 7 with endpoint 0x1, which reaches toy/);
  });

  test('a refused first attach leaves nothing in the kernel', () => {
    const before = kernel.live();
    kernel.hooks.fail({ kind: hostKind === 'iommufd' ? ATTACH : 'VFIO_SET_IOMMU', nth: 1, errno: errno.ENOMEM });
    expect(binder.add(1, devices[0], spaceAt(0))).toBe(-errno.ENOMEM);
    expect(binder.error?.errno).toBe(errno.ENOMEM);
    expect(kernel.live()).toEqual(before);
    expect(binder.counters()).toEqual([]);
  });

  test.each([
    ['at once: detached when it is asked again', 1, false],
    ['for good: closed', Number.POSITIVE_INFINITY, true],
  ])('a device that narrows what its space was promised, and cannot be taken out %s', (_, times, closed) => {
    kernel = simKernel({ iommus: [{ aperture: { first: 0n, last: 0x101_ffffn } }], devices: [{ name: 'vfio0' }] });
    host = openHost(hostKind, kernel);
    const ram = kernel.allocate(64 * 4096);
    binder = new Binder(host, new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]), { moved });
    const [{ path, name, group }] = kernel.devices;
    const device = host.openDevice(hostKind === 'iommufd' ? path : `/dev/vfio/${group.number}#${name}`);
    const kind = hostKind === 'iommufd' ? DETACH : 'VFIO_GROUP_UNSET_CONTAINER';
    kernel.hooks.fail({ kind, nth: 1, errno: errno.EIO, times });
    // What the space maps lies within the hardware's aperture, and half of what it promises does not.
    expect(binder.add(1, device, spaceAt(0))).toBe(-errno.ERANGE);
    expect(kernel.hooks.counts.get(kind), 'it was in').toBeGreaterThan(1);
    expect([device.attachment, device.closed, reaches(kernel.devices[0])]).toEqual([null, closed, null]);
    binder.close();
    host.close();
    expect(kernel.live()['descriptors']).toBe(0);
  });

  test('a refused attach leaves an endpoint where it was when the target can take it back, and blocked when the guest cannot', () => {
    const kind = hostKind === 'iommufd' ? 'IOMMU_IOAS_MAP' : 'VFIO_IOMMU_MAP_DMA';
    for (const owner of ['target', 'guest'] as const) {
      start();
      expect(binder.add(1, devices[0], spaceAt(0, owner))).toBe(0);
      kernel.hooks.fail({ kind, nth: 1, errno: errno.ENOMEM });
      expect(binder.attach(1, spaceAt(16, owner))).toBe(-errno.ENOMEM);
      expect(reaches(kernel.devices[0])).toBe(owner === 'target' ? 0 : null);
    }
  });

  test('a space that the host does not give is refused with its reason', () => {
    const space = spaceAt(0);
    const spy = vi.spyOn(host, 'createSpace').mockImplementation(() => {
      throw new HostError('IOMMU_IOAS_ALLOC', errno.ENOMEM);
    });
    expect(binder.add(1, devices[0], space)).toBe(-errno.ENOMEM);
    expect(binder.error?.operation).toBe('IOMMU_IOAS_ALLOC');
    spy.mockRestore();
    expect(binder.add(1, devices[0], space)).toBe(0);
    expect(reaches(kernel.devices[0])).toBe(0);
  });

  test('a space without a path is refused with what the paths say', () => {
    const spy = vi.spyOn(shadow, 'refuse').mockReturnValue('the moon is full');
    expect(binder.add(1, devices[0], spaceAt(0))).toBe(-errno.EOPNOTSUPP);
    expect(binder.error?.message).toContain('shadow: the moon is full');
    spy.mockRestore();
  });

  test('a flush visits the spaces that changed, however many there are', () => {
    const visited: number[] = [];
    const spaces = [spaceAt(0), spaceAt(16)];
    for (const [i, space] of spaces.entries()) {
      expect(binder.add(i, devices[i], space)).toBe(0);
      const { enumerate } = space;
      space.enumerate = (...args) => {
        visited.push(i);
        return enumerate.apply(space, args);
      };
    }
    const flushes = () => binder.counters().map(({ counters }) => counters.flushes);
    const before = flushes();
    binder.changed(spaces[1], 0x1000, 0x1000);
    binder.flush();
    binder.flush();
    expect(visited).toEqual([1]);
    expect(flushes()).toEqual([before[0], before[1] + 1]);
  });

  test('a device that has moved away is left alone by its old space', () => {
    const [one, other] = [spaceAt(0), spaceAt(16)];
    binder.add(1, devices[0], one);
    binder.add(2, devices[1], one);
    expect(binder.attach(1, other)).toBe(0);
    one.set(1, 1, 0, 0);
    binder.changed(one, 0x1001, 0x1001);
    expect(binder.flush()).toBe(0);
    expect(kernel.devices.map((device) => reaches(device))).toEqual([16, 0]);
  });
});

test('Binder: of one endpoint 1,024 PASIDs are remembered, and of those that go others take the place', () => {
  const kernel = simKernel();
  const host = openHost('vfio-type1', kernel);
  const ram = kernel.allocate(64 * 4096);
  const binder = new Binder(host, new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]));
  const [{ group, name }] = kernel.devices;
  expect(binder.add(1, host.openDevice(`/dev/vfio/${group.number}#${name}`), null)).toBe(0);
  const space = spaceAt(0);
  for (let pasid = 1; pasid <= 1024; pasid++) expect(binder.attach(1, space, pasid)).toBe(0);
  expect(binder.attach(1, space, 1025)).toBe(-errno.ENOSPC);
  expect(binder.attach(1, spaceAt(16), 1024)).toBe(0);
  expect(binder.attach(1, null, 7)).toBe(0);
  expect(binder.attach(1, space, 1025)).toBe(0);
  expect(binder.choiceOf(1, 1025)?.refused.at(-1)?.reason).toMatch(/vfio-type1 attaches no PASIDs/);
});

describe('Binder: what fails twice', () => {
  function iommufd(owner: 'target' | 'guest') {
    const kernel = simKernel();
    const host = openHost('iommufd', kernel);
    const ram = kernel.allocate(64 * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const binder = new Binder(host, memory);
    const device = host.openDevice(kernel.device().path);
    const space = spaceAt(0, owner);
    expect(binder.add(1, device, space)).toBe(0);
    return { kernel, host, binder, device, space, memory };
  }

  test('a device that can neither be detached from where the guest took it away nor moved is closed', () => {
    const { kernel, binder, device } = iommufd('guest');
    for (let nth = 1; nth <= 3; nth++) kernel.hooks.fail({ kind: DETACH, nth, errno: errno.EIO });
    expect(binder.attach(1, null)).toBe(-errno.EIO);
    expect(device.closed).toBe(true);
    expect(kernel.device().hostPfn(0x1000, WRITE)).toBeLessThan(0);
  });

  test.each(['guest', 'target'] as const)(
    'guest RAM as it is, where a device stands by the word of the %s, and cannot be detached from',
    (whose) => {
      const { kernel, binder, device, memory } = iommufd('target');
      const reaches = () => kernel.device().hostPfn(1, WRITE) >= 0;
      expect(binder.attach(1, new IdentitySpace(memory, whose === 'guest' ? whose : undefined))).toBe(0);
      expect(reaches()).toBe(true);
      for (let nth = 1; nth <= 3; nth++) kernel.hooks.fail({ kind: DETACH, nth, errno: errno.ENOMEM });
      expect(binder.attach(1, null)).toBe(-errno.ENOMEM);
      // A target can say to its guest that it stayed; tables of a guest's cannot be told.
      expect([device.closed, reaches()]).toEqual(whose === 'guest' ? [true, false] : [false, true]);
    },
  );

  test('a device that the host does not let to where its guest wants it is blocked and says why, until a path takes it', () => {
    const { kernel, binder } = iommufd('guest');
    kernel.hooks.fail({ kind: ATTACH, nth: 1, errno: errno.ENOMEM });
    expect(binder.attach(1, spaceAt(16, 'guest'))).toBe(-errno.ENOMEM);
    const reason = expect.stringMatching(/ATTACH.*ENOMEM/);
    const refused = { path: 'blocked', refused: expect.arrayContaining([{ path: 'shadow', reason }]) };
    expect(binder.choiceOf(1)).toEqual(refused);
    // Targets take back what was refused, and try again later.
    expect(binder.attach(1, null)).toBe(0);
    expect(binder.choiceOf(1)).toEqual(refused);
    expect(binder.attach(1, spaceAt(16, 'guest'))).toBe(0);
    expect(binder.choiceOf(1)).toMatchObject({ path: 'shadow' });
  });

  test('a device that stays where it was, for its target can say so, is there and not blocked', () => {
    const { kernel, binder } = iommufd('target');
    kernel.hooks.fail({ kind: ATTACH, nth: 1, errno: errno.ENOMEM });
    expect(binder.attach(1, spaceAt(16))).toBe(-errno.ENOMEM);
    expect(binder.choiceOf(1)).toMatchObject({ path: 'shadow' });
  });

  test('a device that is gone (ENODEV) is blocked, and nothing is left of it', () => {
    const { kernel, host, binder, device } = iommufd('target');
    for (let nth = 1; nth <= 9; nth++) for (const kind of [ATTACH, DETACH]) kernel.hooks.fail({ kind, nth, errno: errno.ENODEV });
    expect(binder.attach(1, spaceAt(16))).toBe(-errno.ENODEV);
    expect(binder.attach(1, null)).toBe(0);
    expect(device.closed).toBe(true);
    expect(kernel.device().hostPfn(0x1000, WRITE)).toBeLessThan(0);
    expect(binder.close()).toEqual([]);
    expect(binder.counters()).toEqual([]);
    host.close();
    expect(kernel.live()).toMatchObject({ descriptors: 0, domains: 0, pinnedBytes: 0 });
  });

  test('a move that fails after the device has moved, and the way back too: believed blocked, and blocked', () => {
    const { kernel, binder, space } = iommufd('target');
    const other = spaceAt(16);
    // The host takes the device and cannot say how it maps, so the driver takes it out again, which fails, as does the way back.
    const stop = kernel.hooks.observe({
      after: ({ kind }, result) => {
        if (kind !== ATTACH || result < 0) return;
        stop();
        kernel.hooks.fail({ kind: 'IOMMU_IOAS_IOVA_RANGES', nth: 1, errno: errno.EIO });
        for (let nth = 1; nth <= 4; nth++) kernel.hooks.fail({ kind: ATTACH, nth, errno: errno.EIO });
      },
    });
    expect(binder.attach(1, other)).toBe(-errno.EIO);
    expect(kernel.device().hostPfn(0x1000, WRITE)).toBeLessThan(0);
    kernel.hooks.reset();
    space.set(0, 4, 0, 0);
    expect(binder.attach(1, null)).toBe(0);
    expect(kernel.device().translation).toBe(null);
  });
});

describe.each([
  ['VT-d', vtd],
  ['SMMUv3', smmuv3],
])('Binder over %s: guest RAM where the hardware has a range of its own', (_, nesting) => {
  const RESERVED = 0xfee0_0000n;

  function start() {
    const kernel = simKernel({ iommus: [{ nesting: nesting() }] });
    const host = openHost('iommufd', kernel);
    const ram = kernel.allocate(64 * 4096);
    const region = { gpa: RESERVED, buffer: ram.buffer, hostAddress: ram.address };
    const memory = new GuestMemory([region]);
    const binder = new Binder(host, memory);
    const device = host.openDevice(kernel.device().path);
    return { kernel, host, memory, region, binder, device };
  }

  test('cannot lie under a first stage: that is a reason, and the next path serves', () => {
    const { kernel, memory, region, binder, device } = start();
    const gpa = Number(RESERVED >> 12n);
    expect(binder.add(1, device, spaceAt(gpa))).toBe(0);
    const { path, refused } = binder.choiceOf(1)!;
    expect(path).toBe('shadow');
    expect(refused).toContainEqual({ path: 'user-owned', reason: expect.stringMatching(/guest RAM lies where .* reserved range/) });
    expect(kernel.device().hostPfn(0x1000, WRITE)).toBe(Number(region.hostAddress >> 12n));
    // Elsewhere it can.
    memory.remove(RESERVED);
    memory.add({ ...region, gpa: 0n });
    expect(binder.attach(1, spaceAt(0))).toBe(0);
    expect(binder.choiceOf(1)?.path).toBe('user-owned');
  });

  test('where no other path is wished for, the device is refused with that reason, and nothing is left', () => {
    const { kernel, host, memory, device } = start();
    const binder = new Binder(host, memory, { path: 'user-owned' });
    expect(binder.add(1, device, spaceAt(Number(RESERVED >> 12n)))).toBe(-errno.EADDRINUSE);
    expect(binder.error?.message).toMatch(/EADDRINUSE/);
    expect(kernel.device().hostPfn(0x1000, WRITE)).toBeLessThan(0);
    binder.close();
    host.close();
    expect(kernel.live()).toMatchObject({ descriptors: 0, domains: 0, pinnedBytes: 0 });
  });
});
