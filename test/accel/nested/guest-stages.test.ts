import { beforeEach, describe, expect, test } from 'vitest';
import { GuestStages } from '../../../src/accel/nested/guest-stages.ts';
import { errno, HostError } from '../../../src/host/errno.ts';
import type { Host, HostDevice, InstalledStage, NestingParent, StageOptions } from '../../../src/host/host.ts';
import type { FirstStage } from '../../../src/target/target.ts';

/* First stages by owner and value: each on the hardware once, and as long as a device is on it. */

const stageAt = (root: bigint): FirstStage => ({ kind: 'smmuv3', ste: [1n, root] });

describe('first stages of a guest', () => {
  let made: StageOptions[];
  let closed: number[];
  let refusesToClose: boolean;
  let requesting: Set<HostDevice>;
  let stages: GuestStages;
  const [one, other] = [{ name: 'one' } as HostDevice, { name: 'other' } as HostDevice];
  const owner = {};

  beforeEach(() => {
    made = [];
    closed = [];
    refusesToClose = false;
    requesting = new Set();
    const install = (_device: HostDevice, _stage: unknown, options: StageOptions): InstalledStage => {
      const number = made.push(options) - 1;
      const close = () => {
        if (refusesToClose) throw new HostError('IOMMU_DESTROY', errno.EBUSY);
        closed.push(number);
      };
      return { close } as InstalledStage;
    };
    const nesting = { requestsPages: (device: HostDevice) => requesting.has(device) };
    stages = new GuestStages({ install } as unknown as NestingParent, { nesting } as unknown as Host);
  });

  test('are installed once for all devices that an owner brings, and go with the last of them', () => {
    const first = stages.take(one, stageAt(1n), owner);
    expect(stages.take(other, stageAt(1n), owner)).toBe(first);
    expect([made.length, stages.of(owner)]).toEqual([1, [first]]);
    expect([stages.drop(first), closed, stages.of(owner)]).toEqual([false, [], [first]]);
    expect([stages.drop(first), closed, stages.of(owner)]).toEqual([true, [0], []]);
  });

  test('are another one for another value, another owner, and for a device that asks for pages', () => {
    requesting.add(other);
    const first = stages.take(one, stageAt(1n), owner);
    const found = [stages.take(one, stageAt(2n), owner), stages.take(one, stageAt(1n), {}), stages.take(other, stageAt(1n), owner)];
    expect(new Set([first, ...found]).size).toBe(4);
    expect(made.map(({ pageRequests }) => pageRequests)).toEqual([false, false, false, true]);
    expect(stages.of(owner)).toEqual([first, found[0], found[2]]);
    stages.drop(found[0]);
    expect([closed, stages.of(owner)]).toEqual([[1], [first, found[2]]]);
    // What the hardware said of the device was not so.
    stages.withoutRequests(other);
    expect(stages.take(other, stageAt(1n), owner)).toBe(first);
  });

  test('that the kernel does not let go are let go with the next one that goes', () => {
    const [first, second] = [stages.take(one, stageAt(1n), owner), stages.take(one, stageAt(2n), owner)];
    refusesToClose = true;
    expect(stages.drop(first)).toBe(true);
    expect([closed, stages.of(owner), stages.close()?.errno]).toEqual([[], [second], errno.EBUSY]);
    refusesToClose = false;
    expect(stages.drop(second)).toBe(true);
    expect([closed, stages.close()]).toEqual([[0, 1], null]);
  });
});
