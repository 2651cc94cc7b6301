import { bit, bits, wide } from '../../fields.ts';

/* Registers: AMD I/O Virtualization Technology (IOMMU) Specification 48882, 3.4. Offsets in bytes; fields of each as words, the low one first. */

/** Bytes of the register page without counters, which are not there (EFR.PCSup). */
export const REGISTER_BYTES = 0x4000;

export const REG = {
  /** Device table base address; 0x100 and on: of segments 1 to 7. */
  DEVICE_TABLE: 0x0000,
  COMMAND_BASE: 0x0008,
  EVENT_BASE: 0x0010,
  CONTROL: 0x0018,
  EXCLUSION_BASE: 0x0020,
  EXCLUSION_LIMIT: 0x0028,
  EXTENDED_FEATURE: 0x0030,
  PPR_BASE: 0x0038,
  HARDWARE_EVENT_UPPER: 0x0040,
  HARDWARE_EVENT_LOWER: 0x0048,
  HARDWARE_EVENT_STATUS: 0x0050,
  DEVICE_TABLE_SEGMENT: 0x0100,
  /** x2APIC interrupt control: of events and commands, and of PPR. */
  XT_GENERAL: 0x0170,
  XT_PPR: 0x0178,
  EXTENDED_FEATURE_2: 0x01a0,
  COMMAND_HEAD: 0x2000,
  COMMAND_TAIL: 0x2008,
  EVENT_HEAD: 0x2010,
  EVENT_TAIL: 0x2018,
  STATUS: 0x2020,
  PPR_HEAD: 0x2030,
  PPR_TAIL: 0x2038,
} as const;

/** 3.4.1. */
export const DEVICE_TABLE = {
  /** 4 KiB pages of the table, less one. */
  SIZE: bits(8, 0),
  BASE: wide(51, 12),
} as const;

/** 3.4.2 to 3.4.4, and the PPR log. */
export const RING_BASE = {
  BASE: wide(51, 12),
  /** lg2 of its 16-byte entries, 8 or more. */
  LENGTH: bits(59, 56),
} as const;

/** 3.4.5. */
export const CONTROL = {
  IOMMU_EN: bit(0),
  EVENT_LOG_EN: bit(2),
  EVENT_INT_EN: bit(3),
  COMPLETION_WAIT_INT_EN: bit(4),
  COMMAND_BUFFER_EN: bit(12),
  PPR_LOG_EN: bit(13),
  PPR_INT_EN: bit(14),
  PPR_EN: bit(15),
  /** Guest translation. */
  GT_EN: bit(16),
  /** Guest virtual APIC: interrupt table entries are 128 bits. */
  GA_EN: bit(17),
  /** lg2 of the device table's segments. */
  SEGMENT_EN: bits(36, 34),
  /** Interrupt table entries have 32-bit destinations. */
  XT_EN: bit(50),
  /** Interrupts of the IOMMU itself are sent as the XT registers say. */
  INT_CAP_XT_EN: bit(51),
  /** The GCR3 table's root is a guest-physical address. */
  GCR3_TRP_MODE: bit(58),
} as const;

/** 3.4.6. */
export const EXCLUSION = { ENABLE: bit(0), ALLOW_ALL: bit(1), BASE: wide(51, 12) } as const;

/** 3.4.14; what is set by hardware and cleared by writing 1 is W1C. */
export const STATUS = {
  EVENT_OVERFLOW: bit(0),
  EVENT_LOG_INT: bit(1),
  COMPLETION_WAIT_INT: bit(2),
  EVENT_LOG_RUN: bit(3),
  COMMAND_BUFFER_RUN: bit(4),
  PPR_OVERFLOW: bit(5),
  PPR_INT: bit(6),
  PPR_LOG_RUN: bit(7),
} as const;
export const STATUS_W1C = 0x67;

/** 3.4.10. */
export const HARDWARE_EVENT = { VALID: bit(0), OVERFLOW: bit(1) } as const;

/** 3.4.20. */
export const XT_CONTROL = {
  /** Destination mode: logical. */
  MODE: bit(2),
  DESTINATION_LOW: bits(31, 8),
  VECTOR: bits(39, 32),
  DESTINATION_HIGH: bits(63, 56),
} as const;

/** Head and tail registers: bits 18:4. */
export const POINTER_MASK = 0x7fff0;
