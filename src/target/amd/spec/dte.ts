import { bit, bits, wide } from '../../fields.ts';

/** Device table entry, 2.2.2.1: four doublewords. */
export const DTE_BYTES = 32;

export const DTE = {
  /** Valid: without it requests pass untranslated. */
  V: bit(0),
  /** Translation information valid: without it requests are refused. */
  TV: bit(1),
  /** Host accessed and dirty bits: 0 none, 1 accessed, 3 both. */
  HAD: bits(8, 7),
  /** Levels of the host page table; 0: none, 7 reserved. */
  MODE: bits(11, 9),
  /** Host page table root, a page. */
  ROOT: wide(51, 12),
  /** Peripheral page requests are served. */
  PPR: bit(52),
  /** PPR responses carry a PASID. */
  GPRP: bit(53),
  /** Requests without PASID are PASID 0's. */
  GIOV: bit(54),
  /** Guest translation valid. */
  GV: bit(55),
  /** Levels of the GCR3 table, less one; 3 reserved. */
  GLX: bits(57, 56),
  GCR3_LOW: bits(60, 58),
  IR: bit(61),
  IW: bit(62),
  DOMAIN: bits(15, 0, 1),
  GCR3_MIDDLE: bits(31, 16, 1),
  /** The device has an IOTLB. */
  I: bit(32, 1),
  /** Page fault events: suppressed after the first, */
  SE: bit(33, 1),
  /** or all of them. */
  SA: bit(34, 1),
  /** Port I/O: IO_CONTROL. */
  IO_CONTROL: bits(36, 35, 1),
  CACHE: bit(37, 1),
  SNOOP_DISABLE: bit(38, 1),
  /** The exclusion range holds for the device. */
  EX: bit(39, 1),
  /** System management messages: SYS_MGT. */
  SYS_MGT: bits(41, 40, 1),
  GCR3_HIGH: bits(63, 43, 1),
  /** Interrupt map valid: without it interrupts pass. */
  IV: bit(0, 2),
  /** lg2 of the interrupt table's entries, 11 at most. */
  INTERRUPT_LENGTH: bits(4, 1, 2),
  /** Interrupts that are not mapped are dropped without an event. */
  IG: bit(5, 2),
  INTERRUPT_ROOT: wide(51, 6, 2),
  /** 0: 4 levels of guest tables, 1: 5. */
  GUEST_LEVELS: bits(55, 54, 2),
  INIT_PASS: bit(56, 2),
  EXT_INT_PASS: bit(57, 2),
  NMI_PASS: bit(58, 2),
  /** Fixed and arbitrated interrupts: 0 aborted, 1 passed, 2 remapped, 3 reserved. */
  INTERRUPT_CONTROL: bits(61, 60, 2),
  LINT0_PASS: bit(62, 2),
  LINT1_PASS: bit(63, 2),
  /** Of vIOMMUs, which are not there: not looked at, and so are the attributes of forwarded requests. */
  VIOMMU_EN: bit(15, 3),
  GUEST_DEVICE: bits(31, 16, 3),
  GUEST: bits(47, 32, 3),
  ATTRIBUTE_VALID: bit(54, 3),
  MODE_0FC: bit(55, 3),
  SNOOP_ATTRIBUTE: bits(63, 56, 3),
} as const;

/** DTE.IO_CONTROL; 3 is reserved. */
export const IO_CONTROL = { refused: 0, forwarded: 1, translated: 2 } as const;
/** DTE.SYS_MGT. */
export const SYS_MGT = { refused: 0, forwarded: 1, intx: 2, translated: 3 } as const;

/** DTE.INTERRUPT_CONTROL. */
export const INTERRUPT_CONTROL = { abort: 0, pass: 1, remap: 2, reserved: 3 } as const;

/** GCR3 table entry, 2.2.6.3. */
export const GCR3 = { V: bit(0), ADDRESS: wide(51, 12) } as const;
