import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { Host } from '../../src/host/host.ts';
import { openHost } from '../../src/host/registry.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { READ, WRITE } from '../../src/memory/access.ts';
import { addressOfPfn, pfnOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { S_NOMEM, S_OK } from '../../src/target/virtio-iommu/spec/requests.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { VirtioPci, VirtioType } from '../../src/vmm/virtio/index.ts';
import { reaching } from '../reaching.ts';
import { EP, type Fixture, OTHER, start } from '../target/virtio-iommu/fixture.ts';
import { attach, map, unmap } from '../target/virtio-iommu/requests.ts';
import type { Buffer } from '../virtqueue/driver.ts';

const GIB = 0x4000_0000n;
const DOMAIN = 1;

/** A virtio-iommu guest with both of its endpoints passed through, requests going through a split ring. */
class VirtioGuest {
  readonly kernel: SimKernel;
  readonly host: Host;
  readonly machine: Machine;
  readonly fixture: Fixture;
  readonly ramPfn: number;

  constructor(ramBytes: number) {
    this.kernel = simKernel({ devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
    this.host = openHost('iommufd', this.kernel);
    const ram = this.kernel.allocate(ramBytes);
    this.ramPfn = pfnOf(ram.address);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, bytes: ramBytes, hostAddress: ram.address }]);
    this.fixture = start({ packed: false, eventIdx: false }, 128, { memory });
    this.machine = new Machine({ memory, target: this.fixture.iommu, host: this.host });
    this.machine.passThrough(EP, this.kernel.device('vfio0').path);
    this.machine.passThrough(OTHER, this.kernel.device('vfio1').path);
    this.kick(attach(DOMAIN, EP), attach(DOMAIN, OTHER));
  }

  /** One kick; the status of each request. */
  kick(...requests: readonly Buffer[]): number[] {
    for (const request of requests) this.fixture.requests.add(request);
    while (this.fixture.iommu.notify(0));
    return this.fixture.requests.collect().map(({ bytes }) => bytes[bytes.length - 4]);
  }

  /** Host map, unmap and copy calls that a kick makes. */
  calls(...requests: readonly Buffer[]): number {
    const before = { ...this.host.calls };
    expect(this.kick(...requests).every((status) => status === S_OK)).toBe(true);
    const { map: maps, unmap: unmaps, copy } = this.host.calls;
    return maps - before.map + unmaps - before.unmap + copy - before.copy;
  }

  /** Guest page that each IOVA page reaches on the hardware. */
  hardware(first: number, pages: number, device = 'vfio0'): (number | null)[] {
    return Array.from({ length: pages }, (_, i) => {
      const read = this.kernel.device(device).hostPfn(first + i, READ);
      const write = this.kernel.device(device).hostPfn(first + i, WRITE);
      return read < 0 && write < 0 ? null : Math.max(read, write) - this.ramPfn;
    });
  }
}

describe('host calls of a virtio-iommu guest (QEMU 11.1 in brackets)', () => {
  test('MAP of 1 GiB at any offset: 1 (1, 10, 19)', () => {
    const guest = new VirtioGuest(0x6000_0000);
    for (const offset of [0n, 0x20_0000n, 0x1000n]) {
      expect(guest.calls(map(DOMAIN, GIB + offset, 2n * GIB + offset - 1n, 0x10_0000n))).toBe(1);
      expect(guest.calls(unmap(DOMAIN, GIB + offset, 2n * GIB + offset - 1n))).toBe(1);
    }
  });

  test('64 adjacent MAPs in one kick: 1 (64); one UNMAP over all: 1 (64), however they were kicked', () => {
    const guest = new VirtioGuest(0x40_0000);
    const pages = Array.from({ length: 64 }, (_, i) => 0x10_0000n + BigInt(i) * 0x1000n);
    const maps = pages.map((page) => map(DOMAIN, page, page + 0xfffn, page));
    expect(guest.calls(...maps)).toBe(1);
    expect(guest.calls(unmap(DOMAIN, pages[0], pages[63] + 0xfffn))).toBe(1);
    for (const request of maps) expect(guest.calls(request)).toBe(1);
    expect(guest.calls(unmap(DOMAIN, pages[0], pages[63] + 0xfffn))).toBe(1);
    expect(guest.hardware(0x100, 64)).toEqual(new Array(64).fill(null));
  });

  test('MAP of 1 GiB that crosses the end of RAM is refused, and nothing of it is mapped (0 mapped, and OK)', () => {
    const guest = new VirtioGuest(0x40_0000);
    const [status] = guest.kick(map(DOMAIN, GIB, 2n * GIB - 1n, 0x10_0000n));
    expect(status).not.toBe(S_OK);
    expect(guest.hardware(pfnOf(GIB), 16)).toEqual(new Array(16).fill(null));
  });

  test('exactly the request that the host refuses fails, the others of its kick stand', () => {
    const guest = new VirtioGuest(0x40_0000);
    const page = (i: number): bigint => BigInt(i) * 0x1000n;
    // Not adjacent, so three host maps; the second one is refused, in the batch and when it comes alone.
    guest.kernel.hooks.fail({ kind: 'IOMMU_IOAS_MAP', nth: 2, errno: errno.ENOMEM });
    guest.kernel.hooks.fail({ kind: 'IOMMU_IOAS_MAP', nth: 4, errno: errno.ENOMEM });
    const requests = [0, 2, 4].map((i) => map(DOMAIN, page(0x100 + i), page(0x101 + i) - 1n, page(i)));
    expect(guest.kick(...requests)).toEqual([S_OK, S_NOMEM, S_OK]);
    for (const device of ['vfio0', 'vfio1']) expect(guest.hardware(0x100, 6, device)).toEqual([0, null, null, null, 4, null]);
  });
});

