import { bits, wide } from '../../fields.ts';

/*
 * LoPAR 2.9, 3.2.2.2: a translation control entry, one doubleword. LoPAR counts bits from the highest, 0, to the lowest, 63; here they
 * count as in every other structure of this library.
 */

export const TCE = {
  /** Page mapping and control (bits 62 and 63): 0 page fault, 1 read, 2 write, 3 both. */
  CONTROL: bits(1, 0),
  /** For software, or of no meaning (bits 52 to 61): kept, not looked at. */
  SOFTWARE: bits(11, 2),
  /** Real page number (bits 0 to 51). Those below a larger I/O page are not looked at. */
  RPN: wide(63, 12),
} as const;

/** Bytes of a TCE; tables and lists hold them big-endian. */
export const TCE_BYTES = 8;

/** Mask of CONTROL, which are the bits of src/memory/access.ts. */
export const TCE_PERMISSION = 3;
