import { bit, bits, wide } from '../../fields.ts';

/** Stream table entry, 5.2: eight doublewords. */
export const STE_BYTES = 64;

export const STE = {
  V: bit(0),
  CONFIG: bits(3, 1),
  /** Format of the table of context descriptors (S1FMT). */
  S1FMT: bits(5, 4),
  S1CONTEXT_PTR: wide(55, 6),
  /** lg2 of the descriptors; 0: one, and no substreams. */
  S1CDMAX: bits(63, 59),
  /** What a request without substream meets where there are substreams (S1DSS). */
  S1DSS: bits(1, 0, 1),
  S1CIR: bits(3, 2, 1),
  S1COR: bits(5, 4, 1),
  S1CSH: bits(7, 6, 1),
  DRE: bit(12, 1),
  CONT: bits(16, 13, 1),
  DCP: bit(17, 1),
  /** Responses on overflow of the PRI queue carry the PASID. */
  PPAR: bit(18, 1),
  /** Merging of events is allowed. */
  MEV: bit(19, 1),
  S2FWB: bit(25, 1),
  /** Stage 1 may not stall. */
  S1STALLD: bit(27, 1),
  /** 0 off, 1 full, 2 split-stage. */
  EATS: bits(29, 28, 1),
  /** Stream world: 0 NS-EL1, 2 NS-EL2 (with CR2.E2H NS-EL2-E2H). */
  STRW: bits(31, 30, 1),
  MEM_ATTR: bits(35, 32, 1),
  MTCFG: bit(36, 1),
  ALLOCCFG: bits(40, 37, 1),
  SHCFG: bits(45, 44, 1),
  /** 2 unprivileged, 3 privileged; otherwise as the request says. */
  PRIVCFG: bits(49, 48, 1),
  /** Of reads: 2 data, 3 instruction; otherwise as the request says. */
  INSTCFG: bits(51, 50, 1),
  S2VMID: bits(15, 0, 2),
  S2T0SZ: bits(37, 32, 2),
  S2SL0: bits(39, 38, 2),
  S2IR0: bits(41, 40, 2),
  S2OR0: bits(43, 42, 2),
  S2SH0: bits(45, 44, 2),
  S2TG: bits(47, 46, 2),
  S2PS: bits(50, 48, 2),
  S2AA64: bit(51, 2),
  S2ENDI: bit(52, 2),
  S2AFFD: bit(53, 2),
  /** Tables of stage 1 may not lie in device memory. */
  S2PTW: bit(54, 2),
  S2HD: bit(55, 2),
  S2HA: bit(56, 2),
  /** Faults of stage 2 stall, */
  S2S: bit(57, 2),
  /** and are recorded. */
  S2R: bit(58, 2),
  S2SL0_2: bit(2, 3),
  S2DS: bit(3, 3),
  S2TTB: wide(51, 4, 3),
} as const;

/** STE.CONFIG; 0 to 3: requests are aborted without an event. */
export const CONFIG = { bypass: 0b100, stage1: 0b101, stage2: 0b110, nested: 0b111 } as const;
/** Bits of it. */
export const CONFIG_PASSES = 0b100;
export const CONFIG_STAGE_2 = 0b010;
export const CONFIG_STAGE_1 = 0b001;

/** STE.S1DSS; 3 is taken as 0. */
export const S1DSS = { terminate: 0, bypass: 1, substream0: 2 } as const;
/** STE.S1FMT; 3 is taken as 0. */
export const S1FMT = { linear: 0, leaves4K: 1, leaves64K: 2 } as const;
/** STE.EATS. */
export const EATS = { off: 0, full: 1, split: 2, dpt: 3 } as const;
/** STE.STRW. */
export const STRW = { el1: 0, el2: 2 } as const;
/** STE.PRIVCFG and INSTCFG: the attribute is replaced by off or on. */
export const OVERRIDE = { off: 2, on: 3 } as const;

/** First-level stream table descriptor, 5.1: one doubleword. */
export const L1STD = {
  /** 2^(SPAN - 1) entries; 0: none. */
  SPAN: bits(4, 0),
  L2PTR: wide(55, 6),
} as const;
export const L1STD_BYTES = 8;
