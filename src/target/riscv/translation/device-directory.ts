import { READ, WRITE } from '../../../memory/access.ts';
import { hiOfPfn, loOfPfn, PAGE_BYTES } from '../../../memory/address.ts';
import type { TableMemory } from '../../../pagetable/page-table.ts';
import { MARK_DIRTY, type RiscvMode, RiscvTable } from '../../../pagetable/riscv.ts';
import type { ImplicitAccess } from '../../../pagetable/two-stage.ts';
import { type Field, get, getWide, isSet, reservedClear } from '../../fields.ts';
import type { TableReader } from '../../target.ts';
import { Event, type Hpm } from '../control/hpm.ts';
import type { Registers } from '../control/registers.ts';
import { Cause } from '../spec/causes.ts';
import { DC, DDTE, DDTE_RESERVED, MsiptpMode } from '../spec/device-context.ts';
import { Cap, CapHi, DDTP, DDTP_FIELDS, DdtMode } from '../spec/registers.ts';
import type { Structures } from '../structures.ts';
import type { IommuMemory } from '../surroundings.ts';
import { brokenDeviceRule, type ConfigurationLimits } from './configuration-checks.ts';
import { secondStageMode } from './stage-modes.ts';

const DEVICE_ID_BITS = 24;
const GUEST_BITS_OF_SXL = 34;

/** Bits of process_id that each pdtp.MODE knows. */
const PROCESS_BITS = [20, 8, 17, 20] as const;
const PROCESSES = 1 << 20;

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

export interface DirectoryConfig extends ConfigurationLimits {
  /** Widest device_id. */
  readonly deviceIdBits: number;
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
    const root = getWide(registers.words.subarray(DDTP >>> 2, (DDTP >>> 2) + 2), DDTP_FIELDS.PPN);
    let hi = hiOfPfn(root);
    let lo = loOfPfn(root);
    // 2. to 7.
    for (let level = registers.mode - DdtMode.oneLevel; level > 0; level--) {
      this.#hpm.count(Event.ddtWalk);
      const index = (device >>> (leafBits + 9 * (level - 1))) & 0x1ff;
      if (!this.#structures.read(hi, lo | (index << 3), 1, bigEndian)) return this.#refuse(this.#accessCause);
      if (!isSet(words, DDTE.V)) return this.#refuse(Cause.ddtNotValid);
      if (!reservedClear(words, DDTE_RESERVED)) return this.#refuse(Cause.ddtMisconfigured);
      const page = getWide(words, DDTE.PPN);
      hi = hiOfPfn(page);
      lo = loOfPfn(page);
    }
    // 8. Let DC be the value of DC_SIZE bytes at a + DDI[0] * DC_SIZE.
    this.#hpm.count(Event.ddtWalk);
    const offset = (device & ((1 << leafBits) - 1)) << (extended ? 6 : 5);
    if (!extended) words.fill(0, 8);
    if (!this.#structures.read(hi, lo | offset, extended ? 8 : 4, bigEndian)) return this.#refuse(this.#accessCause);
    // 9.
    if (!isSet(words, DC.V)) return this.#refuse(Cause.ddtNotValid);
    // 10.
    if (brokenDeviceRule(words, registers, this.#config) !== null) return this.#refuse(Cause.ddtMisconfigured);
    return this.#decode(device);
  }

  /**
   * Tells the entries that lead to a device's context, as far as they are valid, and the context itself, each with all process_ids for pages. Nothing that
   * the guest can see changes.
   */
  tell(device: number, memory: TableMemory, tables: TableReader): void {
    const registers = this.#registers;
    const extended = registers.can(Cap.msiFlat);
    const leafBits = extended ? 6 : 7;
    const words = new Int32Array(2);
    let page = getWide(registers.words.subarray(DDTP >>> 2, (DDTP >>> 2) + 2), DDTP_FIELDS.PPN);
    for (let level = registers.mode - DdtMode.oneLevel; level > 0; level--) {
      const offset = ((device >>> (leafBits + 9 * (level - 1))) & 0x1ff) << 3;
      tables(page * PAGE_BYTES + offset, 8, 1, 0, PROCESSES - 1);
      const [hi, lo] = [hiOfPfn(page), loOfPfn(page) | offset];
      const status = registers.bigEndian ? memory.load64BE(hi, lo) : memory.load64(hi, lo);
      words.set(memory.word.subarray(0, 2));
      if (status < 0 || !isSet(words, DDTE.V)) return;
      page = getWide(words, DDTE.PPN);
    }
    const lg2 = extended ? 6 : 5;
    tables(page * PAGE_BYTES + ((device & ((1 << leafBits) - 1)) << lg2), 1 << lg2, 1, 0, PROCESSES - 1);
  }

  get #accessCause(): number {
    return this.#structures.poisoned ? Cause.ddtCorruption : Cause.ddtAccessFault;
  }

  #refuse(cause: number): null {
    this.cause = cause;
    return null;
  }

  #decode(device: number): DeviceContext {
    const { words } = this.#structures;
    const has = (field: Field) => isSet(words, field);
    const mode = secondStageMode(this.#registers, get(words, DC.IOHGATP_MODE)) ?? null;
    const secondStage = mode === null ? null : { mode, root: getWide(words, DC.IOHGATP_PPN) };
    const [pagesLo, pagesHi] = this.#guestPageMask;
    const [maskLo, maskHi] = halves(getWide(words, DC.MSI_MASK));
    const [patternLo, patternHi] = halves(getWide(words, DC.MSI_PATTERN));
    const gade = has(DC.GADE);
    const sade = has(DC.SADE);
    const sxl = has(DC.SXL);
    return {
      device,
      ats: has(DC.EN_ATS),
      pri: has(DC.EN_PRI),
      t2gpa: has(DC.T2GPA),
      quiet: has(DC.DTF),
      pdtv: has(DC.PDTV),
      prpr: has(DC.PRPR),
      gade,
      sade,
      dpe: has(DC.DPE),
      sbe: has(DC.SBE),
      sxl,
      secondStage,
      gscid: get(words, DC.GSCID),
      pscid: get(words, DC.PSCID),
      fscMode: get(words, DC.FSC_MODE),
      fscRoot: getWide(words, DC.FSC_PPN),
      msi: get(words, DC.MSIPTP_MODE) === MsiptpMode.flat,
      msiRoot: getWide(words, DC.MSIPTP_PPN),
      msiMask: [maskLo & pagesLo, maskHi & pagesHi],
      msiPattern: [patternLo & pagesLo, patternHi & pagesHi],
      msiIgnored: [maskLo | ~pagesLo, maskHi | ~pagesHi],
      second: secondStage === null ? null : this.secondTable(secondStage, { gade, sxl }, this.#memory),
      implicit: { read: gade && sade ? READ | MARK_DIRTY : READ, write: WRITE },
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

/** A page number as int32: [lo, hi]. */
function halves(page: number): readonly [number, number] {
  return [page | 0, Math.floor(page / 2 ** 32) | 0];
}

/** Whether pdtp.MODE knows process_ids as wide. */
export function coversProcess(mode: number, process: number): boolean {
  return process >>> PROCESS_BITS[mode as 0 | 1 | 2 | 3] === 0;
}
