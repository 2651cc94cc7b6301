import { bit, bits } from '../../fields.ts';

/* RISC-V IOMMU 20260222, "Fault/Event-Queue (FQ)" and "Page-Request-Queue (PQ)". */

/** "Fault-queue record": four doublewords, the second of which is for custom use and reserved. */
export const FAULT_RECORD = {
  CAUSE: bits(11, 0),
  PID: bits(31, 12),
  /** PID is valid. */
  PV: bit(32),
  /** The request had supervisor privilege. */
  PRIV: bit(33),
  TTYP: bits(39, 34),
  DID: bits(63, 40),
  IOTVAL_LO: bits(31, 0, 2),
  IOTVAL_HI: bits(63, 32, 2),
  IOTVAL2_LO: bits(31, 0, 3),
  IOTVAL2_HI: bits(63, 32, 3),
} as const;
/** lg2 of a record's bytes. */
export const FAULT_RECORD_LG2 = 5;

/** "Page-request-queue record": two doublewords. */
export const PAGE_REQUEST = {
  PID: bits(31, 12),
  /** PID is valid. */
  PV: bit(32),
  PRIV: bit(33),
  EXEC: bit(34),
  DID: bits(63, 40),
  PAYLOAD_LO: bits(31, 0, 1),
  PAYLOAD_HI: bits(63, 32, 1),
} as const;

/** The payload of a page request, as the device's message has it (PCI Express Base Specification 6.0, 10.4.1). */
export const PAGE_REQUEST_PAYLOAD = {
  /** Read, write: what is asked for. */
  R: bit(0),
  W: bit(1),
  /** The last of its group. */
  L: bit(2),
  /** Page request group index. */
  PRGI: bits(11, 3),
} as const;
export const PAGE_REQUEST_LG2 = 4;
