import { bit, bits, wide } from '../../fields.ts';

/** Commands, chapter 4: two doublewords. */
export const COMMAND_BYTES = 16;

/** Of every command, 4.1.1. */
export const OP = bits(7, 0);
/** OP. */
export const OPCODE = {
  PREFETCH_CONFIG: 0x01,
  PREFETCH_ADDR: 0x02,
  CFGI_STE: 0x03,
  CFGI_STE_RANGE: 0x04,
  CFGI_CD: 0x05,
  CFGI_CD_ALL: 0x06,
  TLBI_NH_ALL: 0x10,
  TLBI_NH_ASID: 0x11,
  TLBI_NH_VA: 0x12,
  TLBI_NH_VAA: 0x13,
  TLBI_EL2_ALL: 0x20,
  TLBI_EL2_ASID: 0x21,
  TLBI_EL2_VA: 0x22,
  TLBI_EL2_VAA: 0x23,
  TLBI_S12_VMALL: 0x28,
  TLBI_S2_IPA: 0x2a,
  TLBI_NSNH_ALL: 0x30,
  ATC_INV: 0x40,
  PRI_RESP: 0x41,
  RESUME: 0x44,
  STALL_TERM: 0x45,
  SYNC: 0x46,
} as const;

/** Fields of commands that name a stream, 4.1.6. */
export const STREAM = {
  /** Secure stream: illegal here. */
  SSEC: bit(10),
  SSV: bit(11),
  SUBSTREAM: bits(31, 12),
  STREAM: bits(63, 32),
} as const;

/** 4.3.2: 2^(RANGE + 1) streams; 31: all (CFGI_ALL, 4.3.6). */
export const CFGI_RANGE = { RANGE: bits(4, 0, 1) } as const;

/** TLBI_*, 4.4.1 to 4.4.3. */
export const TLBI = {
  /** (NUM + 1) × 2^SCALE granules, with TG. */
  NUM: bits(16, 12),
  SCALE: bits(25, 20),
  /** Of an SMMU without 52-bit addresses of 4K and 16K granules (IDR5.DS): the bit above is reserved. */
  SCALE_NARROW: bits(24, 20),
  VMID: bits(47, 32),
  ASID: bits(63, 48),
  LEAF: bit(0, 1),
  /** Level of the leaf that is meant, with TG; 0: any. */
  TTL: bits(9, 8, 1),
  /** 0: no range; 1: 4K, 2: 16K, 3: 64K. */
  TG: bits(11, 10, 1),
  ADDRESS: wide(63, 12, 1),
  /** Of TLBI_S2_IPA; what is above is reserved, and taken as 0 (4.1.6). */
  IPA: wide(51, 12, 1),
} as const;

/** 4.5.1; stream and substream are those of STREAM. */
export const ATC_INV = {
  GLOBAL: bit(9),
  /** 2^SIZE pages; 52: all. */
  SIZE: bits(5, 0, 1),
  ADDRESS: wide(63, 12, 1),
} as const;
/** ATC_INV.SIZE of every address. */
export const ATC_SIZE_ALL = 52;

/** 4.5.2. */
export const PRI_RESP = {
  GROUP: bits(8, 0, 1),
  /** 0 failure, 1 invalid request, 2 success; 3 is illegal. */
  RESPONSE: bits(13, 12, 1),
} as const;

/** 4.7.1. */
export const RESUME = {
  /** Retry; otherwise terminate, */
  ACTION: bit(12),
  /** with an abort. */
  ABORT: bit(13),
  STAG: bits(15, 0, 1),
} as const;

/** 4.7.3. */
export const SYNC = {
  /** Completion signal: 0 none, 1 interrupt, 2 event; 3 is illegal. */
  CS: bits(13, 12),
  MSH: bits(23, 22),
  MSI_ATTR: bits(27, 24),
  MSI_DATA: bits(63, 32),
  MSI_ADDRESS: wide(51, 2, 1),
} as const;
/** SYNC.CS. */
export const SIGNAL = { none: 0, irq: 1, sev: 2, reserved: 3 } as const;

/** CMDQ_CONS.ERR, 7.1. */
export const CERROR = { ILL: 1, ABT: 2, ATC_INV_SYNC: 3 } as const;
