import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { MemoryBackend, VirtioBlock } from '../../../src/vmm/devices/index.ts';
import { PciVfioDevice } from '../../../src/vmm/vfio-user/index.ts';
import { CONFIG_REGION } from '../../../src/vmm/vfio-user/spec.ts';
import { VirtioPci } from '../../../src/vmm/virtio/index.ts';
import { CAPABILITY, COMMON, Structure } from '../../../src/vmm/virtio/spec.ts';
import { reaching } from '../../reaching.ts';

/* VIRTIO 1.3, 4.1.4.9: a window of configuration space on what is behind BARs. No BAR has an address here, and no enable is set. */

function rig() {
  const levels: boolean[] = [];
  const block = new VirtioBlock(GuestMemory.ofBytes(1 << 16), new MemoryBackend(1 << 20), () => {});
  const transport = new VirtioPci(block.description, { setIntx: (level) => levels.push(level) });
  const { fn } = transport;
  const places = new Map<number, number>();
  for (let at = fn.readConfig(0x34, 1); at !== 0; at = fn.readConfig(at + 1, 1))
    if (fn.readConfig(at, 1) === 9) places.set(fn.readConfig(at + CAPABILITY.TYPE, 1), at);
  const window = places.get(Structure.CONFIG)!;
  /** Where a structure of this kind begins in BAR 0. */
  const placeOf = (kind: number) => fn.readConfig(places.get(kind)! + CAPABILITY.OFFSET, 4);
  const aim = (bar: number, offset: number, length: number) => {
    fn.writeConfig(window + CAPABILITY.BAR, 1, bar);
    fn.writeConfig(window + CAPABILITY.OFFSET, 4, offset);
    fn.writeConfig(window + CAPABILITY.LENGTH, 4, length);
  };
  const read = (bytes = 4, at = 0) => fn.readConfig(window + CAPABILITY.CONFIG_DATA + at, bytes);
  const write = (value: number, bytes = 4, at = 0) => fn.writeConfig(window + CAPABILITY.CONFIG_DATA + at, bytes, value);
  return { transport, fn, levels, window, placeOf, aim, read, write, status: () => Number(fn.readBar(0, COMMON.DEVICE_STATUS, 1)) };
}

