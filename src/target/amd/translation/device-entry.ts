import { READ, WRITE } from '../../../memory/access.ts';
import { hiOfPfn, loOfPfn } from '../../../memory/address.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { AmdV1Table } from '../../../pagetable/amd-v1.ts';
import type { PageTable, TableMemory } from '../../../pagetable/page-table.ts';
import { get, getWide, isSet, reservedClear, reservedMask } from '../../fields.ts';
import { EFR, registerOf } from '../capabilities.ts';
import type { Registers } from '../control/registers.ts';
import { DTE, DTE_BYTES, INTERRUPT_CONTROL } from '../spec/dte.ts';
import { CONTROL } from '../spec/registers.ts';

/** What becomes of a device's requests (2.2.2.1), numbered because the hot path compares. */
export const VERDICT = {
  /** V = 0, or the IOMMU is off. */
  pass: 0,
  /** TV = 0. */
  abort: 1,
  /** A reserved bit or level: ILLEGAL_DEV_TABLE_ENTRY. */
  illegal: 2,
  /** The entry cannot be read: DEV_TAB_HARDWARE_ERROR. */
  unreadable: 3,
  /** Mode and GV say how. */
  translate: 4,
} as const;

const RESERVED = reservedMask(4, Object.values(DTE));
const RESERVED_MODE = 7;
const HAD_RESERVED = 2;
const GLX_RESERVED = 3;
/** Interrupt tables have 2,048 entries at most. */
const LONGEST_TABLE_LG2 = 11;

/** A device table entry as it was read, and what follows of it. */
export class DeviceEntry {
  readonly device: number;
  readonly words = new Int32Array(DTE_BYTES / 4);
  /** Where it was read from. */
  readonly address: bigint = 0n;
  readonly verdict: number;
  /** ILLEGAL_DEV_TABLE_ENTRY.RZ: a reserved bit, not a level. */
  readonly hasReserved: boolean = false;
  /** READ and WRITE that the entry itself grants. */
  readonly granted: number = READ | WRITE;
  readonly domain: number = 0;
  /** GV, with guest translation enabled. */
  readonly guest: boolean = false;
  readonly giov: boolean = false;
  /** Levels of the host table; 0: none. */
  readonly mode: number = 0;
  /** The host table; null: requests reach system memory. */
  readonly host: PageTable | null = null;
  readonly tracksAccess: boolean = false;
  readonly tracksDirty: boolean = false;
  /** A page fault has been logged since the entry was read: DTE.SE. */
  reported = false;

  constructor(registers: Registers, memory: GuestMemory, device: number, without: readonly string[]) {
    this.device = device;
    if (registers.control(CONTROL.IOMMU_EN) === 0) {
      this.verdict = VERDICT.pass;
      return;
    }
    const { address, exists } = registers.deviceEntry(device);
    this.address = BigInt(address);
    if (!exists || !read(memory, address, this.words)) {
      this.verdict = VERDICT.unreadable;
      return;
    }
    const { words } = this;
    this.domain = get(words, DTE.DOMAIN);
    if (!isSet(words, DTE.V)) {
      this.verdict = VERDICT.pass;
      return;
    }
    const efr = registerOf(EFR, without);
    this.mode = get(words, DTE.MODE);
    this.guest = isSet(words, DTE.GV) && registers.control(CONTROL.GT_EN) !== 0;
    this.hasReserved = !reservedClear(words, RESERVED);
    const isLegal =
      !this.hasReserved && this.mode !== RESERVED_MODE && this.mode <= 4 + Number((efr >> 10n) & 3n) && this.#guestIsLegal(efr);
    if (!isLegal) {
      this.verdict = VERDICT.illegal;
      return;
    }
    if (!isSet(words, DTE.TV)) {
      this.verdict = VERDICT.abort;
      return;
    }
    this.verdict = VERDICT.translate;
    this.granted = (isSet(words, DTE.IR) ? READ : 0) | (isSet(words, DTE.IW) ? WRITE : 0);
    this.giov = isSet(words, DTE.GIOV) && (efr & (1n << 48n)) !== 0n;
    const had = get(words, DTE.HAD);
    this.tracksAccess = had !== 0 && had !== HAD_RESERVED && (efr & (1n << 49n)) !== 0n;
    this.tracksDirty = had === 3 && (efr & (1n << 52n)) !== 0n;
    if (this.mode > 0) this.host = this.hostTable(memory);
  }

  #guestIsLegal(efr: bigint): boolean {
    if (!this.guest) return true;
    const glx = get(this.words, DTE.GLX);
    const levels = get(this.words, DTE.GUEST_LEVELS);
    return glx !== GLX_RESERVED && BigInt(glx) <= ((efr >> 14n) & 3n) && BigInt(levels) <= ((efr >> 12n) & 3n);
  }

  /** Whether requests with this PASID (-1: without) go through guest tables, and through which PASID's; -1: they do not. */
  guestPasid(pasid: number): number {
    if (!this.guest) return -1;
    return pasid < 0 && this.giov ? 0 : pasid;
  }

  /** The host table over other memory: for enumerations and for who looks behind a failure. */
  hostTable(memory: TableMemory): AmdV1Table {
    const accessedDirty = this.tracksDirty ? 'both' : this.tracksAccess ? 'accessed' : 'none';
    return new AmdV1Table(memory, { levels: this.mode as 1 | 2 | 3 | 4 | 5 | 6, root: this.hostRoot, accessedDirty });
  }

  /** Page of the host table's root. */
  get hostRoot(): number {
    return getWide(this.words, DTE.ROOT);
  }

  /** GCR3 table root pointer, whose bits lie in three places: a page. */
  get gcr3Page(): number {
    const { words } = this;
    return get(words, DTE.GCR3_LOW) + get(words, DTE.GCR3_MIDDLE) * 2 ** 3 + get(words, DTE.GCR3_HIGH) * 2 ** 19;
  }

  get gcr3Levels(): number {
    return get(this.words, DTE.GLX) + 1;
  }

  get guestLevels(): 4 | 5 {
    return get(this.words, DTE.GUEST_LEVELS) === 1 ? 5 : 4;
  }

  /** Whether the entry's interrupt part can be one. */
  get interruptsAreLegal(): boolean {
    if (get(this.words, DTE.INTERRUPT_CONTROL) === INTERRUPT_CONTROL.reserved) return false;
    return get(this.words, DTE.INTERRUPT_LENGTH) <= LONGEST_TABLE_LG2;
  }
}

function read(memory: GuestMemory, at: number, into: Int32Array): boolean {
  const page = Math.floor(at / 4096);
  for (let i = 0; i < 4; i++) {
    if (memory.load64(hiOfPfn(page), loOfPfn(page) | (at % 4096) | (8 * i)) < 0) return false;
    into[2 * i] = memory.word[0];
    into[2 * i + 1] = memory.word[1];
  }
  return true;
}
