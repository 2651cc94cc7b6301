import { bits } from '../../fields.ts';

/* Virtio 1.4, 5.13.4: struct virtio_iommu_config. */

export const CONFIG = {
  PAGE_SIZE_MASK_LO: bits(31, 0, 0),
  PAGE_SIZE_MASK_HI: bits(63, 32, 0),
  /** First address that can be mapped, and last. */
  INPUT_START_LO: bits(31, 0, 1),
  INPUT_START_HI: bits(63, 32, 1),
  INPUT_END_LO: bits(31, 0, 2),
  INPUT_END_HI: bits(63, 32, 2),
  /** First domain number, and last. */
  DOMAIN_START: bits(31, 0, 3),
  DOMAIN_END: bits(63, 32, 3),
  /** Bytes of the property list of a PROBE request. */
  PROBE_SIZE: bits(31, 0, 4),
  /** 1: endpoints without a domain are in bypass mode. The one field that a driver may write. */
  BYPASS: bits(39, 32, 4),
} as const;
export const CONFIG_BYTES = 40;
/** Byte offset of BYPASS. */
export const BYPASS_OFFSET = 36;
