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

/** @throws TypeError when the state is not one that a RiscvIommu with so many ITags saved. */
export function checkedState(state: unknown, tags: number): RiscvIommuState {
  const value = state as RiscvIommuState;
  const check = (good: boolean, what: string) => {
    if (!good) throw new TypeError(`RiscvIommu: not a saved state: ${what}`);
  };
  check(typeof state === 'object' && state !== null && value.target === 'riscv', 'target');
  check(areInts(value.registers, WORDS), 'registers');
  check(Number.isInteger(value.heldMessages), 'heldMessages');
  check(Array.isArray(value.tags) && value.tags.length === tags && value.tags.every(isTag), 'tags');
  check(typeof value.timedOut === 'boolean', 'timedOut');
  check(value.fence === null || areInts(value.fence, 4), 'fence');
  check(value.stalled === null || isInvalidation(value.stalled), 'stalled');
  return value;
}

function areInts(value: unknown, length: number): boolean {
  return Array.isArray(value) && value.length === length && value.every((item) => Number.isInteger(item));
}

function isTag(value: SavedTag): boolean {
  return (
    typeof value?.busy === 'boolean' &&
    Number.isInteger(value.requester) &&
    isOptional(value.segment) &&
    Number.isInteger(value.completions)
  );
}

function isInvalidation(value: SavedInvalidation): boolean {
  const fits = Number.isInteger(value?.requester) && isOptional(value.segment) && isOptional(value.pasid);
  return fits && typeof value.payload === 'string' && /^0x[0-9a-f]{1,16}$/.test(value.payload);
}

function isOptional(value: unknown): boolean {
  return value === null || Number.isInteger(value);
}
