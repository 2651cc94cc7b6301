import { beforeEach, describe, expect, test } from 'vitest';
import type { AskedSpaces } from '../../src/accel/asked-spaces.ts';
import { Backings } from '../../src/accel/backings.ts';
import type { Chooser } from '../../src/accel/chooser.ts';
import { type Backing, DeviceGroup } from '../../src/accel/device-group.ts';
import type { GuestHardware, Path } from '../../src/accel/path.ts';
import { errno, HostError } from '../../src/host/errno.ts';
import { ToySpace } from './toy-space.ts';

/* When which path is flushed, and who carries out what hardware has heard: paths here count what they are asked for. */

interface FakePath extends Path {
  flushes: number;
  answers: number[];
  pending: boolean;
  unfinished: boolean;
  closed: boolean;
}

function pathOf(guestHardware?: GuestHardware): FakePath {
  const path = {
    flushes: 0,
    answers: [] as number[],
    pending: false,
    unfinished: false,
    closed: false,
    leftOut: [],
    error: new HostError('map', errno.ENOMEM),
    changed: () => {
      path.pending = true;
    },
    flush: () => {
      path.flushes++;
      const answer = path.answers.shift() ?? 0;
      path.pending = answer < 0;
      return answer;
    },
    close: () => {
      path.closed = true;
    },
    ...(guestHardware !== undefined && { guestHardware }),
  };
  return path as unknown as FakePath;
}

