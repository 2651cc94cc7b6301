import { beforeEach, describe, expect, test } from 'vitest';
import type { QueueSetup } from '../../../src/virtqueue/index.ts';
import { CommonConfig } from '../../../src/vmm/virtio/common-config.ts';
import type { VirtioDescription } from '../../../src/vmm/virtio/model.ts';
import { COMMON, NO_VECTOR } from '../../../src/vmm/virtio/spec.ts';

/* VIRTIO 1.3, 4.1.4.3: what a driver reads of what it wrote, before and after a queue is enabled. */

const VECTORS = 3;

describe('the common configuration structure', () => {
  let setups: [queue: number, setup: QueueSetup | null][];
  let accepts: boolean;
  let resets: number;
  let config: CommonConfig;

  beforeEach(() => {
    setups = [];
    accepts = true;
    resets = 0;
    const device = {
      queueSize: 256,
      offeredFeatures: (1n << 32n) | 5n,
      driverFeatures: 0n,
      status: 0,
      setQueue: (queue: number, setup: QueueSetup | null) => {
        setups.push([queue, setup]);
        return accepts;
      },
    };
    config = new CommonConfig({ queues: 2, model: { device } } as unknown as VirtioDescription, VECTORS, () => void resets++);
  });

  const read = (offset: number, bytes: number) => config.read(offset, bytes);
  const write = (offset: number, bytes: number, value: bigint) => config.write(offset, bytes, value);

  test('features by words; those that are selected beyond 64 bits are 0', () => {
    const features = [0n, 1n, 2n].map((word) => {
      write(COMMON.DEVICE_FEATURE_SELECT, 4, word);
      return read(COMMON.DEVICE_FEATURE, 4);
    });
    expect(features).toEqual([5n, 1n, 0n]);
  });

  test('a queue as the driver sets it up, in halves or whole; enabled, it is what it was', () => {
    write(COMMON.QUEUE_SELECT, 2, 1n);
    write(COMMON.QUEUE_SIZE, 2, 8n);
    write(COMMON.QUEUE_DESC, 8, 0x1_0000_1000n);
    write(COMMON.QUEUE_DESC + 8, 4, 0x2000n);
    write(COMMON.QUEUE_DESC + 12, 4, 2n);
    write(COMMON.QUEUE_DESC + 16, 8, 0x3000n);
    write(COMMON.QUEUE_ENABLE, 2, 1n);
    expect(setups).toEqual([[1, { size: 8, descriptors: 0x1_0000_1000n, driver: 0x2_0000_2000n, device: 0x3000n }]]);
    // 4.1.4.3.2: "The driver MUST NOT" from here on, and nothing comes of it.
    write(COMMON.QUEUE_SIZE, 2, 16n);
    write(COMMON.QUEUE_DESC, 8, 0n);
    write(COMMON.QUEUE_ENABLE, 2, 0n);
    write(COMMON.QUEUE_ENABLE, 2, 1n);
    expect([read(COMMON.QUEUE_SIZE, 2), read(COMMON.QUEUE_DESC, 8), read(COMMON.QUEUE_ENABLE, 2), setups.length]).toEqual([
      8n,
      0x1_0000_1000n,
      1n,
      1,
    ]);
    write(COMMON.QUEUE_SELECT, 2, 0n);
    expect([read(COMMON.QUEUE_SIZE, 2), read(COMMON.QUEUE_ENABLE, 2), read(COMMON.QUEUE_DESC, 8)]).toEqual([256n, 0n, 0n]);
  });

  test('each queue is notified at a place of its own (queue_notify_off)', () => {
    const places = [0n, 1n].map((queue) => {
      write(COMMON.QUEUE_SELECT, 2, queue);
      return read(COMMON.QUEUE_NOTIFY_OFF, 2);
    });
    expect(places).toEqual([0n, 1n]);
  });

  test('a queue that the device does not take is not enabled, and can be set up otherwise', () => {
    accepts = false;
    write(COMMON.QUEUE_ENABLE, 2, 1n);
    expect(read(COMMON.QUEUE_ENABLE, 2)).toBe(0n);
    accepts = true;
    write(COMMON.QUEUE_SIZE, 2, 4n);
    write(COMMON.QUEUE_ENABLE, 2, 1n);
    expect([read(COMMON.QUEUE_ENABLE, 2), setups.at(-1)?.[1]?.size]).toEqual([1n, 4]);
  });

  test('a queue that there is not has size 0, and takes nothing', () => {
    write(COMMON.QUEUE_SELECT, 2, 2n);
    for (const [offset, bytes] of [
      [COMMON.QUEUE_SIZE, 2],
      [COMMON.QUEUE_DESC, 8],
      [COMMON.QUEUE_MSIX_VECTOR, 2],
      [COMMON.QUEUE_ENABLE, 2],
    ])
      write(offset, bytes, 1n);
    expect([read(COMMON.QUEUE_SIZE, 2), read(COMMON.QUEUE_ENABLE, 2), setups]).toEqual([0n, 0n, []]);
  });

  test('vectors that there are, and NO_VECTOR for others', () => {
    write(COMMON.CONFIG_MSIX_VECTOR, 2, BigInt(VECTORS - 1));
    write(COMMON.QUEUE_MSIX_VECTOR, 2, BigInt(VECTORS));
    expect([config.configVector, config.vectorOf(0), config.vectorOf(9)]).toEqual([VECTORS - 1, NO_VECTOR, NO_VECTOR]);
  });

  test('registers are written whole, 64-bit ones in halves; other widths do nothing', () => {
    write(COMMON.QUEUE_SIZE, 1, 4n);
    write(COMMON.QUEUE_SIZE, 4, 4n);
    write(COMMON.QUEUE_DESC, 2, 4n);
    write(COMMON.QUEUE_DESC + 4, 8, 4n);
    write(COMMON.QUEUE_DESC + 24, 8, 4n);
    expect([read(COMMON.QUEUE_SIZE, 2), read(COMMON.QUEUE_DESC, 8)]).toEqual([256n, 0n]);
  });

  test('status 0 is a reset: all is as before any driver came', () => {
    const fresh = read(0, COMMON.BYTES);
    write(COMMON.DEVICE_FEATURE_SELECT, 4, 1n);
    write(COMMON.DRIVER_FEATURE_SELECT, 4, 1n);
    write(COMMON.CONFIG_MSIX_VECTOR, 2, 1n);
    write(COMMON.QUEUE_SELECT, 2, 1n);
    write(COMMON.QUEUE_SIZE, 2, 8n);
    write(COMMON.QUEUE_ENABLE, 2, 1n);
    expect(read(0, COMMON.BYTES)).not.toBe(fresh);
    write(COMMON.DEVICE_STATUS, 1, 0n);
    expect([resets, read(0, COMMON.BYTES)]).toEqual([1, fresh]);
    write(COMMON.QUEUE_SELECT, 2, 1n);
    expect([read(COMMON.QUEUE_SIZE, 2), read(COMMON.QUEUE_ENABLE, 2)]).toEqual([256n, 0n]);
  });
});
