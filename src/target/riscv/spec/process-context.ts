import { bit, bits, reservedMask, wide } from '../../fields.ts';

/* RISC-V IOMMU 20260222, "Process-Directory-Table (PDT)". */

/** "Process-context fields": doublewords ta and fsc. */
export const PC = {
  /** ta.V: the context is valid. */
  V: bit(0),
  /** ta.ENS: requests of supervisor privilege are allowed. */
  ENS: bit(1),
  /** ta.SUM: supervisor privilege reaches pages of users. */
  SUM: bit(2),
  /** ta.PSCID. */
  PSCID: bits(31, 12),
  /** iosatp.PPN. */
  FSC_PPN: wide(43, 0, 1),
  /** iosatp.MODE. */
  FSC_MODE: bits(63, 60, 1),
} as const;
export const PC_RESERVED = reservedMask(2, Object.values(PC));
