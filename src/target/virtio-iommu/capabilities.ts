import { F_EVENT_IDX, F_INDIRECT_DESC, F_RING_PACKED, F_VERSION_1 } from '../../virtqueue/spec.ts';
import type { Capability } from '../capability.ts';
import { F_BYPASS, F_BYPASS_CONFIG, F_DOMAIN_RANGE, F_INPUT_RANGE, F_MAP_UNMAP, F_MMIO, F_PROBE } from './spec/features.ts';

/** A feature bit that the device offers, or not. */
interface FeatureBit extends Capability {
  /** The bit as a mask. */
  readonly mask: bigint;
  readonly value: boolean;
}

const NOT_OFFERED = false;
const OFFERED = true;

function feature(name: string, section: string, mask: bigint, value: boolean, reason: string): FeatureBit {
  return { name, section, mask, value, reason };
}

/** The feature bits of the device (5.13.3) and of every device (6), from bit 0 on. */
export const FEATURES: readonly FeatureBit[] = [
  feature('INPUT_RANGE', '5.13.3', F_INPUT_RANGE, OFFERED, 'what hosts can map is narrower than 64 bits'),
  feature('DOMAIN_RANGE', '5.13.3', F_DOMAIN_RANGE, OFFERED, 'the embedder may narrow it'),
  feature('MAP_UNMAP', '5.13.3', F_MAP_UNMAP, OFFERED, 'the only mode of operation that there is'),
  feature('BYPASS', '5.13.3', F_BYPASS, NOT_OFFERED, 'superseded by BYPASS_CONFIG; with `bypassMode: feature` it is offered in its place'),
  feature('PROBE', '5.13.3', F_PROBE, OFFERED, 'reserved regions; not offered with `probeBytes: 0`'),
  feature('MMIO', '5.13.3', F_MMIO, OFFERED, 'mappings of device registers translate; no host maps them'),
  feature('BYPASS_CONFIG', '5.13.3', F_BYPASS_CONFIG, OFFERED, 'firmware and drivers decide; not offered with another `bypassMode`'),
  feature('INDIRECT_DESC', '6', F_INDIRECT_DESC, OFFERED, 'a request takes one entry of the ring'),
  feature('EVENT_IDX', '6', F_EVENT_IDX, OFFERED, 'fewer notifications either way'),
  feature('VERSION_1', '6', F_VERSION_1, OFFERED, 'there is no legacy interface'),
  feature('ACCESS_PLATFORM', '6', 1n << 33n, NOT_OFFERED, 'the rings of an IOMMU cannot lie behind it'),
  feature('RING_PACKED', '6', F_RING_PACKED, OFFERED, 'both ring formats'),
  feature('IN_ORDER', '6', 1n << 35n, NOT_OFFERED, 'buffers are used in order all the same; nothing is gained by saying so'),
  feature('ORDER_PLATFORM', '6', 1n << 36n, NOT_OFFERED, 'memory is ordered as between processors'),
  feature('SR_IOV', '6', 1n << 37n, NOT_OFFERED, 'there is one IOMMU, without virtual functions'),
  feature('NOTIFICATION_DATA', '6', 1n << 38n, NOT_OFFERED, 'the rings say as much'),
  feature('NOTIF_CONFIG_DATA', '6', 1n << 39n, NOT_OFFERED, 'the queue’s number is enough'),
  feature('RING_RESET', '6', 1n << 40n, NOT_OFFERED, 'a queue alone is never stuck: its requests end with their kick'),
  feature('ADMIN_VQ', '6', 1n << 41n, NOT_OFFERED, 'nothing to administrate'),
  feature('SUSPEND', '6', 1n << 43n, NOT_OFFERED, 'new in 1.4; endpoints would go on doing DMA'),
];

/** The feature bits that a table offers, without those named. */
export function featuresOf(table: readonly FeatureBit[], without: readonly string[] = []): bigint {
  return table.reduce((bits, { name, mask, value }) => (value && !without.includes(name) ? bits | mask : bits), 0n);
}
