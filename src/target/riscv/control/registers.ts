/*
 * RISC-V IOMMU Architecture Specification 1.0, chapter "Memory-mapped register interface": offsets, fields and widths of the
 * registers in the IOMMU's 4 KiB page. Section names in the comments are those of the specification.
 */

/** "Register layout": byte offsets. */
export const CAPABILITIES = 0;
export const FCTL = 8;
export const DDTP = 16;
export const CQB = 24;
export const CQH = 32;
export const CQT = 36;
export const FQB = 40;
export const FQH = 48;
export const FQT = 52;
export const PQB = 56;
export const PQH = 64;
export const PQT = 68;
export const CQCSR = 72;
export const FQCSR = 76;
export const PQCSR = 80;
export const IPSR = 84;
export const IOCOUNTOVF = 88;
export const IOCOUNTINH = 92;
export const IOHPMCYCLES = 96;
/** iohpmctr1 to 31. */
export const IOHPMCTR = 104;
/** iohpmevt1 to 31. */
export const IOHPMEVT = 352;
export const TR_REQ_IOVA = 600;
export const TR_REQ_CTL = 608;
export const TR_RESPONSE = 616;
export const IOMMU_QOSID = 624;
export const ICVEC = 760;
export const MSI_CFG_TBL = 768;
const MSI_CFG_TBL_END = 1024;
export const PAGE_OF_REGISTERS = 4096;

/** "IOMMU capabilities", low half. */
export const Cap = {
  sv32: 1 << 8,
  sv39: 1 << 9,
  sv48: 1 << 10,
  sv57: 1 << 11,
  svrsw60t59b: 1 << 14,
  svpbmt: 1 << 15,
  sv32x4: 1 << 16,
  sv39x4: 1 << 17,
  sv48x4: 1 << 18,
  sv57x4: 1 << 19,
  amoMrif: 1 << 21,
  msiFlat: 1 << 22,
  msiMrif: 1 << 23,
  amoHwad: 1 << 24,
  ats: 1 << 25,
  t2gpa: 1 << 26,
  end: 1 << 27,
  igs: 3 << 28,
  igsMsi: 0,
  igsWsi: 1 << 28,
  igsBoth: 2 << 28,
  hpm: 1 << 30,
  dbg: 1 << 31,
} as const;

/** "IOMMU capabilities", high half. */
export const CapHi = {
  pas: 0x3f,
  pd8: 1 << 6,
  pd17: 1 << 7,
  pd20: 1 << 8,
  qosid: 1 << 9,
  nl: 1 << 10,
  s: 1 << 11,
} as const;

/** "Features-control register". */
export const Fctl = { be: 1, wsi: 2, gxl: 4 } as const;

/** "Device-directory-table pointer": iommu_mode. */
export const DdtMode = { off: 0, bare: 1, oneLevel: 2, twoLevels: 3, threeLevels: 4 } as const;
export const DDTP_MODE = 0xf;
export const DDTP_BUSY = 1 << 4;

/** Bits that cqcsr, fqcsr and pqcsr have in common, and what each has of its own ("Command-queue CSR" and the next two). */
export const Csr = {
  enable: 1,
  interruptEnable: 1 << 1,
  memoryFault: 1 << 8,
  /** cqcsr.cmd_to; fqcsr.fqof and pqcsr.pqof. */
  timeout: 1 << 9,
  overflow: 1 << 9,
  illegal: 1 << 10,
  fence: 1 << 11,
  on: 1 << 16,
  busy: 1 << 17,
} as const;

/** "Interrupt pending status register"; the bit number is also the cause's place in icvec. */
export const Interrupt = { command: 0, fault: 1, monitor: 2, page: 3 } as const;
export type InterruptCause = (typeof Interrupt)[keyof typeof Interrupt];

/** Bytes of the register that holds an offset: 8 or 4; 0: reserved. */
export function widthAt(offset: number): number {
  const aligned = offset & ~3;
  if (aligned < IOHPMCYCLES) {
    if (aligned < FCTL || (aligned >= DDTP && aligned < CQH) || aligned === FQB || aligned === FQB + 4) return 8;
    return aligned === PQB || aligned === PQB + 4 ? 8 : 4;
  }
  if (aligned < IOMMU_QOSID) return 8;
  if (aligned === IOMMU_QOSID) return 4;
  if (aligned < ICVEC || aligned >= MSI_CFG_TBL_END) return 0;
  if (aligned < MSI_CFG_TBL) return 8;
  return (aligned & 8) === 0 ? 8 : 4;
}

/**
 * The register file as it reads, without rules: 32-bit words, so that a 64-bit register is its two halves, as the
 * specification lets software see it.
 */
export class Registers {
  readonly words = new Int32Array(PAGE_OF_REGISTERS / 4);

  get(offset: number): number {
    return this.words[offset >>> 2];
  }
  set(offset: number, value: number): void {
    this.words[offset >>> 2] = value;
  }
  setBits(offset: number, bits: number): void {
    this.words[offset >>> 2] |= bits;
  }
  clearBits(offset: number, bits: number): void {
    this.words[offset >>> 2] &= ~bits;
  }
  has(offset: number, bits: number): boolean {
    return (this.words[offset >>> 2] & bits) !== 0;
  }
  /** Whether capabilities has a bit of its low half. */
  can(bit: number): boolean {
    return (this.words[0] & bit) !== 0;
  }
  /** The same of its high half. */
  canHi(bit: number): boolean {
    return (this.words[1] & bit) !== 0;
  }
  get bigEndian(): boolean {
    return (this.words[FCTL >>> 2] & Fctl.be) !== 0;
  }
  get guest32(): boolean {
    return (this.words[FCTL >>> 2] & Fctl.gxl) !== 0;
  }
  get wired(): boolean {
    return (this.words[FCTL >>> 2] & Fctl.wsi) !== 0;
  }
  get mode(): number {
    return this.words[DDTP >>> 2] & DDTP_MODE;
  }
  /** Bits that a physical address may have in its upper half (capabilities.PAS is 32 or more on any useful IOMMU). */
  get addressHiMask(): number {
    const pas = this.words[1] & CapHi.pas;
    return pas <= 32 ? 0 : (2 ** (pas - 32) - 1) | 0;
  }
  /** The same of its lower half. */
  get addressLoMask(): number {
    const pas = this.words[1] & CapHi.pas;
    return pas >= 32 ? -1 : (2 ** pas - 1) | 0;
  }
}
