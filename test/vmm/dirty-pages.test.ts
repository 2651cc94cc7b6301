import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { openHost } from '../../src/host/registry.ts';
import { simKernel, vtd } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { WriteLog } from '../../src/memory/write-log.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import type { DirtyPages } from '../../src/vmm/dirty-log.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { reaching } from '../reaching.ts';

const PAGES = 32;
const page = (at: number) => BigInt(at) << 12n;
const numbers = ({ pages }: Pick<DirtyPages, 'pages'>) =>
  pages.flatMap(({ first, last }) => Array.from({ length: last - first + 1 }, (_, i) => first + i));

/** 32 pages of RAM and 4 of ROM behind them; endpoint 0 passed through, 8 emulated, both in domain 1. */
function machineOf(hostKind: string, path = 'auto', dirtyTracking = false) {
  const iommu = hostKind === 'vfio-spapr-tce' ? { tce: {} } : { dirtyTracking, nesting: path === 'user-owned' ? vtd() : null };
  const kernel = simKernel({ iommus: [iommu], devices: [{ name: 'vfio0' }] });
  const [ram, rom] = [kernel.allocate(PAGES * 4096), kernel.allocate(4 * 4096)];
  const memory = new GuestMemory([
    { gpa: 0n, buffer: ram.buffer, hostAddress: ram.address },
    { gpa: page(PAGES), buffer: rom.buffer, hostAddress: rom.address, readOnly: true },
  ]);
  const target = new VirtioIommu({ memory, bootBypass: false, inputRange: { start: 0n, last: 0x7fff_ffffn } });
  for (const endpoint of [0, 8]) target.addEndpoint(endpoint);
  const host = openHost(hostKind, kernel);
  const machine = new Machine({ memory, target, host, path });
  const device = kernel.device('vfio0');
  machine.passThrough(0, hostKind === 'iommufd' ? device.path : `/dev/vfio/${device.group.number}#vfio0`);
  const emulated = machine.emulate(8);
  target.negotiate();
  for (const endpoint of [0, 8]) expect(target.attach(1, endpoint)).toBe(0);
  const map = (iova: number, gpa: number, pages: number, flags: number) =>
    target.map(1, page(iova), page(iova + pages) - 1n, page(gpa), flags);
  const unmap = (iova: number, pages: number) => target.unmap(1, page(iova), page(iova + pages) - 1n);
  return { kernel, memory, target, host, machine, device, emulated, map, unmap };
}

const small = (max: number) => fc.integer({ min: 0, max });
/** Mappings begin at one of four places, four pages apart, so that an UNMAP of four pages takes each as a whole. */
const place = small(3).map((at) => 4 * at);
const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('map' as const),
      iova: place,
      gpa: small(PAGES + 1),
      pages: fc.integer({ min: 1, max: 4 }),
      flags: fc.constantFrom(1, 2, 3, 3, 3),
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('unmap' as const), iova: place, pages: fc.constantFrom(4, 8) }) },
  { weight: 6, arbitrary: fc.record({ op: fc.constantFrom('dma' as const, 'emulated' as const), iova: small(15) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('collect' as const) }) },
);

