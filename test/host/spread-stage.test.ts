import { describe, expect, test } from 'vitest';
import { errno, HostError } from '../../src/host/errno.ts';
import type { HostDevice } from '../../src/host/host.ts';
import { Attachable, type IommufdDevice, type Place } from '../../src/host/iommufd/device.ts';
import { SpreadStage, type UnitStage, type Units } from '../../src/host/iommufd/spread-stage.ts';

/* One first stage for devices behind several IOMMUs, of which the kernel says by EINVAL alone that one does not take a device. */

/** A device behind one of the IOMMUs. */
class Device extends Attachable {
  readonly name: string;
  readonly behind: string;
  readonly id = 1;
  readonly iommuGroup = null;
  readonly closed = false;
  readonly wantsPasidTables = false;
  readonly moves = 0;
  attachment: Place | null = null;

  constructor(name: string, behind: string) {
    super();
    this.name = name;
    this.behind = behind;
  }
  get device(): IommufdDevice {
    return this as unknown as IommufdDevice;
  }
  attach = () => 0;
  detach = () => 0;
  settle(): void {}
  close = () => null;
}

/** IOMMUs by name, what was done with each in order, and how often a sync of one answers what. */
function machine(...there: string[]) {
  const done: string[] = [];
  const syncs = new Map<string, number>();
  const refusals = new Map<string, number>();
  const all = new Set(there);
  const homes = new WeakMap<HostDevice, string>();
  const units: Units<string> = {
    all,
    homes,
    add: (device) => {
      const { behind } = device as Device;
      done.push(`add ${behind}`);
      all.add(behind);
      return behind;
    },
    drop: (unit) => {
      done.push(`drop ${unit}`);
      all.delete(unit);
    },
  };
  const create = (unit: string, device: Attachable): UnitStage => {
    done.push(`create ${unit}`);
    if ((device as Device).behind !== unit) throw new HostError('IOMMU_HWPT_ALLOC', errno.EINVAL);
    const refused = refusals.get(`create ${unit}`);
    if (refused !== undefined) throw new HostError('IOMMU_HWPT_ALLOC', refused);
    return {
      id: 7,
      forPasid: false,
      get error() {
        const answer = syncs.get(unit) ?? 0;
        return answer === 0 ? null : new HostError('IOMMU_HWPT_INVALIDATE', answer, undefined, unit);
      },
      attach: (who) => {
        if ((who as Device).behind !== unit) return -errno.EINVAL;
        done.push(`attach ${unit}`);
        return -(refusals.get(`attach ${unit}`) ?? 0);
      },
      detach: () => 0,
      close: () => void done.push(`close ${unit}`),
      invalidate: () => {},
      invalidateAll: () => void done.push(`forget ${unit}`),
      sync: () => {
        done.push(`sync ${unit}`);
        return syncs.get(unit) ?? 0;
      },
    };
  };
  const stage = (device: Device) => new SpreadStage(units, create, device);
  return { done, syncs, refusals, all, homes, stage, taken: () => done.splice(0) };
}

describe('a first stage over several IOMMUs', () => {
  test('is made for the IOMMU of its first device; one that does not make it is none of the IOMMUs any more', () => {
    const { stage, refusals, all, taken } = machine('a');
    refusals.set('create b', errno.ENOMEM);
    expect(() => stage(new Device('x', 'b'))).toThrow(/ENOMEM/);
    expect([taken(), [...all]]).toEqual([['create a', 'add b', 'create b', 'drop b'], ['a']]);
  });

  test('forgets what another stage with its ASID had on an IOMMU, before the first device there comes to it, and only then', () => {
    const { stage, taken } = machine('a', 'b');
    const spread = stage(new Device('x', 'a'));
    taken();
    const [first, second] = ['y', 'z'].map((name) => new Device(name, 'b'));
    expect(spread.attach(first)).toBe(0);
    expect(taken()).toEqual(['create b', 'forget b', 'sync b', 'attach b']);
    expect(spread.attach(second)).toBe(0);
    expect(taken()).not.toContain('forget b');
  });

  test('leaves nothing on an IOMMU that its first device there could not come to', () => {
    const { stage, refusals, all, taken } = machine('a');
    const spread = stage(new Device('x', 'a'));
    taken();
    refusals.set('attach b', errno.EIO);
    const device = new Device('y', 'b');
    expect(spread.attach(device)).toBe(-errno.EIO);
    expect(taken().slice(-2)).toEqual(['close b', 'drop b']);
    expect([[...all], spread.error?.errno]).toEqual([['a'], errno.EIO]);
    refusals.clear();
    expect(spread.attach(device)).toBe(0);
  });

  test('asks the IOMMU of a device alone, as long as that is one', () => {
    const { stage, homes, all, taken } = machine('a', 'b');
    const spread = stage(new Device('x', 'a'));
    const device = new Device('y', 'b');
    homes.set(device, 'b');
    taken();
    expect(spread.attach(device)).toBe(0);
    expect(taken()).not.toContain('create a');
    homes.set(device, 'gone');
    expect(spread.attach(device)).toBe(0);
    expect([...all]).toEqual(['a', 'b']);
  });

  test('is told on each of them; the first failure is the answer, and none once all have done it', () => {
    const { stage, syncs, taken } = machine('a', 'b');
    const spread = stage(new Device('x', 'a'));
    expect(spread.attach(new Device('y', 'b'))).toBe(0);
    taken();
    syncs.set('a', -errno.EIO).set('b', -errno.ENODEV);
    expect(spread.sync()).toBe(-errno.EIO);
    expect([taken(), spread.error?.message]).toEqual([['sync a', 'sync b'], expect.stringMatching(/EIO.*a/)]);
    syncs.clear();
    expect([spread.sync(), spread.error]).toEqual([0, null]);
  });
});
