/** A mask of reserved bits with what lies above the host address width in some doublewords: "bits 63:HAW are reserved" (chapter 9). */
export function aboveWidth(reserved: Int32Array, width: number, ...doublewords: readonly number[]): Int32Array {
  const mask = reserved.slice();
  for (const doubleword of doublewords) mask[2 * doubleword + 1] |= -1 << (width - 32);
  return mask;
}