describe('the window', () => {
  test('is there once, as long as its data, and its fields are software’s', () => {
    const { fn, window } = rig();
    expect([fn.readConfig(window + 2, 1), fn.readConfig(window + CAPABILITY.LENGTH, 4)]).toEqual([20, 0]);
    for (const [at, bytes] of [[CAPABILITY.BAR, 1] as const, [CAPABILITY.OFFSET, 4] as const, [CAPABILITY.LENGTH, 4] as const]) {
      fn.writeConfig(window + at, bytes, 0x89ab_cdef);
      expect(fn.readConfig(window + at, bytes)).toBe(bytes === 1 ? 0xef : 0x89ab_cdef);
    }
    fn.writeConfig(window, 4, 0xffff_ffff);
    expect([fn.readConfig(window, 1), fn.readConfig(window + CAPABILITY.TYPE, 1)]).toEqual([9, Structure.CONFIG]);
  });

  test.each([1, 2, 4])('reads %i bytes behind the BAR, and leaves the rest of the data', (length) => {
    const { fn, aim, read, write, placeOf } = rig();
    write(0xffff_ffff);
    aim(0, placeOf(Structure.COMMON) + COMMON.QUEUE_SIZE, length);
    const there = Number(fn.readBar(0, COMMON.QUEUE_SIZE, length));
    expect(read() % 2 ** (8 * length)).toBe(there);
    expect(read(4) >>> 24).toBe(length === 4 ? there >>> 24 : 0xff);
  });

  test('writes behind the BAR as many bytes as it is long, whatever the width of the access', () => {
    const { aim, write, read, placeOf, status } = rig();
    aim(0, placeOf(Structure.COMMON) + COMMON.DEVICE_STATUS, 1);
    write(0xffff_ff01);
    expect([status(), read(1)]).toEqual([1, 1]);
    write(3, 1);
    expect(status()).toBe(3);
    // A write to another byte of the data is one to the window, too.
    aim(0, placeOf(Structure.COMMON) + COMMON.DEVICE_STATUS, 1);
    write(0, 1, 3);
    expect(status()).toBe(3);
  });

  test('reaches what a read changes, once a read', () => {
    const { transport, levels, aim, read, placeOf } = rig();
    transport.interrupt(0);
    aim(0, placeOf(Structure.ISR), 1);
    expect(levels).toEqual([true]);
    expect([read(1), levels, read(1)]).toEqual([1, [true, false], 0]);
  });

  test('through vfio-user a read of it is one access', () => {
    const { transport, fn, window, aim, placeOf } = rig();
    const device = new PciVfioDevice(fn);
    aim(0, placeOf(Structure.DEVICE), 4);
    const before = transport.accesses.reads;
    const data = new DataView(new ArrayBuffer(4));
    device.readRegion(CONFIG_REGION, window + CAPABILITY.CONFIG_DATA, data);
    expect([data.getUint32(0, true), transport.accesses.reads - before]).toEqual([(1 << 20) / 512, 1]);
  });

  test.each([
    ['a length of 3', 0, COMMON.DEVICE_STATUS, 3],
    ['a length of 8', 0, 16, 8],
    ['no length', 0, COMMON.DEVICE_STATUS, 0],
    ['a length beyond all', 0, COMMON.DEVICE_STATUS, 0xffff_ff01],
    ['an offset that is no multiple of the length', 0, COMMON.DEVICE_STATUS - 1, 2],
  ] as const)('with %s it is memory and no more', (_, bar, offset, length) => {
    const { transport, aim, read, write } = rig();
    aim(bar, offset, length);
    write(0x0f0f_0f0f);
    expect([read(), transport.accesses]).toEqual([0x0f0f_0f0f, { reads: 0, writes: 0 }]);
  });

  test.each([
    ['BAR 1, that there is not', 1, 0],
    ['the upper half of nothing', 5, 0x2000],
    ['BAR 255', 255, 0],
    ['what lies behind the end', 0, 0x8000],
    ['the last address', 0, 0xffff_fffc],
  ] as const)('%s reads zero and takes nothing', (_, bar, offset) => {
    const { transport, aim, read, write } = rig();
    aim(bar, offset, 4);
    write(0x0f0f_0f0f);
    expect([read(), transport.accesses]).toEqual([0, { reads: 0, writes: 0 }]);
  });

  test('goes back with a reset, and is where it was after save and load', () => {
    const { fn, aim, read, placeOf } = rig();
    aim(0, placeOf(Structure.COMMON) + COMMON.QUEUE_SIZE, 2);
    const other = rig();
    other.fn.load(fn.save());
    expect([other.read(2), read(2)]).toEqual([256, 256]);
    fn.reset();
    expect(read()).toBe(0);
  });
});

describe('a hostile guest', () => {
  const reached = reaching('configuration access', 'behind the BAR', 'nowhere');
  const write = fc.record({
    at: fc.oneof({ weight: 5, arbitrary: fc.constantFrom(4, 8, 12, 16) }, { weight: 1, arbitrary: fc.integer({ min: 0, max: 22 }) }),
    bytes: fc.constantFrom(1, 2, 4, 4),
    value: fc.oneof(fc.constantFrom(0, 0, 1, 2, 4, 4, 0x14, 0x16, 0x1000, 0x2000, 0x3000, 0x4000, 0x8000), fc.integer()),
  });

  property.prop([fc.array(write, { minLength: 10, maxLength: 60 })], { numRuns: 200 })(
    'reaches by any writes what a driver reaches, and throws nothing',
    (writes) => {
      reached();
      const { fn, transport, window, read } = rig();
      for (const { at, bytes, value } of writes) {
        fn.writeConfig(window + at, bytes, value);
        const before = transport.accesses.reads;
        const word = read();
        expect(Number.isInteger(word) && word >= 0 && word <= 0xffff_ffff).toBe(true);
        reached(transport.accesses.reads > before ? 'behind the BAR' : 'nowhere');
        expect(transport.accesses.reads - before).toBeLessThan(2);
      }
      expect([fn.readConfig(0, 4), fn.readConfig(window, 1), fn.readConfig(window + 3, 1)]).toEqual([0x1042_1af4, 9, Structure.CONFIG]);
    },
  );
});
