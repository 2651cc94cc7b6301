/*
 * What instructions answer, and what error events say. No public text: the values that Linux (arch/s390/include/asm/pci_insn.h, pci_clp.h,
 * arch/s390/pci/pci_event.c) and QEMU (include/hw/s390x/s390-pci-inst.h, s390-pci-clp.h, s390-pci-bus.h) agree on.
 */

/** Condition codes of every PCI instruction. */
export const CC = {
  done: 0,
  /** The status says why not. */
  error: 1,
  busy: 2,
  /** The handle is no function's, or one of another state. */
  handle: 3,
} as const;

/** What an instruction answers instead of a condition code: the program interruption that the machine is to present, negated (SA22-7832, chapter 6). */
export const INTERRUPTION = { addressing: -0x05, specification: -0x06, operand: -0x15 } as const;

/** What the machine presents to the CPU at the end of an instruction: a condition code, or a program interruption, negated. */
export type Answer = (typeof CC)[keyof typeof CC] | (typeof INTERRUPTION)[keyof typeof INTERRUPTION];

/**
 * What RPCIT answers instead of a condition code while a part of its range is left: the CPU stays at the instruction, and the machine carries it
 * out again, with the same `GeneralRegisters` object, before that CPU does anything else.
 */
export const UNFINISHED = -0x100;

/** RPCIT's: what presents an `Answer` does not take it, before UNFINISHED is dealt with. */
export type RefreshAnswer = Answer | typeof UNFINISHED;

/** Status of MPCIFC, STPCIFC, RPCIT and the loads and stores, in bits 32 to 39 of the register that holds the handle. */
export const STATUS = {
  /** MPCIFC 2: an indicator cannot be had. */
  resource: 4,
  /** RPCIT: the function has just gone into the error state. */
  functionInError: 8,
  /** Loads and stores: the function is in the error state. */
  blocked: 12,
  /** MPCIFC, RPCIT: no room. Linux flushes all that it has unmapped and tries again. */
  insufficient: 16,
  /** Loads and stores: no such PCI address space. */
  addressSpace: 20,
  /** MPCIFC: the function is not in a state for that. */
  sequence: 24,
  /** DMA address space other than 0. */
  dmaAddressSpace: 28,
  /** RPCIT: the function is in the error state. */
  recovery: 40,
} as const;

/** PCI event codes of error events. */
export const PEC = {
  /** Refresh where no translation is registered. */
  addressSpace: 0x1,
  /** Outside PBA to PAL. */
  range: 0x2,
  /** Invalid page, or one that the access may not have. */
  protection: 0x4,
  /** A table entry that cannot be one: all zeros, or outside memory. */
  tableEntry: 0x7,
  /** A region table without its full length. */
  tableLength: 0x8,
  /** A table entry of the wrong type. */
  tableType: 0x9,
  /** An interrupt without indicators in memory. */
  indicator: 0x13,
  /** The function measurement block cannot be written, */
  measurementAddress: 0x2a,
  /** or has a key. */
  measurementKey: 0x2c,
} as const;

/** Operations of MPCIFC, in bits 56 to 63 of R1. */
export const MPCIFC = {
  registerInterrupts: 2,
  unregisterInterrupts: 3,
  registerTranslation: 4,
  unregisterTranslation: 5,
  reregisterTranslation: 6,
  resetError: 7,
  resetBlock: 9,
  setMeasurement: 10,
} as const;
