import { expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioDevice } from '../../src/virtqueue/device.ts';

const VERSION_1 = 1n << 32n;
const RING = { size: 8, descriptors: 0n, driver: 0x1000n, device: 0x2000n };

function ready() {
  const told: number[] = [];
  const events = { interrupt: (source: number) => told.push(source), negotiated: () => {}, reset: () => {} };
  const device = new VirtioDevice(GuestMemory.ofBytes(1 << 16), VERSION_1, 2, 16, events);
  device.driverFeatures = VERSION_1;
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

test('a state with a queue that is not possible changes nothing', () => {
  const { device } = ready();
  const before = device.save();
  const [queue] = before.queues;
  expect(() => device.load({ ...before, features: '0', queues: [{ ...queue!, size: 5000 }, null] })).toThrow(TypeError);
  expect(device.save()).toEqual(before);
});
