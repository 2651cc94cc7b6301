import { bit, bits, wide } from '../../fields.ts';

/* Registers: Arm SMMUv3 (IHI 0070 G.b), 6.2 and 6.3. Offsets in bytes; fields of each as words, the low one first. */

/** Bytes of pages 0 and 1 (6.1), and of the VATOS page behind them, where there is one (IDR2.BA_VATOS is 0). */
export const REGISTER_BYTES = 0x2_0000;
export const VATOS_BYTES = 0x1_0000;
/** Where page 1 begins: it has the indices of event and PRI queue, at the offsets that they would have in page 0. */
export const PAGE_1 = 0x1_0000;

export const REG = {
  IDR0: 0x0000,
  IDR1: 0x0004,
  IDR2: 0x0008,
  IDR3: 0x000c,
  IDR4: 0x0010,
  IDR5: 0x0014,
  IIDR: 0x0018,
  AIDR: 0x001c,
  CR0: 0x0020,
  CR0ACK: 0x0024,
  CR1: 0x0028,
  CR2: 0x002c,
  STATUSR: 0x0040,
  GBPA: 0x0044,
  IRQ_CTRL: 0x0050,
  IRQ_CTRLACK: 0x0054,
  GERROR: 0x0060,
  GERRORN: 0x0064,
  GERROR_IRQ_CFG0: 0x0068,
  GERROR_IRQ_CFG1: 0x0070,
  GERROR_IRQ_CFG2: 0x0074,
  STRTAB_BASE: 0x0080,
  STRTAB_BASE_CFG: 0x0088,
  CMDQ_BASE: 0x0090,
  CMDQ_PROD: 0x0098,
  CMDQ_CONS: 0x009c,
  EVENTQ_BASE: 0x00a0,
  /** In page 1, as EVENTQ_CONS, PRIQ_PROD and PRIQ_CONS. */
  EVENTQ_PROD: 0x00a8,
  EVENTQ_CONS: 0x00ac,
  EVENTQ_IRQ_CFG0: 0x00b0,
  EVENTQ_IRQ_CFG1: 0x00b8,
  EVENTQ_IRQ_CFG2: 0x00bc,
  PRIQ_BASE: 0x00c0,
  PRIQ_PROD: 0x00c8,
  PRIQ_CONS: 0x00cc,
  PRIQ_IRQ_CFG0: 0x00d0,
  PRIQ_IRQ_CFG1: 0x00d8,
  PRIQ_IRQ_CFG2: 0x00dc,
  GATOS_CTRL: 0x0100,
  GATOS_SID: 0x0108,
  GATOS_ADDR: 0x0110,
  GATOS_PAR: 0x0118,
  VATOS_SEL: 0x0180,
  IDR6: 0x0190,
  /** Of the VATOS page, at 0xa00 of it (6.2.3); kept here behind those of page 0. */
  VATOS_CTRL: 0x0198,
  VATOS_SID: 0x01a0,
  VATOS_ADDR: 0x01a8,
  VATOS_PAR: 0x01b0,
} as const;
/** One past page 0's last register: what is above reads 0 and ignores writes; and one past the last that is kept. */
export const PAGE_0_END = 0x0194;
export const REGISTERS_END = 0x01b8;
/** The VATOS page's registers: CTRL, SID, ADDR, PAR, as far apart as GATOS_*. */
export const VATOS_PAGE = { FIRST: 0x0a00, END: 0x0a20 } as const;

/** 6.3.9. */
export const CR0 = {
  SMMUEN: bit(0),
  PRIQEN: bit(1),
  EVENTQEN: bit(2),
  CMDQEN: bit(3),
  ATSCHK: bit(4),
  VMW: bits(8, 6),
} as const;

/** 6.3.12. */
export const CR2 = { E2H: bit(0), RECINVSID: bit(1), PTM: bit(2), REC_CFG_ATS: bit(3) } as const;

