import { requireObject } from './arguments.ts';

/**
 * The last value that was loaded from any memory: [lo, hi]. One for all memories, so that where tables are walked it is a constant to the compiler,
 * in a module's `const word = LOADED` (it folds no imported constant). In a buffer of its own, because that of a small array may move.
 *
 * Whoever loads takes what it needs before anything else can load, from this memory or another. A store leaves it alone.
 */
export const LOADED: Int32Array = new Int32Array(new ArrayBuffer(8));

/** What an embedder hands in as memory. @throws TypeError when it is none, or leaves what it loads elsewhere than walkers look for it. */
export function requireMemory(who: string, memory: { readonly word: Int32Array }, methods: readonly string[]): void {
  requireObject(who, 'memory', memory, 'memory', methods);
  if (memory.word !== LOADED) throw new TypeError(`${who}: memory.word is not that of GuestMemory`);
}
