import { bit, bits } from '../../fields.ts';

/*
 * The function information block of MPCIFC and STPCIFC: byte offsets, big-endian (QEMU: struct ZpciFib; Linux: struct zpci_fib of
 * arch/s390/include/asm/pci_insn.h).
 */

export const FIB_BYTES = 0x50;

export const FIB = {
  /** Format, 1 byte: 0. */
  FORMAT: 0x00,
  /** Function controls, 1 byte; FIB_FC. */
  CONTROLS: 0x08,
  /** PCI base address: the first byte that the function may reach. */
  PBA: 0x10,
  /** PCI address limit: the last byte. */
  PAL: 0x18,
  /** I/O translation anchor. */
  IOTA: 0x20,
  /** Interrupt parameters, 4 bytes; FIB_INTERRUPTS. */
  INTERRUPTS: 0x28,
  /** Adapter interruption bit vector: address. */
  AIBV: 0x30,
  /** Adapter interruption summary bit: address. */
  AISB: 0x38,
  /** Function measurement block: address, and a key in the four low bits. */
  FMB: 0x40,
} as const;

/** Function controls, as STPCIFC stores them (Linux: zpci_fib.fc; QEMU: stpcifc_service_call). */
export const FIB_FC = { enabled: 0x80, error: 0x40, loadStoreBlocked: 0x20, translation: 0x10 } as const;

/** The word at FIB.INTERRUPTS. */
export const FIB_INTERRUPTS = {
  /** Bit of the summary indicator, counted from AISB. */
  AISBO: bits(5, 0),
  /** Summary notification. */
  SUM: bit(7),
  /** Bit of interrupt 0, counted from AIBV. */
  AIBVO: bits(13, 8),
  /** Number of interrupts. */
  NOI: bits(27, 16),
  /** Interruption subclass. */
  ISC: bits(30, 28),
} as const;

/** The function measurement block, format 0 (QEMU: struct ZpciFmb): byte offsets. */
export const FMB = {
  FORMAT: 0x00,
  /** Updates so far, 4 bytes. */
  SAMPLES: 0x04,
  /** Time of day, twice; bit 0 is set while the block is written. */
  LAST_UPDATE: 0x08,
  /** Loads, stores, store blocks and refreshes: 8 bytes each. */
  COUNTERS: 0x10,
} as const;
export const FMB_COUNTERS = 4;
