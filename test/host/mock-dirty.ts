import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import type { Port } from '../../src/host/port.ts';
import { addressOfPfn } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { reaching } from '../reaching.ts';
import { SELFTEST } from './mock/types.ts';
import { MOCK_NODE, MockVfioPort } from './mock-vfio.ts';

/** `Machine.logDirty` and `collectDirty` over the dirty bits of the selftests' mock: every page that the device wrote, once, and no other. On the simulated kernel and on the real one. */

const PAGES = 32;
const BASE = SELFTEST.base >>> 12;

function machineOn(kernel: Port) {
  const port = new MockVfioPort(kernel);
  const ram = port.allocate(PAGES * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const inputRange = { start: BigInt(SELFTEST.base), last: BigInt(SELFTEST.last) };
  const target = new VirtioIommu({ memory, bootBypass: false, inputRange });
  target.addEndpoint(0);
  const host = new IommufdHost(port);
  const machine = new Machine({ memory, target, host, path: 'shadow' });
  machine.passThrough(0, MOCK_NODE);
  target.negotiate();
  expect(target.attach(1, 0)).toBe(0);
  const at = (page: number) => addressOfPfn(BASE + page);
  return {
    machine,
    memory,
    map: (iova: number, gpa: number, pages: number, flags = 3) => target.map(1, at(iova), at(iova + pages) - 1n, addressOfPfn(gpa), flags),
    unmap: (iova: number, pages: number) => target.unmap(1, at(iova), at(iova + pages) - 1n),
    write: (iova: number) => port.dirty(at(iova)),
    collect(round: number) {
      const dirty = machine.collectDirty(round);
      expect(dirty.inexact).toEqual([]);
      const pages = dirty.pages.flatMap(({ first, last }) => Array.from({ length: last - first + 1 }, (_, page) => first + page));
      return { round: dirty.round, pages };
    },
    close() {
      machine.close();
      host.close();
      ram.release();
      port.release();
    },
  };
}

const small = (max: number) => fc.integer({ min: 0, max });
const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('map' as const),
      iova: small(15),
      gpa: small(PAGES - 5),
      pages: fc.integer({ min: 1, max: 4 }),
      flags: fc.constantFrom(1, 3, 3),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('unmap' as const), iova: small(15), pages: fc.integer({ min: 1, max: 8 }) }) },
  { weight: 8, arbitrary: fc.record({ op: fc.constantFrom('device' as const, 'program' as const), page: small(15) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('collect' as const) }) },
);

export function dirtyOnMock(name: string, openPort: () => Port): void {
  describe(`dirty pages of a machine on the mock IOMMU: ${name}`, () => {
    test('are told once, whatever is unmapped or mapped beside them', () => {
      const { machine, map, unmap, write, collect, close } = machineOn(openPort());
      map(0, 8, 16);
      machine.logDirty();
      let { round, pages } = collect(0);
      expect(pages).toEqual([]);
      for (const page of [0, 1, 9]) write(page);
      ({ round, pages } = collect(round));
      expect(pages).toEqual([8, 9, 17]);
      ({ round, pages } = collect(round));
      expect(pages).toEqual([]);
      write(3);
      expect(unmap(0, 16)).toBe(0);
      map(0, 0, 4);
      write(2);
      ({ round, pages } = collect(round));
      expect(pages).toEqual([2, 11]);
      ({ pages } = collect(round));
      expect(pages).toEqual([]);
      close();
    });

    const reached = reaching(
      `dirty on the mock: ${name}`,
      'written by the device',
      'written and unmapped since',
      'clean',
      'logged meanwhile',
    );
    property.prop([fc.array(step, { minLength: 30, maxLength: 60 }), small(10)], { numRuns: 15 })(
      'are those that were written since they were asked for last, and no others',
      (steps, before) => {
        reached();
        const { machine, memory, map, unmap, write, collect, close } = machineOn(openPort());
        const domain = new Map<number, { gpa: number; writes: boolean }>();
        let written = new Set<number>();
        let round = 0;
        for (const [at, one] of [...steps, { op: 'collect' as const }].entries()) {
          if (at === before) {
            machine.logDirty();
            written = new Set();
            if (domain.size > 0) reached('logged meanwhile');
          }
          if (one.op === 'map' && map(one.iova, one.gpa, one.pages, one.flags) === 0)
            for (let i = 0; i < one.pages; i++) domain.set(one.iova + i, { gpa: one.gpa + i, writes: one.flags === 3 });
          if (one.op === 'unmap' && unmap(one.iova, one.pages) === 0)
            for (let i = 0; i < one.pages; i++) {
              if (written.has(domain.get(one.iova + i)?.gpa ?? -1)) reached('written and unmapped since');
              domain.delete(one.iova + i);
            }
          if (one.op === 'program') {
            memory.store32(0, one.page << 12, 1);
            written.add(one.page);
          }
          const place = one.op === 'device' && at >= before ? domain.get(one.page) : undefined;
          if (one.op === 'device' && place?.writes === true) {
            write(one.page);
            written.add(place.gpa);
            reached('written by the device');
          }
          if (one.op !== 'collect' || at < before) continue;
          const dirty = collect(round);
          if (dirty.pages.length === 0) reached('clean');
          expect(dirty.pages).toEqual([...written].sort((a, b) => a - b));
          round = dirty.round;
          written = new Set();
        }
        close();
      },
    );
  });
}
