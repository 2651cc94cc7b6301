import { afterEach, describe, expect, test, vi } from 'vitest';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { IommufdSpace } from '../../src/host/iommufd/space.ts';
import { type IommuConfig, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { VtdMachine } from './nested/vtd-machine.ts';

/* What N devices in M domains, each of which maps all of the guest's RAM, cost the host: pages mapped in its IOASes, bytes pinned. */

const RAM_PAGES = 2048;
const RAM_BYTES = RAM_PAGES * 4096;
/** First piece of a table arena (TableArena). */
const ARENA_BYTES = 1 << 20;

interface Cost {
  readonly mapped: number;
  readonly pinned: number;
  readonly mapCalls: number;
}

afterEach(() => vi.restoreAllMocks());

/** Pages that IOASes were told to map until the work is done. */
function mappedBy(work: () => void): number {
  let mapped = 0;
  for (const kind of ['map', 'copy'] as const) {
    const original = IommufdSpace.prototype[kind] as (...args: unknown[]) => number;
    vi.spyOn(IommufdSpace.prototype, kind).mockImplementation(function (this: IommufdSpace, ...args: unknown[]) {
      const result = original.apply(this, args);
      if (result === 0) mapped += args[2] as number;
      return result;
    } as never);
  }
  work();
  vi.restoreAllMocks();
  return mapped;
}

/** A virtio-iommu guest: device i is in domain i mod M. */
function virtio(path: string, nesting: NonNullable<IommuConfig['nesting']> | null, devices: number, domains: number): Cost {
  const kernel = simKernel({ iommus: [{ nesting }], devices: Array.from({ length: devices }, (_, i) => ({ name: `vfio${i}` })) });
  const ram = kernel.allocate(RAM_BYTES);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const target = new VirtioIommu({ memory, bootBypass: false });
  for (let i = 0; i < devices; i++) target.addEndpoint(i);
  const host = new IommufdHost(kernel);
  const machine = new Machine({ memory, target, host, path });
  for (let i = 0; i < devices; i++) machine.passThrough(i, kernel.devices[i].path);
  target.negotiate();
  const mapped = mappedBy(() => {
    for (let i = 0; i < devices; i++) expect(target.attach(i % domains, i)).toBe(0);
    for (let domain = 0; domain < domains; domain++) expect(target.map(domain, 0n, BigInt(RAM_BYTES - 1), 0n, 3)).toBe(0);
  });
  for (const device of kernel.devices) expect(device.dmaWrite(0x5010n, Uint8Array.of(1))).toBe(0);
  const cost = { mapped, pinned: kernel.pinnedBytes, mapCalls: host.calls.map };
  machine.close();
  host.close();
  expect(kernel.pinnedBytes).toBe(0);
  return cost;
}

const shapes = [
  [1, 1],
  [4, 1],
  [4, 4],
  [16, 4],
  [16, 16],
] as const;

describe.each(shapes)('%i devices in %i domains', (devices, domains) => {
  test('shadow: RAM once for each domain', () => {
    expect(virtio('shadow', null, devices, domains)).toEqual({
      mapped: domains * RAM_PAGES,
      pinned: domains * RAM_BYTES,
      mapCalls: domains,
    });
  });

  test.each([
    ['VT-d', vtd()],
    ['SMMUv3', smmuv3()],
  ] as const)('user-owned on %s: RAM once, and the arena of tables', (_, nesting) => {
    const cost = virtio('user-owned', nesting, devices, domains);
    expect(cost).toEqual({ mapped: RAM_PAGES + ARENA_BYTES / 4096, pinned: RAM_BYTES + ARENA_BYTES, mapCalls: 2 });
  });

  test('nested: RAM once', () => {
    let pinned = 0;
    let calls: Record<string, number> = {};
    const mapped = mappedBy(() => {
      const guest = new VtdMachine({ devices });
      const stages = Array.from({ length: domains }, () => guest.newStage().root);
      for (const [i, device] of guest.devices.entries()) guest.setStage(device, { root: stages[i % domains], did: 8 + (i % domains) });
      guest.guest.start();
      expect(new Set(guest.machine.counters().map(({ path }) => path))).toEqual(new Set(['nested']));
      calls = guest.calls();
      pinned = guest.kernel.pinnedBytes;
      guest.machine.close();
    });
    expect({ mapped, pinned, mapCalls: calls['IOMMU_IOAS_MAP'] }).toEqual({ mapped: RAM_PAGES, pinned: RAM_BYTES, mapCalls: 1 });
  });
});
