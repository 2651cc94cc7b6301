import { hiOf, loOf } from '../src/memory/address.ts';
import type { GuestMemory } from '../src/memory/guest-memory.ts';

/** A structure of doublewords, below 4 GiB, as a guest stores it. */
export function putWords(memory: GuestMemory, address: number, words: readonly bigint[]): void {
  for (const [i, word] of words.entries()) memory.store64(0, address + 8 * i, hiOf(word), loOf(word));
}
