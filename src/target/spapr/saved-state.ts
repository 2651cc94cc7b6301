import { addressOfPfn } from '../../memory/address.ts';
import type { DmaWindow } from './dma-window.ts';
import type { GuestRam } from './guest-ram.ts';
import { aperturesOf, type HostBridge } from './host-bridge.ts';
import { TceTable } from './tce-table.ts';

/** A window as plain data. */
interface SavedWindow {
  readonly liobn: number;
  /** Hexadecimal, for JSON knows no 64-bit integer. */
  readonly start: string;
  readonly pageLg2: number;
  readonly pages: number;
  readonly isDefault: boolean;
  /** Index, high half and low half of every TCE that is not 0, ascending by index. */
  readonly tces: readonly number[];
}

/** All that a guest can observe of one bridge. */
export interface SavedBridge {
  readonly buid: string;
  readonly windows: readonly SavedWindow[];
}

function saveTces(window: DmaWindow): number[] {
  const tces: number[] = [];
  for (let index = 0; index < window.pages; ) {
    const chunk = window.table.chunk(index);
    const stop = Math.min(window.pages, TceTable.chunkLast(index) + 1);
    if (TceTable.isEmpty(chunk)) index = stop;
    for (; index < stop; index++) {
      const [hi, lo] = [chunk.hi(index), chunk.lo(index)];
      if ((hi | lo) !== 0) tces.push(index, hi, lo);
    }
  }
  return tces;
}

export function saveBridge(bridge: HostBridge): SavedBridge {
  return {
    buid: bridge.options.buid.toString(16),
    windows: bridge.windows.map((window) => {
      const { liobn, start, pageLg2, pages, isDefault } = window;
      return { liobn, start: start.toString(16), pageLg2, pages, isDefault, tces: saveTces(window) };
    }),
  };
}

function expect(condition: boolean, what: string): asserts condition {
  if (!condition) throw new TypeError(`SpaprIommu: not a saved state: ${what}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isInt32(value: unknown): value is number {
  return typeof value === 'number' && (value | 0) === value;
}

function pageText(window: DmaWindow, hi: number, lo: number): string {
  const first = addressOfPfn(window.gpaOfTce(hi, lo));
  return `[0x${first.toString(16)}, 0x${(first + (1n << BigInt(window.pageLg2)) - 1n).toString(16)}]`;
}

function loadTces(window: DmaWindow, tces: unknown, ram: GuestRam): void {
  expect(Array.isArray(tces) && tces.length % 3 === 0, 'TCEs are not in threes');
  let before = -1;
  for (let i = 0; i < tces.length; i += 3) {
    const [index, hi, lo]: unknown[] = [tces[i], tces[i + 1], tces[i + 2]];
    expect(isInt32(index) && isInt32(hi) && isInt32(lo), 'a TCE is not made of int32');
    expect(index > before && index < window.pages, `TCE ${index} is out of place`);
    expect(
      ram.allows(window, hi, lo),
      `TCE ${index} of LIOBN 0x${window.liobn.toString(16)} names ${pageText(window, hi, lo)}, which is no guest RAM here`,
    );
    const chunk = window.table.writable(index);
    expect(chunk !== null, 'more TCEs than the storage limit allows');
    chunk.set(index, hi, lo);
    before = index;
  }
}

function loadWindow(bridge: HostBridge, saved: unknown, ram: GuestRam): DmaWindow {
  expect(isRecord(saved), 'a window is not an object');
  const { liobn, start: text, pageLg2, pages, isDefault, tces } = saved;
  expect(typeof text === 'string' && /^[0-9a-f]{1,16}$/.test(text), 'the start of a window is not hexadecimal');
  expect(typeof liobn === 'number' && bridge.liobns().includes(liobn), `LIOBN ${liobn} is not one of ${bridge.name}`);
  expect(typeof pageLg2 === 'number' && typeof pages === 'number' && typeof isDefault === 'boolean', 'a window lacks its size');
  const geometry = { liobn, start: BigInt(`0x${text}`), pageLg2, pages };
  expect(isDefault ? bridge.isDefaultWindow(geometry) : bridge.allowsWindow(geometry), `LIOBN ${liobn} cannot have that window`);
  const window = bridge.makeWindow(geometry, isDefault);
  loadTces(window, tces, ram);
  return window;
}

/** The windows that `saveBridge` wrote, each with its TCEs, not yet the bridge's. @throws TypeError */
export function loadBridge(bridge: HostBridge, saved: unknown, ram: GuestRam): DmaWindow[] {
  expect(isRecord(saved) && saved['buid'] === bridge.options.buid.toString(16), `no state of ${bridge.name}`);
  const list = saved['windows'];
  expect(Array.isArray(list), 'there are no windows');
  const windows = list.map((window: unknown) => loadWindow(bridge, window, ram));
  expect(new Set(windows.map((window) => window.liobn)).size === windows.length, 'a LIOBN has two windows');
  expect(aperturesOf(windows) !== null, 'windows overlap');
  return windows;
}
