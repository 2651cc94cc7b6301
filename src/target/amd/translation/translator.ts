import { EXECUTE, PRIVILEGED, WRITE } from '../../../memory/access.ts';
import { hiOf, loOf, pfnOfHiLo } from '../../../memory/address.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { Iotlb, NO_CONTEXT } from '../../../memory/iotlb.ts';
import {
  FAULT_INPUT_SIZE,
  FAULT_NOT_PRESENT,
  FAULT_PERMISSION,
  FAULT_RESERVED,
  FAULT_TABLE_ACCESS,
  faultKind,
  OUT_HI,
  OUT_LENGTH,
  OUT_LO,
  OUT_PERMISSION,
} from '../../../pagetable/page-table.ts';
import { BY_FIRST_STAGE, CountedMemory, TwoStage, type WalkingStage } from '../../../pagetable/two-stage.ts';
import { targetFault } from '../../fault-codes.ts';
import { getWide, isSet } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import type { Events, Flag } from '../reporting/events.ts';
import { DTE } from '../spec/dte.ts';
import { EVENT } from '../spec/events.ts';
import { FAULT_ENDPOINT } from '../spec/faults.ts';
import { CONTROL, EXCLUSION, REG } from '../spec/registers.ts';
import type { AmdIommuOptions } from '../surroundings.ts';
import { DeviceEntry, VERDICT } from './device-entry.ts';
import { GCR3_UNREADABLE, guestRoot, guestTable } from './guest-tables.ts';
import { FORWARDED, MEMORY, specialRequest } from './special-ranges.ts';

/** Guest tables of PASIDs that a device entry remembers. */
const STAGES = 64;
/** VERDICT.pass and VERDICT.translate, and both kinds of access, for the hot path. */
const PASS = 0;
const TRANSLATE = 4;
const RW = 3;
/** For the test that compares them with their declarations. */
export const REPEATED = { PASS, TRANSLATE, RW } as const;
/** lo >>> 20 of addresses that interrupts are written to; and the 4 GiB in which the other special ranges are (2.1.2). */
const INTERRUPT_RANGE = 0xfee;
const HYPERTRANSPORT = 0xfd;

/** Translates requests (2.2): device entries and translations are cached until the guest invalidates them. */
export class Translator {
  /** What the IOTLB answers with: [lo, hi], then more. */
  readonly translated: Int32Array;
  readonly iotlb: Iotlb;
  readonly #registers: Registers;
  readonly #memory: GuestMemory;
  readonly #events: Events;
  readonly #without: readonly string[];
  readonly #entries = new Map<number, DeviceEntry>();
  readonly #stages = new Map<DeviceEntry, Map<number, WalkingStage | number>>();
  /** Domains that translations of guest tables were cached for. */
  readonly #guestDomains = new Set<number>();
  /** Those of them whose tables stand behind host tables: large leaves may be cached in pieces. */
  readonly #nestedDomains = new Set<number>();
  readonly #fill = new Int32Array(OUT_LENGTH);
  #device = -1;
  #entry: DeviceEntry | null = null;
  /** Of that entry: which accesses the IOTLB may answer by itself, READ and WRITE, and under which domain. */
  #quick = 0;
  #domain = 0;
  /** Exclusion range in pages; an empty one ends before it begins. */
  #excludedFirst = 1;
  #excludedLast = 0;
  #excludesAll = false;

  constructor(registers: Registers, events: Events, { memory, iotlbEntries = 65536, without = [] }: AmdIommuOptions) {
    this.#registers = registers;
    this.#memory = memory;
    this.#events = events;
    this.#without = without;
    this.iotlb = new Iotlb(iotlbEntries);
    this.translated = this.iotlb.out;
  }

