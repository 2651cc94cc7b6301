import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { amd, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { GUEST_PAGES, guest } from './guest-tables.ts';

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

  test('what is unmapped takes its dirty bits along: the next mapping there is clean', () => {
    const { host, device, space, sim, memory } = guest({ dirtyTracking: true });
    space.unmap(0, GUEST_PAGES);
    for (const page of [3, 4]) space.map(page, memory.hostPfn(page), 1, READ_WRITE);
    const table = host.createPageTable(device, space, { dirtyTracking: true });
    table.attach(device);
    table.setDirtyTracking(true);
    for (const page of [3, 4]) expect(sim.dmaWrite(BigInt(page) << 12n, Uint8Array.of(1))).toBe(0);
    expect(space.unmap(3, 1)).toBe(0);
    expect(space.map(3, memory.hostPfn(9), 1, READ_WRITE)).toBe(0);
    const runs: number[][] = [];
    table.readDirty(3, 2, (first, last) => runs.push([first, last]));
    expect(runs).toEqual([[4, 4]]);
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

describe('a space of iommufd', () => {
  test('maps where there is room when it is not told where', () => {
    const { host, space, memory, device, sim } = guest({
      aperture: { first: 0x10_0000n, last: 0x3f_ffffn },
      reserved: [{ first: 0x20_0000n, last: 0x20_ffffn }],
    });
    space.unmap(0, GUEST_PAGES);
    expect(space.attach(device)).toBe(0);
    // 768 pages of aperture without 16 reserved ones, in pieces of 16 that are aligned as their memory is.
    const from = (piece: number) => memory.hostPfn((piece % 32) * 16);
    const placed = Array.from({ length: 47 }, (_, piece) => space.mapAnywhere(from(piece), 16, READ));
    expect(new Set(placed).size).toBe(47);
    for (const [piece, iova] of placed.entries()) {
      expect(iova % 16).toBe(0);
      expect(iova).toBeGreaterThanOrEqual(0x100);
      expect(iova).not.toBe(0x200);
      expect(sim.hostPfn(iova + 15, READ)).toBe(from(piece) + 15);
    }
    expect(space.mapAnywhere(memory.hostPfn(0), GUEST_PAGES, READ)).toBe(-errno.ENOSPC);
    expect(space.error?.message).toBe('IOMMU_IOAS_MAP: ENOSPC');
    host.close();
  });

  test('keeps to small pages when it is told to, as long as nothing is mapped on hardware', () => {
    const { host, space, device, sim } = guest({ dirtyTracking: true });
    space.setLargePages(false);
    const table = host.createPageTable(device, space, { dirtyTracking: true });
    expect(table.attach(device)).toBe(0);
    table.setDirtyTracking(true);
    expect(sim.dmaWrite(0x9000n, Uint8Array.of(1))).toBe(0);
    const dirty: number[][] = [];
    table.readDirty(0, GUEST_PAGES, (first, last) => dirty.push([first, last]));
    expect(dirty).toEqual([[9, 9]]);
    space.setLargePages(true);
    expect(() => space.setLargePages(false)).toThrow('IOMMU_OPTION: EINVAL');
    host.close();
  });
});
