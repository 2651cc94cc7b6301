import type { GuestMemory } from './guest-memory.ts';

/** Bytes that are read ahead at most. */
export const AHEAD_BYTES = 1024;

/** Words of the longest entry. */
const LONGEST = 8;
const buffer = new ArrayBuffer(AHEAD_BYTES + 4 * (LONGEST - 1));

/**
 * Entries of a guest's queue, read ahead in one go, so that the address is checked once for all of them. One buffer for all queues, as LOADED is
 * one for all memories. Whoever reads ahead is done with what stands here before anybody else can be called who reads or writes guest memory: so
 * the guest cannot tell.
 *
 * AHEAD[k][at] is word k of the entry that begins at `at`. All have one length: where they are constants to the compiler, in a module's own
 * `const [word0, word1] = AHEAD`, it checks `at` once for all of them.
 */
export const AHEAD: readonly Int32Array[] = Array.from({ length: LONGEST }, (_, word) => new Int32Array(buffer, 4 * word, AHEAD_BYTES / 4));
const ahead64 = new BigUint64Array(buffer, 0, AHEAD_BYTES / 8);

/**
 * Reads `bytes`, a multiple of 8 and at most AHEAD_BYTES, at an aligned address into AHEAD, each 64 bits in one piece. False: they do not lie in one
 * region, or the memory reads no runs; then AHEAD is as it was.
 */
export function readAhead(memory: Partial<Pick<GuestMemory, 'loadRun64'>>, hi: number, lo: number, bytes: number): boolean {
  return memory.loadRun64 !== undefined && memory.loadRun64(hi, lo, ahead64, bytes >> 3) >= 0;
}
