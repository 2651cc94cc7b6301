import { bits } from '../../fields.ts';

/*
 * The register of MPCIFC, STPCIFC, RPCIT, PCILG, PCISTG and PCISTB that holds a function's handle in its high word (QEMU:
 * hw/s390x/s390-pci-inst.c; Linux: ZPCI_CREATE_REQ of arch/s390/include/asm/pci_insn.h).
 */
export const INSTRUCTION = {
  /** MPCIFC: what to do. */
  OPERATION: bits(7, 0),
  /** Loads and stores: bytes. */
  LENGTH: bits(3, 0),
  /** PCISTB: bytes. */
  BLOCK_LENGTH: bits(12, 0),
  /** Loads and stores: BAR 0 to 5, or 15: configuration space. */
  PCI_ADDRESS_SPACE: bits(19, 16),
  /** MPCIFC, STPCIFC: 0. */
  DMA_ADDRESS_SPACE: bits(23, 16),
  /** Afterwards: why the condition code is 1. */
  STATUS: bits(31, 24),
} as const;

/** PCI_ADDRESS_SPACE of configuration space, and of the last BAR. */
export const CONFIGURATION_SPACE = 15;
export const LAST_BAR = 5;

/** Bit of a handle that is set while the function is enabled. */
export const HANDLE_ENABLED = 0x8000_0000;

/** Bytes that PCISTB stores at most; CLP tells the guest. As QEMU's functions have it. */
export const STORE_BLOCK_BYTES = 128;
