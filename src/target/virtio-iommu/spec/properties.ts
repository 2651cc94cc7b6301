import { bits } from '../../fields.ts';

/* Virtio 1.4, 5.13.6.8: properties in the answer of PROBE. */

/** struct virtio_iommu_probe_resv_mem, with its struct virtio_iommu_probe_property. */
export const RESV_MEM = {
  TYPE: bits(11, 0),
  /** Bytes behind the 4 of the header. */
  LENGTH: bits(31, 16),
  SUBTYPE: bits(39, 32),
  /** First address, and last. */
  START_LO: bits(31, 0, 1),
  START_HI: bits(63, 32, 1),
  END_LO: bits(31, 0, 2),
  END_HI: bits(63, 32, 2),
} as const;
export const PROPERTY_HEADER_BYTES = 4;
export const RESV_MEM_BYTES = 24;

/** RESV_MEM.TYPE. */
export const PROBE_T_RESV_MEM = 1;

/** RESV_MEM.SUBTYPE: not to be mapped. */
export const RESV_MEM_T_RESERVED = 0;
/** The doorbell of MSIs. */
export const RESV_MEM_T_MSI = 1;
