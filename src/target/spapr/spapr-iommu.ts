import { PAGE_BYTES, pfnOfHiLo } from '../../memory/address.ts';
import { requireObject } from '../../memory/arguments.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { type AddressSpace, NO_PASID, type Target, type TargetObserver } from '../target.ts';
import type { DmaWindow } from './dma-window.ts';
import { FAULT_ENDPOINT, FAULT_EXTENT, FAULT_PAGE, FAULT_PERMISSION } from './faults.ts';
import { GuestRam } from './guest-ram.ts';
import { HostBridge, type HostBridgeOptions } from './host-bridge.ts';
import type { HypercallRegisters } from './hypercall-registers.ts';
import {
  H_FUNCTION,
  H_GET_TCE,
  H_HARDWARE,
  H_NOT_ENOUGH_RESOURCES,
  H_P4,
  H_PARAMETER,
  H_PUT_TCE,
  H_PUT_TCE_INDIRECT,
  H_STUFF_TCE,
  H_SUCCESS,
  TCE_PERMISSION,
  TCES_PER_CALL,
} from './papr.ts';
import { callRtas, type DmaWindowCall, type WindowKeeper } from './rtas.ts';
import { loadBridge, type SavedBridge, saveBridge } from './saved-state.ts';
import { TceArray, TceBudget, TceTable } from './tce-table.ts';

export interface SpaprIommuOptions {
  readonly memory: GuestMemory;
  readonly bridges: readonly HostBridgeOptions[];
  /** Bytes that all TCE tables may take: 8 a TCE, in chunks of at most 256 KiB. Default 256 MiB: 32 Mi TCEs. */
  readonly tableBytes?: number;
}

function requireDistinct(what: string, values: readonly (bigint | number)[]): void {
  if (new Set(values).size !== values.length) throw new RangeError(`SpaprIommu: a ${what} is there twice`);
}

/** Int32 indices of a hypercall's parameters: low half of GPRs 4 to 7, the high half behind it. */
const R4 = 8;
const R5 = 10;
const R6 = 12;
const R7 = 14;

/**
 * The return code when the host does not follow: for a mapping what Linux unwinds its own work on (14.12.3.3.1), for a clearing what
 * every hypercall may answer (14.5.3 R1-12). `lo`: the low halves of the TCEs, ORed.
 */
function refusal(lo: number): number {
  return (lo & TCE_PERMISSION) === 0 ? H_HARDWARE : H_NOT_ENOUGH_RESOURCES;
}

/**
 * The IOMMU of a pseries guest: TCE tables that the guest fills by hypercalls (LoPAR 14.5.4.2), windows by RTAS (7.3.27).
 *
 * @example
 * const windows = [{ liobn: 0x80000000, start: 0n, pageLg2: 12, pages: 1024 }];
 * const memory = GuestMemory.ofBytes(1 << 20);
 * const iommu = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [0], windows }] });
 * const registers = new HypercallRegisters();
 * registers.u64.set([0x80000000n, 0x5000n, 0x7003n], 4); // LIOBN, IOBA, TCE
 * iommu.hypercall(H_PUT_TCE, registers); // 0: H_SUCCESS
 * iommu.translate(0, -1, 0, 0x5123, READ); // 12: lg2 of the page
 * iommu.translated[0]; // 0x7123
 */
export class SpaprIommu implements Target {
  readonly name = 'spapr';
  readonly translated = new Int32Array(2);
  readonly memory: GuestMemory;
  readonly #ram: GuestRam;
  readonly #bridges: readonly HostBridge[];
  readonly #tableBytes: number;
  readonly #budget: TceBudget;
  readonly #keeper: WindowKeeper;
  readonly #byEndpoint = new Map<number, HostBridge>();
  readonly #byLiobn = new Map<number, DmaWindow>();
  #observer: TargetObserver | null = null;
  /** What the last hypercall named and the last access came from: guests stay with one for long. */
  #window: DmaWindow | null = null;
  #liobn = 0;
  #bridge: HostBridge | null = null;
  #endpoint = -1;
  /** The TCEs that a hypercall is about to store, copied out of the guest's reach, and those that they replace. */
  readonly #tces = new TceArray(TCES_PER_CALL);
  readonly #old = new TceArray(TCES_PER_CALL);

