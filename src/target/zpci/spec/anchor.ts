import { bit, bits } from '../../fields.ts';

/*
 * The I/O translation anchor, as MPCIFC takes it in the FIB, and the entries of the tables that it designates, as pairs of 32-bit words, the
 * low one first (src/target/fields.ts), bits counted from the least significant. The zPCI architecture has no public text: names and places
 * are those that Linux (arch/s390/include/asm/pci_dma.h) and QEMU (include/hw/s390x/s390-pci-bus.h) agree on; the tables are those
 * of z/Architecture Principles of Operation (SA22-7832), chapter 3. Bits that nobody gives a meaning to are not looked at.
 */

/** I/O translation anchor. */
export const IOTA = {
  /** Designation type: one of DESIGNATION, of what the origin is. */
  DT: bits(4, 2),
  /** Nothing below the anchor can be written. */
  PROTECTION: bit(9),
  /** T: addresses are translated. Without it, with relaxed translation, they are guest addresses above the start of the aperture. */
  T: bit(11),
} as const;

/** IOTA.DT. 4 and above designate frames or page tables without tables above them; they are not supported, as in QEMU. */
export const DESIGNATION = { segment: 0, regionThird: 1, regionSecond: 2, regionFirst: 3 } as const;

/** Region- and segment-table entries (SA22-7832, chapter 3). */
export const TABLE_ENTRY = {
  /** Length of the table below in quarters, less one; region tables. */
  LENGTH: bits(1, 0),
  /** 3: region first; 2: region second; 1: region third; 0: segment. */
  TYPE: bits(3, 2),
  INVALID: bit(5),
  /** Quarters that the table below leaves out at its start; region tables. */
  OFFSET: bits(7, 6),
  PROTECTION: bit(9),
  /** The entry maps a frame: of 1 MiB in segment tables, of 2 GiB in region third tables. */
  FORMAT_CONTROL: bit(10),
} as const;

/** Page-table entries. */
export const PAGE_ENTRY = {
  PROTECTION: bit(9),
  INVALID: bit(10),
  /** Must be 0. */
  ZERO: bit(11),
} as const;
