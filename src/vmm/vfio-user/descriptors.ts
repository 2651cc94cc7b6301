/** A file's bytes in this process. */
export interface MappedFile {
  readonly buffer: ArrayBufferLike;
  /** Virtual address of the first byte. */
  readonly address: bigint;
  release(): void;
}

/** What can be done with descriptors that came over a socket; negative answers are errnos. */
export interface Descriptors {
  sizeOf(descriptor: number): number;
  map(descriptor: number, bytes: number, offset: bigint, readOnly: boolean): MappedFile | number;
  /** Only an eventfd is signalled: a write to anything else may block, or change a file. */
  isEventfd(descriptor: number): boolean;
  /** Adds 1 to an eventfd; one that is full is left as it is. */
  signal(descriptor: number): void;
  close(descriptor: number): void;
}
