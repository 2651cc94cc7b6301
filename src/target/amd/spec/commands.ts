import { bit, bits, wide } from '../../fields.ts';

/** Commands, 2.4: two doublewords. */
export const COMMAND_BYTES = 16;

export const OPCODE = {
  completionWait: 1,
  invalidateDeviceEntry: 2,
  invalidatePages: 3,
  invalidateIotlbPages: 4,
  invalidateInterruptTable: 5,
  prefetchPages: 6,
  completePpr: 7,
  invalidateAll: 8,
} as const;

/** Of every command. */
export const OP = bits(63, 60);

/** 2.4.1. */
export const COMPLETION_WAIT = {
  /** Stores the data. */
  S: bit(0),
  /** Interrupts. */
  I: bit(1),
  /** Commands behind it wait, which they do here in any case. */
  F: bit(2),
  /** Eight bytes: the address without its lowest three bits. */
  ADDRESS_LOW: bits(31, 3),
  ADDRESS_HIGH: bits(51, 32),
  OP,
  DATA_LOW: bits(31, 0, 1),
  DATA_HIGH: bits(63, 32, 1),
} as const;

/** 2.4.2 and 2.4.5. */
export const INVALIDATE_DEVICE = { DEVICE: bits(15, 0), OP } as const;

/** 2.4.3. */
export const INVALIDATE_PAGES = {
  PASID: bits(19, 0),
  DOMAIN: bits(47, 32),
  OP,
  /** The address says how many pages: the lowest bit that is clear. */
  S: bit(0, 1),
  /** Cached directory entries too. */
  PDE: bit(1, 1),
  /** Guest-virtual addresses of the PASID; otherwise the host table's input. */
  GN: bit(2, 1),
  ADDRESS: wide(63, 12, 1),
} as const;

/** 2.4.4; the places of the PASID are those where Linux's `build_inv_iotlb_pages` puts its two bytes. */
export const INVALIDATE_IOTLB = {
  DEVICE: bits(15, 0),
  PASID_MIDDLE: bits(23, 16),
  MAX_PENDING: bits(31, 24),
  QUEUE: bits(47, 32),
  PASID_LOW: bits(55, 48),
  PASID_HIGH: bits(59, 56),
  OP,
  S: bit(0, 1),
  GN: bit(2, 1),
  TYPE: bits(5, 4, 1),
  ADDRESS: wide(63, 12, 1),
} as const;

/** 2.4.6. */
export const PREFETCH = {
  DEVICE: bits(15, 0),
  PASID_MIDDLE: bits(23, 16),
  COUNT: bits(31, 24),
  QUEUE: bits(47, 32),
  PASID_LOW: bits(55, 48),
  PASID_HIGH: bits(59, 56),
  OP,
  S: bit(0, 1),
  GN: bit(2, 1),
  INVALIDATE: bit(4, 1),
  ADDRESS: wide(63, 12, 1),
} as const;

/** 2.4.7. */
export const COMPLETE_PPR = {
  DEVICE: bits(15, 0),
  PASID: bits(51, 32),
  OP,
  GN: bit(2, 1),
  /** PRG index and response code. */
  TAG: bits(47, 32, 1),
} as const;

/** 2.4.8. */
export const INVALIDATE_ALL = { OP } as const;
