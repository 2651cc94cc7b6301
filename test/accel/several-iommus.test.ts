import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { openHost } from '../../src/host/registry.ts';
import { type IommuConfig, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { reaching } from '../reaching.ts';

const PAGES = 32;
const DEVICES = [0, 1, 2];
const page = (at: number) => BigInt(at) << 12n;

/** Devices 0 and 2 behind the first IOMMU, 1 behind the second; endpoint = number. Requests are answered by errno here: 0 is success. */
function machineOf(iommus: readonly [IommuConfig, IommuConfig], path = 'user-owned') {
  const kernel = simKernel({ iommus, devices: DEVICES.map((number) => ({ name: `vfio${number}`, iommu: number % 2 })) });
  const ram = kernel.allocate(PAGES * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const target = new VirtioIommu({ memory, bootBypass: false, inputRange: { start: 0n, last: 0x7fff_ffffn } });
  const host = openHost('iommufd', kernel);
  const machine = new Machine({ memory, target, host, path });
  target.negotiate();
  for (const number of DEVICES) {
    target.addEndpoint(number);
    machine.passThrough(number, kernel.device(`vfio${number}`).path);
  }
  const map = (domain: number, at: number, pages: number) => target.map(domain, page(at), page(at + pages) - 1n, page(at), 3);
  const unmap = (domain: number, at: number, pages: number) => target.unmap(domain, page(at), page(at + pages) - 1n);
  const reads = (at: number) => DEVICES.map((number) => kernel.device(`vfio${number}`).dmaRead(page(at), new Uint8Array(4)) === 0);
  const close = () => {
    machine.close();
    host.close();
  };
  return { kernel, target, machine, map, unmap, reads, close };
}

describe.each([
  ['vtd', () => vtd()],
  ['smmuv3', () => smmuv3()],
] as const)('devices behind two IOMMUs of kind %s, in tables of ours', (_kind, nesting) => {
  const both = (): [IommuConfig, IommuConfig] => [{ nesting: nesting() }, { nesting: nesting() }];

  test('one domain: each IOMMU has the same tables, and forgets what is unmapped; guest RAM is mapped once', () => {
    const { kernel, target, map, unmap, reads, close } = machineOf(both());
    for (const number of [0, 1]) expect(target.attach(1, number)).toBe(0);
    expect(map(1, 4, 4)).toBe(0);
    expect(reads(5)).toEqual([true, true, false]);
    const maps = kernel.hooks.counts.get('IOMMU_IOAS_MAP');
    const before = kernel.hooks.counts.get('IOMMU_HWPT_INVALIDATE') ?? 0;
    expect(unmap(1, 4, 4)).toBe(0);
    expect(reads(5), 'neither remembers it').toEqual([false, false, false]);
    expect((kernel.hooks.counts.get('IOMMU_HWPT_INVALIDATE') ?? 0) - before, 'a call for each').toBe(2);
    expect(target.attach(1, 2)).toBe(0);
    expect(map(1, 9, 1)).toBe(0);
    expect(reads(9)).toEqual([true, true, true]);
    expect(target.detach(1, 0)).toBe(0);
    expect(reads(9)).toEqual([false, true, true]);
    expect(kernel.hooks.counts.get('IOMMU_IOAS_MAP')).toBe(maps);
    close();
    expect(kernel.live()).toMatchObject({ domains: 0 });
  });

  test('a domain for each: a second one behind the second IOMMU stands on what the first has there', () => {
    const { target, map, unmap, reads, close } = machineOf(both());
    expect(target.attach(1, 0)).toBe(0);
    expect(target.attach(2, 1)).toBe(0);
    expect(map(1, 1, 1)).toBe(0);
    expect(map(2, 2, 1)).toBe(0);
    expect([reads(1), reads(2)]).toEqual([
      [true, false, false],
      [false, true, false],
    ]);
    expect(target.attach(1, 1), 'moves').toBe(0);
    expect([reads(1), reads(2)]).toEqual([
      [true, true, false],
      [false, false, false],
    ]);
    expect(unmap(1, 1, 1)).toBe(0);
    expect(reads(1)).toEqual([false, false, false]);
    close();
  });

  const reach = reaching('a failure over several IOMMUs', 'a mapped page of a device that serves on');
  property.prop(
    [
      fc.array(
        fc.record({
          op: fc.constantFrom('attach', 'map', 'unmap'),
          domain: fc.constantFrom(1, 2),
          at: fc.nat(15),
          device: fc.constantFrom(...DEVICES),
        }),
        {
          minLength: 6,
          maxLength: 20,
        },
      ),
      fc.integer({ min: 1, max: 60 }),
    ],
    { numRuns: 20 },
  )('whichever host call fails, no device reaches what its domain does not map', (steps, nth) => {
    const { kernel, machine, target, map, unmap, reads, close } = machineOf(both());
    reach();
    const domains = new Map<number, Set<number>>();
    const places = new Map<number, number>();
    kernel.hooks.fail({ nth, errno: errno.ENOMEM });
    for (const { op, domain, at, device } of steps) {
      if (op === 'attach' && target.attach(domain, device) === 0) {
        places.set(device, domain);
        for (const known of [...domains.keys()]) if (![...places.values()].includes(known)) domains.delete(known);
        if (!domains.has(domain)) domains.set(domain, new Set());
      }
      if (op === 'map' && map(domain, at, 1) === 0) domains.get(domain)?.add(at);
      if (op === 'unmap' && unmap(domain, at, 1) === 0) domains.get(domain)?.delete(at);
      const here = reads(at);
      for (const number of DEVICES) {
        const isMapped = domains.get(places.get(number) ?? 0)?.has(at) ?? false;
        if (!isMapped) expect(here[number], `device ${number}, page ${at}`).toBe(false);
      }
    }
    kernel.hooks.reset();
    // Without a failure left, what is mapped is reached.
    for (const [number, domain] of places)
      for (const at of domains.get(domain) ?? [])
        if (machine.state.endpoints[number].path === 'user-owned') {
          reach('a mapped page of a device that serves on');
          expect(reads(at)[number]).toBe(true);
        }
    close();
  });
});

test('an IOMMU of another kind does not take the tables, and the guest is told', () => {
  const { target, map, reads, close } = machineOf([{ nesting: vtd() }, { nesting: smmuv3() }]);
  expect(target.attach(1, 0)).toBe(0);
  expect(map(1, 3, 1)).toBe(0);
  expect(target.attach(1, 1)).not.toBe(0);
  expect(reads(3)).toEqual([true, false, false]);
  expect(target.attach(2, 1), 'in a domain of its own it has tables of its own').toBe(0);
  expect(map(2, 6, 1)).toBe(0);
  expect(reads(6)).toEqual([false, true, false]);
  close();
});
