/**
 * Memory of this process of which parts will be mapped again and again: guest RAM. Nothing depends on a host being told; one that is told pins it
 * once (sPAPR TCE), or maps the file behind it (iommufd).
 */
export interface SharedMemory {
  /** Host virtual page of the first byte. */
  readonly first: number;
  readonly pages: number;
  /** The file behind it, and the place in it of the first byte; null: none that is known. */
  readonly file: { readonly fd: number; readonly offset: bigint } | null;
}

/** The one that holds all of these host pages. */
export function sharedMemoryOf(all: Iterable<SharedMemory>, host: number, pages: number): SharedMemory | null {
  for (const memory of all) if (host >= memory.first && host + pages <= memory.first + memory.pages) return memory;
  return null;
}
