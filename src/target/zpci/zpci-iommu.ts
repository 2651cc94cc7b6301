import { hiOf, hiOfPfn, joinHiLo, loOf, loOfPfn, pfnOfHiLo } from '../../memory/address.ts';
import { require64, requireBoolean, requireBytes, requireNumber, requireNumbers, requireObject } from '../../memory/arguments.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { type Iotlb, NO_CONTEXT } from '../../memory/iotlb.ts';
import { OUT_HI, OUT_LO } from '../../pagetable/page-table.ts';
import { targetFault } from '../fault-codes.ts';
import { type AddressSpace, NO_PASID, type Target, type TargetObserver } from '../target.ts';
import { LogicalProcessor } from './clp.ts';
import { FunctionControls } from './controls.ts';
import { Errors } from './errors.ts';
import { STATE, type ZpciFunction } from './function.ts';
import { Functions } from './functions.ts';
import { AdapterInterrupts } from './interrupts.ts';
import { LoadStore } from './load-store.ts';
import { Measurement } from './measurement.ts';
import { checkOptions, DEFAULT_MSI_ADDRESS, type ZpciIommuOptions } from './options.ts';
import { Refresh } from './refresh.ts';
import type { GeneralRegisters } from './registers.ts';
import { checkedState, loadFunction, saveFunction, type ZpciIommuState } from './saved-state.ts';
import { TableSpace } from './spaces.ts';
import { type Answer, PEC, type RefreshAnswer } from './spec/codes.ts';
import { FAULT_BLOCKED, FAULT_ENDPOINT } from './spec/faults.ts';
import { TableCheck } from './table-check.ts';

/** STATE.enabled, lg2 of a page, READ_WRITE: for the hot path, whose compiler folds a module's own constants only. */
const ENABLED = 2;
const PAGE = 12;
const RW = 3;
/** For the test that compares them with their declarations. */
export const REPEATED = { ENABLED, PAGE, RW } as const;

/**
 * The PCI functions of an s390 guest and their address translation. Endpoints are function IDs. Instructions come from the machine, which
 * presents their condition codes (0 to 3), or the program interruption where an answer is negative (INTERRUPTION).
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * const iommu = new ZpciIommu({ memory, functions: [{ fid: 1 }] });
 * const block = new Uint8Array(64); // CLP: set PCI function, enable
 * block.set([0, 32, 0, 5], 0);
 * block.set([0, 2, 0, 0, 0, 0, 0, 1], 16);
 * block.set([0, 32], 32);
 * iommu.clp(block); // 0
 * block.slice(48, 52); // its handle: 0x80020000
 */
export class ZpciIommu implements Target {
  readonly name = 'zpci';
  readonly memory: GuestMemory;
  readonly translated = new Int32Array(2);
  readonly #functions: Functions;
  readonly #errors: Errors;
  readonly #clp: LogicalProcessor;
  readonly #controls: FunctionControls;
  readonly #refresh: Refresh;
  readonly #loadStore: LoadStore;
  readonly #interrupts: AdapterInterrupts;
  readonly #measurement: Measurement;
  readonly #check: TableCheck;
  readonly #iotlb: Iotlb;
  readonly #msiHi: number;
  readonly #msiLo: number;
  /** Who made the last access. */
  #endpoint = -1;
  #function: ZpciFunction | null = null;

  /** @throws RangeError when options contradict themselves; TypeError when one is left out or not of its type. */
  constructor(options: ZpciIommuOptions) {
    checkOptions(options);
    const { msiAddress = DEFAULT_MSI_ADDRESS } = options;
    this.memory = options.memory;
    this.#msiHi = hiOf(msiAddress);
    this.#msiLo = loOf(msiAddress);
    this.#functions = new Functions(options);
    this.#iotlb = this.#functions.iotlb;
    this.#errors = new Errors(this.#functions, options);
    this.#interrupts = new AdapterInterrupts(options, this.#errors);
    this.#measurement = new Measurement(options, this.#errors);
    this.#clp = new LogicalProcessor(this.#functions, options);
    this.#controls = new FunctionControls(this.#functions, this.#interrupts, this.#measurement);
    this.#refresh = new Refresh(this.#functions, this.#errors);
    this.#loadStore = new LoadStore(this.#functions);
    this.#check = new TableCheck(options.memory);
  }

