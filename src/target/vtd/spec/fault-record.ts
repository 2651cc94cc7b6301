import { bit, bits } from '../../fields.ts';

/** A fault recording register of 128 bits: VT-d D51397-018 (5.10), 11.4.7.6. Bits of the second doubleword count from 64 there. */
export const FRCD_BYTES = 16;

/** Fault information: the page of the address, both words; of an interrupt its index in bits 63:48. */
export const FI_LO = bits(31, 12);
export const FI_HI = bits(63, 32);
export const FI_INTERRUPT_INDEX = bits(63, 48);
/** Source identifier: requester ID. */
export const SID = bits(15, 0, 1);
/** T2 and T1: 00 write, 01 page request, 10 read, 11 AtomicOp; T1 is the upper bit. */
export const T2 = bit(28, 1);
export const T1 = bit(62, 1);
/** Privilege mode requested, execute permission requested: of requests with PASID. */
export const PRIV = bit(29, 1);
export const EXE = bit(30, 1);
/** PASID present, and its value. */
export const PP = bit(31, 1);
export const PV = bits(59, 40, 1);
/** Fault reason. */
export const FR = bits(39, 32, 1);
/** Address type: 00 untranslated, 01 translation request, 10 translated. */
export const AT = bits(61, 60, 1);
/** Fault: the record is valid; write 1 to clear. */
export const F = bit(63, 1);