  /**
   * @throws RangeError when options contradict themselves, or two bridges share a BUID, a LIOBN or an endpoint; TypeError when one is
   * left out or not of its type.
   */
  constructor(options: SpaprIommuOptions) {
    requireObject('SpaprIommu', 'options', options);
    const { memory, bridges, tableBytes = 2 ** 28 } = options;
    if (!Array.isArray(memory?.regions)) throw new TypeError('SpaprIommu: memory is no GuestMemory');
    if (!Array.isArray(bridges)) throw new TypeError('SpaprIommu: bridges are no array');
    if (!(tableBytes > 0)) throw new RangeError(`SpaprIommu: tables of ${tableBytes} bytes`);
    this.memory = memory;
    this.#ram = new GuestRam(memory);
    this.#tableBytes = tableBytes;
    this.#budget = new TceBudget(tableBytes);
    this.#bridges = bridges.map((options) => new HostBridge(options, this.#budget));
    requireDistinct(
      'BUID',
      bridges.map((bridge) => bridge.buid),
    );
    requireDistinct(
      'LIOBN',
      this.#bridges.flatMap((bridge) => bridge.liobns()),
    );
    requireDistinct(
      'endpoint',
      bridges.flatMap((bridge) => bridge.endpoints),
    );
    for (const bridge of this.#bridges) for (const endpoint of bridge.options.endpoints) this.#byEndpoint.set(endpoint, bridge);
    this.#indexWindows();
    this.#keeper = {
      bridgeOf: (hi, lo) => this.#bridges.find((bridge) => bridge.options.buid === (BigInt(hi) << 32n) + BigInt(lo)),
      bridgeOfLiobn: (liobn) => this.#bridges.find((bridge) => bridge.liobns().includes(liobn)),
      replaceWindows: (bridge, windows) => this.#replaceWindows(bridge, windows),
    };
  }

