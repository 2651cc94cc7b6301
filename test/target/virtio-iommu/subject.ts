import { fc } from '@fast-check/vitest';
import { hiOf, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../../src/target/virtio-iommu/index.ts';
import { EVENT_QUEUE, REQUEST_QUEUE } from '../../../src/target/virtio-iommu/spec/features.ts';
import { STATUS_DRIVER_OK, STATUS_NEEDS_RESET } from '../../../src/virtqueue/spec.ts';
import type { Buffer, Driver } from '../../virtqueue/driver.ts';
import type { TargetFixture, TargetSubject } from '../suite.ts';
import { arbitraryRequest } from './arbitrary.ts';
import { EP, MSI, OTHER, type RingKind, ringKinds, setUp, start } from './fixture.ts';
import { attach, map, unmap } from './requests.ts';

/** A kick with these requests; or the driver writes `bypass`; or it resets the device and sets it up again. */
type Step = readonly Buffer[] | { readonly bypass: number } | 'restart';

const RAM_BYTES = 0x20_0000;

/** The device with its driver. */
class VirtioFixture implements TargetFixture<Step> {
  readonly target: VirtioIommu;
  readonly memory: GuestMemory;
  readonly endpoints = [EP, OTHER];
  readonly kind: RingKind;
  requests: Driver;
  events: Driver;

  constructor(kind: RingKind, like?: VirtioFixture) {
    this.kind = kind;
    if (like === undefined) {
      const { iommu, memory, requests, events } = start(kind, 32, { memory: GuestMemory.ofBytes(RAM_BYTES), bootBypass: true });
      this.target = iommu;
      this.memory = memory;
      this.requests = requests;
      this.events = events;
      return;
    }
    this.memory = like.memory;
    this.requests = like.requests;
    this.events = like.events;
    this.target = new VirtioIommu({ memory: this.memory, bootBypass: true });
    this.target.addEndpoint(EP);
    this.target.addEndpoint(OTHER, [MSI]);
  }

  run(step: Step): unknown {
    if (step === 'restart') {
      // The rings begin anew, in the same memory.
      const Ring = this.requests.constructor as new (memory: GuestMemory, base: number, size: number) => Driver;
      for (const { base, bytes } of [this.requests, this.events]) this.memory.write(0, base, new Uint8Array(bytes), 0, bytes);
      this.requests = new Ring(this.memory, this.requests.base, this.requests.size);
      this.events = new Ring(this.memory, this.events.base, this.events.size);
      setUp(this.target, this.kind, this.requests, this.events);
      return null;
    }
    if ('bypass' in step) {
      this.target.writeConfig(36, Uint8Array.of(step.bypass));
      const bytes = new Uint8Array(40);
      this.target.readConfig(0, bytes);
      return bytes;
    }
    // A driver leaves a broken device alone until it resets it (2.1.1).
    if ((this.target.device.status & STATUS_NEEDS_RESET) !== 0) return null;
    for (const buffer of step) this.requests.add(buffer);
    const more = this.target.notify(REQUEST_QUEUE);
    return [more, this.requests.collect()];
  }
}

const word = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.bigInt({ min: 0n, max: BigInt(RAM_BYTES) + 64n }),
  fc.constantFrom(0n, 1n, 2n ** 64n - 1n),
);
/** Places where rings are or may be: in the driver's own queues, at the edges of RAM, in a few fixed places that meet, anywhere. */
const place = fc.oneof(
  fc.nat(0x1_1000).map((at) => BigInt(at & ~15)),
  fc.constantFrom(
    0n,
    0x1_0000n,
    0x1_0010n,
    0x1_0200n,
    BigInt(RAM_BYTES) - 16n,
    BigInt(RAM_BYTES) - 4n,
    BigInt(RAM_BYTES),
    2n ** 32n - 16n,
    2n ** 64n - 16n,
  ),
  word,
);
const size = fc.oneof(fc.constantFrom(0, 1, 2, 8, 32, 256, 257, 65_535), fc.nat(40));

const hostile = fc.oneof(
  fc.tuple(place, word).map(([at, value]) => ({
    what: `store 0x${at.toString(16)} 0x${value.toString(16)}`,
    act: ({ memory }: TargetFixture<Step>) => void memory.store64(hiOf(at), loOf(at), hiOf(value), loOf(value)),
  })),
  fc.tuple(fc.nat(40), fc.integer({ min: -1, max: 0xffff }), fc.nat(0xffff)).map(([entry, index, flags]) => ({
    what: `descriptor ${entry} next ${index} flags ${flags}`,
    act: ({ memory }: TargetFixture<Step>) => void memory.store32(0, 0x1_0000 + 16 * entry + 12, flags | (index << 16)),
  })),
  fc.nat(0xffff).map((idx) => ({
    what: `avail.idx ${idx}`,
    act: (fixture: TargetFixture<Step>) =>
      void fixture.memory.store16(0, Number((fixture as VirtioFixture).requests.setup.driver) + 2, idx),
  })),
  fc.constantFrom(REQUEST_QUEUE, EVENT_QUEUE, 2, -1).map((queue) => ({
    what: `notify ${queue}`,
    act: ({ target }: TargetFixture<Step>) => void (target as VirtioIommu).notify(queue),
  })),
  fc.tuple(fc.nat(300), fc.uint8Array({ maxLength: 80 })).map(([offset, bytes]) => ({
    what: `config ${offset} ${bytes}`,
    act: ({ target }: TargetFixture<Step>) => {
      (target as VirtioIommu).writeConfig(offset, bytes);
      (target as VirtioIommu).readConfig(offset, bytes);
    },
  })),
  fc.oneof(fc.nat(0xffff), fc.constantFrom(0, 1, 3, 11, 15)).map((status) => ({
    what: `status ${status}`,
    act: ({ target }: TargetFixture<Step>) => {
      (target as VirtioIommu).device.status = status;
    },
  })),
  fc.tuple(word, fc.boolean()).map(([features, some]) => ({
    what: `features ${features}`,
    act: ({ target }: TargetFixture<Step>) => {
      const { device } = target as VirtioIommu;
      device.driverFeatures = some ? device.offeredFeatures & ~(features & 0xffn) : features;
    },
  })),
  fc.record({ index: fc.nat(1), size, descriptors: place, driver: place, device: place }).map(({ index, ...setup }) => ({
    what: `queue ${index} ${Object.values(setup)}`,
    act: ({ target }: TargetFixture<Step>) => {
      const { device } = target as VirtioIommu;
      device.setQueue(index, setup);
      device.status |= STATUS_DRIVER_OK;
      (target as VirtioIommu).notify(REQUEST_QUEUE);
    },
  })),
);

const request = arbitraryRequest({ physPages: 0x210, attachFlags: 1, mapFlags: 7 });

export const virtioSubjects: readonly TargetSubject<Step>[] = ringKinds.map(({ name, ...kind }) => ({
  name: `virtio-iommu, ${name} ring`,
  make: (like) => new VirtioFixture(kind, like as VirtioFixture | undefined),
  step: fc.oneof(
    { weight: 12, arbitrary: fc.array(request, { minLength: 1, maxLength: 5 }) },
    { weight: 1, arbitrary: fc.constantFrom(0, 1, 2).map((bypass) => ({ bypass })) },
    { weight: 1, arbitrary: fc.constant('restart' as const) },
  ),
  mapping: [[attach(1, EP), map(1, 0x5000n, 0x8fffn, 0x3000n), map(1, 0x9000n, 0x9fffn, 0x7000n, 1)]],
  unmapping: [[unmap(1, 0x9000n, 0x9fffn)]],
  hostile,
  numRuns: 12,
}));
