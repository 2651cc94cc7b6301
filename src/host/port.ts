/** How a host driver reaches its kernel: bytes and errno, nothing of what they mean. Real (koffi) or simulated. */

/** Memory of this process that the kernel can read, write and pin. */
export interface PortMemory {
  readonly buffer: ArrayBufferLike;
  /** Virtual address of the first byte: what goes into a struct's pointer fields. */
  readonly address: bigint;
  readonly bytes: number;
  /** Unmaps it. Whatever still views the buffer must not be touched afterwards. */
  release(): void;
}

/** Every call returns a value ≥ 0 or a negative errno (src/host/errno.ts); none throws for what a kernel answers. */
export interface Port {
  /** `kernel` or `sim`, for reports only: a driver never asks. */
  readonly name: string;
  /** Opens for reading and writing, close-on-exec. Returns a file descriptor. */
  open(path: string): number;
  close(fd: number): number;
  /** What a symbolic link says (sysfs has what no ioctl tells). */
  readlink(path: string): string | number;
  /** `argument`: a struct in memory of this port, or an integer for the ioctls that take one by value. */
  ioctl(fd: number, request: number, argument: PortMemory | number): number;
  /** Page-aligned zeroed memory, for structs and for guest RAM. @throws RangeError when there is none. */
  allocate(bytes: number): PortMemory;
  /** Maps `bytes` of a file at `offset`, shared, readable and, unless told otherwise, writable. */
  mmap(fd: number, bytes: number, offset: bigint, readOnly?: boolean): PortMemory | number;
  /** Reads at most `bytes` into the memory's start; 0 at the end. */
  read(fd: number, into: PortMemory, bytes: number): number;
  write(fd: number, from: PortMemory, bytes: number): number;
  /** Waits until the descriptor is readable: 1, or 0 after `milliseconds`. */
  poll(fd: number, milliseconds: number): number;
  /** Between two looks at memory that hardware writes: lets whoever writes it go on. */
  relax(): void;
  /** A new eventfd. */
  eventfd(): number;
}
