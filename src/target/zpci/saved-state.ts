import { type FunctionState, type Indicators, STATE, type ZpciFunction } from './function.ts';
import type { Functions } from './functions.ts';
import { FMB_COUNTERS } from './spec/fib.ts';

/** What `save` gives: plain data that structuredClone and JSON both keep. Addresses are hexadecimal. */
export interface ZpciIommuState {
  readonly target: 'zpci';
  readonly functions: readonly SavedFunction[];
}

interface SavedFunction {
  readonly fid: number;
  readonly state: FunctionState;
  readonly registration: { readonly pba: string; readonly pal: string; readonly iota: string } | null;
  readonly indicators:
    | (Omit<Indicators, 'vector' | 'summaryAddress'> & { readonly vector: string; readonly summaryAddress: string })
    | null;
  readonly measurement: string;
  readonly samples: number;
  readonly counters: readonly number[];
}

export function saveFunction({ fid, state, registration, indicators, measurement, samples, counters }: ZpciFunction): SavedFunction {
  return {
    fid,
    state,
    registration: registration && { pba: hex(registration.pba), pal: hex(registration.pal), iota: hex(registration.iota) },
    indicators: indicators && { ...indicators, vector: hex(indicators.vector), summaryAddress: hex(indicators.summaryAddress) },
    measurement: hex(measurement),
    samples,
    counters: [...counters],
  };
}

/** Puts a saved function's state in place; `functions` tells the observer afterwards. */
export function loadFunction(functions: Functions, one: ZpciFunction, saved: SavedFunction): void {
  const { registration, indicators } = saved;
  one.state = saved.state;
  one.indicators = indicators && {
    ...indicators,
    vector: BigInt(indicators.vector),
    summaryAddress: BigInt(indicators.summaryAddress),
  };
  one.measurement = BigInt(saved.measurement);
  one.samples = saved.samples;
  saved.counters.forEach((count, i) => {
    one.counters[i] = count;
  });
  functions.place(one, registration && toRegistration(registration));
}

function toRegistration({ pba, pal, iota }: NonNullable<SavedFunction['registration']>) {
  return { pba: BigInt(pba), pal: BigInt(pal), iota: BigInt(iota) };
}

/** @throws TypeError when the state is not one that a ZpciIommu with these functions saved. */
export function checkedState(state: unknown, functions: Functions): ZpciIommuState {
  const value = state as ZpciIommuState;
  const check = (good: boolean, what: string) => {
    if (!good) throw new TypeError(`ZpciIommu: not a saved state: ${what}`);
  };
  check(typeof state === 'object' && state !== null && value.target === 'zpci', 'target');
  const { all } = functions;
  check(Array.isArray(value.functions) && value.functions.length === all.length, 'functions');
  all.forEach((one, i) => {
    const saved = value.functions[i];
    check(saved?.fid === one.fid && Object.values(STATE).includes(saved.state), `function ${i}`);
    check(saved.registration === null || isRegistration(functions, one, saved.registration), `function ${i}: registration`);
    check(saved.indicators === null || isIndicators(saved.indicators), `function ${i}: indicators`);
    check(isHex(saved.measurement) && Number.isInteger(saved.samples), `function ${i}: measurement`);
    check(
      Array.isArray(saved.counters) && saved.counters.length === FMB_COUNTERS && saved.counters.every(isCount),
      `function ${i}: counters`,
    );
  });
  return value;
}

function isRegistration(functions: Functions, one: ZpciFunction, saved: NonNullable<SavedFunction['registration']>): boolean {
  return isHex(saved?.pba) && isHex(saved.pal) && isHex(saved.iota) && functions.allows(one, toRegistration(saved));
}

function isIndicators(saved: NonNullable<SavedFunction['indicators']>): boolean {
  if (typeof saved !== 'object') return false;
  const { isc, interrupts, summary, vectorBit, summaryBit } = saved;
  return [isc, interrupts, summary, vectorBit, summaryBit].every(isCount) && isHex(saved.vector) && isHex(saved.summaryAddress);
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isHex(value: unknown): boolean {
  return typeof value === 'string' && /^0x[0-9a-f]{1,16}$/.test(value);
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
