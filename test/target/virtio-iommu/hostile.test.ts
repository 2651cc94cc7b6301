import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../../src/target/virtio-iommu/index.ts';
import { EVENT_QUEUE, REQUEST_QUEUE } from '../../../src/target/virtio-iommu/spec/features.ts';
import { S_OK } from '../../../src/target/virtio-iommu/spec/requests.ts';
import { CHAIN_LIMIT } from '../../../src/virtqueue/chain.ts';
import { STATUS_DRIVER_OK, STATUS_NEEDS_RESET } from '../../../src/virtqueue/spec.ts';
import type { QueueSetup } from '../../../src/virtqueue/virtqueue.ts';
import type { Driver } from '../../virtqueue/driver.ts';
import { EP, featuresOf, type RingKind, ringKinds, start } from './fixture.ts';
import { attach, map, unmap } from './requests.ts';

const RAM_BYTES = 0x10_0000;
const QUEUE_SIZE = 256;

/** Counts the entries that the device reads: its work. */
class CountedMemory extends GuestMemory {
  loads = 0;
  /** Called before each 16-bit load: another CPU of the guest, at work meanwhile. */
  meanwhile: () => void = () => undefined;

  constructor() {
    super([{ gpa: 0n, buffer: new SharedArrayBuffer(RAM_BYTES) }]);
  }
  override load64(hi: number, lo: number): number {
    this.loads++;
    return super.load64(hi, lo);
  }
  override load16(hi: number, lo: number): number {
    this.loads++;
    this.meanwhile();
    return super.load16(hi, lo);
  }
}

/** A device whose queues lie where they are told. */
function placed(kind: RingKind, requests: QueueSetup, events?: QueueSetup): { iommu: VirtioIommu; memory: CountedMemory } {
  const memory = new CountedMemory();
  const iommu = new VirtioIommu({ memory, queueSize: 32_768 });
  iommu.addEndpoint(EP);
  iommu.negotiate(featuresOf(iommu, kind));
  iommu.device.setQueue(REQUEST_QUEUE, requests);
  if (events) iommu.device.setQueue(EVENT_QUEUE, events);
  iommu.device.status |= STATUS_DRIVER_OK;
  return { iommu, memory };
}

const needsReset = (iommu: VirtioIommu) => (iommu.device.status & STATUS_NEEDS_RESET) !== 0;

