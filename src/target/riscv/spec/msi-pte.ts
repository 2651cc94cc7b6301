import { bit, bits, reservedMask, wide } from '../../fields.ts';

/* RISC-V Advanced Interrupt Architecture 1.0, "MSI page tables"; RISC-V IOMMU 20260222, "Process to translate addresses of MSIs". */

/** What every valid entry has. */
export const MSIPTE = {
  /** The entry is valid. */
  V: bit(0),
  /** Mode: 3 basic translate, 1 MRIF, the others reserved. */
  M: bits(2, 1),
  /** The rest is for custom use. */
  C: bit(63),
} as const;

export const MsipteMode = { mrif: 1, basic: 3 } as const;

/** Basic translate mode; the second doubleword is software's. */
export const MSIPTE_BASIC = {
  ...MSIPTE,
  /** Page of the interrupt file. */
  PPN: wide(53, 10),
} as const;
export const MSIPTE_BASIC_RESERVED = reservedMask(1, Object.values(MSIPTE_BASIC));

/** MRIF mode. */
export const MSIPTE_MRIF = {
  ...MSIPTE,
  /** Bits 55:9 of the address of the interrupt file in memory. */
  MRIF_ADDRESS: wide(53, 7),
  /** Bits 9:0 of the notice's identity. */
  NID: bits(9, 0, 1),
  /** Page that the notice MSI goes to. */
  NPPN: wide(53, 10, 1),
  /** Bit 10 of the notice's identity. */
  NID10: bit(60, 1),
} as const;
export const MSIPTE_MRIF_RESERVED = reservedMask(2, Object.values(MSIPTE_MRIF));
