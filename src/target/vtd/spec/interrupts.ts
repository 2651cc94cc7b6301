import { bit, bits, reservedMask } from '../../fields.ts';

/** Interrupt requests, remapping table entries and posted interrupt descriptors: VT-d D51397-018 (5.10), 5.1.2, 9.9 to 9.11. */

/** Address (first word) and data (second) of a request in compatibility format (5.1.2.1). */
export const COMPATIBILITY = {
  /** Destination mode: logical. */
  DM: bit(2),
  /** Redirection hint. */
  RH: bit(3),
  /** Destination: an 8-bit APIC ID. */
  DST: bits(19, 12),
  /** Vector. */
  V: bits(39, 32),
  /** Delivery mode. */
  DLM: bits(42, 40),
  /** Trigger mode: level. */
  TM: bit(47),
} as const;

/** The same of a request in remappable format (5.1.2.2). */
export const REMAPPABLE = {
  /** Handle, bit 15. */
  HANDLE_15: bit(2),
  /** Subhandle valid: it is added to the handle. */
  SHV: bit(3),
  /** Interrupt format: 1, remappable. */
  FORMAT: bit(4),
  /** Handle, bits 14:0. */
  HANDLE: bits(19, 5),
  /** Subhandle. */
  SUBHANDLE: bits(47, 32),
  /** Reserved where SHV is set. */
  RESERVED: bits(63, 48),
} as const;

/** Interrupt remapping table entry, 16 bytes, for remapped interrupts (9.9). */
export const IRTE_BYTES = 16;
export const IRTE = {
  /** Present. */
  P: bit(0),
  /** Fault processing disable; counts without P. */
  FPD: bit(1),
  /** Destination mode: logical. */
  DM: bit(2),
  /** Redirection hint. */
  RH: bit(3),
  /** Trigger mode: level. */
  TM: bit(4),
  /** Delivery mode. */
  DLM: bits(7, 5),
  /** Available to software. */
  AVAIL: bits(11, 8),
  /** Mode: 0, remapped. */
  IM: bit(15),
  /** Vector. */
  V: bits(23, 16),
  /** Destination; without EIME bits 47:40, the rest reserved. */
  DST: bits(63, 32),
  /** Source identifier: requester ID, or first and last bus. */
  SID: bits(15, 0, 1),
  /** Source-id qualifier: which function bits do not count. */
  SQ: bits(17, 16, 1),
  /** Source validation type: one of SourceValidation. */
  SVT: bits(19, 18, 1),
} as const;
export const IRTE_RESERVED = reservedMask(2, Object.values(IRTE));
export const IRTE_XAPIC_DESTINATION = bits(47, 40);
/** Reserved then, of this doubleword: 39:32 and 63:48. */
export const IRTE_XAPIC_RESERVED = reservedMask(1, [bits(31, 0), IRTE_XAPIC_DESTINATION]);
export const SourceValidation = { none: 0, requester: 1, bus: 2 } as const;

/** The same for posted interrupts (9.10): what is not as in IRTE. */
export const POSTED_IRTE = {
  P: IRTE.P,
  FPD: IRTE.FPD,
  AVAIL: IRTE.AVAIL,
  /** Urgent. */
  URG: bit(14),
  /** Mode: 1, posted. */
  IM: IRTE.IM,
  /** Virtual vector. */
  VV: bits(23, 16),
  /** Posted descriptor address, bits 31:6 and 63:32. */
  PDAL: bits(63, 38),
  SID: IRTE.SID,
  SQ: IRTE.SQ,
  SVT: IRTE.SVT,
  PDAH: bits(63, 32, 1),
} as const;
export const POSTED_IRTE_RESERVED = reservedMask(2, Object.values(POSTED_IRTE));

/** Posted interrupt descriptor, 64 bytes (9.11): 256 request bits, then the doubleword whose fields stand here, then reserved ones. */
export const PID_CONTROL_AT = 32;
export const PID_BYTES = 64;
export const PID_CONTROL = {
  /** Outstanding notification. */
  ON: bit(0),
  /** Suppress notification of what is not urgent. */
  SN: bit(1),
  /** Notification vector. */
  NV: bits(23, 16),
  /** Notification destination; without EIME bits 47:40, the rest reserved. */
  NDST: bits(63, 32),
} as const;
export const PID_CONTROL_RESERVED = reservedMask(1, Object.values(PID_CONTROL));
