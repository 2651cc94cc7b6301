/* Numbers of virtio 1.3, section 5.13 (IOMMU device). All fields are little-endian. */

/** Virtqueues (5.13.2). */
export const REQUEST_QUEUE = 0;
export const EVENT_QUEUE = 1;
export const QUEUES = 2;

/** Feature bits of the device (5.13.3). */
export const F_INPUT_RANGE = 1n << 0n;
export const F_DOMAIN_RANGE = 1n << 1n;
export const F_MAP_UNMAP = 1n << 2n;
export const F_BYPASS = 1n << 3n;
export const F_PROBE = 1n << 4n;
export const F_MMIO = 1n << 5n;
export const F_BYPASS_CONFIG = 1n << 6n;

/** Request types (5.13.6). */
export const T_ATTACH = 1;
export const T_DETACH = 2;
export const T_MAP = 3;
export const T_UNMAP = 4;
export const T_PROBE = 5;

/** Bytes of each request's device-readable part (5.13.6.3 to 5.13.6.7), and of the header and tail (5.13.6). */
export const ATTACH_BYTES = 20;
export const DETACH_BYTES = 20;
export const MAP_BYTES = 36;
export const UNMAP_BYTES = 28;
export const PROBE_BYTES = 72;
export const HEAD_BYTES = 4;
export const TAIL_BYTES = 4;
/** Of the longest, PROBE; what a request has beyond its own length is not read. */
export const REQUEST_BYTES = 72;

/** Status codes (5.13.6). */
export const S_OK = 0;
export const S_UNSUPP = 2;
export const S_DEVERR = 3;
export const S_INVAL = 4;
export const S_RANGE = 5;
export const S_NOENT = 6;
export const S_FAULT = 7;
export const S_NOMEM = 8;
/** Not on the wire: the request cannot be told its status, its buffer comes back with a used length of 0. */
export const S_NONE = -1;

const statusNames = ['OK', 'IOERR', 'UNSUPP', 'DEVERR', 'INVAL', 'RANGE', 'NOENT', 'FAULT', 'NOMEM'];

/** `RANGE` for 5. */
export function statusName(status: number): string {
  return statusNames[status] ?? `status ${status}`;
}

export const ATTACH_F_BYPASS = 1;
export const MAP_F_READ = 1;
export const MAP_F_WRITE = 2;
export const MAP_F_MMIO = 4;

/** Properties of PROBE (5.13.6.8): a header of 4 bytes and, for RESV_MEM, 20 more. */
export const PROBE_T_RESV_MEM = 1;
export const RESV_MEM_BYTES = 24;
export const RESV_MEM_T_RESERVED = 0;
export const RESV_MEM_T_MSI = 1;

/** Fault reports (5.13.6.9). */
export const FAULT_BYTES = 24;
export const FAULT_R_UNKNOWN = 0;
export const FAULT_R_DOMAIN = 1;
export const FAULT_R_MAPPING = 2;
export const FAULT_F_READ = 1;
export const FAULT_F_WRITE = 2;
export const FAULT_F_ADDRESS = 1 << 8;
