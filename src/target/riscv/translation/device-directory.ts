import { READ, WRITE } from '../../../memory/access.ts';
import type { TableMemory } from '../../../pagetable/page-table.ts';
import { MARK_DIRTY, type RiscvMode, RiscvTable } from '../../../pagetable/riscv.ts';
import type { ImplicitAccess } from '../../../pagetable/two-stage.ts';
import { Event, type Hpm } from '../control/hpm.ts';
import { Cap, CapHi, DDTP, DdtMode, type Registers } from '../control/registers.ts';
import { Cause } from '../reporting/fault-queue.ts';
import type { Structures } from '../structures.ts';
import type { IommuMemory } from '../surroundings.ts';

/** "Translation control (tc)", low half. */
const Tc = {
  v: 1,
  enAts: 1 << 1,
  enPri: 1 << 2,
  t2gpa: 1 << 3,
  dtf: 1 << 4,
  pdtv: 1 << 5,
  prpr: 1 << 6,
  gade: 1 << 7,
  sade: 1 << 8,
  dpe: 1 << 9,
  sbe: 1 << 10,
  sxl: 1 << 11,
  reserved: 0xfff << 12,
} as const;

/** MODE of iosatp, iohgatp, pdtp and msiptp stands in the highest four bits, above the reserved bits and the PPN. */
const MODE_SHIFT = 28;
const FSC_RESERVED = 0xffff << 12;
const PPN_HI = 0xfff;
const DEVICE_ID_BITS = 24;
const GUEST_BITS_OF_SXL = 34;

/** "Encodings of pdtp.MODE field": bits of process_id that each mode knows. */
export const PdtMode = { bare: 0, pd8: 1, pd17: 2, pd20: 3 } as const;
const PROCESS_BITS = [20, 8, 17, 20] as const;

/** Tables of a GPA-to-SPA translation as a context says them. */
export interface StageFormat {
  readonly mode: RiscvMode;
  readonly root: number;
}

/** A device-context, decoded and checked ("Device-context fields"). */
export interface DeviceContext {
  readonly device: number;
  readonly ats: boolean;
  readonly pri: boolean;
  readonly t2gpa: boolean;
  /** DTF: faults of translation are not reported. */
  readonly quiet: boolean;
  readonly pdtv: boolean;
  readonly prpr: boolean;
  readonly gade: boolean;
  readonly sade: boolean;
  readonly dpe: boolean;
  readonly sbe: boolean;
  readonly sxl: boolean;
  /** iohgatp; null: Bare. */
  readonly secondStage: StageFormat | null;
  readonly gscid: number;
  readonly pscid: number;
  /** pdtp.MODE with PDTV, otherwise iosatp.MODE, and the PPN of either. */
  readonly fscMode: number;
  readonly fscRoot: number;
  /** msiptp is Flat. */
  readonly msi: boolean;
  readonly msiRoot: number;
  /** 52-bit page numbers, [lo, hi]. */
  readonly msiMask: readonly [number, number];
  readonly msiPattern: readonly [number, number];
  /** Bits of a page number that the comparison with the pattern leaves out: the mask's, and those above MGPAW. */
  readonly msiIgnored: readonly [number, number];
  /** The second stage's tables; null: Bare. */
  readonly second: RiscvTable | null;
  /** How first-stage tables are reached through them. */
  readonly implicit: ImplicitAccess;
}

export interface DirectoryConfig {
  /** fctl.GXL can be written, so that DC.tc.SXL may be 1. */
  readonly gxlWritable: boolean;
  /** fctl.BE can be written, so that DC.tc.SBE may differ from it. */
  readonly beWritable: boolean;
  /** Widths that RCID and MCID have, as masks. */
  readonly rcidMask: number;
  readonly mcidMask: number;
  /** Widest device_id. */
  readonly deviceIdBits: number;
}

