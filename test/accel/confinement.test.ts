import { describe, expect, test } from 'vitest';
import { confine } from '../../src/accel/confinement.ts';
import { DeviceGroup } from '../../src/accel/device-group.ts';
import { errno, HostError } from '../../src/host/errno.ts';
import type { Host, HostDevice } from '../../src/host/host.ts';
import type { Target } from '../../src/target/target.ts';

/* What a guest that may map anywhere is told of what its device's hardware cannot. */

const device = { name: 'vfio0' } as HostDevice;
const offered = [{ first: 0, last: 0xff }];

function confined(reach: readonly { first: number; last: number }[], tells: () => () => void, group = new DeviceGroup(null)) {
  let asked = 0;
  const host = { reach: () => ++asked > 0 && reach } as unknown as Host;
  const target = { name: 'toy', offered, confine: tells } as unknown as Target;
  return { release: confine(host, device, { target, endpoint: 8, group }), asked: () => asked, group };
}

describe('confine', () => {
  test('asks the host for the first device of a group, and returns what takes it back', () => {
    const release = () => {};
    const one = confined(offered, () => release);
    expect([one.release, one.asked()]).toEqual([release, 1]);
    expect(confined([], () => release, one.group).asked()).toBe(0);
  });

  test('where the host can map nothing, and where the target cannot tell its guest, that is the host’s error, with the reason', () => {
    const caught = (work: () => unknown): HostError => {
      try {
        work();
      } catch (error) {
        if (error instanceof HostError) return error;
        throw error;
      }
      throw new Error('nothing was thrown');
    };
    const nothing = caught(() => confined([], () => () => {}));
    expect([nothing.errno, nothing.range]).toEqual([errno.ERANGE, { first: 0, last: 0xff }]);
    expect(nothing.message).toMatch(/vfio0: the host can map nothing of it/);
    const untold = caught(() =>
      confined(offered, () => {
        throw new RangeError('too many ranges');
      }),
    );
    expect([untold.errno, untold.message]).toEqual([
      errno.ERANGE,
      expect.stringMatching(/toy cannot tell its guest what vfio0 does not reach: too many ranges/),
    ]);
    const fault = new TypeError('a fault');
    expect(() =>
      confined(offered, () => {
        throw fault;
      }),
    ).toThrow(fault);
  });
});
