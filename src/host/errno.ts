import { requireNumber } from '../memory/arguments.ts';
/** Linux errno values (include/uapi/asm-generic/errno-base.h, errno.h) that host kernels answer. */
export const errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ENOSPC: 28,
  ESPIPE: 29,
  ERANGE: 34,
  EDEADLK: 35,
  ENODATA: 61,
  EOVERFLOW: 75,
  EBADFD: 77,
  EMSGSIZE: 90,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  ETIMEDOUT: 110,
} as const;

const names = new Map<number, string>(Object.entries(errno).map(([name, value]) => [value, name]));

/** `ENOENT` for 2 or -2; `errno 999` for a value that has no name here. */
export function errnoName(value: number): string {
  requireNumber('errnoName', 'value', value);
  return names.get(Math.abs(value)) ?? `errno ${Math.abs(value)}`;
}

/**
 * A host call that failed: what was asked of which kernel interface, for which range, and what it answered.
 *
 * @example
 * const error = new HostError('VFIO_IOMMU_MAP_DMA', 12, { first: 0x10, last: 0x11 });
 * error.message; // 'VFIO_IOMMU_MAP_DMA [0x10000, 0x11fff]: ENOMEM'
 * error.errno; // 12
 */
export class HostError extends Error {
  /** Positive errno. */
  readonly errno: number;
  /** The ioctl or system call, in the kernel's own name: `IOMMU_IOAS_MAP`. */
  readonly operation: string;
  /** Closed range of IOVA pages that the call was about, if it was about one. */
  readonly range: { readonly first: number; readonly last: number } | undefined;

  constructor(operation: string, error: number, range?: { readonly first: number; readonly last: number }, hint?: string) {
    const where = range
      ? ` [0x${(BigInt(range.first) << 12n).toString(16)}, 0x${((BigInt(range.last) << 12n) | 0xfffn).toString(16)}]`
      : '';
    super(`${operation}${where}: ${errnoName(error)}${hint ? ` (${hint})` : ''}`);
    this.name = 'HostError';
    this.errno = Math.abs(error);
    this.operation = operation;
    this.range = range;
  }
}

/** What a `catch` caught, if the host failed; all else is a fault of this code, and goes on. */
export function hostErrorOf(caught: unknown): HostError {
  if (caught instanceof HostError) return caught;
  throw caught;
}
