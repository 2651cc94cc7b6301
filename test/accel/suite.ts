import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import type { PathKind } from '../../src/accel/path.ts';
import { errno } from '../../src/host/errno.ts';
import { reaching } from '../reaching.ts';
import { Fixture, program, type Step, type Surroundings } from './path-fixture.ts';
import { TOY_PAGES, ToySpace } from './toy-space.ts';

/** A host and hardware that a path serves on. */
export interface PathPlace {
  make(): Omit<Surroundings, 'owner'>;
  /** The host call by which hardware forgets what was mapped; null: there is none. */
  readonly forgets: string | null;
}

/** What a path is tried on. */
export interface PathSubject {
  readonly places: Readonly<Record<string, PathPlace>>;
  /** Programs of each property in each place. */
  readonly runs: number;
}

const map = (from: number, count: number): Step => ({ from, count, gpa: 0, permission: 3 });
const unmap = (from: number, count: number): Step => ({ from, count, gpa: 0, permission: 0 });

/** What every path owes its guest (src/accel/path.ts), in front of hardware that forgets nothing by itself. */
export function pathSuite(kind: PathKind, { places, runs }: PathSubject): void {
  // Hardware that walks the guest's tables has nothing to do with spaces that a target keeps.
  const owners = kind.readsGuestTables ? (['guest'] as const) : (['target', 'guest'] as const);

  describe.each(Object.keys(places))(`path ${kind.name}, %s`, (place) => {
    const { forgets } = places[place];
    const make = (owner: 'target' | 'guest') => new Fixture(kind, { owner, ...places[place].make() });

    for (const owner of owners) {
      const agreed = reaching(`${kind.name}, ${place}, ${owner}`, 'a mapped page', 'a page that stays', 'a page that goes');
      test.prop([program], { numRuns: runs })(
        `${owner}-owned: the hardware agrees after every operation, and what did not change never goes away`,
        (operations) => {
          agreed();
          const fixture = make(owner);
          for (const steps of [[map(8, 8)], ...operations, [map(8, 8)], [unmap(12, 2)]]) {
            const before = fixture.meant();
            const splitsBefore = fixture.path.counters.splits;
            const probes: (string | null)[][] = [];
            fixture.touch();
            const dispose = fixture.kernel.hooks.observe({ after: () => probes.push(fixture.hardware(fixture.devices[0])) });
            expect(fixture.run(steps)).toBe(0);
            dispose();
            const after = fixture.meant();
            fixture.agrees();
            expect([fixture.path.pending, fixture.path.unfinished]).toEqual([false, false]);
            agreed('a mapped page', after.filter((page) => page !== null).length);
            agreed('a page that stays', after.filter((page, i) => page !== null && page === before[i]).length);
            agreed('a page that goes', after.filter((page, i) => page === null && before[i] !== null).length);
            if (fixture.path.counters.splits > splitsBefore) continue;
            for (const probe of probes) {
              probe.forEach((found, i) => {
                const allowed = before[i] === after[i] ? found === before[i] : found === null || found === before[i] || found === after[i];
                if (!allowed) expect.fail(`page ${i}: ${found} between ${before[i]} and ${after[i]}`);
              });
            }
          }
          // What a host can swap has no gap, however the guest unmaps.
          if (fixture.host.capabilities.replace) expect(fixture.path.counters.splits).toBe(0);
        },
      );

      const failed = reaching(
        `${kind.name}, ${place}, ${owner}: failures`,
        ...(forgets === null ? [] : (['an operation that fails'] as const)),
      );
      test.prop(
        [program, fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 6 }), fc.constantFrom(errno.ENOMEM, errno.EIO, errno.ENODEV)],
        { numRuns: 2 * runs },
      )(
        `${owner}-owned: host calls fail: what the target keeps is taken back, what the guest keeps is never stale, and all is mended later`,
        (operations, nth, count, code) => {
          failed();
          const fixture = make(owner);
          fixture.run([map(8, 8)]);
          for (let i = 0; i < count; i++) fixture.kernel.hooks.fail({ nth: nth + i, errno: code });
          for (const steps of [[unmap(8, 4)], ...operations]) {
            const before = fixture.space.pages;
            fixture.touch();
            if (fixture.run(steps) >= 0) {
              if (count === 1) fixture.agrees();
            } else {
              if (forgets !== null) failed('an operation that fails');
              expect(fixture.path.error).not.toBeNull();
              if (owner === 'target') {
                if (fixture.takeBack(before) < 0) continue;
                if (count === 1) fixture.agrees();
              }
            }
            if (owner === 'guest') fixture.hasNothingStale();
          }
          fixture.kernel.hooks.reset();
          expect(fixture.path.flush()).toBe(0);
          fixture.hostDevices.forEach((device, i) => {
            const found = fixture.hardware(fixture.devices[i]);
            expect(found).toEqual(device.closed ? found.map(() => null) : fixture.meant());
          });
          expect(fixture.path.pending).toBe(false);
        },
      );
    }

    if (forgets !== null)
      test('guest-owned: what the hardware does not forget blocks every device, until it has', () => {
        const fixture = make('guest');
        fixture.run([map(0, 4)]);
        fixture.run([map(10, 8)]);
        fixture.touch();
        fixture.kernel.hooks.fail({ kind: forgets, nth: 1, times: Number.POSITIVE_INFINITY, errno: errno.EIO });
        expect(fixture.run([unmap(0, 4)])).toBe(-errno.EIO);
        expect(fixture.path.error?.errno).toBe(errno.EIO);
        expect(fixture.blocked).toEqual([true, true]);
        expect(fixture.path.pending).toBe(true);
        fixture.run([unmap(12, 1)]);
        // A VFIO container forgets all when its last device has left.
        const forgot = !fixture.host.capabilities.replace;
        expect([fixture.path.pending, ...fixture.blocked]).toEqual(forgot ? [false, false, false] : [true, true, true]);
        expect(fixture.path.detach(fixture.hostDevices[0])).toBe(0);
        fixture.kernel.hooks.reset();
        expect(fixture.path.flush()).toBe(0);
        expect(fixture.blocked).toEqual([true, false]);
        expect(fixture.hardware(fixture.devices[1])).toEqual(fixture.meant());
        expect(fixture.path.pending).toBe(false);
        expect(fixture.path.attach(fixture.hostDevices[0], fixture.requester(0))).toBe(0);
        fixture.agrees();
      });

    test('guest RAM that is removed is reached no more, and what comes in its place is', () => {
      const fixture = make('guest');
      fixture.run([{ from: 0, count: 8, gpa: 100, permission: 3 }]);
      fixture.run([{ from: 8, count: 8, gpa: 140, permission: 3 }]);
      fixture.touch();
      const [region] = fixture.memory.regions;
      fixture.memory.remove(0n);
      expect(fixture.path.remap()).toBe(0);
      for (const device of fixture.devices)
        expect(fixture.hardware(device)).toEqual(fixture.meant().map((page, i) => (i < 8 ? null : page)));
      fixture.memory.add(region);
      expect(fixture.path.remap()).toBe(0);
      fixture.agrees();
    });

    test('a device that moved to another path is left alone by the one before, and by its end', () => {
      const fixture = make(owners[0]);
      fixture.run([map(0, 8)]);
      const [device, stays] = fixture.hostDevices;
      const space = new ToySpace(owners[0]);
      space.pages = fixture.space.pages;
      const other = fixture.another(space);
      // Without `replace` a device has to leave before it comes.
      if (!fixture.host.capabilities.replace) expect(fixture.path.detach(device)).toBe(0);
      expect(other.attach(device, fixture.requester(0))).toBe(0);
      fixture.path.moved(device);
      const before = fixture.hardware(fixture.devices[0]);
      expect(before).toEqual(fixture.meant());
      if (!kind.readsGuestTables) {
        fixture.run([unmap(2, 1)]);
        expect(fixture.hardware(fixture.devices[1])).toEqual(fixture.meant());
        expect(fixture.hardware(fixture.devices[0])).toEqual(before);
      }
      expect(fixture.path.detach(stays)).toBe(0);
      fixture.path.close();
      expect(fixture.path.error).toBeNull();
      expect(fixture.hardware(fixture.devices[0])).toEqual(before);
      expect(other.detach(device)).toBe(0);
      other.close();
      expect(fixture.blocked).toEqual([true, true]);
    });

    test('detached devices reach nothing, and a closed path leaves nothing in the kernel', () => {
      const fixture = make(owners[0]);
      fixture.run([map(0, 8)]);
      const [first, second] = fixture.hostDevices;
      expect(fixture.path.detach(first)).toBe(0);
      expect(fixture.blocked).toEqual([true, false]);
      expect(fixture.hardware(fixture.devices[1])).toEqual(fixture.meant());
      expect(fixture.path.detach(second)).toBe(0);
      fixture.path.close();
      expect(fixture.path.error).toBeNull();
      const { mappings, frames, descriptors, ...objects } = fixture.kernel.live();
      expect(
        Object.entries(objects).filter(([kind, count]) => /hwpt|ioas|viommu|vdevice|queue|domain|pinned/i.test(kind) && count > 0),
      ).toEqual([]);
      for (const device of fixture.hostDevices) device.close();
      fixture.host.close();
      expect(fixture.kernel.live()).toMatchObject({ descriptors: 0, domains: 0, pinnedBytes: 0 });
    });

    if (kind.readsGuestTables) return;

    test('a space that ends its enumeration early is populated in slices of one enumeration a flush', () => {
      const fixture = make('guest');
      const { enumerate } = fixture.space;
      let asked = 0;
      fixture.space.enumerate = (first, last, visit) => {
        asked++;
        const end = Math.min(last, first + 15);
        enumerate.call(fixture.space, first, end, visit);
        return end + 1;
      };
      expect(fixture.run([map(0, TOY_PAGES)])).toBe(0);
      for (let slice = 1; fixture.path.unfinished; slice++) {
        expect(asked).toBe(slice);
        const mapped = fixture.hardware(fixture.devices[0]);
        expect(mapped).toEqual(fixture.meant().map((page, i) => (i < 16 * slice ? page : null)));
        expect(fixture.path.flush()).toBe(0);
      }
      expect(asked).toBe(TOY_PAGES / 16);
      fixture.agrees();
    });

    test('a mapping that leaves guest RAM is refused and nothing of it stands once the target took it back', () => {
      const fixture = make('target');
      const before = fixture.space.pages;
      expect(fixture.run([{ from: 0, count: TOY_PAGES, gpa: 200, permission: 3 }])).toBe(-errno.EFAULT);
      expect(fixture.path.error?.message).toContain('outside guest RAM');
      expect(fixture.takeBack(before)).toBe(0);
      fixture.agrees();
    });
  });
}
