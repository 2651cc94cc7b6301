/** What answers behind a BAR, or anywhere else where a processor reads and writes. */
export interface RegisterBlock {
  /** Reads 1, 2, 4 or 8 bytes, little-endian. Has no effect outside the block. */
  read(offset: number, bytes: number): bigint;
  write(offset: number, bytes: number, value: bigint): void;
}
