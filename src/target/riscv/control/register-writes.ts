import { get, getWide, put, putWide } from '../../fields.ts';
import type { FaultQueue } from '../reporting/fault-queue.ts';
import type { Interrupts } from '../reporting/interrupts.ts';
import type { PageRequestQueue } from '../reporting/page-request-queue.ts';
import {
  Cap,
  CapHi,
  CQB,
  CQCSR,
  CQT,
  Csr,
  DDTP,
  DDTP_BUSY,
  DDTP_FIELDS,
  DdtMode,
  FCTL,
  Fctl,
  FQB,
  FQCSR,
  FQH,
  ICVEC,
  ICVEC_FIELDS,
  IOCOUNTINH,
  IOHPMCTR,
  IOHPMCYCLES,
  IOHPMEVT,
  IOMMU_QOSID,
  IPSR,
  MSI_ADDR,
  MSI_CFG_TBL,
  MSI_DATA,
  PQB,
  PQCSR,
  PQH,
  QOSID_FIELDS,
  TR_REQ_CTL,
  TR_REQ_IOVA,
} from '../spec/registers.ts';
import type { CommandQueue } from './command-queue.ts';
import type { DebugTranslation } from './debug.ts';
import type { Hpm } from './hpm.ts';
import { type Registers, widthAt } from './registers.ts';

interface WriteParts {
  readonly commands: CommandQueue;
  readonly faults: FaultQueue;
  readonly pages: PageRequestQueue;
  readonly interrupts: Interrupts;
  readonly hpm: Hpm;
  readonly debug: DebugTranslation;
  /** ddtp or fctl changed: contexts and address spaces may be others. */
  configured(): void;
}

interface WriteRules {
  readonly gxlWritable?: boolean;
  readonly maxMode?: number;
  readonly vectorBits?: number;
  readonly rcidBits?: number;
  readonly mcidBits?: number;
}

/** The access rules of the registers (chapter "Memory-mapped register interface"); optional registers ignore writes. */
export class RegisterWrites {
  readonly #registers: Registers;
  readonly #rules: WriteRules;
  readonly #parts: WriteParts;
  /** What a write does, by offset; registers that are not here are read-only. */
  readonly #narrow: ReadonlyMap<number, (value: number) => void>;
  readonly #wide: ReadonlyMap<number, (hi: number, lo: number) => void>;

  constructor(registers: Registers, rules: WriteRules, parts: WriteParts) {
    this.#registers = registers;
    this.#rules = rules;
    this.#parts = parts;
    const { commands, faults, pages, interrupts, hpm, debug } = parts;
    this.#narrow = new Map<number, (value: number) => void>([
      [FCTL, (value) => this.#writeFctl(value)],
      [CQT, (value) => commands.queue.writeIndex(value)],
      [FQH, (value) => faults.queue.writeIndex(value)],
      [PQH, (value) => registers.can(Cap.ats) && pages.queue.writeIndex(value)],
      [CQCSR, (value) => commands.writeCsr(value)],
      [FQCSR, (value) => faults.writeCsr(value)],
      [PQCSR, (value) => registers.can(Cap.ats) && pages.writeCsr(value)],
      [IPSR, (value) => interrupts.writePending(value)],
      [IOCOUNTINH, (value) => registers.can(Cap.hpm) && hpm.writeInhibit(value)],
      [IOMMU_QOSID, (value) => this.#writeQosId(value)],
    ]);
    this.#wide = new Map<number, (hi: number, lo: number) => void>([
      [DDTP, (hi, lo) => this.#writeDdtp(hi, lo)],
      [CQB, (hi, lo) => commands.queue.writeBase(hi, lo)],
      [FQB, (hi, lo) => faults.queue.writeBase(hi, lo)],
      [PQB, (hi, lo) => registers.can(Cap.ats) && pages.queue.writeBase(hi, lo)],
      [TR_REQ_IOVA, (hi, lo) => registers.can(Cap.dbg) && debug.writeIova(hi, lo)],
      [TR_REQ_CTL, (hi, lo) => registers.can(Cap.dbg) && debug.writeControl(hi, lo)],
      [ICVEC, (_, lo) => this.#writeIcvec(lo)],
    ]);
  }

