import { bit, bits } from '../../fields.ts';

/** Page request descriptor, 32 bytes: VT-d D51397-018 (revision 5.10), 7.4.1.1. */
export const PAGE_REQUEST_BYTES = 32;
export const PAGE_REQUEST_TYPE = 1;

export const PAGE_REQUEST = {
  /** Type: PAGE_REQUEST_TYPE. */
  TYPE: bits(7, 0),
  /** PASID present. */
  PP: bit(8),
  /** Requester identifier. */
  RID: bits(31, 16),
  /** Process address space. */
  PASID: bits(51, 32),
  /** Execute requested, privilege mode requested. */
  EXR: bit(52),
  PMR: bit(53),
  /** Read requested, write requested. */
  RDR: bit(0, 1),
  WRR: bit(1, 1),
  /** Last page in group. */
  LPIG: bit(2, 1),
  /** Page request group index. */
  PRGI: bits(11, 3, 1),
  /** Address, bits 63:12. */
  ADDR_LO: bits(31, 12, 1),
  ADDR_HI: bits(63, 32, 1),
} as const;

/** Response codes of a page group (table 32). */
export const ResponseCode = { success: 0, invalidRequest: 1, failure: 15 } as const;
