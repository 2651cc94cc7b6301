import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { Binder } from '../../src/accel/binder.ts';
import { errno } from '../../src/host/errno.ts';
import { hostKinds, openHost } from '../../src/host/registry.ts';
import { type SimDevice, simKernel } from '../../src/host/sim/index.ts';
import { READ, WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { reaching } from '../reaching.ts';
import { TOY_PAGES, ToySpace } from './toy-space.ts';

/** Host calls fail, several, for good, or all that name one device: whatever is believed of a device is what the kernel has. */

const RAM_PAGES = 128;
const ENDPOINTS = [1, 2];

const operation = fc.oneof(
  fc.record({ kind: fc.constant('attach' as const), endpoint: fc.constantFrom(...ENDPOINTS), space: fc.constantFrom(0, 1, null) }),
  fc.record({
    kind: fc.constant('set' as const),
    space: fc.constantFrom(0, 1),
    from: fc.nat(7),
    count: fc.integer({ min: 1, max: 4 }),
    gpa: fc.constantFrom(0, 32),
    permission: fc.constantFrom(0, 3),
  }),
);

const failure = fc.record({
  /** Which calls: any, those that move devices (a device that dies), or those that map. */
  kind: fc.constantFrom('any', 'device', 'map', 'unmap'),
  nth: fc.integer({ min: 1, max: 10 }),
  times: fc.constantFrom(1, 2, 3, Number.POSITIVE_INFINITY),
  errno: fc.constantFrom(errno.ENOMEM, errno.EIO, errno.ENODEV, errno.EBUSY),
  /** Before which operation it is asked for. */
  at: fc.nat(8),
});

const calls = {
  any: [undefined],
  device: [
    'VFIO_DEVICE_ATTACH_IOMMUFD_PT',
    'VFIO_DEVICE_DETACH_IOMMUFD_PT',
    'VFIO_GROUP_SET_CONTAINER',
    'VFIO_GROUP_UNSET_CONTAINER',
    'VFIO_GROUP_GET_DEVICE_FD',
  ],
  map: ['IOMMU_IOAS_MAP', 'IOMMU_IOAS_COPY', 'VFIO_IOMMU_MAP_DMA'],
  unmap: ['IOMMU_IOAS_UNMAP', 'VFIO_IOMMU_UNMAP_DMA'],
};

class Rig {
  readonly kernel;
  readonly host;
  readonly spaces: readonly ToySpace[];
  readonly binder: Binder;
  readonly devices;
  readonly #owner: 'target' | 'guest';
  readonly #oneGroup: boolean;
  readonly #hostPfn: number;
  readonly #wanted = new Map<number, ToySpace | null>();

  constructor(hostKind: string, owner: 'target' | 'guest', oneGroup: boolean) {
    const named = ['vfio0', 'vfio1'].map((name) => ({ name, ...(oneGroup && { group: 3 }) }));
    this.kernel = simKernel({ iommus: hostKind === 'vfio-spapr-tce' ? [{ tce: {} }] : [{}], devices: named });
    this.host = openHost(hostKind, this.kernel);
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    this.#hostPfn = pfnOf(ram.address);
    this.#owner = owner;
    this.#oneGroup = oneGroup;
    this.spaces = [new ToySpace(owner), new ToySpace(owner)];
    this.binder = new Binder(this.host, new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]), {
      schedule: () => {},
    });
    this.devices = this.kernel.devices.map(({ path, group, name }) =>
      this.host.openDevice(hostKind === 'iommufd' ? path : `/dev/vfio/${group.number}#${name}`),
    );
    for (const [i, endpoint] of ENDPOINTS.entries()) {
      expect(this.binder.add(endpoint, this.devices[i], null)).toBe(0);
      this.#wanted.set(endpoint, null);
    }
  }

  /** One guest operation, as a target does it. */
  run(operation: typeof step.value): void {
    if (operation.kind === 'attach') {
      const space = operation.space === null ? null : this.spaces[operation.space];
      if (this.binder.attach(operation.endpoint, space) >= 0) this.#wanted.set(operation.endpoint, space);
      else if (this.#owner === 'guest') this.#wanted.set(operation.endpoint, null);
      return;
    }
    const { from, count, gpa, permission } = operation;
    const space = this.spaces[operation.space];
    const before = space.pages;
    space.set(from, count, gpa + from, permission);
    const touched = [space, space.base + from, space.base + from + count - 1] as const;
    this.binder.changed(...touched);
    if (this.binder.flush() >= 0 || this.#owner === 'guest') return;
    space.pages = before;
    this.binder.changed(...touched);
    this.binder.flush();
  }

  /** The guest page and permission that the device reaches, by page. */
  #reached(device: SimDevice): (string | null)[] {
    return Array.from({ length: TOY_PAGES }, (_, i) => {
      const [read, write] = [READ, WRITE].map((access) => device.hostPfn(this.spaces[0].base + i, access));
      if (read < 0 && write < 0) return null;
      return `${Math.max(read, write) - this.#hostPfn}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
    });
  }

  /** Whether a device reaches anything. What is believed is so: a device that is said to be blocked reaches nothing, any other nothing that its space does not mean. */
  check(whole: boolean): boolean {
    let isReached = false;
    for (const [i, endpoint] of ENDPOINTS.entries()) {
      const reached = this.#reached(this.kernel.devices[i]);
      const { attachment, closed } = this.devices[i];
      const path = this.binder.choiceOf(endpoint)?.path ?? 'blocked';
      const nothing = reached.every((page) => page === null);
      isReached ||= !nothing;
      // A closed device has no driver and does no DMA; the hardware goes on to take it for the other one of its group.
      if (closed && this.#oneGroup && this.devices.some((other) => other.attachment !== null)) continue;
      if (attachment === null || closed || path === 'blocked') expect(nothing).toBe(true);
      const wanted = this.#wanted.get(endpoint) ?? null;
      if (wanted === null) expect(nothing).toBe(true);
      const meant = (wanted?.pages ?? []).map((page) => (page === null ? null : `${page.gpa}/${page.permission}`));
      for (const [at, page] of reached.entries()) if (page !== null) expect(page).toBe(meant[at]);
      if (whole && path !== 'blocked') expect(reached).toEqual(meant);
    }
    return isReached;
  }
}

const ATTACH = { kind: 'attach', endpoint: 1, space: 0 } as const;
const SET = { kind: 'set', space: 0, from: 0, count: 2, gpa: 0, permission: 3 } as const;
/** A device is attached, to what is mapped while the host refuses whatever maps, and again when it does no more. */
const EXAMPLE: [(typeof step.value)[], (typeof failure extends fc.Arbitrary<infer T> ? T : never)[]] = [
  [ATTACH, SET, SET],
  [{ kind: 'map', nth: 1, times: 2, errno: errno.ENOMEM, at: 1 }],
];

const step = { value: null as unknown as typeof operation extends fc.Arbitrary<infer T> ? T : never };

describe.each(hostKinds())('failing host calls over %s', (hostKind) => {
  for (const owner of ['target', 'guest'] as const) {
    for (const oneGroup of [false, true]) {
      const failed = reaching(
        `${hostKind}, ${owner}-owned, ${oneGroup ? 'one group' : 'two groups'}`,
        'a failed call',
        'an operation after it',
        'a page that a device reaches',
      );
      test.prop([fc.array(operation, { minLength: 2, maxLength: 12 }), fc.array(failure, { minLength: 1, maxLength: 4 })], {
        numRuns: 60,
        examples: [EXAMPLE],
      })(
        `${owner}-owned, ${oneGroup ? 'one group' : 'two groups'}: nothing is believed that is not so, and what can be mended is`,
        (operations, failures) => {
          failed();
          const rig = new Rig(hostKind, owner, oneGroup);
          let refused = 0;
          const dispose = rig.kernel.hooks.observe({
            after: (_, result) => void (failures.some((each) => result === -each.errno) && refused++),
          });
          for (const [at, step] of operations.entries()) {
            for (const failing of failures) {
              if (failing.at !== at) continue;
              const { nth, times } = failing;
              for (const kind of calls[failing.kind]) rig.kernel.hooks.fail({ ...(kind && { kind }), nth, times, errno: failing.errno });
            }
            if (refused > 0) failed('an operation after it');
            rig.run(step);
            if (rig.check(false)) failed('a page that a device reaches');
          }
          dispose();
          failed('a failed call', refused);
          rig.kernel.hooks.reset();
          for (let again = 0; again < 3; again++) rig.binder.flush();
          rig.check(true);
          rig.binder.close();
          rig.host.close();
          expect(rig.kernel.live()).toMatchObject({ descriptors: 0, domains: 0 });
        },
      );
    }
  }
});