  /** A 4-byte write. To one half of an 8-byte register it keeps the other half. */
  write(offset: number, value: number): void {
    const base = offset & ~7;
    if (widthAt(offset) === 4) {
      if (offset >= MSI_CFG_TBL) this.#writeMessage(offset, 0, value);
      else this.#narrow.get(offset)?.(value);
    } else if (offset === base) {
      this.writeWide(base, this.#registers.get(base + 4), value);
    } else {
      this.writeWide(base, value, this.#registers.get(base));
    }
  }

  /** A write of an 8-byte register. */
  writeWide(offset: number, hi: number, lo: number): void {
    if (offset >= MSI_CFG_TBL) this.#writeMessage(offset, hi, lo);
    else if (offset >= IOHPMCYCLES && offset < TR_REQ_IOVA) this.#writeMonitor(offset, hi, lo);
    else this.#wide.get(offset)?.(hi, lo);
  }

  #writeMonitor(offset: number, hi: number, lo: number): void {
    const { hpm } = this.#parts;
    if (!this.#registers.can(Cap.hpm)) return;
    if (offset === IOHPMCYCLES) hpm.writeCycles(hi, lo);
    else if (offset < IOHPMEVT) hpm.writeCounter((offset - IOHPMCTR) / 8 + 1, hi, lo);
    else hpm.writeEvent((offset - IOHPMEVT) / 8 + 1, hi, lo);
  }

  /** fctl. While the IOMMU or a queue is on, the behaviour is unspecified: ignored. */
  #writeFctl(value: number): void {
    const registers = this.#registers;
    const inUse = Csr.enable | Csr.on;
    if (registers.mode !== DdtMode.off || registers.has(CQCSR, inUse) || registers.has(FQCSR, inUse) || registers.has(PQCSR, inUse)) return;
    const writable =
      (registers.can(Cap.end) ? Fctl.be : 0) |
      ((registers.get(0) & Cap.igs) === Cap.igsBoth ? Fctl.wsi : 0) |
      (this.#rules.gxlWritable ? Fctl.gxl : 0);
    registers.set(FCTL, (registers.get(FCTL) & ~writable) | (value & writable));
    this.#parts.interrupts.driveWires();
    this.#parts.configured();
  }

  /** ddtp. An illegal mode, or a step from one directory to another without Off or Bare between, is ignored. */
  #writeDdtp(hi: number, lo: number): void {
    const registers = this.#registers;
    const written = [lo, hi];
    const mode = get(written, DDTP_FIELDS.MODE);
    const highest = Math.min(this.#rules.maxMode ?? DdtMode.threeLevels, DdtMode.threeLevels);
    if (registers.has(DDTP, DDTP_BUSY) || mode > highest) return;
    if (registers.mode > DdtMode.bare && mode > DdtMode.bare) return;
    const ddtp = registers.words.subarray(DDTP >>> 2, (DDTP >>> 2) + 2);
    put(ddtp, DDTP_FIELDS.MODE, mode);
    putWide(ddtp, DDTP_FIELDS.PPN, getWide(written, DDTP_FIELDS.PPN) % registers.pages);
    this.#parts.configured();
  }

  #writeQosId(value: number): void {
    if (!this.#registers.canHi(CapHi.qosid)) return;
    const { rcidBits = 12, mcidBits = 12 } = this.#rules;
    const written = Int32Array.of(value);
    const kept = Int32Array.of(0);
    put(kept, QOSID_FIELDS.RCID, get(written, QOSID_FIELDS.RCID) & ((1 << rcidBits) - 1));
    put(kept, QOSID_FIELDS.MCID, get(written, QOSID_FIELDS.MCID) & ((1 << mcidBits) - 1));
    this.#registers.set(IOMMU_QOSID, kept[0]);
  }

  /** pmiv and piv are 0 where there is no monitor and no page-request queue. */
  #writeIcvec(value: number): void {
    const registers = this.#registers;
    const { CIV, FIV, PMIV, PIV } = ICVEC_FIELDS;
    const there = [CIV, FIV, ...(registers.can(Cap.hpm) ? [PMIV] : []), ...(registers.can(Cap.ats) ? [PIV] : [])];
    const writable = (1 << (this.#rules.vectorBits ?? 4)) - 1;
    const written = Int32Array.of(value);
    const kept = Int32Array.of(0);
    for (const field of there) put(kept, field, get(written, field) & writable);
    registers.set(ICVEC, kept[0]);
    this.#parts.interrupts.driveWires();
  }

  /** msi_addr_x, msi_data_x, msi_vec_ctl_x of the vectors that icvec can name; none where only wires are supported. */
  #writeMessage(offset: number, hi: number, lo: number): void {
    const registers = this.#registers;
    const vector = (offset - MSI_CFG_TBL) >>> 4;
    if ((registers.get(0) & Cap.igs) === Cap.igsWsi || vector >>> (this.#rules.vectorBits ?? 4) !== 0) return;
    switch (offset & 0xf) {
      case MSI_ADDR:
        registers.set(offset, lo & ~3);
        registers.set(offset + 4, hi & registers.addressHiMask);
        return;
      case MSI_DATA:
        registers.set(offset, lo);
        return;
      default:
        this.#parts.interrupts.writeVectorControl(vector, lo);
    }
  }
}