/** The first-stage scheme that a MODE encodes, null for Bare, undefined where the encoding is not valid or not supported. */
export function firstStageMode(registers: Registers, mode: number, sxl: boolean): RiscvMode | null | undefined {
  if (mode === 0) return null;
  if (sxl) return mode === 8 && registers.can(Cap.sv32) ? 'sv32' : undefined;
  if (mode === 8) return registers.can(Cap.sv39) ? 'sv39' : undefined;
  if (mode === 9) return registers.can(Cap.sv48) ? 'sv48' : undefined;
  return mode === 10 && registers.can(Cap.sv57) ? 'sv57' : undefined;
}

function secondStageMode(registers: Registers, mode: number): RiscvMode | null | undefined {
  if (mode === 0) return null;
  if (registers.guest32) return mode === 8 && registers.can(Cap.sv32x4) ? 'sv32' : undefined;
  if (mode === 8) return registers.can(Cap.sv39x4) ? 'sv39' : undefined;
  if (mode === 9) return registers.can(Cap.sv48x4) ? 'sv48' : undefined;
  return mode === 10 && registers.can(Cap.sv57x4) ? 'sv57' : undefined;
}

/** The device directory: "Process to locate the Device-context". */
export class DeviceDirectory {
  /** Why `locate` found none. */
  cause = 0;
  readonly #registers: Registers;
  readonly #structures: Structures;
  readonly #memory: IommuMemory;
  readonly #hpm: Hpm;
  readonly #config: DirectoryConfig;

  constructor(registers: Registers, structures: Structures, memory: IommuMemory, hpm: Hpm, config: DirectoryConfig) {
    this.#registers = registers;
    this.#structures = structures;
    this.#memory = memory;
    this.#hpm = hpm;
    this.#config = config;
  }

  /** Steps 3 to 5 of "Process to translate an IOVA": whether ddtp.iommu_mode has levels enough for the device_id. */
  covers(device: number): boolean {
    const leafBits = this.#registers.can(Cap.msiFlat) ? 6 : 7;
    const levels = this.#registers.mode - DdtMode.bare;
    return device >>> (levels > 2 ? DEVICE_ID_BITS : leafBits + 9 * (levels - 1)) === 0;
  }

  /** Whether a DID operand names a device that the mode has, or could have where it has no directory ("IODIR commands"). */
  admits(device: number): boolean {
    return device >>> this.#config.deviceIdBits === 0 && (this.#registers.mode <= DdtMode.bare || this.covers(device));
  }

  /** Walks the directory, whose mode has levels. null: `cause` says why. */
  locate(device: number): DeviceContext | null {
    const registers = this.#registers;
    const { words } = this.#structures;
    const extended = registers.can(Cap.msiFlat);
    const leafBits = extended ? 6 : 7;
    const bigEndian = registers.bigEndian;
    // 1. Let a be ddtp.PPN x 2^12 and i = LEVELS - 1.
    let hi = ((registers.get(DDTP + 4) & 0x3f_ffff) << 2) | (registers.get(DDTP) >>> 30);
    let lo = (registers.get(DDTP) & ~0x3ff) << 2;
    // 2. to 7.
    for (let level = registers.mode - DdtMode.oneLevel; level > 0; level--) {
      this.#hpm.count(Event.ddtWalk);
      const index = (device >>> (leafBits + 9 * (level - 1))) & 0x1ff;
      if (!this.#structures.read(hi, lo | (index << 3), 1, bigEndian)) return this.#refuse(this.#accessCause);
      const entryLo = words[0];
      const entryHi = words[1];
      if ((entryLo & 1) === 0) return this.#refuse(Cause.ddtNotValid);
      // Non-leaf DDT entry: V 0, reserved 9:1, PPN 53:10, reserved 63:54.
      if ((entryLo & 0x3fe) !== 0 || entryHi >>> 22 !== 0) return this.#refuse(Cause.ddtMisconfigured);
      hi = (entryHi << 2) | (entryLo >>> 30);
      lo = (entryLo & ~0x3ff) << 2;
    }
    // 8. Let DC be the value of DC_SIZE bytes at a + DDI[0] * DC_SIZE.
    this.#hpm.count(Event.ddtWalk);
    const offset = (device & ((1 << leafBits) - 1)) << (extended ? 6 : 5);
    if (!extended) words.fill(0, 8);
    if (!this.#structures.read(hi, lo | offset, extended ? 8 : 4, bigEndian)) return this.#refuse(this.#accessCause);
    // 9. and 10.
    if ((words[0] & Tc.v) === 0) return this.#refuse(Cause.ddtNotValid);
    if (this.#isMisconfigured()) return this.#refuse(Cause.ddtMisconfigured);
    return this.#decode(device);
  }

  get #accessCause(): number {
    return this.#structures.poisoned ? Cause.ddtCorruption : Cause.ddtAccessFault;
  }

  #refuse(cause: number): null {
    this.cause = cause;
    return null;
  }

  /** "Device-context configuration checks". */
  #isMisconfigured(): boolean {
    const { words } = this.#structures;
    return this.#hasReserved(words) || this.#misusesAts(words[0]) || this.#misusesFirstStage(words) || this.#misusesSecondStage(words);
  }

