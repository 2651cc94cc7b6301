import { bit, bits, reservedMask, wide } from '../../fields.ts';

/* RISC-V IOMMU 20260222, "Command-Queue (CQ)": two doublewords a command. */

/** "IOMMU command opcodes" in bits 6:0, func3 in bits 9:7. */
export const COMMAND = {
  OPCODE: bits(6, 0),
  FUNC3: bits(9, 7),
  /** Both, by which commands are told apart. */
  OPERATION: bits(9, 0),
} as const;

/** Values of COMMAND.OPERATION. */
export const Operation = {
  IOTINVAL_VMA: 1,
  IOTINVAL_GVMA: 1 | (1 << 7),
  IOFENCE_C: 2,
  IODIR_INVAL_DDT: 3,
  IODIR_INVAL_PDT: 3 | (1 << 7),
  ATS_INVAL: 4,
  ATS_PRGR: 4 | (1 << 7),
} as const;

const { OPERATION } = COMMAND;

/** "IOMMU Page-Table cache invalidation commands". */
export const IOTINVAL = {
  OPERATION,
  /** ADDR is valid. */
  AV: bit(10),
  PSCID: bits(31, 12),
  /** PSCID is valid; IOTINVAL.VMA only. */
  PSCV: bit(32),
  /** GSCID is valid; 0: the host's address spaces. */
  GV: bit(33),
  /** Entries that are no leaf, too (Non-leaf PTE Invalidation Extension; reserved without). */
  NL: bit(34),
  GSCID: bits(59, 44),
  /** ADDR is a NAPOT range (Address Range Invalidation Extension; reserved without). */
  S: bit(9, 1),
  /** ADDR[63:12]. */
  ADDR: wide(61, 10, 1),
} as const;
export const IOTINVAL_RESERVED = reservedMask(2, Object.values(IOTINVAL));

/** "IOMMU Command-queue Fence commands". */
export const IOFENCE = {
  OPERATION,
  /** ADDR and DATA are valid. */
  AV: bit(10),
  /** An interrupt by wire when done. */
  WSI: bit(11),
  /** Earlier reads of devices are ordered. */
  PR: bit(12),
  /** Earlier writes of devices are ordered. */
  PW: bit(13),
  DATA: bits(63, 32),
  /** ADDR[63:2], its halves. */
  ADDR_LO: bits(31, 0, 1),
  ADDR_HI: bits(61, 32, 1),
} as const;
export const IOFENCE_RESERVED = reservedMask(2, Object.values(IOFENCE));

/** "IOMMU directory cache invalidation commands". */
export const IODIR = {
  OPERATION,
  /** Reserved in INVAL_DDT. */
  PID: bits(31, 12),
  /** DID is valid; 1 in INVAL_PDT. */
  DV: bit(33),
  DID: bits(63, 40),
} as const;
export const IODIR_RESERVED = reservedMask(2, Object.values(IODIR));

/** "IOMMU PCIe ATS commands". */
export const ATS = {
  OPERATION,
  PID: bits(31, 12),
  /** PID is valid. */
  PV: bit(32),
  /** DSEG is valid. */
  DSV: bit(33),
  RID: bits(55, 40),
  DSEG: bits(63, 56),
  PAYLOAD_LO: bits(31, 0, 1),
  PAYLOAD_HI: bits(63, 32, 1),
} as const;

/** The payload of a page request group response (ATS.PRGR; PCI Express Base Specification 6.0, 10.4.2). */
export const PRGR_PAYLOAD = {
  PRGI: bits(40, 32),
  /** Response code (10.4.2.1). */
  CODE: bits(47, 44),
  /** Requester ID that is answered. */
  DESTINATION: bits(63, 48),
} as const;
export const ATS_RESERVED = reservedMask(2, Object.values(ATS));