  observe(observer: TargetObserver): () => void {
    requireObject('ZpciIommu', 'observer', observer, 'TargetObserver', ['attach', 'changed', 'flush']);
    if (this.#functions.observer !== null) throw new TypeError('ZpciIommu: it has an observer already');
    this.#functions.observer = observer;
    this.#functions.settleAll();
    let observing = true;
    return () => {
      if (!observing) return;
      observing = false;
      this.#functions.observer = null;
      for (const one of this.#functions.all) {
        one.attached = null;
        one.owed = false;
      }
    };
  }

  get iotlbHits(): number {
    return this.#functions.iotlb.hits;
  }

  get iotlbMisses(): number {
    return this.#functions.iotlb.misses;
  }

  knows(endpoint: number): boolean {
    requireNumbers('ZpciIommu', { endpoint });
    return this.#functions.byFid(endpoint) !== null;
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    requireNumbers('ZpciIommu', { endpoint, pasid });
    return pasid === NO_PASID ? (this.#functions.byFid(endpoint)?.reachable ?? null) : null;
  }

  /** CLP on a copy of the guest's block (8 KiB at most), which gets the response. */
  clp(block: Uint8Array): Answer {
    requireBytes('ZpciIommu', 'block', block);
    return this.#clp.call(block);
  }

  /** Modify PCI function controls; `fib`: absolute address of the function information block. */
  mpcifc(registers: GeneralRegisters, r1: number, fib: bigint): Answer {
    requireObject('ZpciIommu', 'registers', registers);
    requireNumbers('ZpciIommu', { r1 });
    require64('ZpciIommu', 'fib', fib);
    return this.#controls.modify(registers, r1, fib);
  }

  /** Store PCI function controls. */
  stpcifc(registers: GeneralRegisters, r1: number, fib: bigint): Answer {
    requireObject('ZpciIommu', 'registers', registers);
    requireNumbers('ZpciIommu', { r1 });
    require64('ZpciIommu', 'fib', fib);
    return this.#controls.store(registers, r1, fib);
  }

  /**
   * Refresh PCI translations: done when the hardware has followed. **A range of more table entries than one call reads is UNFINISHED**, which is
   * no condition code: `registers` is the object of the CPU that stays at the instruction, and the machine calls again before that CPU does
   * anything else. Who goes on instead leaves DMA mappings that the guest took away. The type keeps it from being presented.
   *
   * @example
   * const iommu = new ZpciIommu({ memory: GuestMemory.ofBytes(1 << 20), functions: [{ fid: 1 }] });
   * const registers = new GeneralRegisters();
   * registers.u64.set([0x8002_0000_0000_0000n, 0x1_0000_0000n, 0x1000n], 1);
   * let answer = iommu.rpcit(registers, 1, 2);
   * while (answer === UNFINISHED) answer = iommu.rpcit(registers, 1, 2);
   * answer; // 3: no function is enabled under this handle
   */
  rpcit(registers: GeneralRegisters, r1: number, r2: number): RefreshAnswer {
    requireObject('ZpciIommu', 'registers', registers);
    requireNumber('ZpciIommu', 'r1', r1);
    requireNumber('ZpciIommu', 'r2', r2);
    return this.#refresh.run(registers, r1, r2);
  }

  /** PCI load. */
  pcilg(registers: GeneralRegisters, r1: number, r2: number): Answer {
    requireObject('ZpciIommu', 'registers', registers);
    requireNumber('ZpciIommu', 'r1', r1);
    requireNumber('ZpciIommu', 'r2', r2);
    return this.#loadStore.load(registers, r1, r2);
  }

  /** PCI store. */
  pcistg(registers: GeneralRegisters, r1: number, r2: number): Answer {
    requireObject('ZpciIommu', 'registers', registers);
    requireNumber('ZpciIommu', 'r1', r1);
    requireNumber('ZpciIommu', 'r2', r2);
    return this.#loadStore.store(registers, r1, r2);
  }

  /** PCI store block; `address`: absolute, of the block. */
  pcistb(registers: GeneralRegisters, r1: number, r3: number, address: bigint): Answer {
    requireObject('ZpciIommu', 'registers', registers);
    requireNumber('ZpciIommu', 'r1', r1);
    requireNumber('ZpciIommu', 'r3', r3);
    require64('ZpciIommu', 'address', address);
    return this.#loadStore.storeBlock(registers, r1, r3, address);
  }

  /** SCLP's configure, and deconfigure: from standby to disabled, and from any state back. False: it was so already. @throws RangeError for no function. */
  configure(fid: number, configured: boolean): boolean {
    requireNumbers('ZpciIommu', { fid });
    requireBoolean('ZpciIommu', 'configured', configured);
    const one = this.#known(fid);
    if ((one.state !== STATE.standby) === configured) return false;
    if (!configured) this.#functions.disable(one);
    this.#functions.enter(one, configured ? STATE.disabled : STATE.standby);
    return true;
  }

  /** A function has written `data` where `isMessage` says that MSIs go. @throws RangeError for no function. */
  message(fid: number, data: number): void {
    requireNumbers('ZpciIommu', { fid, data });
    this.#interrupts.message(this.#known(fid), data);
  }

  /** Whether a write to this address is an MSI. */
  isMessage(hi: number, lo: number): boolean {
    return hi === this.#msiHi && (lo & -4096) === this.#msiLo;
  }

  /**
   * Something outside has gone wrong with a function (its hardware has, or the machine cannot go on): it enters the error state, and the guest
   * is told with this PEC. @throws RangeError for no function.
   */
  fail(fid: number, code: number, address: bigint): void {
    requireNumbers('ZpciIommu', { fid, code });
    require64('ZpciIommu', 'address', address);
    const one = this.#known(fid);
    if (one.isEnabled) this.#errors.fail(one, code, address);
  }

  /** Writes function measurement blocks: to be called every four seconds. */
  measure(): void {
    for (const one of this.#functions.all) this.#measurement.update(one);
  }

  #known(fid: number): ZpciFunction {
    const one = this.#functions.byFid(fid);
    if (one === null) throw new RangeError(`ZpciIommu: no function ${fid}`);
    return one;
  }

  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    const { out } = this.#iotlb;
    if (this.#iotlb.lookupFor(endpoint, pasid, hi, lo, access & RW) < 0) return this.#translateOther(endpoint, pasid, hi, lo, access);
    this.translated[0] = out[OUT_LO];
    this.translated[1] = out[OUT_HI];
    return PAGE;
  }

  #translateOther(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    const one = endpoint === this.#endpoint ? this.#function : this.#find(endpoint);
    if (one === null || pasid !== NO_PASID) return FAULT_ENDPOINT;
    if (one.state !== ENABLED) return FAULT_BLOCKED;
    // What the IOTLB has, tables between PBA and PAL have translated; frames may reach further than those.
    const iotlb = this.#iotlb;
    let lg2 = iotlb.lookup(one.index, NO_CONTEXT, hi, lo, access & RW);
    iotlb.serve(endpoint, pasid);
    const space = one.translation;
    if (space === null) return FAULT_BLOCKED;
    if (hi === this.#msiHi && (lo & -4096) === this.#msiLo) return this.#answer(hi, lo, 12);
    const pfn = pfnOfHiLo(hi, lo);
    if (pfn < space.first || pfn > space.last) return this.#fault(one, PEC.range, hi, lo);
    if (!(space instanceof TableSpace)) {
      const gpa = space.pageOf(pfn);
      return gpa < 0 ? this.#fault(one, PEC.range, hi, lo) : this.#answer(hiOfPfn(gpa), loOfPfn(gpa) | (lo & 0xfff), 12);
    }
    let out: Int32Array = iotlb.out;
    if (lg2 < 0) {
      iotlb.misses++;
      lg2 = space.table.walk(hi, lo, access & RW);
      if (lg2 < 0) return this.#fault(one, this.#codeOf(space, pfn), hi, lo);
      out = space.table.out;
      iotlb.fill(one.index, NO_CONTEXT, hi, lo, lg2, out);
    }
    return this.#answer(out[OUT_HI], out[OUT_LO], lg2 === 12 ? 12 : within(space, pfn, lg2));
  }

  #find(endpoint: number): ZpciFunction | null {
    const one = this.#functions.byFid(endpoint);
    if (one === null) return null;
    this.#endpoint = endpoint;
    this.#function = one;
    return one;
  }

  #answer(hi: number, lo: number, lg2: number): number {
    this.translated[0] = lo;
    this.translated[1] = hi;
    return lg2;
  }

