import { bit, bits, reservedMask, wide } from '../../fields.ts';

/** Root, context and PASID structures: VT-d D51397-018 (revision 5.10), 9.1 to 9.6. Pointers are page frame numbers. */

/** Root entry, 16 bytes (9.1). */
export const ROOT = {
  /** Present. */
  P: bit(0),
  /** Context-table pointer. */
  CTP: wide(63, 12),
} as const;
export const ROOT_RESERVED = reservedMask(2, Object.values(ROOT));

/** Scalable-mode root entry, 16 bytes (9.2): one half for devices 0 to 15, one for 16 to 31; each looks like this. */
export const SCALABLE_ROOT_HALF = {
  /** LP, UP: the half is present. */
  P: bit(0),
  /** LCTP, UCTP: context-table pointer. */
  CTP: wide(63, 12),
} as const;
export const SCALABLE_ROOT_HALF_RESERVED = reservedMask(1, Object.values(SCALABLE_ROOT_HALF));

/** Context entry, 16 bytes (9.3). */
export const CONTEXT = {
  /** Present. */
  P: bit(0),
  /** Fault processing disable; counts without P. */
  FPD: bit(1),
  /** Translation type: one of CONTEXT_TT. */
  TT: bits(3, 2),
  /** Second-stage page-table pointer. */
  SSPTPTR: wide(63, 12),
  /** Address width: levels of the tables less 2. */
  AW: bits(2, 0, 1),
  /** Ignored. */
  IGN: bits(6, 3, 1),
  /** Domain identifier. */
  DID: bits(23, 8, 1),
} as const;
export const CONTEXT_RESERVED = reservedMask(2, Object.values(CONTEXT));
export const CONTEXT_TT = { untranslated: 0, all: 1, passThrough: 2 } as const;

/** Scalable-mode context entry, 32 bytes (9.4). */
export const SCALABLE_CONTEXT = {
  /** Present. */
  P: bit(0),
  /** Fault processing disable; counts without P. */
  FPD: bit(1),
  /** Device-TLB enable; reserved without ECAP.DT. */
  DTE: bit(2),
  /** PASID enable: requests with PASID are allowed. */
  PASIDE: bit(3),
  /** Page request enable; reserved without ECAP.PRS. */
  PRE: bit(4),
  /** PASID directory size: 2^(PDTS+7) entries. */
  PDTS: bits(11, 9),
  /** PASID directory pointer. */
  PASIDDIRPTR: wide(63, 12),
  /** PASID of requests without one. */
  RID_PASID: bits(19, 0, 1),
} as const;
export const SCALABLE_CONTEXT_RESERVED = reservedMask(4, Object.values(SCALABLE_CONTEXT));

/** Scalable-mode PASID directory entry, 8 bytes (9.5): covers 64 PASIDs. */
export const PASID_DIRECTORY = {
  /** Present. */
  P: bit(0),
  /** Fault processing disable; counts without P. */
  FPD: bit(1),
  /** PASID table pointer. */
  SMPTBLPTR: wide(63, 12),
} as const;
export const PASID_DIRECTORY_RESERVED = reservedMask(1, Object.values(PASID_DIRECTORY));

/** Scalable-mode PASID table entry, 64 bytes (9.6). What belongs to host permission tables is reserved without ECAP.HPTS. */
export const PASID_ENTRY = {
  /** Present. */
  P: bit(0),
  /** Fault processing disable; counts without P. */
  FPD: bit(1),
  /** Address width of the second stage: its levels less 2. */
  AW: bits(4, 2),
  /** PASID granular translation type: one of PGTT. */
  PGTT: bits(8, 6),
  /** Second-stage accessed and dirty bits enable. */
  SSADE: bit(9),
  /** Second-stage page-table pointer. */
  SSPTPTR: wide(63, 12),
  /** Domain identifier. */
  DID: bits(15, 0, 1),
  /** Page-walk snoop. */
  PWSNP: bit(23, 1),
  /** Page snoop. */
  PGSNP: bit(24, 1),
  /** Supervisor request enable. */
  SRE: bit(0, 2),
  /** First-stage paging mode: one of FSPM. */
  FSPM: bits(3, 2, 2),
  /** Write-protect enable: supervisor writes obey R/W. */
  WPE: bit(4, 2),
  /** Ignored. */
  IGN: bits(6, 5, 2),
  /** Extended accessed flag enable. */
  EAFE: bit(7, 2),
  /** First-stage page-table pointer. */
  FSPTPTR: wide(63, 12, 2),
} as const;
export const PASID_ENTRY_RESERVED = reservedMask(8, Object.values(PASID_ENTRY));
export const PGTT = { firstStage: 1, secondStage: 2, nested: 3, passThrough: 4 } as const;
export const FSPM = { fourLevels: 0, fiveLevels: 1 } as const;
