import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../../memory/access.ts';
import { Iotlb } from '../../../memory/iotlb.ts';
import { OUT_HI, OUT_LENGTH, OUT_LO, OUT_PERMISSION, OUT_TYPE } from '../../../pagetable/page-table.ts';
import { OUT_LEAF, PBMT_PMA, PROBE, PTE_D, PTE_G, PTE_U } from '../../../pagetable/riscv.ts';
import { NO_PASID } from '../../target.ts';
import { Event, type Hpm } from '../control/hpm.ts';
import type { Registers } from '../control/registers.ts';
import type { FaultQueue } from '../reporting/fault-queue.ts';
import { Refusals } from '../reporting/refusals.ts';
import { Cause } from '../spec/causes.ts';
import { DdtMode } from '../spec/registers.ts';
import type { Structures } from '../structures.ts';
import type { Contexts, Stages } from './contexts.ts';
import { holdsInterruptFile, isInterruptFile, MSI_MRIF, type MsiTables } from './msi.ts';
import { blamed, isReported, Kind, type RequestKind } from './requests.ts';

/** What `translate` answers, negated as causes are, for INTERRUPT_IN_MEMORY. */
const IN_MEMORY = 0x1000;

/** Permission bits in the IOTLB beside READ, WRITE and EXECUTE: who may, and whether the page is an interrupt file. */
export const BY_USER = 1 << 3;
const BY_SUPERVISOR = 1 << 4;
const FETCH_BY_SUPERVISOR = 1 << 5;
const INTERRUPT_FILE = 1 << 6;
/** Beside them the IOTLB keeps the memory type. */
const PBMT_SHIFT = 7;

/** Global translations have a context of their own beside each context: IOTINVAL.VMA with PSCV leaves them alone. */
const GLOBAL = 1 << 21;

const RWX = READ | WRITE | EXECUTE;
/** RWX and PRIVILEGED, here because the compiler folds a module's own constants only. */
const WANTED = 7;
const AS_SUPERVISOR = 8;
/** For the test that compares them with their declarations. */
export const REPEATED = { WANTED, AS_SUPERVISOR, IN_MEMORY } as const;

/** What a request that succeeded got, beside the address in `translated`. */
export interface Answer {
  /** READ, WRITE and EXECUTE that both stages grant; WRITE only where both are dirty. */
  permission: number;
  /** Svpbmt's memory type, as the stages resolve it. */
  pbmt: number;
  global: boolean;
  interruptFile: boolean;
  /** The interrupt file lies in memory: see MsiTables. */
  mrif: boolean;
  /** T2GPA: the guest-physical address. */
  gpaHi: number;
  gpaLo: number;
}

export interface TranslatorParts {
  readonly registers: Registers;
  readonly structures: Structures;
  readonly contexts: Contexts;
  readonly msi: MsiTables;
  readonly faults: FaultQueue;
  readonly hpm: Hpm;
}

/** No device's number, and no address space's. */
const NOBODY = -0x8000_0000;

/** "Process to translate an IOVA", with the IOTLB in front of it. */
export class Translator {
  /** What the IOTLB answers with: [lo, hi], then more. */
  readonly translated: Int32Array;
  readonly answer: Answer = {
    permission: 0,
    pbmt: PBMT_PMA,
    global: false,
    interruptFile: false,
    mrif: false,
    gpaHi: 0,
    gpaLo: 0,
  };
  readonly iotlb: Iotlb;
  /** lg2 of the largest first-stage leaf of which pieces may be in the IOTLB, as the second stage's pages are smaller; 12: of none. */
  piecesOfLg2 = 12;
  readonly #parts: TranslatorParts;
  readonly #hpm: Hpm;
  readonly #refusals: Refusals;
  readonly #fill = new Int32Array(OUT_LENGTH);
  /** Whose request was translated last, and how: most come in a row. Without `#stages` nobody's, and no space is NOBODY's. */
  #device = NOBODY;
  #processId = NO_PASID;
  #space = NOBODY;
  #context = 0;
  #stages: Stages | null = null;
  /** A global translation may be in the cache. */
  #globals = false;
  #debugging = false;

  constructor(parts: TranslatorParts, iotlbEntries: number) {
    this.#parts = parts;
    this.#hpm = parts.hpm;
    this.#refusals = new Refusals(parts);
    this.iotlb = new Iotlb(iotlbEntries);
    this.translated = this.iotlb.out;
  }