/** 6.3.14. */
export const GBPA = {
  MEM_ATTR: bits(3, 0),
  MTCFG: bit(4),
  ALLOCCFG: bits(11, 8),
  SHCFG: bits(13, 12),
  PRIVCFG: bits(17, 16),
  INSTCFG: bits(19, 18),
  ABORT: bit(20),
  UPDATE: bit(31),
} as const;

/** 6.3.16. */
export const IRQ_CTRL = { GERROR: bit(0), PRIQ: bit(1), EVENTQ: bit(2) } as const;

/** 6.3.19, GERROR and GERRORN. */
export const GERROR = {
  CMDQ_ERR: bit(0),
  EVENTQ_ABT_ERR: bit(2),
  PRIQ_ABT_ERR: bit(3),
  MSI_CMDQ_ABT_ERR: bit(4),
  MSI_EVENTQ_ABT_ERR: bit(5),
  MSI_PRIQ_ABT_ERR: bit(6),
  MSI_GERROR_ABT_ERR: bit(7),
  SFM_ERR: bit(8),
} as const;

/** 6.3.21 to 6.3.23, of each source of interrupts. */
export const IRQ_CFG0 = { ADDR: wide(51, 2) } as const;

/** 6.3.24. */
export const STRTAB_BASE = { ADDR: wide(55, 6), RA: bit(62) } as const;

/** 6.3.25. */
export const STRTAB_BASE_CFG = {
  LOG2SIZE: bits(5, 0),
  /** Bits of a StreamID below the first level: 6, 8 or 10; others are taken as 6. */
  SPLIT: bits(10, 6),
  /** 0 linear, 1 two levels; others are taken as 0. */
  FMT: bits(17, 16),
} as const;

/** 6.3.26, of each queue. */
export const QUEUE_BASE = { LOG2SIZE: bits(4, 0), ADDR: wide(55, 5), ALLOCATE: bit(62) } as const;
/** 6.3.27 and 6.3.28: an index, its wrap flag above it. */
export const QUEUE_INDEX = { INDEX: bits(19, 0) } as const;
/** 6.3.28. */
export const CMDQ_CONS = { RD: bits(19, 0), ERR: bits(30, 24) } as const;
/** 7.4: OVFLG of a PROD register, OVACKFLG of a CONS register. */
export const OVERFLOW_FLAG = bit(31);

/** 6.3.44. */
export const VATOS_SEL = { VMID: bits(15, 0) } as const;

/** 6.3.38; and of VATOS_SID. */
export const GATOS_SID = { STREAM: bits(31, 0), SUBSTREAM: bits(51, 32), SSID_VALID: bit(52) } as const;
/** 6.3.39. */
export const GATOS_ADDR = {
  HTTUI: bit(6),
  IND: bit(7),
  RNW: bit(8),
  PNU: bit(9),
  /** 1: stage 1; 2: stage 2; 3: both. */
  TYPE: bits(11, 10),
  ADDR: wide(63, 12),
} as const;

/** PRIQ_IRQ_CFG2 alone (6.3.36): interrupt at a group's last request, not when the queue is no longer empty. */
export const PRIQ_IRQ_CFG2 = { LO: bit(31) } as const;

/** 6.3.37. */
export const GATOS_CTRL = { RUN: bit(0) } as const;
/** 6.3.40. */
export const GATOS_PAR = {
  FAULT: bit(0),
  /** With FAULT: 0 of stage 1 or configuration; of stage 2 1 for a context descriptor, 2 for a table, 3 for the address. */
  REASON: bits(2, 1),
  FAULTCODE: bits(11, 4),
  /** Without: shareability, */
  SH: bits(9, 8),
  /** the page is larger than 4 KiB, and the lowest bit of ADDR that is set says how large, */
  SIZE: bit(11),
  ADDR: wide(55, 12),
  /** and MAIR's encoding of the type. */
  ATTR: bits(63, 56),
} as const;
