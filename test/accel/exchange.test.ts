import { beforeEach, describe, expect, test } from 'vitest';
import type { Backings } from '../../src/accel/backings.ts';
import type { Chooser } from '../../src/accel/chooser.ts';
import { type Backing, DeviceGroup } from '../../src/accel/device-group.ts';
import { changePathOf } from '../../src/accel/exchange.ts';
import type { Path } from '../../src/accel/path.ts';
import { errno, HostError } from '../../src/host/errno.ts';
import type { HostDevice } from '../../src/host/host.ts';
import { type FirstStage, NO_PASID } from '../../src/target/target.ts';
import { ToySpace } from './toy-space.ts';

/* In which order devices change their paths, and where each is when the host does not let one. Devices here are names, and paths say who is on them. */

class FakePath {
  /** Where they are, a device is nowhere else. */
  readonly others: FakePath[] = [];
  readonly devices = new Set<HostDevice>();
  /** Attaches that are refused: device and how often. */
  readonly refuses = new Map<HostDevice, number>();
  readonly error = new HostError('attach', errno.EIO);

  attach(device: HostDevice): number {
    const times = this.refuses.get(device) ?? 0;
    this.refuses.set(device, times - 1);
    if (times > 0) return -errno.EIO;
    for (const { devices } of this.others) devices.delete(device);
    this.devices.add(device);
    return 0;
  }

  moved(device: HostDevice): void {
    this.devices.delete(device);
  }
}

describe('a space whose path is exchanged', () => {
  const space = new ToySpace('guest');
  const [wanted, reached]: FirstStage[] = [{ kind: 'bypass' }, { kind: 'abort' }];
  const devices = ['a', 'b', 'c'].map((name) => ({ name }) as HostDevice);
  let groups: DeviceGroup[];
  let [from, to]: FakePath[] = [];
  let [before, after]: Backing[] = [];
  let lost: [DeviceGroup, Backing, HostError | null][];
  let decided: [Backing, Backing][];
  let isBlind: boolean;
  let served: boolean;
  let makes: Backing | number;
  let error: HostError | null;

  const change = () => {
    const backings = {
      get error() {
        return error;
      },
      set error(value) {
        error = value;
      },
      unserved: () => -errno.EOPNOTSUPP,
      make: () => makes,
      sees: () => {
        if (isBlind) error = new HostError('toy', errno.ENOSPC);
        return !isBlind;
      },
      decide: (stays: Backing, goes: Backing) => void decided.push([stays, goes]),
    } as unknown as Backings;
    const chooser = {
      choose: () => ({ served: served ? {} : null, choice: { path: 'new', refused: [] } }),
    } as unknown as Chooser;
    const giveUp = (...loss: [DeviceGroup, Backing, HostError | null]) => void lost.push(loss);
    const giveUpAll = (backing: Backing, reason: HostError | null) => {
      for (const group of backing.groups) giveUp(group, backing, reason);
    };
    return changePathOf(before, { backings, chooser, placement: { giveUp, giveUpAll } });
  };

  beforeEach(() => {
    [from, to] = [new FakePath(), new FakePath()];
    from.others.push(to);
    to.others.push(from);
    const backingOf = (path: FakePath, name: string): Backing => ({
      space,
      path: path as unknown as Path,
      choice: { path: name, refused: [] },
      watched: null,
      demand: null,
      pasids: 'own',
      isBehind: false,
      isListed: false,
      groups: new Set(),
    });
    [before, after] = [backingOf(from, 'old'), backingOf(to, 'new')];
    groups = devices.map((device, endpoint) => {
      const group = new DeviceGroup(null);
      group.backing = before;
      group.members.add({ device, endpoint, pasid: NO_PASID, group, release: () => {}, wanted: space, stage: wanted, reached });
      from.devices.add(device);
      before.groups.add(group);
      return group;
    });
    [lost, decided, isBlind, served, makes, error] = [[], [], false, true, after, null];
  });

  /** Who is on the old path and who on the new one. */
  const places = () =>
    [from, to].map(({ devices }) =>
      [...devices]
        .map(({ name }) => name)
        .sort()
        .join(''),
    );

  test('has all devices on the new one, with what their guest wants now', () => {
    expect([change(), places()]).toEqual([0, ['', 'abc']]);
    expect([decided, lost, before.groups.size, after.groups.size]).toEqual([[[after, before]], [], 0, 3]);
    for (const { backing, members } of groups) expect([backing, [...members][0].reached]).toEqual([after, wanted]);
  });

  test('stays where no path serves, where it is the same one, and where the new one cannot be made', () => {
    served = false;
    expect(change()).toBe(-errno.EOPNOTSUPP);
    served = true;
    makes = -errno.ENOMEM;
    expect(change()).toBe(-errno.ENOMEM);
    before = { ...before, choice: after.choice };
    expect([change(), places(), decided, lost]).toEqual([0, ['abc', ''], [], []]);
  });

  test('comes to a path that has all slices, and stays where one of them cannot be had', () => {
    let left = 3;
    const slices: string[] = [];
    Object.assign(to, { unfinished: true, pending: true });
    const slice = (name: string) => (): number => {
      slices.push(`${name} with ${places()[1].length} devices`);
      left--;
      Object.assign(to, { unfinished: left > 0, pending: left > 0 });
      return 0;
    };
    Object.assign(to, { populate: slice('populate'), flush: slice('flush') });
    expect([change(), slices, places()]).toEqual([
      0,
      ['populate with 0 devices', 'flush with 0 devices', 'flush with 0 devices'],
      ['', 'abc'],
    ]);
  });

  test.each([
    ['refused', { populate: (): number => -errno.EIO }],
    ['owed', { populate: (): number => 0, pending: true, unfinished: false }],
  ])('stays where what a slice maps is %s', (_, path) => {
    Object.assign(to, path);
    expect([change(), places(), error, decided]).toEqual([-errno.EIO, ['abc', ''], to.error, [[before, after]]]);
  });

  test('goes back as it came when one device is refused', () => {
    to.refuses.set(devices[1], 1);
    expect([change(), places(), error]).toEqual([-errno.EIO, ['abc', ''], to.error]);
    expect([decided, lost, before.groups.size]).toEqual([[[before, after]], [], 3]);
    expect([...groups[0].members][0].reached).toBe(reached);
  });

  test('loses the groups that get neither on nor back, and no others', () => {
    to.refuses.set(devices[1], 1);
    from.refuses.set(devices[0], 1);
    expect([change(), places()]).toEqual([-errno.EIO, ['bc', '']]);
    expect([decided, lost]).toEqual([[[before, after]], [[groups[0], before, from.error]]]);
  });

  test('goes back when not all of its tables can be watched from the new one, and says so', () => {
    isBlind = true;
    expect([change(), places(), error?.errno]).toEqual([-errno.ENOSPC, ['abc', ''], errno.ENOSPC]);
    expect([decided, lost]).toEqual([[[before, after]], []]);
  });

  test('loses all of them where one gets not back from what cannot see: nobody stays there', () => {
    isBlind = true;
    from.refuses.set(devices[2], 1);
    expect(change()).toBe(-errno.EIO);
    expect(decided).toEqual([[after, before]]);
    expect(lost).toEqual(groups.map((group) => [group, after, error]));
    expect([error?.errno, before.groups.size, groups.map(({ backing }) => backing === after)]).toEqual([
      errno.ENOSPC,
      0,
      [true, true, true],
    ]);
  });
});
