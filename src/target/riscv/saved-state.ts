import { hasPossiblePas } from './options.ts';

/** What `save` gives: plain data that structuredClone and JSON both keep. */
export interface RiscvIommuState {
  readonly target: 'riscv';
  /** The first KiB of the register page in 32-bit words; the rest is reserved. */
  readonly registers: readonly number[];
  /** Vectors whose masked message waits. */
  readonly heldMessages: number;
  readonly tags: readonly SavedTag[];
  readonly timedOut: boolean;
  readonly fence: readonly number[] | null;
  readonly stalled: SavedInvalidation | null;
}

interface SavedTag {
  readonly busy: boolean;
  readonly requester: number;
  readonly segment: number | null;
  readonly completions: number;
}

interface SavedInvalidation {
  readonly requester: number;
  readonly segment: number | null;
  readonly pasid: number | null;
  /** Hexadecimal. */
  readonly payload: string;
}

const WORDS = 256;
/* What commands and messages have room for ("IOMMU ATS commands"), and vectors as bits. */
const REQUESTERS = 1 << 16;
const SEGMENTS = 1 << 8;
const PASIDS = 1 << 20;
const COMPLETIONS = 8;
const VECTORS = 1 << 16;

/** @throws TypeError when the state is not one that a RiscvIommu with so many ITags saved. */
export function checkedState(state: unknown, tags: number): RiscvIommuState {
  const value = state as RiscvIommuState;
  const check = (good: boolean, what: string) => {
    if (!good) throw new TypeError(`RiscvIommu: not a saved state: ${what}`);
  };
  check(typeof state === 'object' && state !== null && value.target === 'riscv', 'target');
  check(areInts(value.registers, WORDS), 'registers');
  check(hasPossiblePas(BigInt(value.registers[1] >>> 0) << 32n), 'registers: capabilities.PAS');
  check(isWithin(value.heldMessages, VECTORS), 'heldMessages');
  check(Array.isArray(value.tags) && value.tags.length === tags && value.tags.every(isTag), 'tags');
  check(typeof value.timedOut === 'boolean', 'timedOut');
  check(value.fence === null || areInts(value.fence, 4), 'fence');
  check(value.stalled === null || isInvalidation(value.stalled), 'stalled');
  return value;
}

function areInts(value: unknown, length: number): boolean {
  return Array.isArray(value) && value.length === length && value.every((item) => (item | 0) === item);
}

function isTag(value: SavedTag): boolean {
  return (
    typeof value?.busy === 'boolean' &&
    isWithin(value.requester, REQUESTERS) &&
    (value.segment === null || isWithin(value.segment, SEGMENTS)) &&
    isWithin(value.completions, COMPLETIONS)
  );
}

function isInvalidation(value: SavedInvalidation): boolean {
  const isFrom = isWithin(value?.requester, REQUESTERS) && (value.segment === null || isWithin(value.segment, SEGMENTS));
  const isOf = value?.pasid === null || isWithin(value?.pasid, PASIDS);
  return isFrom && isOf && typeof value.payload === 'string' && /^0x[0-9a-f]{1,16}$/.test(value.payload);
}

function isWithin(value: unknown, limit: number): boolean {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < limit;
}
