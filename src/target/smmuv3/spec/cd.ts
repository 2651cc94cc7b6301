import { bit, bits, wide } from '../../fields.ts';

/** Context descriptor, 5.4: eight doublewords. */
export const CD_BYTES = 64;

export const CD = {
  T0SZ: bits(5, 0),
  /** 0: 4K, 1: 64K, 2: 16K. */
  TG0: bits(7, 6),
  IR0: bits(9, 8),
  OR0: bits(11, 10),
  SH0: bits(13, 12),
  /** No walks of TTB0. */
  EPD0: bit(14),
  /** Tables are big-endian. */
  ENDI: bit(15),
  T1SZ: bits(21, 16),
  /** 1: 16K, 2: 4K, 3: 64K. */
  TG1: bits(23, 22),
  IR1: bits(25, 24),
  OR1: bits(27, 26),
  SH1: bits(29, 28),
  EPD1: bit(30),
  V: bit(31),
  IPS: bits(34, 32),
  AFFD: bit(35),
  /** What is writable is not executable. */
  WXN: bit(36),
  UWXN: bit(37),
  TBI0: bit(38),
  TBI1: bit(39),
  /** The privileged do not reach the data of the unprivileged. */
  PAN: bit(40),
  AA64: bit(41),
  HD: bit(42),
  HA: bit(43),
  /** Faults stall, */
  S: bit(44),
  /** are recorded, */
  R: bit(45),
  /** and abort; otherwise reads give 0 and writes are ignored. */
  A: bit(46),
  ASET: bit(47),
  ASID: bits(63, 48),
  /** Table descriptors carry no permissions. */
  HAD0: bit(1, 1),
  E0PD0: bit(2, 1),
  TTB0: wide(51, 4, 1),
  /** PAN keeps off what the unprivileged execute, too. */
  EPAN: bit(59, 1),
  HAD1: bit(1, 2),
  E0PD1: bit(2, 2),
  TTB1: wide(51, 4, 2),
  /** Descriptors of 4K and 16K tables have 52-bit addresses. */
  DS: bit(58, 2),
  MAIR0: bits(31, 0, 3),
  MAIR1: bits(63, 32, 3),
} as const;

/** First-level context descriptor, 5.3: one doubleword. */
export const L1CD = { V: bit(0), L2PTR: wide(55, 12) } as const;
export const L1CD_BYTES = 8;
