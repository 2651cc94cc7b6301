import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VirtioIommu, type VirtioIommuOptions } from '../../../src/target/virtio-iommu/index.ts';
import { EVENT_QUEUE, REQUEST_QUEUE } from '../../../src/target/virtio-iommu/spec/features.ts';
import { F_EVENT_IDX, F_RING_PACKED, STATUS_DRIVER_OK } from '../../../src/virtqueue/spec.ts';
import { type Driver, PackedDriver, SplitDriver } from '../../virtqueue/driver.ts';

export interface RingKind {
  readonly packed: boolean;
  readonly eventIdx: boolean;
}

export const ringKinds: readonly (RingKind & { readonly name: string })[] = [false, true].flatMap((packed) =>
  [false, true].map((eventIdx) => ({
    name: `${packed ? 'packed' : 'split'}${eventIdx ? ' with event index' : ''}`,
    packed,
    eventIdx,
  })),
);

export const EP = 8;
export const OTHER = 16;
export const MSI = { kind: 'msi', start: 0xfee0_0000n, last: 0xfeef_ffffn } as const;
const RAM_BYTES = 0x20_0000;

/** A device with two endpoints, and a driver that has set up both queues. */
export interface Fixture {
  readonly iommu: VirtioIommu;
  readonly memory: GuestMemory;
  readonly requests: Driver;
  readonly events: Driver;
  /** Sources of the interrupts so far. */
  readonly interrupts: number[];
}

export function featuresOf(iommu: VirtioIommu, { packed, eventIdx }: RingKind): bigint {
  return iommu.device.offeredFeatures & ~(packed ? 0n : F_RING_PACKED) & ~(eventIdx ? 0n : F_EVENT_IDX);
}

export function start(kind: RingKind, queueSize: number, options: Partial<VirtioIommuOptions> = {}): Fixture {
  const memory = options.memory ?? GuestMemory.ofBytes(RAM_BYTES);
  const interrupts: number[] = [];
  const interrupt = (source: number) => void interrupts.push(source);
  const iommu = new VirtioIommu({ memory, bootBypass: false, interrupt, ...options });
  iommu.addEndpoint(EP);
  iommu.addEndpoint(OTHER, options.probeBytes === 0 ? [] : [MSI]);
  const Ring = kind.packed ? PackedDriver : SplitDriver;
  const requests = new Ring(memory, 0x1_0000, queueSize);
  const events = new Ring(memory, 0x1_0000 + requests.bytes, 8);
  setUp(iommu, kind, requests, events);
  return { iommu, memory, requests, events, interrupts };
}

export function setUp(iommu: VirtioIommu, kind: RingKind, requests: Driver, events: Driver): void {
  iommu.negotiate(featuresOf(iommu, kind));
  iommu.device.setQueue(REQUEST_QUEUE, requests.setup);
  iommu.device.setQueue(EVENT_QUEUE, events.setup);
  iommu.device.status |= STATUS_DRIVER_OK;
}
