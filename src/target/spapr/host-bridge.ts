import type { AddressSpace, PfnRange, RunVisitor } from '../target.ts';
import { DmaWindow, type DmaWindowGeometry, MAX_PAGE_LG2, MAX_WINDOW_PAGES } from './dma-window.ts';
import { IO_PAGE_LG2S } from './spec/rtas.ts';
import { TCE_PERMISSION } from './spec/tce.ts';
import { type TceBudget, TceTable } from './tce-table.ts';

/** What "ibm,ddw-applicable" promises of a bridge: dynamic DMA windows (LoPAR 7.3.27). */
export interface DynamicWindowLimits {
  /** LIOBNs of the windows that the guest can create beside the default ones: as many windows as LIOBNs. */
  readonly liobns: readonly number[];
  /** I/O page sizes as ibm,query-pe-dma-window says them (7.3.27.1): 0x107 is 4 KiB, 64 KiB, 16 MiB and 2 MiB. */
  readonly pageSizeMask: number;
  /** Bus address of the first window created. Default 0x800000000000000. */
  readonly start?: bigint;
  /** TCEs of the largest window that can be created, at most and by default 2^31. */
  readonly largestBlock?: number;
}

/** TCEs that one enumeration examines. */
const TCES_AT_ONCE = 1 << 18;

/** A PCI host bridge whose functions are one partitionable endpoint: they share its DMA windows. */
export interface HostBridgeOptions {
  /** Unit ID that RTAS calls name the bridge by. */
  readonly buid: bigint;
  /** Configuration addresses (bus << 16 | device and function << 8) of its functions: Target's endpoints. */
  readonly endpoints: readonly number[];
  /** What "ibm,dma-window" says: there at power-on, and again when the guest gave everything else up. */
  readonly windows: readonly DmaWindowGeometry[];
  /** Left out: windows can be neither queried nor changed. */
  readonly ddw?: DynamicWindowLimits;
}

const LIMIT_64 = 1n << 64n;

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

function endOf(window: DmaWindowGeometry): bigint {
  return window.start + (BigInt(window.pages) << BigInt(window.pageLg2));
}

/** @throws RangeError */
function checkLiobn(liobn: number): void {
  if (!Number.isInteger(liobn) || liobn <= 0 || liobn > 0xffffffff) throw new RangeError(`SpaprIommu: ${hex(liobn)} is not a LIOBN`);
}

/** @throws TypeError for what is left out or not of its type: in JavaScript it would fail far from here, or not at all. */
function checkTypes({ buid, endpoints, windows, ddw }: HostBridgeOptions): void {
  if (typeof buid !== 'bigint') throw new TypeError(`SpaprIommu: buid ${String(buid)} is no bigint`);
  if (!Array.isArray(endpoints)) throw new TypeError(`SpaprIommu: endpoints of PHB ${hex(buid)} are no array`);
  if (!Array.isArray(windows)) throw new TypeError(`SpaprIommu: windows of PHB ${hex(buid)} are no array`);
  for (const { start } of windows)
    if (typeof start !== 'bigint') throw new TypeError(`SpaprIommu: start ${String(start)} of a window is no bigint`);
  if (ddw === undefined) return;
  if (!Array.isArray(ddw.liobns)) throw new TypeError(`SpaprIommu: ddw.liobns of PHB ${hex(buid)} are no array`);
  if (ddw.start !== undefined && typeof ddw.start !== 'bigint')
    throw new TypeError(`SpaprIommu: ddw.start ${String(ddw.start)} is no bigint`);
}

/** @throws RangeError */
function checkEndpoint(endpoint: number): void {
  if (!Number.isInteger(endpoint) || endpoint < 0 || endpoint > 0xffff_ffff)
    throw new RangeError(`SpaprIommu: endpoint ${String(endpoint)} is no 32-bit number`);
}

/** @throws RangeError */
function checkWindow(window: DmaWindowGeometry): void {
  const { liobn, start, pageLg2, pages } = window;
  const name = `SpaprIommu: window LIOBN ${hex(liobn)}`;
  if (!Number.isInteger(pageLg2) || pageLg2 < 12 || pageLg2 > MAX_PAGE_LG2)
    throw new RangeError(`${name}: no I/O pages of 2^${pageLg2} bytes`);
  if (!Number.isInteger(pages) || pages < 1 || pages > MAX_WINDOW_PAGES) throw new RangeError(`${name}: ${pages} TCEs`);
  if (start < 0n || start % (1n << BigInt(pageLg2)) !== 0n) throw new RangeError(`${name}: ${hex(start)} is not the start of an I/O page`);
  if (endOf(window) > LIMIT_64) throw new RangeError(`${name}: ends above 2^64`);
}

