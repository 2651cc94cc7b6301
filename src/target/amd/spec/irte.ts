import { bit, bits } from '../../fields.ts';

/** Interrupt table entries, 2.2.5: of 32 bits, */
export const IRTE = {
  /** Without it the interrupt is refused. */
  REMAP_EN: bit(0),
  /** No event then. */
  SUPPRESS: bit(1),
  /** 0 fixed, 1 arbitrated; others are reserved. */
  TYPE: bits(4, 2),
  RQ_EOI: bit(5),
  /** Logical destination. */
  DM: bit(6),
  GUEST_MODE: bit(7),
  DESTINATION: bits(15, 8),
  VECTOR: bits(23, 16),
} as const;

/** and of 128 bits, with CONTROL.GA_EN, guest mode off. */
export const IRTE_GA = {
  REMAP_EN: bit(0),
  SUPPRESS: bit(1),
  TYPE: bits(4, 2),
  RQ_EOI: bit(5),
  DM: bit(6),
  GUEST_MODE: bit(7),
  /** 8 bits without CONTROL.XT_EN. */
  DESTINATION_LOW: bits(31, 8),
  VECTOR: bits(7, 0, 1),
  /** With CONTROL.XT_EN. */
  DESTINATION_HIGH: bits(63, 56, 1),
} as const;

/** Message data: entry, vector and delivery mode of an interrupt that is not remapped. */
export const MESSAGE = { INDEX: bits(10, 0), VECTOR: bits(7, 0), MODE: bits(10, 8) } as const;
/** MESSAGE.MODE. */
export const DELIVERY = { fixed: 0, lowest: 1, smi: 2, nmi: 4, init: 5, extInt: 7 } as const;
