import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { openHost } from '../../src/host/registry.ts';
import { type IommuConfig, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { Machine } from '../../src/vmm/machine.ts';

const PAGES = 32;
const [READS, WRITES, BOTH] = [1, 2, 3];
const page = (at: number) => BigInt(at) << 12n;
/** IDR0 (IHI 0070, 6.3.1) of one that has first stages only: as the default, without S2P. */
const FIRST_STAGE_ONLY = [0x0000_1aca | (1 << 19), (19 << 21) | (20 << 6) | 16, 0, 1 << 10, 0, 0x55];

/** A virtio-iommu guest whose devices (endpoint = number) are behind hardware of these kinds; those before `attached` are in domain 1. */
function machineOf(path: string, iommus: readonly IommuConfig[], attached = 1) {
  const devices = iommus.map((_, iommu) => ({ name: `vfio${iommu}`, iommu }));
  const kernel = simKernel({ iommus, devices });
  const ram = kernel.allocate(PAGES * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const target = new VirtioIommu({ memory, bootBypass: false, inputRange: { start: 0n, last: 0x7fff_ffffn } });
  const host = openHost('iommufd', kernel);
  const machine = new Machine({ memory, target, host, path });
  target.negotiate();
  for (const [endpoint, { name }] of devices.entries()) {
    target.addEndpoint(endpoint);
    machine.passThrough(endpoint, kernel.device(name).path);
    if (endpoint < attached) expect(target.attach(1, endpoint)).toBe(0);
  }
  const map = (iova: number, pages: number, flags: number) => target.map(1, page(iova), page(iova + pages) - 1n, page(iova), flags);
  const reads = (device: number, at: number) => kernel.device(`vfio${device}`).dmaRead(page(at), new Uint8Array(4)) === 0;
  const writes = (device: number, at: number) => kernel.device(`vfio${device}`).dmaWrite(page(at), Uint8Array.of(1)) === 0;
  const said = (endpoint: number) =>
    machine.state.endpoints[endpoint].refused.map(({ reason }) => reason).filter((reason) => /for writing only/.test(reason));
  return { kernel, target, machine, map, reads, writes, said };
}

describe('pages for writing only, by the shadow path on an SMMUv3, whose first stage has none (DDI 0487, D8.4)', () => {
  test('the space gets a nesting parent, of which Linux fills the second stage; what was mapped before never goes away', () => {
    const { kernel, map, reads, writes, said } = machineOf('shadow', [{ nesting: smmuv3() }]);
    expect(map(0, 4, BOTH)).toBe(0);
    expect(kernel.hooks.counts.get('IOMMU_HWPT_ALLOC'), 'no need of it yet').toBeUndefined();
    const gaps: string[] = [];
    const dispose = kernel.hooks.observe({ after: ({ kind }) => reads(0, 1) || gaps.push(kind) });
    expect(map(8, 2, WRITES)).toBe(0);
    dispose();
    expect(gaps).toEqual([]);
    expect([reads(0, 8), writes(0, 8), reads(0, 9), reads(0, 0), writes(0, 0)]).toEqual([false, true, false, true, true]);
    expect(kernel.hooks.counts.get('IOMMU_HWPT_ALLOC')).toBe(1);
    expect(map(12, 1, WRITES)).toBe(0);
    expect(kernel.hooks.counts.get('IOMMU_HWPT_ALLOC'), 'once').toBe(1);
    expect(map(16, 1, READS)).toBe(0);
    expect([reads(0, 12), reads(0, 16), writes(0, 16)]).toEqual([false, true, false]);
    expect(said(0)).toEqual([]);
  });

  test('such an SMMUv3 comes to a space behind other hardware', () => {
    const { target, map, reads, writes } = machineOf('shadow', [{}, { nesting: smmuv3() }]);
    expect(map(0, 1, WRITES)).toBe(0);
    expect([reads(0, 0), writes(0, 0)]).toEqual([false, true]);
    expect(target.attach(1, 1)).toBe(0);
    for (const device of [0, 1]) expect([reads(device, 0), writes(device, 0)]).toEqual([false, true]);
  });

  test('one without a second stage is served, and it is said', () => {
    const { kernel, map, reads, writes, said } = machineOf('shadow', [{ nesting: smmuv3({ idr: FIRST_STAGE_ONLY }) }]);
    expect(map(0, 1, BOTH)).toBe(0);
    expect(said(0)).toEqual([]);
    expect(map(1, 1, WRITES)).toBe(0);
    expect([reads(0, 1), writes(0, 1)]).toEqual([true, true]);
    expect(said(0)).toEqual(['pages for writing only can be read as well: first stages of SMMUv3 have no pages for writing only']);
    const tried = kernel.hooks.counts.get('IOMMU_HWPT_ALLOC');
    expect(map(2, 1, WRITES)).toBe(0);
    expect(kernel.hooks.counts.get('IOMMU_HWPT_ALLOC'), 'tried once').toBe(tried);
  });

  property.prop(
    [
      fc.array(fc.record({ iova: fc.nat(15), pages: fc.constantFrom(1, 2), flags: fc.constantFrom(READS, WRITES, BOTH) }), {
        minLength: 3,
        maxLength: 8,
      }),
      fc.integer({ min: 1, max: 30 }),
    ],
    { numRuns: 30 },
  )('whichever host call fails, what can be read against the guest’s wish is said, and what it maps is there', (maps, nth) => {
    const { kernel, machine, map, reads, writes, said } = machineOf('shadow', [{ nesting: smmuv3() }]);
    const meant = new Map<number, number>();
    kernel.hooks.fail({ nth, errno: errno.ENOMEM });
    for (const { iova, pages, flags } of maps) {
      if (map(iova, pages, flags) !== 0) continue;
      for (let i = 0; i < pages; i++) meant.set(iova + i, flags);
    }
    kernel.hooks.reset();
    for (const [at, flags] of meant) {
      expect(writes(0, at)).toBe((flags & WRITES) !== 0);
      expect(reads(0, at)).toBe((flags & READS) !== 0 || said(0).length > 0);
    }
    machine.close();
  });
});

test.each([
  ['vtd', vtd()],
  ['smmuv3', smmuv3()],
] as const)('user-owned tables on %s have none either, and it is said', (kind, nesting) => {
  const { map, reads, writes, said } = machineOf('user-owned', [{ nesting }]);
  expect(map(0, 1, BOTH)).toBe(0);
  expect(said(0)).toEqual([]);
  expect(map(1, 1, WRITES)).toBe(0);
  expect([reads(0, 1), writes(0, 1)]).toEqual([true, true]);
  expect(said(0)).toEqual([`pages for writing only can be read as well: first stages of ${kind} have no such`]);
});
