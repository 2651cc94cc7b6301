import { bit, bits, wide } from '../../fields.ts';

/** Event records, 7.3: four doublewords. */
export const EVENT_BYTES = 32;

/** Event numbers; `targetFault('smmuv3', …)` of one is what `translate` answers. */
export const EVENT = {
  F_UUT: 0x01,
  C_BAD_STREAMID: 0x02,
  F_STE_FETCH: 0x03,
  C_BAD_STE: 0x04,
  F_BAD_ATS_TREQ: 0x05,
  F_STREAM_DISABLED: 0x06,
  F_TRANSL_FORBIDDEN: 0x07,
  C_BAD_SUBSTREAMID: 0x08,
  F_CD_FETCH: 0x09,
  C_BAD_CD: 0x0a,
  F_WALK_EABT: 0x0b,
  F_TRANSLATION: 0x10,
  F_ADDR_SIZE: 0x11,
  F_ACCESS: 0x12,
  F_PERMISSION: 0x13,
} as const;

/** Fields of records; each event has some of them. */
export const RECORD = {
  NUMBER: bits(7, 0),
  SSV: bit(11),
  SUBSTREAM: bits(31, 12),
  STREAM: bits(63, 32),
  STAG: bits(15, 0, 1),
  STALL: bit(31, 1),
  /** F_BAD_ATS_TREQ (7.3.6): smallest translation units that were asked for, */
  SPAN: bits(3, 0, 1),
  /** privileged, for execution, for writing, for reading. */
  ASKED_P: bit(28, 1),
  ASKED_X: bit(29, 1),
  ASKED_W: bit(30, 1),
  ASKED_R: bit(31, 1),
  /** Privileged. */
  PNU: bit(33, 1),
  /** Instruction. */
  IND: bit(34, 1),
  /** A read. */
  RNW: bit(35, 1),
  /** Stage 2 faulted. */
  S2: bit(39, 1),
  CLASS: bits(41, 40, 1),
  /** Stage 2 refused that a stage 1 table be read (1) or updated (0). */
  TTRNW: bit(44, 1),
  INPUT_LOW: bits(31, 0, 2),
  INPUT_HIGH: bits(63, 32, 2),
  /** The address that stage 2 refused; as FETCH the structure or table that could not be read. */
  IPA: wide(51, 12, 3),
  FETCH: wide(51, 3, 3),
} as const;

/** RECORD.CLASS: what was on its way when the fault happened. */
export const CLASS = { CD: 0, TT: 1, IN: 2 } as const;

/** PRI queue entries, chapter 8: two doublewords. */
export const PRI_BYTES = 16;
export const PRI = {
  STREAM: bits(31, 0),
  SUBSTREAM: bits(51, 32),
  PRIVILEGED: bit(58),
  EXECUTE: bit(59),
  READ: bit(60),
  WRITE: bit(61),
  LAST: bit(62),
  SSV: bit(63),
  GROUP: bits(8, 0, 1),
  PAGE: wide(63, 12, 1),
} as const;

/** PRG response codes, 8.3. */
export const PRG_RESPONSE = { success: 0, invalidRequest: 1, failure: 15 } as const;
