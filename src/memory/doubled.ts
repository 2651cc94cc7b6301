/** Up to here an array is copied when it grows, for searches in such a memory take a fifth longer. */
const LARGE = 1 << 25;
/** A page of a WebAssembly memory, and the most that it has. */
const PAGE = 1 << 16;
const MOST_PAGES = 1 << 16;

/** What is used of `WebAssembly.Memory`, which TypeScript declares with a browser's interfaces only. */
interface Memory {
  readonly buffer: SharedArrayBuffer;
  grow(pages: number): number;
}
const { Memory } = (
  globalThis as unknown as { WebAssembly: { Memory: new (limits: { initial: number; maximum: number; shared: true }) => Memory } }
).WebAssembly;

/** In whose memory an array lies. */
const memories = new WeakMap<ArrayBufferLike, Memory>();

/**
 * The array with twice the room; the one before is not used any more. Small ones are copied. A large one lies in a WebAssembly memory of its own,
 * which grows where it is: so no doubling takes longer than the copy of 32 MiB, up to 4 GiB. (A resizable ArrayBuffer would grow so too, but V8
 * looks at its length on each access: a search in a node took 1.5 times as long. Shared, because
 * one that is not detaches its buffer when it grows, and from then on V8 looks whether the buffer is there on each access to any array.)
 */
export function doubled<T extends Float64Array | Int32Array>(array: T): T {
  const bytes = 2 * array.byteLength;
  const make = array.constructor as new (of: ArrayBufferLike | number) => T;
  const grown = memories.get(array.buffer);
  if (grown !== undefined && bytes <= MOST_PAGES * PAGE) {
    grown.grow(bytes / PAGE - grown.buffer.byteLength / PAGE);
    memories.set(grown.buffer, grown);
    return new make(grown.buffer);
  }
  const memory = bytes > LARGE && bytes <= MOST_PAGES * PAGE ? memoryOf(bytes / PAGE) : null;
  if (memory !== null) memories.set(memory.buffer, memory);
  const copy = memory === null ? new make(2 * array.length) : new make(memory.buffer);
  copy.set(array);
  return copy;
}

/** null: the process has no address space left that could be reserved for it. */
function memoryOf(initial: number): Memory | null {
  try {
    return new Memory({ initial, maximum: MOST_PAGES, shared: true });
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}
