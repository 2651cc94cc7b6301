import { bits } from '../../fields.ts';

/* Virtio 1.4, 5.13.6.9: struct virtio_iommu_fault. */

export const FAULT = {
  REASON: bits(7, 0),
  FLAGS: bits(63, 32),
  ENDPOINT: bits(31, 0, 1),
  ADDRESS_LO: bits(31, 0, 2),
  ADDRESS_HI: bits(63, 32, 2),
} as const;
export const FAULT_BYTES = 24;

/** FAULT.REASON: an error that the next two do not describe. */
export const FAULT_R_UNKNOWN = 0;
/** The endpoint has no domain. */
export const FAULT_R_DOMAIN = 1;
/** The address is not mapped, or not for that access. */
export const FAULT_R_MAPPING = 2;

/** FAULT.FLAGS. */
export const FAULT_F_READ = 1;
export const FAULT_F_WRITE = 2;
/** ADDRESS is valid. */
export const FAULT_F_ADDRESS = 1 << 8;