describe.each([
  ['iommufd', 'shadow'],
  ['vfio-type1', 'shadow'],
  ['vfio-spapr-tce', 'shadow'],
  ['iommufd', 'user-owned'],
] as const)('collectDirty over %s by the %s path', (hostKind, path) => {
  const reached = reaching(`${hostKind} ${path}`, 'written and unmapped since', 'written by hardware', 'written by software', 'clean');

  property.prop([fc.array(step, { minLength: 30, maxLength: 60 })], { numRuns: 12 })(
    'names every page that was written since, and none of which nobody could write',
    (steps) => {
      reached();
      const { machine, host, device, emulated, map, unmap } = machineOf(hostKind, path);
      machine.logDirty();
      const domain = new Map<number, { gpa: number; writes: boolean }>();
      let written = new Set<number>();
      let possible = new Set<number>();
      let round = 0;
      const note = () => {
        for (const { gpa, writes } of domain.values()) if (writes && gpa < PAGES) possible.add(gpa);
      };
      for (const one of [...steps, { op: 'collect' as const }]) {
        if (one.op === 'map' && map(one.iova, one.gpa, one.pages, one.flags) === 0)
          for (let i = 0; i < one.pages; i++) domain.set(one.iova + i, { gpa: one.gpa + i, writes: (one.flags & 2) !== 0 });
        if (one.op === 'unmap' && unmap(one.iova, one.pages) === 0)
          for (let i = 0; i < one.pages; i++) {
            const gone = domain.get(one.iova + i);
            if (gone !== undefined && written.has(gone.gpa)) reached('written and unmapped since');
            domain.delete(one.iova + i);
          }
        if (one.op === 'dma' || one.op === 'emulated') {
          const byHardware = one.op === 'dma';
          const result = byHardware ? device.dmaWrite(page(one.iova), Uint8Array.of(1)) : emulated.write(page(one.iova), Uint8Array.of(1));
          if (result === 0) written.add(domain.get(one.iova)!.gpa);
          if (result === 0) reached(byHardware ? 'written by hardware' : 'written by software');
        }
        note();
        if (one.op !== 'collect') continue;
        const dirty = machine.collectDirty(round);
        const found = new Set(numbers(dirty));
        for (const gpa of written) expect(found.has(gpa), `page ${gpa} was written`).toBe(true);
        // First stages of ours stand on all of RAM.
        if (path === 'shadow') for (const gpa of found) expect(possible.has(gpa) || written.has(gpa), `page ${gpa}`).toBe(true);
        if (found.size < PAGES || path !== 'shadow') reached('clean');
        round = dirty.round;
        [written, possible] = [new Set(), new Set()];
        note();
      }
      machine.close();
      host.close();
    },
  );
});

describe.each(['shadow', 'user-owned'])('collectDirty by the %s path over hardware with dirty bits', (path) => {
  const reached = reaching(path, 'written and unmapped since', 'written by hardware', 'written by software', 'clean', 'logged meanwhile');

  property.prop([fc.array(step, { minLength: 20, maxLength: 40 }), small(10)], { numRuns: 12 })(
    'names every page that was written since it was asked last, and no other',
    (steps, before) => {
      reached();
      const { machine, host, device, emulated, map, unmap } = machineOf('iommufd', path, true);
      const domain = new Map<number, number>();
      let written = new Set<number>();
      let round = 0;
      for (const [at, one] of [...steps, { op: 'collect' as const }].entries()) {
        if (at === before) {
          machine.logDirty();
          written = new Set();
          if (domain.size > 0) reached('logged meanwhile');
        }
        if (one.op === 'map' && map(one.iova, one.gpa, one.pages, one.flags) === 0)
          for (let i = 0; i < one.pages; i++) domain.set(one.iova + i, one.gpa + i);
        if (one.op === 'unmap' && unmap(one.iova, one.pages) === 0)
          for (let i = 0; i < one.pages; i++) {
            if (written.has(domain.get(one.iova + i) ?? -1)) reached('written and unmapped since');
            domain.delete(one.iova + i);
          }
        if (one.op === 'dma' || one.op === 'emulated') {
          const byHardware = one.op === 'dma';
          const result = byHardware ? device.dmaWrite(page(one.iova), Uint8Array.of(1)) : emulated.write(page(one.iova), Uint8Array.of(1));
          if (result === 0) written.add(domain.get(one.iova)!);
          if (result === 0) reached(byHardware ? 'written by hardware' : 'written by software');
        }
        if (one.op !== 'collect' || at < before) continue;
        const dirty = machine.collectDirty(round);
        if (numbers(dirty).length === 0) reached('clean');
        expect(dirty.inexact).toEqual([]);
        expect(numbers(dirty)).toEqual([...written].sort((a, b) => a - b));
        round = dirty.round;
        written = new Set();
      }
      machine.close();
      host.close();
    },
  );

  property.prop(
    [fc.array(step, { minLength: 10, maxLength: 30 }), fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 3 })],
    {
      numRuns: 12,
    },
  )('with host calls that fail, misses none', (steps, failing) => {
    const { kernel, machine, host, device, map, unmap } = machineOf('iommufd', path, true);
    const domain = new Map<number, number>();
    map(12, 4, 4, 3);
    for (let i = 0; i < 4; i++) domain.set(12 + i, 4 + i);
    for (const nth of failing) kernel.hooks.fail({ nth, errno: errno.ENOMEM });
    machine.logDirty();
    const written = new Set<number>();
    for (const one of steps) {
      if (one.op === 'map' && map(one.iova, one.gpa, one.pages, one.flags) === 0)
        for (let i = 0; i < one.pages; i++) domain.set(one.iova + i, one.gpa + i);
      if (one.op === 'unmap' && unmap(one.iova, one.pages) === 0) for (let i = 0; i < one.pages; i++) domain.delete(one.iova + i);
      if (one.op === 'dma' && device.dmaWrite(page(one.iova), Uint8Array.of(1)) === 0) written.add(domain.get(one.iova)!);
    }
    const found = new Set(numbers(machine.collectDirty(0)));
    for (const gpa of written) expect(found.has(gpa), `page ${gpa} was written`).toBe(true);
    kernel.hooks.reset();
    machine.close();
    host.close();
  });
});