  /** Why the tables have nothing for a page: an address wider than they translate is out of range, a malformed entry has codes of its own. */
  #codeOf(space: TableSpace, pfn: number): number {
    if (pfn > space.lastTranslated) return PEC.range;
    return this.#check.find(space, pfn, pfn) || PEC.protection;
  }

  #fault(one: ZpciFunction, code: number, hi: number, lo: number): number {
    this.#errors.fail(one, code, joinHiLo(hi, lo));
    return targetFault('zpci', code);
  }

  reset(): void {
    for (const one of this.#functions.all) one.reset();
    this.#functions.settleAll();
  }

  save(): ZpciIommuState {
    return { target: this.name, functions: this.#functions.all.map(saveFunction) };
  }

  /** @throws TypeError; then nothing has changed. */
  load(state: unknown): void {
    const { functions } = checkedState(state, this.#functions);
    this.#functions.all.forEach((one, i) => {
      loadFunction(this.#functions, one, functions[i]);
    });
    this.#functions.settleAll();
  }
}

/** lg2 of what an answer for a page of a frame holds for: the frame, or the page where the frame reaches outside PBA to PAL. */
function within({ first, last }: TableSpace, pfn: number, lg2: number): number {
  const pages = 2 ** (lg2 - 12);
  const start = pfn - (pfn % pages);
  return start >= first && start + pages - 1 <= last ? lg2 : 12;
}