describe('backings', () => {
  let made: FakePath[];
  let hardware: GuestHardware | undefined;
  let slices: (() => void)[];
  let told: DeviceGroup[];
  let backings: Backings;
  let createFails: HostError | null;

  beforeEach(() => {
    made = [];
    hardware = undefined;
    slices = [];
    told = [];
    createFails = null;
    const kind = {
      create: () => {
        if (createFails !== null) throw createFails;
        made.push(pathOf(hardware));
        return made.at(-1)!;
      },
    };
    const chooser = { choose: () => ({ served: { kind, hearing: null }, choice: { path: 'fake', refused: [] } }), contextOf: () => ({}) };
    const asked = { of: () => ({ watched: null, demand: null }), drop: () => {} };
    backings = new Backings(chooser as unknown as Chooser, asked as unknown as AskedSpaces, (slice) => void slices.push(slice), {
      tell: (group) => void told.push(group),
      blind: () => {},
    });
  });

  function backed(): { space: ToySpace; group: DeviceGroup; backing: Backing; path: FakePath } {
    const space = new ToySpace('target');
    const group = new DeviceGroup(null);
    const backing = backings.of(space, group, null) as Backing;
    backing.groups.add(group);
    return { space, group, backing, path: made.at(-1)! };
  }

  test('are one a space, and closed when nobody is on them', () => {
    const { space, group, backing, path } = backed();
    expect(backings.of(space, new DeviceGroup(null), null)).toBe(backing);
    backings.releaseUnused(backing);
    expect([path.closed, backings.all]).toEqual([false, [backing]]);
    backing.groups.delete(group);
    backings.releaseUnused(backing);
    expect([path.closed, backings.all]).toEqual([true, []]);
    expect(backings.of(space, group, null)).not.toBe(backing);
  });

  test('a path that the host does not make is an errno with its reason, and is asked for anew', () => {
    createFails = new HostError('IOMMU_IOAS_ALLOC', errno.ENOMEM);
    const space = new ToySpace('target');
    expect(backings.of(space, new DeviceGroup(null), null)).toBe(-errno.ENOMEM);
    expect([backings.error, backings.all]).toEqual([createFails, []]);
    createFails = null;
    expect(typeof backings.of(space, new DeviceGroup(null), null)).toBe('object');
  });

  test('only those with something to do are flushed; what fails is flushed again, and its groups hear of it', () => {
    const one = backed();
    const other = backed();
    backings.changed(one.space, 0x1000, 0x1000);
    one.path.answers = [-errno.ENOMEM];
    expect(backings.flush()).toBe(-errno.ENOMEM);
    expect(backings.error).toBe(one.path.error);
    expect([one.path.flushes, other.path.flushes, told]).toEqual([1, 0, [one.group]]);
    expect(backings.flush()).toBe(0);
    // Behind until then, so its groups hear of this one too.
    expect([one.path.flushes, told.length]).toEqual([2, 2]);
    backings.flush();
    expect(one.path.flushes).toBe(2);
  });

  test('of a flush that does all that was asked nobody hears', () => {
    const { space, path } = backed();
    for (let i = 1; i <= 3; i++) {
      backings.changed(space, 0x1000, 0x1000);
      expect([backings.flush(), path.flushes, told]).toEqual([0, i, []]);
    }
  });

  test('the first answer counts, and the others are flushed all the same', () => {
    const [one, other] = [backed(), backed()];
    for (const { space } of [one, other]) backings.changed(space, 0x1000, 0x1000);
    one.path.answers = [-errno.ENOMEM];
    other.path.answers = [-errno.EIO];
    expect(backings.flush()).toBe(-errno.ENOMEM);
    expect([one.path.flushes, other.path.flushes]).toEqual([1, 1]);
  });

  test('groups hear of what is left out, or no longer; what a path could not do for a device that came is the error', () => {
    const { space, group, backing, path } = backed();
    const flush = (leftOut: readonly string[]) => {
      backings.changed(space, 0x1000, 0x1000);
      const { flush: before } = path;
      path.flush = () => {
        Object.assign(path, { leftOut, pending: false });
        return 0;
      };
      backings.flush();
      path.flush = before;
      return told.splice(0);
    };
    expect([flush([]), flush(['a hole']), flush(['a hole']), flush([])]).toEqual([[], [group], [], [group]]);
    backings.took(backing);
    expect(backings.error).toBe(null);
    path.pending = true;
    backings.took(backing);
    expect(backings.error).toBe(path.error);
  });

  test('one that is gone is flushed no more', () => {
    const { space, group, backing, path } = backed();
    backings.changed(space, 0x1000, 0x1000);
    backing.groups.delete(group);
    backings.releaseUnused(backing);
    expect([backings.flush(), path.flushes]).toEqual([0, 0]);
    backings.changed(space, 0x1000, 0x1000);
    expect([backings.flush(), path.flushes]).toEqual([0, 0]);
  });

  test('what a slice could not finish goes on by itself, one slice at a time', () => {
    const { space, path } = backed();
    backings.changed(space, 0x1000, 0x1000);
    path.unfinished = true;
    path.answers = [-errno.EAGAIN, -errno.EAGAIN];
    backings.flush();
    backings.flush();
    expect(slices.length).toBe(1);
    path.unfinished = false;
    slices[0]();
    expect(path.flushes).toBe(3);
    path.pending = true;
    path.unfinished = true;
    backings.took(backings.all[0]);
    expect(slices.length).toBe(2);
    path.unfinished = false;
    slices[1]();
    expect(path.flushes).toBe(4);
  });

  test('what hardware has heard is carried out by one backing on it, and by an heir when that one goes before it could', () => {
    let heard = 0;
    const invalidated = () => {
      heard++;
      made[0].pending = true;
    };
    hardware = { invalidated, answered: () => {}, poll: () => {}, eventDescriptors: [7] };
    const [one, other] = [backed(), backed()];
    backings.invalidated(new Int32Array(4));
    backings.flush();
    expect([heard, one.path.flushes, other.path.flushes, backings.hardware.eventDescriptors]).toEqual([1, 1, 0, [7]]);
    backings.invalidated(new Int32Array(4));
    // The hardware has something to carry out, so whoever stands on it has.
    other.path.pending = true;
    one.backing.groups.clear();
    backings.releaseUnused(one.backing);
    backings.flush();
    expect([one.path.flushes, other.path.flushes]).toEqual([1, 1]);
    other.backing.groups.clear();
    backings.releaseUnused(other.backing);
    backings.invalidated(new Int32Array(4));
    expect([heard, backings.hardware.eventDescriptors]).toEqual([2, []]);
  });
});