test('an UNMAP of two mappings with a hole between them: the kernel tells of what is written up to the hole only', () => {
  const { machine, device, map, unmap } = machineOf('iommufd', 'shadow', true);
  map(8, 0, 1, 3);
  map(12, 4, 4, 3);
  machine.logDirty();
  device.dmaWrite(page(13), Uint8Array.of(1));
  expect(unmap(8, 8)).toBe(0);
  expect(numbers(machine.collectDirty(0))).toEqual([5]);
});

test('what is written before, between and after changes of the path is told, and nothing else', () => {
  const { machine, device, map, unmap } = machineOf('iommufd', 'user-owned', true);
  map(0, 0, 16, 3);
  machine.logDirty();
  let round = 0;
  for (const [at, path] of ['shadow', 'user-owned', 'shadow'].entries()) {
    device.dmaWrite(page(at), Uint8Array.of(1));
    machine.changePath(path);
    device.dmaWrite(page(8 + at), Uint8Array.of(1));
    const dirty = machine.collectDirty(round);
    expect(numbers(dirty), path).toEqual([at, 8 + at]);
    expect(dirty.inexact).toEqual([]);
    round = dirty.round;
  }
  device.dmaWrite(page(5), Uint8Array.of(1));
  expect(unmap(0, 16)).toBe(0);
  expect(numbers(machine.collectDirty(round))).toEqual([5]);
});

test('what the host cannot say is told, with the reason; logging ends with the spaces that were made for it', () => {
  const { kernel, machine, map } = machineOf('iommufd', 'shadow', true);
  map(0, 3, 2, 3);
  const calls = (kind: string) => kernel.hooks.counts.get(kind) ?? 0;
  const end = machine.logDirty();
  expect(machine.collectDirty(0)).toMatchObject({ pages: [], inexact: [] });
  expect(calls('IOMMU_HWPT_SET_DIRTY_TRACKING')).toBe(1);
  expect(calls('IOMMU_IOAS_COPY'), 'pinned once').toBe(1);
  end();
  expect(calls('IOMMU_IOAS_COPY')).toBe(2);
  map(4, 5, 1, 3);
  expect(calls('IOMMU_HWPT_ALLOC'), 'an automatic page table again').toBe(1);
  end();
  expect(calls('IOMMU_IOAS_COPY'), 'ended once').toBe(2);

  const other = machineOf('iommufd');
  other.map(0, 3, 2, 3);
  other.machine.logDirty();
  expect(other.machine.collectDirty(0).inexact).toEqual(['domain 1: /dev/vfio/devices/vfio0: its IOMMU keeps no dirty bits']);
  expect(other.kernel.hooks.counts.get('IOMMU_IOAS_COPY'), 'nothing is rebuilt in vain').toBeUndefined();
});