/** The ranges that windows cover, ascending, neighbours joined; null when two overlap. */
export function aperturesOf(windows: readonly DmaWindow[]): PfnRange[] | null {
  const apertures: { first: number; last: number }[] = [];
  for (const { first, last } of [...windows].sort((a, b) => a.first - b.first)) {
    const before = apertures.at(-1);
    if (before !== undefined && before.last >= first) return null;
    if (before !== undefined && before.last + 1 === first) before.last = last;
    else apertures.push({ first, last });
  }
  return apertures;
}

/** One bridge: its windows now, and the address space that they are together. */
export class HostBridge implements AddressSpace {
  readonly name: string;
  readonly owner = 'target';
  readonly announced = true;
  readonly granuleLg2: number;
  readonly options: HostBridgeOptions;
  /** lg2 of the I/O page sizes that the guest may ask for. */
  readonly pageLg2s: readonly number[];
  readonly ddwStart: bigint;
  readonly largestBlock: number;
  readonly #budget: TceBudget;
  #windows: readonly DmaWindow[] = [];
  #apertures: readonly PfnRange[] = [];

  /** @throws RangeError when the options contradict themselves, TypeError when one is not of its type. */
  constructor(options: HostBridgeOptions, budget: TceBudget) {
    checkTypes(options);
    options.endpoints.forEach(checkEndpoint);
    options.windows.forEach(checkWindow);
    const { ddw } = options;
    this.options = options;
    this.name = `PHB ${hex(options.buid)}`;
    this.#budget = budget;
    this.pageLg2s = ddw === undefined ? [] : IO_PAGE_LG2S.filter((_, bit) => (ddw.pageSizeMask & (1 << bit)) !== 0);
    this.ddwStart = ddw?.start ?? 0x800000000000000n;
    this.largestBlock = ddw?.largestBlock ?? MAX_WINDOW_PAGES;
    if (ddw !== undefined && (ddw.pageSizeMask >>> IO_PAGE_LG2S.length !== 0 || this.pageLg2s.length === 0))
      throw new RangeError(`SpaprIommu: ${this.name}: page size mask ${hex(ddw.pageSizeMask)}`);
    if (!Number.isInteger(this.largestBlock) || this.largestBlock < 1 || this.largestBlock > MAX_WINDOW_PAGES)
      throw new RangeError(`SpaprIommu: ${this.name}: windows of ${this.largestBlock} TCEs`);
    if (this.ddwStart < 0n || this.ddwStart >= LIMIT_64 || this.ddwStart % 0x1000n !== 0n)
      throw new RangeError(`SpaprIommu: ${this.name}: no window can start at ${hex(this.ddwStart)}`);
    this.granuleLg2 = Math.min(...options.windows.map((window) => window.pageLg2), ...this.pageLg2s);
    if (!Number.isFinite(this.granuleLg2)) throw new RangeError(`SpaprIommu: ${this.name} has no window and cannot get one`);
    this.liobns().forEach(checkLiobn);
    this.setWindows(this.defaultWindows());
  }

  /** Ascending by bus address. */
  get windows(): readonly DmaWindow[] {
    return this.#windows;
  }

  get apertures(): readonly PfnRange[] {
    return this.#apertures;
  }

  /** Every LIOBN that a window of this bridge can have, those of the default windows first. */
  liobns(): number[] {
    return [...this.options.windows.map((window) => window.liobn), ...(this.options.ddw?.liobns ?? [])];
  }

  /** Makes these the windows of the bridge. @throws RangeError when two overlap. */
  setWindows(windows: readonly DmaWindow[]): void {
    const apertures = aperturesOf(windows);
    if (apertures === null) throw new RangeError(`SpaprIommu: ${this.name}: windows overlap`);
    this.#windows = [...windows].sort((a, b) => a.first - b.first);
    this.#apertures = apertures;
  }

