import { bit, bits, reservedMask, wide } from '../../fields.ts';

/* RISC-V IOMMU 20260222, "Device-Directory-Table (DDT)". */

/** "Non-leaf DDT entry"; the non-leaf entries of the process directory are the same. */
export const DDTE = {
  /** The entry is valid. */
  V: bit(0),
  /** Page of the next level's table. */
  PPN: wide(53, 10),
} as const;
export const DDTE_RESERVED = reservedMask(1, Object.values(DDTE));

/** "Device-context fields": doublewords tc, iohgatp, ta, fsc; in the extended format also msiptp, msi_addr_mask, msi_addr_pattern, reserved. */
export const DC = {
  /** tc.V: the context is valid. */
  V: bit(0),
  /** tc.EN_ATS: ATS translation requests and translated requests are allowed. */
  EN_ATS: bit(1),
  /** tc.EN_PRI: page requests are allowed. */
  EN_PRI: bit(2),
  /** tc.T2GPA: translated requests carry guest-physical addresses. */
  T2GPA: bit(3),
  /** tc.DTF: faults of translation are not reported. */
  DTF: bit(4),
  /** tc.PDTV: fsc is pdtp, not iosatp. */
  PDTV: bit(5),
  /** tc.PRPR: page request group responses have a PASID. */
  PRPR: bit(6),
  /** tc.GADE: A and D bits of the second stage are updated. */
  GADE: bit(7),
  /** tc.SADE: A and D bits of the first stage are updated. */
  SADE: bit(8),
  /** tc.DPE: requests without process_id have process_id 0. */
  DPE: bit(9),
  /** tc.SBE: the process directory and the first stage's tables are big-endian. */
  SBE: bit(10),
  /** tc.SXL: the first stage is a 32-bit one. */
  SXL: bit(11),
  /** tc, for custom use: nothing here uses it. */
  CUSTOM: bits(31, 24),
  /** iohgatp.PPN: root of the second stage. */
  IOHGATP_PPN: wide(43, 0, 1),
  /** iohgatp.GSCID. */
  GSCID: bits(59, 44, 1),
  /** iohgatp.MODE. */
  IOHGATP_MODE: bits(63, 60, 1),
  /** ta.PSCID: of the first stage that fsc names. */
  PSCID: bits(31, 12, 2),
  /** ta.RCID (QoS Identifiers Extension). */
  RCID: bits(51, 40, 2),
  /** ta.MCID (QoS Identifiers Extension). */
  MCID: bits(63, 52, 2),
  /** iosatp.PPN or pdtp.PPN. */
  FSC_PPN: wide(43, 0, 3),
  /** iosatp.MODE or pdtp.MODE. */
  FSC_MODE: bits(63, 60, 3),
  /** msiptp.PPN: the MSI page table. */
  MSIPTP_PPN: wide(43, 0, 4),
  /** msiptp.MODE. */
  MSIPTP_MODE: bits(63, 60, 4),
  /** msi_addr_mask. */
  MSI_MASK: wide(51, 0, 5),
  /** msi_addr_pattern. */
  MSI_PATTERN: wide(51, 0, 6),
} as const;
export const DC_RESERVED = reservedMask(8, Object.values(DC));

/** "Encodings of iosatp.MODE field"; 8 is Sv32 with SXL and Sv39 without. */
export const IosatpMode = { bare: 0, sv32: 8, sv39: 8, sv48: 9, sv57: 10 } as const;

/** "Encodings of iohgatp.MODE field"; 8 is Sv32x4 with fctl.GXL and Sv39x4 without. */
export const IohgatpMode = { bare: 0, sv32x4: 8, sv39x4: 8, sv48x4: 9, sv57x4: 10 } as const;

/** "Encodings of pdtp.MODE field". */
export const PdtMode = { bare: 0, pd8: 1, pd17: 2, pd20: 3 } as const;

/** "Encodings of msiptp.MODE field". */
export const MsiptpMode = { off: 0, flat: 1 } as const;