  /**
   * One access of an untranslated request: lg2 of the bytes around the address for which `translated` holds; the negative
   * cause, which is in the fault queue then; or INTERRUPT_IN_MEMORY.
   */
  translate(device: number, process: number, hi: number, lo: number, access: number): number {
    if (device === this.#device && process === this.#processId && (access & AS_SUPERVISOR) === 0) {
      const lg2 = this.iotlb.lookup(this.#space, this.#context, hi, lo, (access & WANTED) | BY_USER);
      this.iotlb.serve(device, process);
      if (lg2 >= 0) return lg2;
    }
    return this.#orInterrupt(this.#translateSlowly(device, process, hi, lo, access));
  }

  #translateSlowly(device: number, process: number, hi: number, lo: number, access: number): number {
    const stages = device === this.#device && process === this.#processId ? this.#stages : null;
    if (stages !== null && (access & AS_SUPERVISOR) === 0 && !this.#globals)
      return this.#walkAgain(stages, device, process, hi, lo, access & WANTED);
    return this.request(Kind.untranslated, device, process, hi, lo, access);
  }

  /** An interrupt file in memory is no address to write to. */
  #orInterrupt(result: number): number {
    return result >= 0 && this.answer.mrif ? -IN_MEMORY : result;
  }

  /** The request of the same device as the last one: what its contexts say is known. */
  #walkAgain(stages: Stages, device: number, process: number, hi: number, lo: number, access: number): number {
    this.#refusals.begin();
    this.iotlb.misses++;
    const result = this.#walk(Kind.untranslated, stages, hi, lo, access);
    if (result >= 0) return result;
    this.#parts.contexts.quiet = stages.device.quiet;
    this.#refusals.report(Kind.untranslated, -result, device, process, hi, lo, access);
    return result;
  }

  /** Empties the IOTLB. */
  forgetAll(): void {
    this.iotlb.invalidateAll();
    this.piecesOfLg2 = 12;
  }

  /** What was looked up may no longer be so. */
  forgetLast(): void {
    this.#device = NOBODY;
    this.#space = NOBODY;
    this.#stages = null;
    this.iotlb.serveNobody();
  }

  /** A request of the debug registers: untranslated, but an interrupt file in memory is not an address ("Debug support"). */
  debug(device: number, process: number, hi: number, lo: number, access: number): number {
    this.#debugging = true;
    const result = this.request(Kind.untranslated, device, process, hi, lo, access);
    this.#debugging = false;
    return result;
  }

  /** An access that was translated failed later. */
  fault(device: number, process: number, hi: number, lo: number, access: number, cause: number): void {
    this.#refusals.report(Kind.untranslated, cause, device, process, hi, lo, access);
  }

  /** Any request; the answer in `translated` and `answer`. Faults are reported as its kind asks. */
  request(kind: RequestKind, device: number, process: number, hi: number, lo: number, access: number): number {
    const { hpm } = this.#parts;
    hpm.begin(device, process);
    hpm.count(kind === Kind.untranslated ? Event.untranslated : kind === Kind.ats ? Event.atsTranslation : Event.translated);
    this.#refusals.begin();
    this.#parts.contexts.quiet = false;
    const effective = process === NO_PASID ? access & ~PRIVILEGED : access;
    const result = this.#process(kind, device, process, hi, lo, effective);
    if (result < 0 && isReported(kind, -result)) this.#refusals.report(kind, -result, device, process, hi, lo, access);
    return result;
  }

  /** The numbered steps of the process. */
  #process(kind: RequestKind, device: number, process: number, hi: number, lo: number, access: number): number {
    const { registers, contexts, hpm } = this.#parts;
    const ats = kind !== Kind.untranslated;
    // 1.
    if (registers.mode === DdtMode.off) return -Cause.allDisallowed;
    // 2.
    if (registers.mode === DdtMode.bare) return ats ? -Cause.typeDisallowed : this.#pass(hi, lo);
    // 3. to 7.
    const context = contexts.admit(device, process, ats);
    if (context === null) return -contexts.cause;
    // 8.
    if (kind === Kind.translated && !context.t2gpa) return this.#pass(hi, lo);
    // 9. to 16.
    const stages = kind === Kind.translated ? contexts.secondOnly(context) : contexts.find(context, process, (access & PRIVILEGED) !== 0);
    if (stages === null) return this.#refusals.ofContext(blamed(kind, access));
    hpm.ids.pscid = stages.pscid;
    hpm.ids.gscid = stages.device.secondStage === null ? -1 : stages.device.gscid;
    if (kind === Kind.untranslated) this.#remember(device, process, stages);
    if (kind !== Kind.ats) {
      const lg2 = this.#cached(stages, process, hi, lo, access);
      if (lg2 >= 0) return lg2;
      this.iotlb.misses++;
    }
    hpm.count(Event.tlbMiss);
    return this.#walk(kind, stages, hi, lo, access);
  }

  /** Not while something is counted: then each request goes all the way. */
  #remember(device: number, process: number, stages: Stages): void {
    if (this.#hpm.armed !== 0) return;
    this.#device = device;
    this.#processId = process;
    this.#space = stages.space;
    this.#context = stages.context;
    this.#stages = stages;
  }

  #cached(stages: Stages, process: number, hi: number, lo: number, access: number): number {
    const wish = wishOf(access, process);
    let lg2 = this.iotlb.lookup(stages.space, stages.context, hi, lo, wish);
    if (lg2 < 0 && this.#globals) lg2 = this.iotlb.lookup(stages.space, stages.context | GLOBAL, hi, lo, wish);
    if (lg2 < 0) return lg2;
    const { out } = this.iotlb;
    const interruptFile = (out[OUT_PERMISSION] & INTERRUPT_FILE) !== 0;
    this.#set(out[OUT_HI], out[OUT_LO], out[OUT_PERMISSION] & RWX, out[OUT_PERMISSION] >> PBMT_SHIFT);
    this.answer.interruptFile = interruptFile;
    return lg2;
  }

  /** 20. The address is translated as it stands, a page at a time. */
  #pass(hi: number, lo: number): number {
    this.#set(hi, lo, RWX, PBMT_PMA);
    return 12;
  }

  #set(hi: number, lo: number, permission: number, pbmt: number): void {
    const { translated, answer } = this;
    translated[0] = lo;
    translated[1] = hi;
    answer.permission = permission;
    answer.pbmt = pbmt;
    answer.global = false;
    answer.interruptFile = false;
    answer.mrif = false;
  }

  /** 17. to 19. */
  #walk(kind: RequestKind, stages: Stages, hi: number, lo: number, access: number): number {
    const { first, device } = stages;
    const { contexts } = this.#parts;
    const wanted = kind === Kind.ats ? access | PROBE : access;
    const { answer } = this;
    let leaf = PTE_D | PTE_U;
    let lg2: number;
    let leafLg2 = 0;
    let permission = RWX;
    let pbmt = PBMT_PMA;
    let gpaHi = hi;
    let gpaLo = lo;
    // 17. The first stage.
    if (first !== null) {
      lg2 = this.#walkFirst(stages, hi, lo, wanted);
      if (lg2 < 0) return this.#refusals.ofFirstStage(stages, lg2, blamed(kind, access));
      const { out } = first;
      gpaHi = out[OUT_HI];
      gpaLo = out[OUT_LO];
      permission = out[OUT_PERMISSION];
      pbmt = out[OUT_TYPE];
      leaf = out[OUT_LEAF];
      leafLg2 = lg2;
    } else {
      lg2 = contexts.bareFirstLg2(device);
    }
    answer.gpaHi = gpaHi;
    answer.gpaLo = gpaLo;
    // 18. MSIs.
    if (device.msi && isInterruptFile(device, gpaHi, gpaLo)) {
      if (leafLg2 > 12) this.#cut(leafLg2);
      return this.#interruptFile(kind, stages, hi, lo, access);
    }
    // 19. The second stage.
    const { second } = device;
    let spaHi = gpaHi;
    let spaLo = gpaLo;
    let dirty = leaf & PTE_D;
    if (second === null) {
      lg2 = Math.min(lg2, contexts.bareSecondLg2());
    } else {
      const before = second.reads;
      const result = second.walk(gpaHi, gpaLo, wanted & ~PRIVILEGED);
      this.#parts.hpm.count(Event.secondStageWalk, second.reads - before);
      if (result < 0) return this.#refusals.ofSecondStage(result, blamed(kind, access), gpaHi, gpaLo, 0);
      const { out } = second;
      spaHi = out[OUT_HI];
      spaLo = out[OUT_LO];
      permission &= out[OUT_PERMISSION];
      // Svpbmt: the first stage's type overrides unless it is PMA.
      if (pbmt === PBMT_PMA) pbmt = out[OUT_TYPE];
      dirty &= out[OUT_LEAF];
      let secondLg2 = result;
      while (secondLg2 > 12 && holdsInterruptFile(device, gpaHi, gpaLo, secondLg2)) secondLg2 = smaller(secondLg2);
      lg2 = Math.min(lg2, secondLg2);
    }
    // Writing is granted, and cached, where the pages were dirty before: the first write comes back to the tables.
    if (dirty === 0) permission &= ~WRITE;
    this.#set(spaHi, spaLo, permission, pbmt);
    answer.global = (leaf & PTE_G) !== 0;
    if (kind !== Kind.ats) {
      if (lg2 < leafLg2) this.#cut(leafLg2);
      this.#cache(stages, hi, lo, lg2, leaf, 0);
    }
    return lg2;
  }

  /** A first-stage leaf of so many bytes is about to be cached in pieces. */
  #cut(lg2: number): void {
    if (lg2 > this.piecesOfLg2) this.piecesOfLg2 = lg2;
  }

  #walkFirst(stages: Stages, hi: number, lo: number, wanted: number): number {
    const hpm = this.#hpm;
    const first = stages.first!;
    if (hpm.armed === 0) return stages.nested === null ? first.walk(hi, lo, wanted) : stages.nested.walkFirst(hi, lo, wanted);
    const { second } = stages.device;
    const firstReads = first.reads;
    const secondReads = second === null ? 0 : second.reads;
    const lg2 = stages.nested === null ? first.walk(hi, lo, wanted) : stages.nested.walkFirst(hi, lo, wanted);
    hpm.count(Event.firstStageWalk, first.reads - firstReads);
    if (second !== null) hpm.count(Event.secondStageWalk, second.reads - secondReads);
    return lg2;
  }

  /** 18.: the page is a virtual interrupt file's; permissions are those of a second-stage entry with R = W = U = 1, X = 0. */
  #interruptFile(kind: RequestKind, stages: Stages, hi: number, lo: number, access: number): number {
    const { msi } = this.#parts;
    const { answer } = this;
    const out = stages.first?.out;
    const leaf = out === undefined ? PTE_D | PTE_U : out[OUT_LEAF];
    const permission = out === undefined ? RWX : out[OUT_PERMISSION];
    const outcome = msi.translate(stages.device, answer.gpaHi, answer.gpaLo);
    if (outcome < 0) return outcome;
    if (outcome === MSI_MRIF && this.#debugging) return -Cause.typeDisallowed;
    if (kind !== Kind.ats && (access & EXECUTE) !== 0) return -Cause.instructionAccessFault;
    const granted = permission & (READ | ((leaf & PTE_D) !== 0 ? WRITE : 0));
    // The MSI entry has no memory type of its own: the first stage's stands.
    this.#set(msi.pageHi, msi.pageLo | (lo & 0xfff), granted, out === undefined ? PBMT_PMA : out[OUT_TYPE]);
    answer.interruptFile = true;
    answer.mrif = outcome === MSI_MRIF;
    // What to do for an MRIF is more than a translation: it is not cached.
    if (!answer.mrif && kind !== Kind.ats) this.#cache(stages, hi, lo, 12, leaf, INTERRUPT_FILE);
    return 12;
  }

  #cache(stages: Stages, hi: number, lo: number, lg2: number, leaf: number, flags: number): void {
    const { answer, translated } = this;
    const fill = this.#fill;
    let who = BY_USER | BY_SUPERVISOR | FETCH_BY_SUPERVISOR;
    if (stages.first !== null) {
      if ((leaf & PTE_U) === 0) who = BY_SUPERVISOR | FETCH_BY_SUPERVISOR;
      else who = stages.sum ? BY_USER | BY_SUPERVISOR : BY_USER;
    }
    fill[OUT_LO] = translated[0];
    fill[OUT_HI] = translated[1];
    fill[OUT_PERMISSION] = answer.permission | who | flags | (answer.pbmt << PBMT_SHIFT);
    this.#globals ||= answer.global;
    this.iotlb.fill(stages.space, answer.global ? stages.context | GLOBAL : stages.context, hi, lo, lg2, fill);
  }
}

/** Permission bits that a cached translation must have for the access. */
function wishOf(access: number, process: number): number {
  if ((access & PRIVILEGED) === 0 || process === NO_PASID) return (access & RWX) | BY_USER;
  return (access & RWX) | ((access & EXECUTE) !== 0 ? FETCH_BY_SUPERVISOR : BY_SUPERVISOR);
}

/** The next smaller size that superpages come in. */
function smaller(lg2: number): number {
  return lg2 <= 21 ? 12 : lg2 - 9;
}