  #hasReserved(words: Int32Array): boolean {
    const tc = words[0];
    const registers = this.#registers;
    const qos = registers.canHi(CapHi.qosid);
    const rcid = (words[5] >>> 8) & 0xfff;
    const mcid = words[5] >>> 20;
    if ((tc & Tc.reserved) !== 0 || words[1] !== 0) return true;
    if ((words[4] & 0xfff) !== 0 || (words[5] & 0xff) !== 0) return true;
    if ((rcid & ~(qos ? this.#config.rcidMask : 0)) !== 0 || (mcid & ~(qos ? this.#config.mcidMask : 0)) !== 0) return true;
    if ((words[7] & FSC_RESERVED) !== 0 || (words[9] & FSC_RESERVED) !== 0) return true;
    if (words[11] >>> 20 !== 0 || words[13] >>> 20 !== 0 || (words[14] | words[15]) !== 0) return true;
    // Byte order and width of first-stage structures are those that fctl allows.
    const sbe = (tc & Tc.sbe) !== 0;
    if (sbe !== registers.bigEndian && !(registers.can(Cap.end) && this.#config.beWritable)) return true;
    const sxl = (tc & Tc.sxl) !== 0;
    return registers.guest32 ? !sxl : sxl && !this.#config.gxlWritable;
  }

  #misusesAts(tc: number): boolean {
    const registers = this.#registers;
    const ats = (tc & Tc.enAts) !== 0;
    const pri = (tc & Tc.enPri) !== 0;
    const prpr = (tc & Tc.prpr) !== 0;
    const t2gpa = (tc & Tc.t2gpa) !== 0;
    if ((ats || pri || prpr) && !registers.can(Cap.ats)) return true;
    if (!ats && (t2gpa || pri)) return true;
    return (!pri && prpr) || (t2gpa && !registers.can(Cap.t2gpa));
  }

  #misusesFirstStage(words: Int32Array): boolean {
    const tc = words[0];
    const registers = this.#registers;
    const mode = words[7] >>> MODE_SHIFT;
    if ((tc & Tc.sade) !== 0 && !registers.can(Cap.amoHwad)) return true;
    if ((tc & Tc.pdtv) === 0) return (tc & Tc.dpe) !== 0 || firstStageMode(registers, mode, (tc & Tc.sxl) !== 0) === undefined;
    if (mode === PdtMode.pd8) return !registers.canHi(CapHi.pd8);
    if (mode === PdtMode.pd17) return !registers.canHi(CapHi.pd17);
    if (mode === PdtMode.pd20) return !registers.canHi(CapHi.pd20);
    return mode !== PdtMode.bare;
  }

  #misusesSecondStage(words: Int32Array): boolean {
    const tc = words[0];
    const mode = words[3] >>> MODE_SHIFT;
    const msiMode = words[9] >>> MODE_SHIFT;
    if ((tc & Tc.gade) !== 0 && !this.#registers.can(Cap.amoHwad)) return true;
    if (secondStageMode(this.#registers, mode) === undefined || msiMode > 1) return true;
    if (mode === 0) return (tc & Tc.t2gpa) !== 0 || msiMode !== 0;
    // The 16 KiB root is aligned to its size.
    return (words[2] & 3) !== 0;
  }

  #decode(device: number): DeviceContext {
    const { words } = this.#structures;
    const tc = words[0];
    const has = (bit: number) => (tc & bit) !== 0;
    const mode = secondStageMode(this.#registers, words[3] >>> MODE_SHIFT) ?? null;
    const secondStage = mode === null ? null : { mode, root: ppn(words, 2) };
    const pageMask = this.#guestPageMask;
    return {
      device,
      ats: has(Tc.enAts),
      pri: has(Tc.enPri),
      t2gpa: has(Tc.t2gpa),
      quiet: has(Tc.dtf),
      pdtv: has(Tc.pdtv),
      prpr: has(Tc.prpr),
      gade: has(Tc.gade),
      sade: has(Tc.sade),
      dpe: has(Tc.dpe),
      sbe: has(Tc.sbe),
      sxl: has(Tc.sxl),
      secondStage,
      gscid: (words[3] >>> 12) & 0xffff,
      pscid: words[4] >>> 12,
      fscMode: words[7] >>> MODE_SHIFT,
      fscRoot: ppn(words, 6),
      msi: words[9] >>> MODE_SHIFT === 1,
      msiRoot: ppn(words, 8),
      msiMask: [words[10] & pageMask[0], words[11] & pageMask[1]],
      msiPattern: [words[12] & pageMask[0], words[13] & pageMask[1]],
      msiIgnored: [words[10] | ~pageMask[0], words[11] | ~pageMask[1]],
      second: secondStage === null ? null : this.secondTable(secondStage, { gade: has(Tc.gade), sxl: has(Tc.sxl) }, this.#memory),
      implicit: { read: has(Tc.gade) && has(Tc.sade) ? READ | MARK_DIRTY : READ, write: WRITE },
    };
  }

  /** "MSI address mask and pattern": page numbers of MGPAW bits, the widest second stage's. */
  get #guestPageMask(): readonly [number, number] {
    const registers = this.#registers;
    const bits = registers.can(Cap.sv57x4)
      ? 59
      : registers.can(Cap.sv48x4)
        ? 50
        : registers.can(Cap.sv39x4)
          ? 41
          : registers.can(Cap.sv32x4)
            ? 34
            : Math.max(12, registers.get(4) & CapHi.pas);
    const pages = bits - 12;
    return pages >= 32 ? [-1, (1 << (pages - 32)) - 1] : [2 ** pages - 1, 0];
  }

  /** A second stage's tables, whose byte order is fctl.BE. With SXL, guest-physical addresses above 34 bits fault ("Translation control"). */
  secondTable(format: StageFormat, { gade, sxl }: Pick<DeviceContext, 'gade' | 'sxl'>, memory: TableMemory): RiscvTable {
    return new RiscvTable({
      mode: format.mode,
      root: format.root,
      memory,
      secondStage: true,
      bigEndian: this.#registers.bigEndian,
      updateAccessedDirty: gade,
      ...(sxl && { inputBits: GUEST_BITS_OF_SXL }),
      ...this.formats,
    });
  }

  /** Extensions of the table formats that capabilities name. */
  get formats(): { readonly svpbmt: boolean; readonly svrsw60t59b: boolean } {
    return { svpbmt: this.#registers.can(Cap.svpbmt), svrsw60t59b: this.#registers.can(Cap.svrsw60t59b) };
  }
}

/** The PPN of doubleword `at / 2`. */
export function ppn(words: Int32Array, at: number): number {
  return (words[at + 1] & PPN_HI) * 2 ** 32 + (words[at] >>> 0);
}

/** Whether pdtp.MODE knows process_ids as wide. */
export function coversProcess(mode: number, process: number): boolean {
  return process >>> PROCESS_BITS[mode as 0 | 1 | 2 | 3] === 0;
}
