import { bits } from '../../fields.ts';

/* Virtio 1.4, 5.13.6: requests. The device-readable parts, and the tail that the device writes. */

/** struct virtio_iommu_req_head; its reserved bytes are ignored. */
export const HEAD = {
  TYPE: bits(7, 0),
} as const;
export const HEAD_BYTES = 4;

/** HEAD.TYPE. */
export const T_ATTACH = 1;
export const T_DETACH = 2;
export const T_MAP = 3;
export const T_UNMAP = 4;
export const T_PROBE = 5;

/** struct virtio_iommu_req_tail; its reserved bytes are 0. */
export const TAIL = {
  STATUS: bits(7, 0),
} as const;
export const TAIL_BYTES = 4;

/** TAIL.STATUS. */
export const S_OK = 0;
/** Unsupported request. */
export const S_UNSUPP = 2;
/** Internal device error. */
export const S_DEVERR = 3;
/** Invalid parameters. */
export const S_INVAL = 4;
/** Out-of-range parameters. */
export const S_RANGE = 5;
/** Entry not found. */
export const S_NOENT = 6;
/** Bad address. */
export const S_FAULT = 7;
/** Insufficient resources. */
export const S_NOMEM = 8;

/** struct virtio_iommu_req_attach (5.13.6.3). */
export const ATTACH = {
  ...HEAD,
  DOMAIN: bits(63, 32, 0),
  ENDPOINT: bits(31, 0, 1),
  FLAGS: bits(63, 32, 1),
  /** Must be 0. */
  RESERVED: bits(31, 0, 2),
} as const;
export const ATTACH_BYTES = 20;
/** ATTACH.FLAGS: the domain is a bypass domain. */
export const ATTACH_F_BYPASS = 1;

/** struct virtio_iommu_req_detach (5.13.6.4); its reserved bytes are ignored. */
export const DETACH = {
  ...HEAD,
  DOMAIN: bits(63, 32, 0),
  ENDPOINT: bits(31, 0, 1),
} as const;
export const DETACH_BYTES = 20;

/** struct virtio_iommu_req_map (5.13.6.5): [VIRT_START, VIRT_END], both included, to PHYS_START on. */
export const MAP = {
  ...HEAD,
  DOMAIN: bits(63, 32, 0),
  VIRT_START_LO: bits(31, 0, 1),
  VIRT_START_HI: bits(63, 32, 1),
  VIRT_END_LO: bits(31, 0, 2),
  VIRT_END_HI: bits(63, 32, 2),
  PHYS_START_LO: bits(31, 0, 3),
  PHYS_START_HI: bits(63, 32, 3),
  FLAGS: bits(31, 0, 4),
} as const;
export const MAP_BYTES = 36;
/** MAP.FLAGS. */
export const MAP_F_READ = 1;
export const MAP_F_WRITE = 2;
/** The physical range is device registers. */
export const MAP_F_MMIO = 4;

/** struct virtio_iommu_req_unmap (5.13.6.6): [VIRT_START, VIRT_END], both included. */
export const UNMAP = {
  ...HEAD,
  DOMAIN: bits(63, 32, 0),
  VIRT_START_LO: bits(31, 0, 1),
  VIRT_START_HI: bits(63, 32, 1),
  VIRT_END_LO: bits(31, 0, 2),
  VIRT_END_HI: bits(63, 32, 2),
  RESERVED: bits(31, 0, 3),
} as const;
export const UNMAP_BYTES = 28;

/** struct virtio_iommu_req_probe (5.13.6.7), its device-readable part; 64 reserved bytes are ignored. */
export const PROBE = {
  ...HEAD,
  ENDPOINT: bits(63, 32, 0),
} as const;
export const PROBE_BYTES = 72;

/** Of the longest, PROBE; what a request has beyond its own length is not read. */
export const REQUEST_BYTES = 72;