  /** An empty window of this bridge, not yet one of `windows`. */
  makeWindow(geometry: DmaWindowGeometry, isDefault: boolean): DmaWindow {
    return new DmaWindow(this, geometry, isDefault, this.#budget);
  }

  defaultWindows(): DmaWindow[] {
    return this.options.windows.map((geometry) => this.makeWindow(geometry, true));
  }

  /** Whether the guest may have created such a window. */
  allowsWindow({ start, pageLg2, pages }: DmaWindowGeometry): boolean {
    return (
      this.pageLg2s.includes(pageLg2) &&
      pages <= this.largestBlock &&
      pages >= 1 &&
      Number.isInteger(Math.log2(pages)) &&
      start % (1n << BigInt(pageLg2)) === 0n &&
      start + (BigInt(pages) << BigInt(pageLg2)) <= LIMIT_64
    );
  }

  isDefaultWindow({ liobn, start, pageLg2, pages }: DmaWindowGeometry): boolean {
    return this.options.windows.some((it) => it.liobn === liobn && it.start === start && it.pageLg2 === pageLg2 && it.pages === pages);
  }

  /** How many windows the guest can create now. */
  windowsAvailable(): number {
    return this.liobns().length - this.#windows.length;
  }

  /**
   * A window for ibm,create-pe-dma-window, not yet one of `windows`; null when there is no LIOBN left or no room on the bus. The
   * first LIOBN that is free gets it. Where it lies is the platform's to say: a default window's LIOBN returns to that
   * window's place, any other goes to `ddwStart`, and whatever does not fit there to the next place above that it fits in.
   */
  newWindow(pageLg2: number, windowLg2: number): DmaWindow | null {
    const liobn = this.liobns().find((candidate) => !this.#windows.some((window) => window.liobn === candidate));
    if (liobn === undefined) return null;
    const bytes = 1n << BigInt(windowLg2);
    const old = this.options.windows.find((window) => window.liobn === liobn);
    const start = old !== undefined && this.#isFree(old.start, bytes) ? old.start : this.#freePlace(bytes);
    if (start % (1n << BigInt(pageLg2)) !== 0n || start + bytes > LIMIT_64) return null;
    return this.makeWindow({ liobn, start, pageLg2, pages: 2 ** (windowLg2 - pageLg2) }, false);
  }

  #isFree(start: bigint, bytes: bigint): boolean {
    return this.#windows.every((window) => start + bytes <= window.start || start >= endOf(window));
  }

  #freePlace(bytes: bigint): bigint {
    let start = this.ddwStart;
    for (const window of this.#windows) {
      if (start < endOf(window) && start + bytes > window.start) start = ((endOf(window) + bytes - 1n) / bytes) * bytes;
    }
    return start;
  }

  /**
   * Examines TCES_AT_ONCE TCEs and a chunk more at most; chunks of a table that were never written are stepped over (2^16 steps for the
   * largest window).
   */
  enumerate(first: number, last: number, visit: RunVisitor): number {
    let examined = 0;
    let iova = 0;
    let gpa = 0;
    let pages = 0;
    let permission = 0;
    for (const window of this.#windows) {
      if (window.last < first) continue;
      if (window.first > last) break;
      const { table, grain } = window;
      const end = window.indexOfPfn(Math.min(last, window.last)) + 1;
      let index = window.indexOfPfn(Math.max(first, window.first));
      while (index < end) {
        if (examined >= TCES_AT_ONCE) {
          if (pages > 0) visit(iova, gpa, pages, permission);
          return window.first + index * grain;
        }
        const chunk = table.chunk(index);
        const stop = Math.min(end, TceTable.chunkLast(index) + 1);
        if (TceTable.isEmpty(chunk)) index = stop;
        examined += stop - index;
        for (; index < stop; index++) {
          const lo = chunk.lo(index);
          const granted = lo & TCE_PERMISSION;
          if (granted === 0) continue;
          const page = window.first + index * grain;
          const from = Math.max(first, page);
          const count = Math.min(last, page + grain - 1) - from + 1;
          const target = window.gpaOfTce(chunk.hi(index), lo) + from - page;
          if (granted === permission && from === iova + pages && target === gpa + pages) {
            pages += count;
            continue;
          }
          if (pages > 0 && !visit(iova, gpa, pages, permission)) return iova + pages;
          iova = from;
          gpa = target;
          pages = count;
          permission = granted;
        }
      }
    }
    if (pages > 0 && !visit(iova, gpa, pages, permission)) return iova + pages;
    return last + 1;
  }
}
