import { bit, bits, wide } from '../../fields.ts';

/*
 * RISC-V IOMMU 20260222, chapter "Memory-mapped register interface": offsets and fields of the registers in the IOMMU's 4 KiB page; section
 * names are those of the specification. Flags that are set, cleared and looked at together are masks, everything else is a field.
 */

/** "Register layout": byte offsets. */
export const CAPABILITIES = 0;
export const FCTL = 8;
export const DDTP = 16;
export const CQB = 24;
export const CQH = 32;
export const CQT = 36;
export const FQB = 40;
export const FQH = 48;
export const FQT = 52;
export const PQB = 56;
export const PQH = 64;
export const PQT = 68;
export const CQCSR = 72;
export const FQCSR = 76;
export const PQCSR = 80;
export const IPSR = 84;
export const IOCOUNTOVF = 88;
export const IOCOUNTINH = 92;
export const IOHPMCYCLES = 96;
/** iohpmctr1 to 31. */
export const IOHPMCTR = 104;
/** iohpmevt1 to 31. */
export const IOHPMEVT = 352;
export const TR_REQ_IOVA = 600;
export const TR_REQ_CTL = 608;
export const TR_RESPONSE = 616;
export const IOMMU_QOSID = 624;
export const ICVEC = 760;
export const MSI_CFG_TBL = 768;
export const MSI_CFG_TBL_END = 1024;
export const PAGE_OF_REGISTERS = 4096;

/** "IOMMU capabilities", low half. */
export const Cap = {
  sv32: 1 << 8,
  sv39: 1 << 9,
  sv48: 1 << 10,
  sv57: 1 << 11,
  svrsw60t59b: 1 << 14,
  svpbmt: 1 << 15,
  sv32x4: 1 << 16,
  sv39x4: 1 << 17,
  sv48x4: 1 << 18,
  sv57x4: 1 << 19,
  amoMrif: 1 << 21,
  msiFlat: 1 << 22,
  msiMrif: 1 << 23,
  amoHwad: 1 << 24,
  ats: 1 << 25,
  t2gpa: 1 << 26,
  end: 1 << 27,
  igs: 3 << 28,
  igsMsi: 0,
  igsWsi: 1 << 28,
  igsBoth: 2 << 28,
  hpm: 1 << 30,
  dbg: 1 << 31,
} as const;

/** "IOMMU capabilities", high half. */
export const CapHi = {
  pas: 0x3f,
  pd8: 1 << 6,
  pd17: 1 << 7,
  pd20: 1 << 8,
  qosid: 1 << 9,
  nl: 1 << 10,
  s: 1 << 11,
} as const;

/** "Features-control register". */
export const Fctl = { be: 1, wsi: 2, gxl: 4 } as const;

/** "Device-directory-table pointer": iommu_mode. */
export const DdtMode = { off: 0, bare: 1, oneLevel: 2, twoLevels: 3, threeLevels: 4 } as const;
export const DDTP_MODE = 0xf;
export const DDTP_BUSY = 1 << 4;

/** Bits that cqcsr, fqcsr and pqcsr have in common, and what each has of its own ("Command-queue CSR" and the next two). */
export const Csr = {
  enable: 1,
  interruptEnable: 1 << 1,
  memoryFault: 1 << 8,
  /** cqcsr.cmd_to; fqcsr.fqof and pqcsr.pqof. */
  timeout: 1 << 9,
  overflow: 1 << 9,
  illegal: 1 << 10,
  fence: 1 << 11,
  on: 1 << 16,
  busy: 1 << 17,
} as const;

/** "Interrupt pending status register"; the bit number is also the cause's place in icvec. */
export const Interrupt = { command: 0, fault: 1, monitor: 2, page: 3 } as const;
export type InterruptCause = (typeof Interrupt)[keyof typeof Interrupt];

/** "Device-directory-table pointer". */
export const DDTP_FIELDS = {
  MODE: bits(3, 0),
  BUSY: bit(4),
  PPN: wide(53, 10),
} as const;

/** "Command-queue base" and the next two. */
export const QUEUE_BASE = {
  /** lg2 of the entries, less one. */
  LOG2SZ_1: bits(4, 0),
  PPN: wide(53, 10),
} as const;

/** "Interrupt-cause-to-vector register": vectors of the causes, in their order. */
export const ICVEC_FIELDS = {
  CIV: bits(3, 0),
  FIV: bits(7, 4),
  PMIV: bits(11, 8),
  PIV: bits(15, 12),
} as const;

/** "MSI configuration table": places of msi_addr_x, msi_data_x, msi_vec_ctl_x in the 16 bytes of a vector. */
export const MSI_ADDR = 0;
export const MSI_DATA = 8;
export const MSI_VEC_CTL = 12;
/** msi_vec_ctl_x.M: the vector is masked. */
export const VEC_CTL_M = 1;

/** "IOMMU QoS ID". */
export const QOSID_FIELDS = {
  RCID: bits(11, 0),
  MCID: bits(27, 16),
} as const;

/** "Translation-request control". */
export const TR_REQ_CTL_FIELDS = {
  GO_BUSY: bit(0),
  PRIV: bit(1),
  EXE: bit(2),
  /** No write: a read. */
  NW: bit(3),
  PID: bits(31, 12),
  /** PID is valid. */
  PV: bit(32),
  DID: bits(63, 40),
} as const;

/** "Translation-response". */
export const TR_RESPONSE_FIELDS = {
  FAULT: bit(0),
  PBMT: bits(8, 7),
  /** The translation is of a superpage, whose size PPN encodes. */
  S: bit(9),
  PPN: wide(53, 10),
} as const;

/** "Performance-monitoring event selector". */
export const IOHPMEVT_FIELDS = {
  EVENT_ID: bits(14, 0),
  /** DID_GSCID is masked, from its lowest 0 down. */
  DMASK: bit(15),
  PID_PSCID: wide(35, 16),
  DID_GSCID: bits(59, 36),
  /** PID_PSCID is valid. */
  PV_PSCV: bit(60),
  /** DID_GSCID is valid. */
  DV_GSCV: bit(61),
  /** Filters are GSCID and PSCID, not device_id and process_id. */
  IDT: bit(62),
  /** The counter has overflowed. */
  OF: bit(63),
} as const;
/** iohpmcycles.OF, and OF of IOHPMEVT_FIELDS: of the upper half. */
export const OVERFLOW = 1 << 31;
