import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioDevice } from '../../src/virtqueue/device.ts';
import { F_EVENT_IDX, F_RING_PACKED } from '../../src/virtqueue/spec.ts';

const VERSION_1 = 1n << 32n;
const RING = { size: 8, descriptors: 0n, driver: 0x1000n, device: 0x2000n };

function ready(more = 0n) {
  const told: number[] = [];
  const events = { interrupt: (source: number) => told.push(source), negotiated: () => {}, reset: () => {} };
  const device = new VirtioDevice(GuestMemory.ofBytes(1 << 16), VERSION_1 | F_EVENT_IDX | more, 2, 16, events);
  device.driverFeatures = VERSION_1 | more;
  device.status = 11;
  const enabled = [16, 32].map((size) => device.setQueue(0, { ...RING, size }));
  device.setQueue(0, RING);
  device.status = 15;
  return { device, told, enabled };
}

test('a queue is no larger than the device allows, and rests once the device is broken (2.1.2)', () => {
  const { device, told, enabled } = ready();
  expect([enabled, device.queue(0) === null, device.queue(1)]).toEqual([[true, false], false, null]);
  device.breakDown();
  device.breakDown();
  expect([device.queue(0), told]).toEqual([null, [-1]]);
});

describe.each([0n, F_RING_PACKED])('a state, features %s', (packed) => {
  test.each([
    ['another size', { size: 5000 }],
    ['a size that is no number', { size: '8' }],
    ['no size', { size: undefined }],
    ['an address that is none', { driver: 'zz' }],
    ['an address below 0', { descriptors: '-16' }],
    ['an address above 2^64', { device: `${2n ** 64n}` }],
    ['no address', { device: null }],
    ['a position below 0', { positions: packed === 0n ? [0, -1] : [0, 1, -1, 1] }],
    ['half a position', { positions: packed === 0n ? [0.5, 0] : [0.5, 1, 0, 1] }],
    ['a position that is no number', { positions: packed === 0n ? ['0', 0] : ['0', 1, 0, 1] }],
    ['a position behind the end', { positions: packed === 0n ? [0, 0x10000] : [8, 1, 0, 1] }],
    ['positions of the other kind', { positions: packed === 0n ? [0, 1, 0, 1] : [0, 0] }],
    ['no positions', { positions: null }],
    ['a text for positions', { positions: '00' }],
  ])('with a queue of %s is refused and changes nothing', (_what, harm) => {
    const { device } = ready(packed);
    const before = device.save();
    const queue = { ...before.queues[0], ...harm };
    const load = (queues: unknown) => () => device.load({ ...before, features: `${VERSION_1 | packed | F_EVENT_IDX}`, queues } as never);
    expect(load([queue, null])).toThrow(/^VirtioDevice: not a saved state: a queue that is not possible$/);
    expect(device.save()).toEqual(before);
  });

  test.each([undefined, 0, '', 7, true])('with %j for a queue is refused and changes nothing', (queue) => {
    const { device } = ready(packed);
    const before = device.save();
    expect(() => device.load({ ...before, queues: [null, queue] } as never)).toThrow(TypeError);
    expect(device.save()).toEqual(before);
  });

  test('is taken up again', () => {
    const { device } = ready(packed);
    const other = ready(packed).device;
    other.status = 0;
    other.load(JSON.parse(JSON.stringify(device.save())));
    expect([other.save(), other.queue(0) === null]).toEqual([device.save(), false]);
  });
});
