import type { VtdIommuState } from '../saved-state.ts';
import { CAP, ECAP, FECTL, Global, GSTS, IECTL, IRTA, PECTL, RootTable, RTADDR, TTM_SCALABLE, VER } from '../spec/registers.ts';

/** Version 1.0: register-based invalidation (6.5.1) and drain flags (6.5.2.3) still mean something. */
const VERSION = 0x10;

/** RootTable.TTM, of which 0 is legacy mode; here because the compiler folds a module's own constants only. */
const TTM = 3 << 10;
/** For the test that compares it with its declaration. */
export const REPEATED = { TTM } as const;

/** The register page, and the pointers that took effect from it. */
export class Registers {
  readonly words: Int32Array;
  /** RTADDR and IRTA when they were set last (SRTP, SIRTP): [lo, hi]. */
  readonly root = new Int32Array(2);
  readonly interruptTable = new Int32Array(2);
  readonly #cap: readonly [number, number];
  readonly #ecap: readonly [number, number];

  /** `cap`, `ecap`: [lo, hi]. */
  constructor(bytes: number, cap: readonly [number, number], ecap: readonly [number, number]) {
    this.words = new Int32Array(bytes / 4);
    this.#cap = cap;
    this.#ecap = ecap;
    this.reset();
  }

  reset(): void {
    this.words.fill(0);
    this.root.fill(0);
    this.interruptTable.fill(0);
    this.set(VER, VERSION);
    for (const event of [FECTL, IECTL, PECTL]) this.set(event, 1 << 31);
    this.words.set(this.#cap, CAP >> 2);
    this.words.set(this.#ecap, ECAP >> 2);
  }

  /** As saved words have it, of each register the bits that it can hold (by offset). */
  restore(saved: Pick<VtdIommuState, 'registers' | 'root' | 'interruptTable'>, held: ReadonlyMap<number, number>): void {
    this.reset();
    for (const [offset, bits] of held) this.change(offset, bits, saved.registers[offset >> 2] & bits);
    for (const half of [0, 1]) {
      this.root[half] = saved.root[half] & held.get(RTADDR + 4 * half)!;
      this.interruptTable[half] = saved.interruptTable[half] & (held.get(IRTA + 4 * half) ?? 0);
    }
  }

  get(offset: number): number {
    return this.words[offset >> 2];
  }

  set(offset: number, value: number): void {
    this.words[offset >> 2] = value;
  }

  change(offset: number, clear: number, set: number): void {
    this.words[offset >> 2] = (this.words[offset >> 2] & ~clear) | set;
  }

  /** Whether a bit of the global status is set. */
  isOn(bit: number): boolean {
    return (this.words[GSTS >> 2] & bit) !== 0;
  }

  get translating(): boolean {
    return this.isOn(Global.TE);
  }

  /** Translation table mode, as set last. */
  get mode(): number {
    return (this.root[0] & RootTable.TTM) >>> RootTable.TTM_SHIFT;
  }

  get isLegacy(): boolean {
    return (this.root[0] & TTM) === 0;
  }

  get isScalable(): boolean {
    return this.mode === TTM_SCALABLE;
  }
}