describe.each(ringKinds)('a hostile driver, $name ring', (kind) => {
  const descriptor = (memory: GuestMemory, at: number, address: number, bytes: number, flags: number, next: number) => {
    memory.store64(0, at, 0, address);
    memory.store32(0, at + 8, bytes);
    memory.store16(0, at + 12, kind.packed ? next : flags);
    memory.store16(0, at + 14, kind.packed ? flags | 0x80 : next);
  };
  const setup: QueueSetup = { size: 32_768, descriptors: 0n, driver: 0x8_0000n, device: 0xa_0000n };
  const offer = (memory: GuestMemory) => {
    if (!kind.packed) memory.store16(0, 0x8_0002, 1);
  };

  test.each([
    ['a chain that comes back to its head', 1],
    ['a chain that goes on through the whole ring', 0],
  ])('%s: the device needs a reset, after CHAIN_LIMIT descriptors at most', (_name, step) => {
    const { iommu, memory } = placed(kind, setup);
    for (let i = 0; i < 32_768; i++) descriptor(memory, 16 * i, 0x9_0000, 1, 1, step === 1 ? 0 : i + 1);
    offer(memory);
    expect(iommu.notify(REQUEST_QUEUE)).toBe(false);
    expect(needsReset(iommu)).toBe(true);
    expect(memory.loads).toBeLessThan(2 * CHAIN_LIMIT + 20);
  });

  test.each([
    ['of 4 GiB less 16 bytes', 0xffff_fff0, 0x9_0000],
    ['of no whole descriptors', 24, 0x9_0000],
    ['of no descriptor', 0, 0x9_0000],
    ['outside RAM', 32, RAM_BYTES],
    ['that sticks out of RAM', 32, RAM_BYTES - 16],
    ['that is its own table', 16, 0],
  ])('an indirect table %s', (_name, bytes, address) => {
    const { iommu, memory } = placed(kind, setup);
    for (let i = 0; i < CHAIN_LIMIT + 10; i++) descriptor(memory, 0x9_0000 + 16 * i, 0x9_0000, 1, 1, i + 1);
    descriptor(memory, RAM_BYTES - 16, 0x9_0000, 1, 1, 1);
    descriptor(memory, 0, address, bytes, 4, 0);
    offer(memory);
    iommu.notify(REQUEST_QUEUE);
    // A packed ring ignores the flags of an indirect descriptor (2.8.7): its own table is then a buffer of 16 bytes.
    expect(needsReset(iommu)).toBe(!(kind.packed && address === 0));
    expect(memory.loads).toBeLessThan(2 * CHAIN_LIMIT + 20);
  });

  test('buffers outside RAM come back empty, those of 4 GiB are as good as others', () => {
    const { iommu, memory } = placed(kind, { ...setup, size: 4 });
    memory.write(0, 0x9_0000, attach(1, EP).readable, 0, 20);
    descriptor(memory, 0, 0x9_0000, 20, 1, 1);
    descriptor(memory, 16, 0x9_1000, 0xffff_ffff, 2, 0);
    descriptor(memory, 32, RAM_BYTES - 4, 20, 1, 3);
    descriptor(memory, 48, 0x9_1000, 4, 2, 0);
    memory.store16(0, 0x8_0004 + 2, 2);
    if (!kind.packed) memory.store16(0, 0x8_0002, 2);
    iommu.notify(REQUEST_QUEUE);
    expect(needsReset(iommu)).toBe(false);
    memory.load32(0, 0x9_1000);
    expect(memory.word[0]).toBe(S_OK);
    expect(iommu.counts.domains).toBe(1);
    const used = kind.packed ? [8, 32 + 8] : [0xa_0004 + 4, 0xa_0004 + 12];
    expect(used.map((at) => memory.load32(0, at) + memory.word[0])).toEqual([4, 0]);
  });

  test.each<[string, Partial<QueueSetup>]>([
    ['at the edge of RAM', { descriptors: BigInt(RAM_BYTES - 16) }],
    ['driver area at the edge of RAM', { driver: BigInt(RAM_BYTES - 4) }],
    ['device area at the edge of RAM', { device: BigInt(RAM_BYTES - 4) }],
    ['above all RAM', { descriptors: 2n ** 64n - 16n, driver: 2n ** 63n, device: 2n ** 53n }],
    ['all three areas in one place', { driver: 0n, device: 0n }],
    ['the used ring on the descriptors', { device: 0n }],
    ['the available ring on the used ring', { driver: 0xa_0000n }],
  ])('a queue %s: no exception, bounded work', (_name, where) => {
    for (const size of [1, 2, 256, 32_768]) {
      const queue = { ...setup, ...where, size };
      const { iommu, memory } = placed(kind, queue, queue);
      for (let i = 0; i < 64; i++) descriptor(memory, 16 * i, 16 * i, 32, i % 2 === 0 ? 1 : 2, i + 1);
      for (let idx = 0; idx < 3; idx++) {
        memory.store16(0, Number(queue.driver & 0xf_ffffn) + 2, idx * size);
        memory.loads = 0;
        iommu.notify(REQUEST_QUEUE);
        iommu.translate(EP, -1, 0, 0x5000, 1);
        expect(memory.loads).toBeLessThan(40 * 32_768);
      }
    }
  });

  test.skipIf(kind.packed)('an available index or a head out of range (split rings only: packed ones have neither)', () => {
    for (const [offset, value] of [
      [2, 257],
      [2, 0xffff],
      [4, 256],
      [4, 0xffff],
    ]) {
      const { iommu, memory } = placed(kind, { ...setup, size: 256 });
      memory.store16(0, 0x8_0002, 1);
      memory.store16(0, 0x8_0000 + offset, value);
      expect(iommu.notify(REQUEST_QUEUE)).toBe(false);
      expect(needsReset(iommu)).toBe(true);
      expect(memory.loads).toBeLessThan(10);
    }
  });

  test('a guest that makes requests available faster than they are served: a notification serves one queue full and says that there is more', () => {
    const memory = new CountedMemory();
    const { iommu, requests } = start(kind, QUEUE_SIZE / 4, { memory });
    let added = 0;
    let asleep = false;
    const feed = (driver: Driver) => {
      if (asleep) return;
      asleep = true;
      driver.collect();
      while (driver.waiting.length < 8) {
        driver.add(unmap(1, 0n, 0xfffn));
        added++;
      }
      asleep = false;
    };
    memory.meanwhile = () => feed(requests);
    expect(iommu.notify(REQUEST_QUEUE)).toBe(true);
    expect(added).toBeLessThan(QUEUE_SIZE + 16);
    memory.meanwhile = () => undefined;
    expect(iommu.notify(REQUEST_QUEUE)).toBe(false);
    requests.collect();
    expect(requests.waiting).toEqual([]);
  });

  test('as many mappings as the cap, one UNMAP over all', () => {
    const fixture = start(kind, 64, { mappingLimit: 1000 });
    const { iommu, requests } = fixture;
    iommu.attach(1, EP);
    for (let i = 0; i < 1010; i += 10) {
      for (let j = i; j < i + 10; j++) requests.add(map(1, BigInt(2 * j) << 12n, (BigInt(2 * j) << 12n) | 0xfffn, 0n));
      iommu.notify(REQUEST_QUEUE);
      requests.collect();
    }
    expect(iommu.counts.mappings).toBe(1000);
    requests.add(unmap(1, 0n, 2n ** 64n - 1n));
    iommu.notify(REQUEST_QUEUE);
    expect(requests.collect()[0].bytes[0]).toBe(S_OK);
    expect(iommu.counts.mappings).toBe(0);
  });
});