const request = fc.oneof(
  fc.tuple(fc.nat(31), fc.integer({ min: 1, max: 8 }), fc.nat(31)).map(([at, pages, gpa]) => ({ kind: 'map' as const, at, pages, gpa })),
  fc.tuple(fc.nat(31), fc.integer({ min: 1, max: 16 })).map(([at, pages]) => ({ kind: 'unmap' as const, at, pages, gpa: 0 })),
);

const followed = reaching('random kicks', 'a mapped page', 'a page that goes', 'a failed call');
const MAP = { kind: 'map' as const, at: 0, pages: 4, gpa: 0 };
const UNMAP = { kind: 'unmap' as const, at: 0, pages: 4, gpa: 0 };

test.prop(
  [fc.array(fc.array(request, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 8 }), fc.option(fc.integer({ min: 1, max: 12 }))],
  {
    numRuns: 60,
    examples: [
      [[[MAP], [UNMAP]], null],
      [[[MAP], [MAP]], 1],
    ],
  },
)('random kicks, host calls failing or not: the hardware has what software translates', (kicks, nth) => {
  followed();
  const guest = new VirtioGuest(0x40_0000);
  guest.kernel.hooks.observe({ after: (_, result) => void (result === -errno.ENOMEM && followed('a failed call')) });
  let before: readonly (number | null)[] = [];
  if (nth !== null) guest.kernel.hooks.fail({ nth, errno: errno.ENOMEM });
  const { iommu } = guest.fixture;
  for (const requests of kicks) {
    guest.kick(
      ...requests.map(({ kind, at, pages, gpa }) => {
        const first = addressOfPfn(0x100 + at);
        const last = addressOfPfn(0x100 + at + pages) - 1n;
        return kind === 'map' ? map(DOMAIN, first, last, addressOfPfn(gpa)) : unmap(DOMAIN, first, last);
      }),
    );
    const software = Array.from({ length: 48 }, (_, i) =>
      iommu.translate(EP, -1, 0, (0x100 + i) << 12, READ) < 0 ? null : iommu.translated[0] >>> 12,
    );
    for (const device of ['vfio0', 'vfio1']) expect(guest.hardware(0x100, 48, device)).toEqual(software);
    if (software.some((page) => page !== null)) followed('a mapped page');
    if (before.some((page, i) => page !== null && software[i] === null)) followed('a page that goes');
    before = software;
  }
});

test.each([
  ['Function Level Reset', [[0x10, 8, 0x8000]]],
  [
    'D3hot and back',
    [
      [0x01, 4, 3],
      [0x01, 4, 0],
    ],
  ],
] as const)('%s of its PCI function resets the IOMMU, and the hardware follows', (_, writes) => {
  const guest = new VirtioGuest(0x40_0000);
  const { iommu } = guest.fixture;
  const { fn } = new VirtioPci({ type: VirtioType.IOMMU, queues: 2, configBytes: 40, classCode: 0x080600, model: iommu }, {});
  guest.kick(map(DOMAIN, 0x10_0000n, 0x10_0fffn, 0x20_0000n));
  expect(guest.hardware(0x100, 2)).toEqual([0x200, null]);
  for (const [id, at, value] of writes) {
    const found = fn.capabilityOffsets.find((offset) => fn.readConfig(offset, 1) === id)!;
    fn.writeConfig(found + at, 2, value);
  }
  // Nothing is attached, and the driver's `bypass` stays (5.13.4.2), which is 0.
  expect([iommu.device.status, guest.hardware(0x100, 2)]).toEqual([0, [null, null]]);
});
