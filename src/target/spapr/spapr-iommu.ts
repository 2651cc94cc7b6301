import { requireNumbers, requireObject } from '../../memory/arguments.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { AddressSpace, Target, TargetObserver } from '../target.ts';
import type { DmaWindow } from './dma-window.ts';
import { FAULT_ENDPOINT, FAULT_EXTENT, FAULT_PAGE, FAULT_PERMISSION } from './faults.ts';
import { GuestRam } from './guest-ram.ts';
import { HostBridge, type HostBridgeOptions } from './host-bridge.ts';
import type { HypercallRegisters } from './hypercall-registers.ts';
import { Hypercalls } from './hypercalls.ts';
import { callRtas, type DmaWindowCall, type WindowKeeper } from './rtas.ts';
import { loadBridge, type SavedBridge, saveBridge } from './saved-state.ts';
import { TceBudget } from './tce-table.ts';

/** TCE_PERMISSION and NO_PASID, here because the compiler folds a module's own constants only. */
const PERMISSION = 3;
const WITHOUT_PASID = -1;
/** For the test that compares them with their declaration. */
export const REPEATED = { PERMISSION, WITHOUT_PASID } as const;

export interface SpaprIommuOptions {
  readonly memory: GuestMemory;
  readonly bridges: readonly HostBridgeOptions[];
  /** Bytes that all TCE tables may take: 8 a TCE, in chunks of at most 256 KiB. Default 256 MiB: 32 Mi TCEs. */
  readonly tableBytes?: number;
}

function requireDistinct(what: string, values: readonly (bigint | number)[]): void {
  if (new Set(values).size !== values.length) throw new RangeError(`SpaprIommu: a ${what} is there twice`);
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
  readonly #hypercalls: Hypercalls;
  /** What the last access came from: guests stay with one for long. */
  #bridge: HostBridge | null = null;
  #endpoint = -1;

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
    this.#hypercalls = new Hypercalls(memory, this.#ram, this.#byLiobn);
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
    requireObject('SpaprIommu', 'observer', observer, 'TargetObserver', ['attach', 'changed', 'flush']);
    if (this.#hypercalls.observer !== null) throw new TypeError('SpaprIommu: it has an observer already');
    this.#hypercalls.observer = observer;
    let observing = true;
    return () => {
      if (observing) this.#hypercalls.observer = null;
      observing = false;
    };
  }

  knows(endpoint: number): boolean {
    requireNumbers('SpaprIommu', { endpoint });
    return this.#byEndpoint.has(endpoint);
  }

  spaceOf(endpoint: number): AddressSpace | null {
    requireNumbers('SpaprIommu', { endpoint });
    return this.#byEndpoint.get(endpoint) ?? null;
  }

  /**
   * Does the hypercall that the guest made with these registers and returns what it gets in R3; a TCE that it reads is left in R4.
   * H_FUNCTION for every opcode that is not a TCE hypercall.
   */
  hypercall(opcode: number, registers: HypercallRegisters): number {
    return this.#hypercalls.call(opcode, registers);
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
    if (bridge === null || pasid !== WITHOUT_PASID) return FAULT_ENDPOINT;
    const windows = bridge.windows;
    for (let i = 0; i < windows.length; i++) {
      const window = windows[i];
      const index = window.indexOf(hi, lo);
      if (index < 0) continue;
      const chunk = window.table.chunk(index);
      const tce = chunk.lo(index);
      if ((tce & PERMISSION) === 0) return FAULT_PAGE;
      if ((access & PERMISSION & ~tce) !== 0) return FAULT_PERMISSION;
      this.translated[0] = (tce & ~window.offsetLo) | (lo & window.offsetLo);
      this.translated[1] = (chunk.hi(index) & ~window.offsetHi) | (hi & window.offsetHi);
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

  #findBridge(endpoint: number): HostBridge | null {
    const bridge = this.#byEndpoint.get(endpoint);
    if (bridge === undefined) return null;
    this.#endpoint = endpoint;
    this.#bridge = bridge;
    return bridge;
  }

  #indexWindows(): void {
    this.#hypercalls.forget();
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
    const observer = this.#hypercalls.observer;
    if (observer === null) return true;
    for (let i = 0; i < bridges.length; i++) {
      for (const window of from[i]) if (!to[i].includes(window)) observer.changed(bridges[i], window.first, window.last);
      for (const window of to[i]) if (!from[i].includes(window)) observer.changed(bridges[i], window.first, window.last);
    }
    return observer.flush() >= 0;
  }
}
