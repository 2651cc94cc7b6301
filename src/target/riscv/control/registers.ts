import {
  CapHi,
  CQH,
  DDTP,
  DDTP_MODE,
  FCTL,
  Fctl,
  FQB,
  ICVEC,
  IOHPMCYCLES,
  IOMMU_QOSID,
  MSI_CFG_TBL,
  MSI_CFG_TBL_END,
  PAGE_OF_REGISTERS,
  PQB,
} from '../spec/registers.ts';

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
 *
 * @example
 * const registers = new Registers();
 * const iommu = new RiscvIommu({}, { memory: GuestMemory.ofBytes(1 << 20) }, registers);
 * iommu.write(16, 8, 1n); // ddtp.iommu_mode: Bare
 * registers.get(16); // 1
 * registers.mode; // 1
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
  /** Pages that a physical address can name. */
  get pages(): number {
    return 2 ** ((this.words[1] & CapHi.pas) - 12);
  }
  /** Bits that a physical address may have in its upper half (capabilities.PAS is 32 or more). */
  get addressHiMask(): number {
    const pas = this.words[1] & CapHi.pas;
    return pas <= 32 ? 0 : (2 ** (pas - 32) - 1) | 0;
  }
}
