import { SAVED_TAGS } from './control/device-invalidations.ts';

/** What `save` gives: plain data that structuredClone and JSON both keep. */
export interface VtdIommuState {
  readonly target: 'vtd';
  /** All registers, in 32-bit words. */
  readonly registers: readonly number[];
  /** RTADDR and IRTA as they took effect: [lo, hi]. */
  readonly root: readonly number[];
  readonly interruptTable: readonly number[];
  /** Index of the fault record that is written next. */
  readonly nextRecord: number;
  /** By ITag: the device that has not completed its invalidation, or -1. */
  readonly deviceInvalidations: readonly number[];
}

/** @throws TypeError when the state is not one that a VtdIommu with so many words of registers and fault records saved. */
export function checkedState(state: unknown, words: number, records: number): VtdIommuState {
  const value = state as VtdIommuState;
  const check = (good: boolean, what: string) => {
    if (!good) throw new TypeError(`VtdIommu: not a saved state: ${what}`);
  };
  check(typeof state === 'object' && state !== null && value.target === 'vtd', 'target');
  check(areInts(value.registers, words), 'registers');
  check(areInts(value.root, 2), 'root');
  check(areInts(value.interruptTable, 2), 'interruptTable');
  check(Number.isInteger(value.nextRecord) && value.nextRecord >= 0 && value.nextRecord < records, 'nextRecord');
  const isDevice = (device: number) => device >= -1 && device <= 0xffff;
  check(areInts(value.deviceInvalidations, SAVED_TAGS) && value.deviceInvalidations.every(isDevice), 'deviceInvalidations');
  return value;
}

function areInts(value: unknown, length: number): boolean {
  return Array.isArray(value) && value.length === length && value.every((item) => (item | 0) === item);
}
