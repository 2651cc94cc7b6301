import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../../src/target/virtio-iommu/index.ts';
import { CONFIG_INTERRUPT } from '../../../src/virtqueue/index.ts';
import { F_VERSION_1 } from '../../../src/virtqueue/spec.ts';
import { MemoryBackend, VirtioBlock } from '../../../src/vmm/devices/index.ts';
import { F_ACCESS_PLATFORM, VIRTIO_MMIO_BYTES, VirtioMmio, VirtioType } from '../../../src/vmm/virtio/index.ts';
import type { VirtioDescription } from '../../../src/vmm/virtio/model.ts';
import { SplitDriver } from '../../virtqueue/driver.ts';

const FEATURES = F_VERSION_1 | F_ACCESS_PLATFORM;

/** A disk whose rings lie in guest memory as it is, and a driver. */
class Rig {
  readonly memory = GuestMemory.ofBytes(1 << 20);
  readonly backend = new MemoryBackend(1 << 16);
  readonly levels: boolean[] = [];
  readonly block = new VirtioBlock(this.memory, this.backend, (source) => this.transport.interrupt(source));
  readonly transport: VirtioMmio = new VirtioMmio(this.block.description, (level) => this.levels.push(level));

  get = (offset: number, bytes = 4) => Number(this.transport.read(offset, bytes));
  put = (offset: number, value: number | bigint, bytes = 4) => this.transport.write(offset, bytes, BigInt(value));

  start(features = FEATURES): SplitDriver {
    this.put(0x70, 0);
    this.put(0x70, 3);
    for (const select of [0, 1]) {
      this.put(0x24, select);
      this.put(0x20, (features >> BigInt(32 * select)) & 0xffff_ffffn);
    }
    this.put(0x70, 11);
    const driver = new SplitDriver(this.memory, 0x10000, 16);
    this.put(0x30, 0);
    this.put(0x38, 16);
    const { descriptors, driver: area, device } = driver.setup;
    [descriptors, area, device].forEach((address, i) => {
      this.put(0x80 + 16 * i, address & 0xffff_ffffn);
      this.put(0x84 + 16 * i, address >> 32n);
    });
    this.put(0x44, 1);
    this.put(0x70, 15);
    return driver;
  }
}

/** FLUSH. */
const flush = { readable: Uint8Array.of(4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), writable: 1 };

describe('registers (4.2.2)', () => {
  test('say what is there', () => {
    const rig = new Rig();
    expect([rig.get(0), rig.get(4), rig.get(8), rig.get(0x34), rig.get(0x100, 8)]).toEqual([0x7472_6976, 2, VirtioType.BLOCK, 256, 128]);
    rig.put(0x14, 1);
    expect(rig.get(0x10) & 3).toBe(3);
    rig.put(0x14, 2);
    expect(rig.get(0x10)).toBe(0);
    rig.put(0x30, 1);
    expect(rig.get(0x34)).toBe(0);
  });

  test('other widths than 32 bits do nothing', () => {
    const rig = new Rig();
    rig.put(0x70, 1, 1);
    expect([rig.get(0x70), rig.get(0, 2)]).toEqual([0, 0]);
  });

  test('a request is done, the wire asserted until it is acknowledged', () => {
    const rig = new Rig();
    const driver = rig.start();
    expect([rig.get(0x70), rig.get(0x44)]).toEqual([15, 1]);
    driver.add(flush);
    rig.put(0x50, 0);
    expect(driver.collect().map(({ bytes }) => bytes[0])).toEqual([0]);
    expect([rig.get(0x60), rig.levels]).toEqual([1, [true]]);
    rig.transport.interrupt(CONFIG_INTERRUPT);
    rig.put(0x64, 1);
    expect([rig.get(0x60), rig.levels]).toEqual([2, [true]]);
    rig.put(0x64, 2);
    expect(rig.levels).toEqual([true, false]);
  });

  test('a queue that is taken out of use does nothing, and can be set up again', () => {
    const rig = new Rig();
    rig.start().add(flush);
    rig.put(0x44, 0);
    rig.put(0x50, 0);
    expect([rig.get(0x44), rig.get(0x60)]).toEqual([0, 0]);
    const driver = rig.start();
    driver.add(flush);
    rig.put(0x50, 0);
    expect(driver.collect().length).toBe(1);
  });

  test('features that are not offered are not accepted', () => {
    const rig = new Rig();
    rig.start(FEATURES | (1n << 50n));
    expect(rig.get(0x70) & 8).toBe(0);
  });

  property.prop([
    fc.array(fc.record({ offset: fc.nat(VIRTIO_MMIO_BYTES - 8), bytes: fc.constantFrom(1, 2, 4, 8), value: fc.nat(0xffff) })),
  ])('whatever is written, the device can be started', (writes) => {
    const rig = new Rig();
    for (const { offset, bytes, value } of writes) {
      rig.put(offset, value, bytes);
      rig.get(offset, bytes);
    }
    rig.transport.reset();
    const driver = rig.start();
    driver.add(flush);
    rig.put(0x50, 0);
    expect(driver.collect().length).toBe(1);
  });
});

test('a queue whose work goes on in another turn is left to it, however often the driver notifies', async () => {
  const runs: number[] = [];
  const left = [3, 1];
  const device = { queueSize: 8, status: 0, offeredFeatures: 0n, driverFeatures: 0n, setQueue: () => true };
  const notify = (queue: number) => {
    runs.push(queue);
    return --left[queue] > 0;
  };
  const model = { device, notify, readConfig: () => {}, writeConfig: () => {} };
  const registers = new VirtioMmio({ type: 2, queues: 2, configBytes: 0, classCode: 0, model } as unknown as VirtioDescription, () => {});
  const QUEUE_NOTIFY = 0x50;
  for (const queue of [0n, 0n, 1n, 0n, 2n]) registers.write(QUEUE_NOTIFY, 4, queue);
  expect(runs).toEqual([0, 1]);
  while (left[0] > 0) await new Promise((resolve) => setImmediate(resolve));
  expect(runs).toEqual([0, 1, 0, 0]);
  // Done, it is served at once; and after a reset nothing goes on.
  left[0] = 9;
  registers.write(QUEUE_NOTIFY, 4, 0n);
  registers.reset();
  await new Promise((resolve) => setImmediate(resolve));
  expect(runs).toEqual([0, 1, 0, 0, 0]);
});

test('a virtio-iommu is a device like any other', () => {
  const memory = GuestMemory.ofBytes(1 << 20);
  const iommu: VirtioIommu = new VirtioIommu({ memory, interrupt: (source) => transport.interrupt(source) });
  const description = { type: VirtioType.IOMMU, queues: 2, configBytes: 40, classCode: 0, model: iommu };
  const transport: VirtioMmio = new VirtioMmio(description, () => {});
  expect(transport.read(0x08, 4)).toBe(23n);
  expect(transport.read(0x100, 8)).toBe(0xffff_ffff_ffff_f000n);
});