  observe(observer: TargetObserver): () => void {
    if (this.#observer !== null) throw new TypeError('SpaprIommu: it has an observer already');
    this.#observer = observer;
    return () => {
      if (this.#observer === observer) this.#observer = null;
    };
  }

  knows(endpoint: number): boolean {
    return this.#byEndpoint.has(endpoint);
  }

  spaceOf(endpoint: number): AddressSpace | null {
    return this.#byEndpoint.get(endpoint) ?? null;
  }

  /**
   * Does the hypercall that the guest made with these registers and returns what it gets in R3; a TCE that it reads is left in R4.
   * H_FUNCTION for every opcode that is not a TCE hypercall.
   */
  hypercall(opcode: number, registers: HypercallRegisters): number {
    const r = registers.i32;
    switch (opcode) {
      case H_PUT_TCE:
        return this.#putTce(r);
      case H_PUT_TCE_INDIRECT:
        return this.#putTceIndirect(r);
      case H_STUFF_TCE:
        return this.#stuffTce(r);
      case H_GET_TCE:
        return this.#getTce(r);
      default:
        return H_FUNCTION;
    }
  }

  /**
   * Does an RTAS call: `inputs` and `outputs` are the cells of its argument buffer (native integers), as many as the guest said.
   * Returns the status, which is in outputs[0] too. @throws TypeError for a name that is not a DMA window call.
   */
  rtas(name: DmaWindowCall, inputs: Uint32Array, outputs: Uint32Array): number {
    return callRtas(this.#keeper, name, inputs, outputs);
  }

  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    const bridge = endpoint === this.#endpoint ? this.#bridge : this.#findBridge(endpoint);
    if (bridge === null || pasid !== NO_PASID) return FAULT_ENDPOINT;
    const windows = bridge.windows;
    const pfn = pfnOfHiLo(hi, lo);
    for (let i = 0; i < windows.length; i++) {
      const window = windows[i];
      const index = window.indexOfPfn(pfn);
      if (index < 0) continue;
      const chunk = window.table.chunk(index);
      const at = TceTable.placeOf(index);
      const tce = chunk.lo(at);
      if ((tce & TCE_PERMISSION) === 0) return FAULT_PAGE;
      if ((access & TCE_PERMISSION & ~tce) !== 0) return FAULT_PERMISSION;
      this.translated[0] = (tce & ~window.offsetLo) | (lo & window.offsetLo);
      this.translated[1] = (chunk.hi(at) & ~window.offsetHi) | (hi & window.offsetHi);
      return window.pageLg2;
    }
    return FAULT_EXTENT;
  }

  /** @throws Error when the host refuses; then nothing has changed. */
  reset(): void {
    this.#replaceAll(() => this.#bridges.map((bridge) => bridge.defaultWindows()));
  }

  save(): { readonly bridges: readonly SavedBridge[] } {
    return { bridges: this.#bridges.map(saveBridge) };
  }

  /** @throws TypeError, or Error when the host refuses; then nothing has changed. */
  load(state: unknown): void {
    const saved = (state as { bridges?: unknown } | null)?.bridges;
    if (!Array.isArray(saved) || saved.length !== this.#bridges.length)
      throw new TypeError('SpaprIommu: not a saved state of these bridges');
    this.#replaceAll(() => this.#bridges.map((bridge, i) => loadBridge(bridge, saved[i], this.#ram)));
  }

  /** 14.5.4.2.2. An IOBA that is no page's start is refused, as KVM does; QEMU rounds it down. */
  #putTce(r: Int32Array): number {
    const window = this.#findWindow(r[R4 + 1], r[R4]);
    if (window === null) return H_PARAMETER;
    const index = window.indexOfIoba(r[R5 + 1], r[R5]);
    const lo = r[R6];
    const hi = r[R6 + 1];
    if (index < 0 || !this.#ram.allows(window, hi, lo)) return H_PARAMETER;
    const at = TceTable.placeOf(index);
    const now = window.table.chunk(index);
    const oldHi = now.hi(at);
    const oldLo = now.lo(at);
    if (hi === oldHi && lo === oldLo) return H_SUCCESS;
    const chunk = window.table.writable(index);
    if (chunk === null) return H_NOT_ENOUGH_RESOURCES;
    chunk.set(at, hi, lo);
    if (this.#tell(window, index, index)) return H_SUCCESS;
    chunk.set(at, oldHi, oldLo);
    this.#tell(window, index, index);
    return refusal(lo);
  }

  /** 14.5.4.2.4, without the Multi-TCE-Table option: a negative LIOBN is H_FUNCTION. Every TCE is read once, and checked before any is stored. */
  #putTceIndirect(r: Int32Array): number {
    if (r[R4 + 1] < 0) return H_FUNCTION;
    const count = r[R7] >>> 0;
    if (r[R7 + 1] !== 0 || count > TCES_PER_CALL) return H_PARAMETER;
    const window = this.#findWindow(r[R4 + 1], r[R4]);
    if (window === null) return H_PARAMETER;
    const index = window.indexOfIoba(r[R5 + 1], r[R5]);
    if (index < 0 || index + count > window.pages) return H_PARAMETER;
    if ((r[R6] & 0xfff) !== 0 || this.memory.read(r[R6 + 1], r[R6], this.#tces.bytes, 0, PAGE_BYTES) < 0) return H_PARAMETER;
    return this.#ram.allowsAll(window, this.#tces, count) ? this.#store(window, index, count) : H_PARAMETER;
  }

  /** 14.5.4.2.3. */
  #stuffTce(r: Int32Array): number {
    const window = this.#findWindow(r[R4 + 1], r[R4]);
    if (window === null) return H_PARAMETER;
    const index = window.indexOfIoba(r[R5 + 1], r[R5]);
    if (index < 0) return H_PARAMETER;
    const count = r[R7] >>> 0;
    if (r[R7 + 1] !== 0 || count > TCES_PER_CALL) return H_P4;
    if (index + count > window.pages || !this.#ram.allows(window, r[R6 + 1], r[R6])) return H_PARAMETER;
    for (let i = 0; i < count; i++) this.#tces.set(i, r[R6 + 1], r[R6]);
    return this.#store(window, index, count);
  }

  /** 14.5.4.2.1. H_PARTIAL cannot be: every page that a TCE names is the guest's own. */
  #getTce(r: Int32Array): number {
    const window = this.#findWindow(r[R4 + 1], r[R4]);
    if (window === null) return H_PARAMETER;
    const index = window.indexOfIoba(r[R5 + 1], r[R5]);
    if (index < 0) return H_PARAMETER;
    const chunk = window.table.chunk(index);
    const at = TceTable.placeOf(index);
    r[R4] = chunk.lo(at);
    r[R4 + 1] = chunk.hi(at);
    return H_SUCCESS;
  }

  #findWindow(liobnHi: number, liobn: number): DmaWindow | null {
    if (liobnHi !== 0) return null;
    if (liobn === this.#liobn) return this.#window;
    const window = this.#byLiobn.get(liobn);
    if (window === undefined) return null;
    this.#liobn = liobn;
    this.#window = window;
    return window;
  }

  #findBridge(endpoint: number): HostBridge | null {
    const bridge = this.#byEndpoint.get(endpoint);
    if (bridge === undefined) return null;
    this.#endpoint = endpoint;
    this.#bridge = bridge;
    return bridge;
  }

  /** Stores the first `count` of `#tces` from `index` on, those at either end that stand there already left out. */
  #store(window: DmaWindow, index: number, count: number): number {
    const { table } = window;
    const tces = this.#tces;
    const first = table.firstDifference(index, tces, count);
    if (first === count) return H_SUCCESS;
    const last = table.lastDifference(index, tces, count);
    if (!table.reserve(index, tces, first, last + 1)) return H_NOT_ENOUGH_RESOURCES;
    table.read(index, this.#old, first, last + 1);
    table.write(index, tces, first, last + 1);
    if (this.#tell(window, index + first, index + last)) return H_SUCCESS;
    table.write(index, this.#old, first, last + 1);
    this.#tell(window, index + first, index + last);
    let granted = 0;
    for (let i = 0; i < count; i++) granted |= tces.lo(i);
    return refusal(granted);
  }

  /** Says that the meaning of a window's TCEs may be another one, and whether the host followed. */
  #tell(window: DmaWindow, first: number, last: number): boolean {
    const observer = this.#observer;
    if (observer === null) return true;
    observer.changed(window.space, window.first + first * window.grain, window.first + (last + 1) * window.grain - 1);
    return observer.flush() >= 0;
  }

  #indexWindows(): void {
    this.#liobn = 0;
    this.#window = null;
    this.#byLiobn.clear();
    for (const bridge of this.#bridges) for (const window of bridge.windows) this.#byLiobn.set(window.liobn | 0, window);
  }

  #replaceWindows(bridge: HostBridge, windows: readonly DmaWindow[]): boolean {
    const old = bridge.windows;
    if (!this.#swap([bridge], [windows])) return false;
    for (const window of old) if (!windows.includes(window)) window.table.release();
    return true;
  }

  /** Other windows everywhere; their tables may use the storage of the old ones, which go with them. */
  #replaceAll(make: () => DmaWindow[][]): void {
    const { left } = this.#budget;
    this.#budget.left = this.#tableBytes;
    try {
      if (!this.#swap(this.#bridges, make())) throw new Error('SpaprIommu: the host could not follow; the old windows stand');
    } catch (error) {
      this.#budget.left = left;
      throw error;
    }
  }

  #swap(bridges: readonly HostBridge[], windows: readonly (readonly DmaWindow[])[]): boolean {
    const old = bridges.map((bridge) => bridge.windows);
    if (this.#setWindows(bridges, old, windows)) return true;
    this.#setWindows(bridges, windows, old);
    return false;
  }

  #setWindows(bridges: readonly HostBridge[], from: readonly (readonly DmaWindow[])[], to: readonly (readonly DmaWindow[])[]): boolean {
    for (let i = 0; i < bridges.length; i++) bridges[i].setWindows(to[i]);
    this.#indexWindows();
    const observer = this.#observer;
    if (observer === null) return true;
    for (let i = 0; i < bridges.length; i++) {
      for (const window of from[i]) if (!to[i].includes(window)) observer.changed(bridges[i], window.first, window.last);
      for (const window of to[i]) if (!from[i].includes(window)) observer.changed(bridges[i], window.first, window.last);
    }
    return observer.flush() >= 0;
  }
}