  /** The device's entry, as it was when it was read last. */
  entry(device: number): DeviceEntry {
    let entry = this.#entries.get(device);
    if (entry === undefined) {
      entry = new DeviceEntry(this.#registers, this.#memory, device, this.#without);
      this.#entries.set(device, entry);
    }
    return entry;
  }

  forgetDevice(device: number): void {
    const entry = this.#entries.get(device);
    if (entry !== undefined) this.#stages.delete(entry);
    this.#entries.delete(device);
    this.#device = -1;
    this.#entry = null;
    this.iotlb.serveNobody();
  }

  /** Everything that is cached. */
  forgetAll(): void {
    this.#entries.clear();
    this.#stages.clear();
    this.#guestDomains.clear();
    this.#nestedDomains.clear();
    this.iotlb.invalidateAll();
    this.#device = -1;
    this.#entry = null;
    const base = this.#registers.view(REG.EXCLUSION_BASE);
    const enabled = isSet(base, EXCLUSION.ENABLE);
    this.#excludedFirst = enabled ? getWide(base, EXCLUSION.BASE) : 1;
    this.#excludedLast = enabled ? getWide(this.#registers.view(REG.EXCLUSION_LIMIT), EXCLUSION.BASE) : 0;
    this.#excludesAll = isSet(base, EXCLUSION.ALLOW_ALL);
  }

  /** Where the guest tables of a domain's PASIDs are may be something else. */
  forgetGuestTables(domain: number): void {
    if (this.#stages.size === 0) return;
    for (const entry of this.#stages.keys()) if (entry.domain === domain) this.#stages.delete(entry);
  }

  /** Whether translations of guest tables of the domain may be cached. */
  hasGuestTables(domain: number): boolean {
    return (this.#guestDomains.size > 0 && this.#guestDomains.has(domain)) || this.hasPieces(domain);
  }

  /** Whether leaves of the domain's guest tables may be cached in pieces. */
  hasPieces(domain: number): boolean {
    return this.#nestedDomains.size > 0 && this.#nestedDomains.has(domain);
  }

  /** The exclusion range as far as it holds for an entry, or null. */
  excluded(entry: DeviceEntry): { readonly first: number; readonly last: number } | null {
    if (this.#excludedFirst > this.#excludedLast || !(this.#excludesAll || isSet(entry.words, DTE.EX))) return null;
    return { first: this.#excludedFirst, last: this.#excludedLast };
  }

  /** The root of a PASID's guest table now; negative: NO_GCR3 or GCR3_UNREADABLE. */
  guestRoot(entry: DeviceEntry, pasid: number): number {
    return guestRoot(entry, pasid, this.#memory, this.#registers.control(CONTROL.GCR3_TRP_MODE) !== 0);
  }

  translate(device: number, pasid: number, hi: number, lo: number, access: number): number {
    if (device === this.#device && pasid < 0 && (access & ~this.#quick) === 0 && access !== 0) {
      const { iotlb } = this;
      const lg2 = iotlb.lookup(this.#domain, NO_CONTEXT, hi, lo, access);
      if (this.#quick === RW) iotlb.serve(device, pasid);
      if (lg2 >= 0) return lg2;
      if (!isSpecial(hi, lo)) return this.#miss(this.#entry!, -1, hi, lo, access);
    }
    return this.#translateAny(device, pasid, hi, lo, access);
  }

  #translateAny(device: number, pasid: number, hi: number, lo: number, access: number): number {
    if (device !== this.#device && !this.#select(device)) return FAULT_ENDPOINT;
    const entry = this.#entry;
    if (entry === null) return FAULT_ENDPOINT;
    if (entry.verdict === PASS) return this.#answer(hi, lo, 12);
    if (entry.verdict !== TRANSLATE) return this.#refuse(entry, pasid, hi, lo, access);
    if (isSpecial(hi, lo) && pasid < 0) {
      const kind = specialRequest(entry.words, true, pfnOfHiLo(hi, lo), access);
      if (kind !== MEMORY) return this.#special(entry, kind, hi, lo);
    }
    if (this.#excludedFirst <= this.#excludedLast && this.#isExcluded(entry, hi, lo)) return this.#answer(hi, lo, 12);
    const context = entry.guest ? entry.guestPasid(pasid) : -1;
    if (context < 0 && pasid >= 0) return this.#pageFault(entry, pasid, [], hi, lo, access);
    // A fetch is a read where no table tells them apart.
    const asked = (access & 3) | ((access & EXECUTE) >>> 2);
    const wish = context >= 0 ? access & 15 : asked;
    if ((asked & ~entry.granted) !== 0) return this.#pageFault(entry, context, ['PR', 'PE'], hi, lo, access);
    if (context < 0 && entry.host === null) return this.#answer(hi, lo, 12);
    const lg2 = this.iotlb.lookup(entry.domain, context < 0 ? NO_CONTEXT : context, hi, lo, wish);
    return lg2 >= 0 ? lg2 : this.#miss(entry, context, hi, lo, wish);
  }

  #select(device: number): boolean {
    if (device < 0 || device > 0xffff) return false;
    const entry = this.entry(device);
    this.#entry = entry;
    this.#device = device;
    this.#domain = entry.domain;
    // Special ranges are never cached; an exclusion range may be above what is.
    const isPlain = entry.verdict === TRANSLATE && entry.host !== null && !entry.guest && this.excluded(entry) === null;
    this.#quick = isPlain ? entry.granted : 0;
    return true;
  }

  #answer(hi: number, lo: number, lg2: number): number {
    this.translated[0] = lo;
    this.translated[1] = hi;
    return lg2;
  }

  #isExcluded(entry: DeviceEntry, hi: number, lo: number): boolean {
    const pfn = pfnOfHiLo(hi, lo);
    return pfn >= this.#excludedFirst && pfn <= this.#excludedLast && this.excluded(entry) !== null;
  }

  /** Messages and port I/O go where they are addressed to, if they may: the machine asks `remap` what becomes of an interrupt. */
  #special(entry: DeviceEntry, kind: number, hi: number, lo: number): number {
    if (kind === FORWARDED) return this.#answer(hi, lo, 12);
    this.#report(EVENT.invalidRequest, entry, -1, [], hi, lo, kind);
    return targetFault('amd', EVENT.invalidRequest);
  }

  #miss(entry: DeviceEntry, context: number, hi: number, lo: number, wish: number): number {
    this.iotlb.misses++;
    const stage = context < 0 ? entry.host! : this.#stage(entry, context);
    if (context >= 0) (entry.host === null ? this.#guestDomains : this.#nestedDomains).add(entry.domain);
    if (typeof stage === 'number') {
      if (stage !== GCR3_UNREADABLE) return this.#pageFault(entry, context, [], hi, lo, wish);
      this.#report(EVENT.pageTableHardware, entry, context, rw(wish), hi, lo);
      return targetFault('amd', EVENT.pageTableHardware);
    }
    const lg2 = stage.walk(hi, lo, wish);
    if (lg2 < 0) return this.#walkFault(entry, context, stage, lg2, hi, lo, wish);
    const { out } = stage;
    // What a supervisor may do is not what a user may: such translations are not kept.
    if ((wish & PRIVILEGED) === 0) {
      this.#fill.set(out);
      // The first write has a dirty bit to set.
      if ((wish & WRITE) === 0 && (context >= 0 || entry.tracksDirty)) this.#fill[OUT_PERMISSION] &= ~WRITE;
      this.iotlb.fill(entry.domain, context < 0 ? NO_CONTEXT : context, hi, lo, lg2, this.#fill);
    }
    return this.#answer(out[OUT_HI], out[OUT_LO], lg2);
  }

  /** A PASID's guest tables behind the host's, or why there are none. */
  #stage(entry: DeviceEntry, pasid: number): WalkingStage | number {
    let stages = this.#stages.get(entry);
    if (stages === undefined || stages.size >= STAGES) {
      stages = new Map();
      this.#stages.set(entry, stages);
    }
    let stage = stages.get(pasid);
    if (stage === undefined) {
      const root = this.guestRoot(entry, pasid);
      stage = root < 0 ? root : this.#makeStage(entry, root, this.#memory);
      stages.set(pasid, stage);
    }
    return stage;
  }

  #makeStage(entry: DeviceEntry, root: number, memory: GuestMemory | CountedMemory): WalkingStage {
    if (entry.host === null) return guestTable(entry, root, memory);
    return new TwoStage({ memory, second: entry.hostTable(memory), first: (over) => guestTable(entry, root, over) });
  }

  /** Event and flags of a walk's fault (2.5.3, table 49). */
  #walkFault(entry: DeviceEntry, context: number, stage: WalkingStage, code: number, hi: number, lo: number, wish: number): number {
    const byHost = stage instanceof TwoStage && stage.origin !== BY_FIRST_STAGE;
    const blamed = byHost ? -1 : context;
    const atHi = byHost ? stage.gpaHi : hi;
    const atLo = byHost ? stage.gpaLo : lo;
    switch (faultKind(code)) {
      case FAULT_TABLE_ACCESS: {
        const at = this.#unreadable(entry, context, hi, lo, wish);
        this.#report(EVENT.pageTableHardware, entry, blamed, rw(wish), at.hi, at.lo);
        return targetFault('amd', EVENT.pageTableHardware);
      }
      case FAULT_NOT_PRESENT:
      case FAULT_INPUT_SIZE:
        return this.#pageFault(entry, blamed, [], atHi, atLo, wish);
      case FAULT_PERMISSION:
        return this.#pageFault(entry, blamed, ['PR', 'PE'], atHi, atLo, wish);
      case FAULT_RESERVED:
        return this.#pageFault(entry, blamed, ['PR', 'RZ'], atHi, atLo, wish);
      default:
        return this.#pageFault(entry, blamed, ['PR'], atHi, atLo, wish);
    }
  }

  /** The address of the table entry that could not be read: the walk again, with somebody watching. */
  #unreadable(entry: DeviceEntry, context: number, hi: number, lo: number, wish: number): LastRead {
    const watched = new LastRead(this.#memory);
    const stage = context < 0 ? entry.hostTable(watched) : this.#makeStage(entry, this.guestRoot(entry, context), watched);
    stage.walk(hi, lo, wish);
    return watched;
  }

  #refuse(entry: DeviceEntry, pasid: number, hi: number, lo: number, access: number): number {
    switch (entry.verdict) {
      case VERDICT.abort: {
        const kind = pasid < 0 ? specialRequest(entry.words, false, pfnOfHiLo(hi, lo), access) : MEMORY;
        return kind === MEMORY ? this.#pageFault(entry, pasid, [], hi, lo, access) : this.#special(entry, kind, hi, lo);
      }
      case VERDICT.unreadable:
        this.#report(EVENT.deviceTableHardware, entry, pasid, rw(access), hiOf(entry.address), loOf(entry.address));
        return targetFault('amd', EVENT.deviceTableHardware);
      default:
        this.#report(EVENT.illegalDeviceEntry, entry, pasid, [...rw(access), ...(entry.hasReserved ? (['RZ'] as const) : [])], hi, lo);
        return targetFault('amd', EVENT.illegalDeviceEntry);
    }
  }

  #pageFault(entry: DeviceEntry, pasid: number, flags: readonly Flag[], hi: number, lo: number, access: number): number {
    const suppressed = isSet(entry.words, DTE.SA) || (isSet(entry.words, DTE.SE) && entry.reported);
    entry.reported = true;
    const privilege: Flag[] = pasid >= 0 && (access & PRIVILEGED) === 0 ? ['US'] : [];
    const fetch: Flag[] = pasid >= 0 && (access & EXECUTE) !== 0 ? ['NX'] : [];
    if (!suppressed) this.#report(EVENT.pageFault, entry, pasid, [...flags, ...rw(access), ...privilege, ...fetch], hi, lo);
    return targetFault('amd', EVENT.pageFault);
  }

  #report(code: number, entry: DeviceEntry, pasid: number, flags: readonly Flag[], hi: number, lo: number, type = 0): void {
    this.#events.request(code, { device: entry.device, domain: entry.domain, pasid }, flags, hi, lo, type);
  }
}

/** Whether an address may be in one of the special ranges. */
function isSpecial(hi: number, lo: number): boolean {
  return hi === HYPERTRANSPORT || (hi === 0 && lo >>> 20 === INTERRUPT_RANGE);
}

function rw(access: number): Flag[] {
  return (access & WRITE) !== 0 ? ['RW'] : [];
}

/** Remembers what was loaded last. */
class LastRead extends CountedMemory {
  hi = 0;
  lo = 0;

  override load64(hi: number, lo: number): number {
    this.hi = hi;
    this.lo = lo;
    return super.load64(hi, lo);
  }
}