test('who has ended logging does not end the hardware’s part of the next', () => {
  const { kernel, machine, device, map } = machineOf('iommufd', 'shadow', true);
  map(0, 3, 2, 3);
  const end = machine.logDirty();
  end();
  machine.logDirty();
  const copies = kernel.hooks.counts.get('IOMMU_IOAS_COPY');
  end();
  expect(kernel.hooks.counts.get('IOMMU_IOAS_COPY')).toBe(copies);
  device.dmaWrite(page(1), Uint8Array.of(1));
  expect(machine.collectDirty(0)).toMatchObject({ pages: [{ first: 4, last: 4 }], inexact: [] });
});

test('a device without dirty bits that comes while it is logged makes the space inexact, and is let in', () => {
  const kernel = simKernel({
    iommus: [{ dirtyTracking: true }, {}],
    devices: [{ name: 'vfio0' }, { name: 'vfio1', iommu: 1 }],
  });
  const ram = kernel.allocate(PAGES * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const target = new VirtioIommu({ memory, bootBypass: false });
  for (const endpoint of [0, 1]) target.addEndpoint(endpoint);
  const host = openHost('iommufd', kernel);
  const machine = new Machine({ memory, target, host });
  machine.passThrough(0, kernel.device('vfio0').path);
  machine.passThrough(1, kernel.device('vfio1').path);
  target.negotiate();
  target.attach(1, 0);
  target.map(1, 0n, 0x1fffn, 0x3000n, 3);
  machine.logDirty();
  kernel.device('vfio0').dmaWrite(0n, Uint8Array.of(1));
  const { round, pages, inexact } = machine.collectDirty(0);
  expect([numbers({ pages }), inexact]).toEqual([[3], []]);
  expect(target.attach(1, 1)).toBe(0);
  expect(kernel.device('vfio1').dmaWrite(0x1000n, Uint8Array.of(1))).toBe(0);
  const second = machine.collectDirty(round);
  expect(numbers(second)).toEqual([3, 4]);
  expect(second.inexact).toHaveLength(1);
  machine.close();
  host.close();
});

test('ROM is never dirty; a page that several rounds ago was is so for who asks from there', () => {
  const { machine, map, unmap, emulated } = machineOf('iommufd');
  machine.logDirty();
  map(0, PAGES - 1, 3, 3);
  const first = machine.collectDirty(0);
  expect(numbers(first)).toEqual([PAGES - 1]);
  unmap(0, 3);
  const second = machine.collectDirty(first.round);
  expect(numbers(second), 'until it was unmapped').toEqual([PAGES - 1]);
  expect(numbers(machine.collectDirty(second.round))).toEqual([]);
  expect(numbers(machine.collectDirty(0)), 'nobody loses what another has taken').toEqual([PAGES - 1]);
  expect(emulated.write(0n, Uint8Array.of(1))).toBeLessThan(0);
});

test('what a device still reaches, and what it reached until it was taken out, counts; before logDirty nothing does', () => {
  const { machine, map } = machineOf('iommufd');
  map(0, 3, 1, 3);
  const end = machine.logDirty();
  machine.remove(0);
  const { round, pages } = machine.collectDirty(0);
  expect(numbers({ pages })).toEqual([3]);
  expect(machine.collectDirty(round).pages).toEqual([]);
  end();
  expect(() => machine.collectDirty(0)).toThrow('collectDirty without logDirty');
});

test('misuse', () => {
  const { machine, memory } = machineOf('iommufd');
  expect(() => machine.collectDirty(0)).toThrow(TypeError);
  const end = machine.logDirty();
  expect(() => machine.logDirty()).toThrow('writes are logged already');
  expect(() => machine.collectDirty(1)).toThrow(/^Machine: since 1 is not in 0..0/);
  machine.close();
  expect(memory.isLogged).toBe(false);
  end();
});

describe('what is written through GuestMemory', () => {
  const stores: Record<string, (memory: GuestMemory, lo: number) => number> = {
    store64: (memory, lo) => memory.store64(0, lo, 1, 2),
    store64BE: (memory, lo) => memory.store64BE(0, lo, 1, 2),
    store32: (memory, lo) => memory.store32(0, lo, 1),
    store32BE: (memory, lo) => memory.store32BE(0, lo, 1),
    store16: (memory, lo) => memory.store16(0, lo, 1),
    compareExchange64: (memory, lo) => memory.compareExchange64(0, lo, 0, 0, 1, 2),
    storeRun64: (memory, lo) => memory.storeRun64(0, lo, new BigUint64Array(2), 2),
    replaceAlike64: (memory, lo) => memory.replaceAlike64(0, lo, -1, 2, 7),
    write: (memory, lo) => memory.write(0, lo, new Uint8Array(16), 0, 16),
  };
  test.each(Object.keys(stores))('%s', (name) => {
    const memory = GuestMemory.ofBytes(8 * 4096);
    const [log, end] = memory.logWrites();
    expect(stores[name](memory, 0x3000)).toBeGreaterThanOrEqual(0);
    expect(log.since(0)).toEqual([{ first: 3, last: 3 }]);
    expect(stores[name](memory, 0x10_0000), 'outside').toBeLessThan(0);
    expect(log.since(0)).toHaveLength(1);
    end();
    expect(stores[name](memory, 0x5000)).toBeGreaterThanOrEqual(0);
    expect(log.since(0)).toHaveLength(1);
  });

  test('who has ended a log does not end the next one', () => {
    const memory = GuestMemory.ofBytes(8 * 4096);
    const [, end] = memory.logWrites();
    end();
    const [log] = memory.logWrites();
    end();
    memory.store32(0, 0x3000, 1);
    expect([memory.isLogged, log.since(0)]).toEqual([true, [{ first: 3, last: 3 }]]);
  });

  test.each([
    ['store64', 0x3ffc],
    ['store32', 0x3ffe],
    ['write', 0x3ff8],
    ['storeRun64', 0x3ff8],
    ['replaceAlike64', 0x3ff8],
  ])('%s over a page’s end is of two pages', (name, lo) => {
    const memory = GuestMemory.ofBytes(8 * 4096);
    const [log] = memory.logWrites();
    expect(stores[name](memory, lo)).toBeGreaterThanOrEqual(0);
    expect(log.since(0)).toEqual([{ first: 3, last: 4 }]);
  });

  test('a compare-and-exchange that comes too late, and a write of nothing, are none', () => {
    const memory = GuestMemory.ofBytes(4096);
    const [log] = memory.logWrites();
    expect(memory.compareExchange64(0, 0, 0, 7, 1, 2)).toBe(0);
    expect(memory.write(0, 0, new Uint8Array(1), 0, 0)).toBe(0);
    expect(log.since(0)).toEqual([]);
  });

  test('ranges join over blocks of 4096 pages, above 2^32 too', () => {
    const log = new WriteLog();
    log.note(2 ** 40 - 2, 4);
    log.note(4095, 2);
    log.endRound();
    log.note(4096, 1);
    expect(log.since(0)).toEqual([
      { first: 4095, last: 4096 },
      { first: 2 ** 40 - 2, last: 2 ** 40 + 1 },
    ]);
    expect(log.since(1)).toEqual([{ first: 4096, last: 4096 }]);
  });
});
