import type { AddressSpace } from '../target.ts';
import { FunctionSpace } from './function-space.ts';
import { handleOf, type ZpciFunctionOptions } from './options.ts';
import type { FunctionTranslation, Registration } from './spaces.ts';
import { FMB_COUNTERS } from './spec/fib.ts';
import { HANDLE_ENABLED } from './spec/instruction.ts';

/**
 * States of a function, numbered because the hot path compares them (QEMU: enum ZpciState). Standby: not configured. Error: DMA, loads and
 * stores are blocked; blocked: DMA is, until the guest takes that back as well.
 */
export const STATE = { standby: 0, disabled: 1, enabled: 2, blocked: 3, error: 4 } as const;
export type FunctionState = (typeof STATE)[keyof typeof STATE];

/** Default aperture of QEMU's functions. */
const APERTURE = { start: 0x1_0000_0000n, last: 0x1ff_ffff_ffff_ffffn };

/** Where a function's interrupts are indicated. */
export interface Indicators {
  readonly isc: number;
  readonly interrupts: number;
  readonly summary: number;
  readonly vector: bigint;
  readonly vectorBit: number;
  readonly summaryAddress: bigint;
  readonly summaryBit: number;
}

/** Counters of a function measurement block, in its order. */
export const COUNTER = { load: 0, store: 1, storeBlock: 2, refresh: 3 } as const;

/** One PCI function. */
export class ZpciFunction {
  readonly options: ZpciFunctionOptions;
  readonly fid: number;
  readonly index: number;
  readonly aperture: { readonly start: bigint; readonly last: bigint };
  /** Handle without the bit that says enabled. */
  readonly handleBase: number;
  state: FunctionState;
  registration: Registration | null = null;
  /** What the function's requests reach unless they are blocked. */
  space: FunctionSpace;
  indicators: Indicators | null = null;
  /** Address of the function measurement block; 0: none. */
  measurement = 0n;
  samples = 0;
  readonly counters: number[] = new Array(FMB_COUNTERS).fill(0);
  /** What the observer has been told last. */
  attached: AddressSpace | null = null;
  /** The observer refused to be told. */
  owed = false;

  constructor(options: ZpciFunctionOptions, index: number) {
    this.options = options;
    this.fid = options.fid;
    this.index = index;
    this.aperture = options.aperture ?? APERTURE;
    this.handleBase = handleOf(options.handle, index);
    this.space = new FunctionSpace(options.fid);
    this.state = this.#firstState;
  }

  get #firstState(): FunctionState {
    return this.options.standby ? STATE.standby : STATE.disabled;
  }

  get isEnabled(): boolean {
    return this.state >= STATE.enabled;
  }

  get handle(): number {
    return this.isEnabled ? (this.handleBase | HANDLE_ENABLED) >>> 0 : this.handleBase;
  }

  /** What the function's requests reach now: of a disabled function, a space without mappings. */
  get reachable(): AddressSpace | null {
    return this.state === STATE.enabled || this.state === STATE.disabled ? this.space : null;
  }

  /** What the registration means; null without one. */
  get translation(): FunctionTranslation | null {
    return this.space.translation;
  }

  /** Forgets all that the guest has registered, as disabling does. */
  forget(): void {
    this.registration = null;
    if (this.translation !== null) this.space = new FunctionSpace(this.fid);
    this.indicators = null;
    this.stopMeasurement();
  }

  stopMeasurement(): void {
    this.measurement = 0n;
    this.samples = 0;
    this.counters.fill(0);
  }

  reset(): void {
    this.forget();
    this.state = this.#firstState;
  }
}
