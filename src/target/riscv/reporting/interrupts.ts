import { get } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import {
  CQCSR,
  Csr,
  FCTL,
  Fctl,
  FQCSR,
  ICVEC,
  ICVEC_FIELDS,
  Interrupt,
  type InterruptCause,
  IPSR,
  MSI_ADDR,
  MSI_CFG_TBL,
  MSI_DATA,
  MSI_VEC_CTL,
  PQCSR,
  VEC_CTL_M,
} from '../spec/registers.ts';
import type { Structures } from '../structures.ts';
import type { RiscvIommuSurroundings } from '../surroundings.ts';

/** Told of an MSI that could not be written ("MSI configuration table"): cause 273, with msi_addr_x. */
export type MsiFaultReport = (hi: number, lo: number) => void;

/** Csr bits that keep an interrupt pending; a new record in a queue raises one beside them. */
const CONDITIONS: readonly (readonly [csr: number, bits: number])[] = [
  [CQCSR, Csr.memoryFault | Csr.timeout | Csr.illegal | Csr.fence],
  [FQCSR, Csr.memoryFault | Csr.overflow],
  // pmip is set by the edge of an OF bit only.
  [0, 0],
  [PQCSR, Csr.memoryFault | Csr.overflow],
];
/** By cause. */
const VECTOR_OF = Object.values(ICVEC_FIELDS);
const CSR_OF = [CQCSR, FQCSR, 0, PQCSR] as const;

/** "Interrupt pending status register", "Interrupt-cause-to-vector register", "MSI configuration table". */
export class Interrupts {
  /** Vectors whose message waits for its mask bit to be cleared. */
  held = 0;
  readonly #registers: Registers;
  readonly #structures: Structures;
  readonly #surroundings: RiscvIommuSurroundings;
  readonly #report: MsiFaultReport;
  /** Vectors whose wire is asserted. */
  #wires = 0;

  constructor(registers: Registers, structures: Structures, surroundings: RiscvIommuSurroundings, report: MsiFaultReport) {
    this.#registers = registers;
    this.#structures = structures;
    this.#surroundings = surroundings;
    this.#report = report;
  }

  /** Sets a cause's pending bit, if the cause is enabled, and signals the edge. */
  raise(cause: InterruptCause): void {
    const registers = this.#registers;
    if (registers.has(IPSR, 1 << cause)) return;
    if (cause !== Interrupt.monitor && !registers.has(CSR_OF[cause], Csr.interruptEnable)) return;
    registers.setBits(IPSR, 1 << cause);
    if (registers.wired) this.driveWires();
    else this.#message(this.#vectorOf(cause));
  }

  /** RW1C; where the condition persists, the bit is set again, and that is an edge. */
  writePending(value: number): void {
    this.#registers.clearBits(IPSR, value & 0xf);
    for (const cause of Object.values(Interrupt)) {
      if ((value & (1 << cause)) !== 0 && this.#persists(cause)) this.raise(cause);
    }
    this.driveWires();
  }

  /** A csr was written: an interrupt whose condition holds becomes pending when it is enabled. */
  recheck(cause: InterruptCause): void {
    if (this.#persists(cause)) this.raise(cause);
  }

  #persists(cause: InterruptCause): boolean {
    const [csr, bits] = CONDITIONS[cause];
    return bits !== 0 && this.#registers.has(csr, bits) && this.#registers.has(csr, Csr.interruptEnable);
  }

  #vectorOf(cause: InterruptCause): number {
    return get(this.#registers.words.subarray(ICVEC >>> 2), VECTOR_OF[cause]);
  }

  /** Makes the wires what ipsr, icvec and fctl.WSI say. */
  driveWires(): void {
    const registers = this.#registers;
    let wires = 0;
    if (registers.has(FCTL, Fctl.wsi)) {
      for (const cause of Object.values(Interrupt)) if (registers.has(IPSR, 1 << cause)) wires |= 1 << this.#vectorOf(cause);
    }
    const changed = wires ^ this.#wires;
    this.#wires = wires;
    for (let vector = 0; vector < 16; vector++) {
      if ((changed & (1 << vector)) !== 0) this.#surroundings.wire?.(vector, (wires & (1 << vector)) !== 0);
    }
  }

  #message(vector: number): void {
    const entry = MSI_CFG_TBL + 16 * vector;
    const registers = this.#registers;
    if (registers.has(entry + MSI_VEC_CTL, VEC_CTL_M)) {
      this.held |= 1 << vector;
      return;
    }
    const hi = registers.get(entry + MSI_ADDR + 4);
    const lo = registers.get(entry + MSI_ADDR);
    if (!this.#structures.storeWord(hi, lo, registers.get(entry + MSI_DATA))) this.#report(hi, lo);
  }

  /** msi_vec_ctl_x: clearing M sends what waited. */
  writeVectorControl(vector: number, value: number): void {
    const entry = MSI_CFG_TBL + 16 * vector;
    this.#registers.set(entry + MSI_VEC_CTL, value & VEC_CTL_M);
    if ((value & VEC_CTL_M) !== 0 || (this.held & (1 << vector)) === 0) return;
    this.held &= ~(1 << vector);
    this.#message(vector);
  }

  /** After `load`: the embedder's wires stand as the saved device's did. */
  restore(held: number): void {
    this.held = held;
    this.driveWires();
  }

  reset(): void {
    this.held = 0;
    this.driveWires();
  }
}
