import { describe, expect, test } from 'vitest';
import { errno, HostError } from '../../src/host/errno.ts';
import type { HostDevice, HostSpace, IovaRange } from '../../src/host/host.ts';
import { outOfReach, reachThrough } from '../../src/host/reach.ts';
import { sharedMemoryOf } from '../../src/host/shared-memory.ts';

const range = (first: number, last: number): IovaRange => ({ first, last });

describe('reach', () => {
  test('begins at the lowest and ends at the highest aperture, whatever lies between', () => {
    const apertures = [range(100, 199), range(10, 19)];
    expect(outOfReach(apertures, [range(10, 199), range(50, 60)])).toBeUndefined();
    expect(outOfReach(apertures, [range(10, 20), range(9, 12)])).toEqual(range(9, 12));
    expect(outOfReach(apertures, [range(150, 200)])).toEqual(range(150, 200));
    expect(outOfReach([], [range(0, 0)])).toEqual(range(0, 0));
  });

  /** A space that refuses what it is told to, and says what was asked of it. */
  function spaceOf(refuses: { attach?: number; detach?: number; error?: HostError | null; stays?: boolean } = {}) {
    const calls: string[] = [];
    const device = { attachment: null as object | null, close: () => void calls.push('close device') };
    const space = {
      apertures: () => [range(0, 9), range(20, 29)],
      error: refuses.error ?? null,
      attach: () => {
        calls.push('attach');
        if (refuses.attach === undefined || refuses.stays) device.attachment = space;
        return refuses.attach ?? 0;
      },
      detach: () => {
        calls.push('detach');
        return refuses.detach ?? 0;
      },
      close: () => void calls.push('close'),
    };
    return { calls, space: space as unknown as HostSpace, device: device as unknown as HostDevice };
  }

  test('is what an empty space with the device could map of what is wanted; nothing is left of the space', () => {
    const { calls, space, device } = spaceOf();
    expect(reachThrough(space, device, [range(5, 24), range(40, 50)])).toEqual([range(5, 9), range(20, 24)]);
    expect(calls).toEqual(['attach', 'detach', 'close']);
  });

  test('of a device that is refused is the reason, and a space that it did not enter is closed', () => {
    const refused = spaceOf({ attach: -errno.ENOMEM });
    expect(() => reachThrough(refused.space, refused.device, [])).toThrow('attach: EIO');
    expect(refused.calls).toEqual(['attach', 'close']);
    const error = new HostError('ATTACH', errno.ENOMEM);
    const stays = spaceOf({ attach: -errno.ENOMEM, error, stays: true });
    expect(() => reachThrough(stays.space, stays.device, [])).toThrow(error);
    expect(stays.calls, 'it is in there').toEqual(['attach']);
  });

  test('of a device that cannot be taken out again: it is closed', () => {
    const { calls, space, device } = spaceOf({ detach: -errno.EIO });
    expect(() => reachThrough(space, device, [])).toThrow('detach: EIO');
    expect(calls).toEqual(['attach', 'detach', 'close device']);
    const error = new HostError('DETACH', errno.EBUSY);
    const told = spaceOf({ detach: -errno.EBUSY, error });
    expect(() => reachThrough(told.space, told.device, [])).toThrow(error);
  });

  test('whose windows cannot be opened leaves nothing', () => {
    const { calls, space, device } = spaceOf();
    const open = () => {
      throw new HostError('CREATE', errno.ENOSPC);
    };
    expect(() => reachThrough(space, device, [], open)).toThrow('CREATE: ENOSPC');
    expect(calls).toEqual(['attach', 'detach', 'close']);
  });
});

test('the shared memory that holds all of some pages', () => {
  const [one, other] = [
    { first: 10, pages: 10, file: null },
    { first: 20, pages: 5, file: { fd: 3, offset: 0n } },
  ];
  const of = (first: number, pages: number) => sharedMemoryOf([one, other], first, pages);
  expect([of(10, 10), of(19, 1), of(20, 5), of(24, 1)]).toEqual([one, one, other, other]);
  expect([of(9, 1), of(19, 2), of(20, 6), of(25, 1)]).toEqual([null, null, null, null]);
});
