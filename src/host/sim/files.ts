import { errno } from '../errno.ts';
import type { SimDevice } from './device.ts';
import type { Frames, PhysicalMemory, ProcessMemory, Vma } from './memory.ts';
import { dataViewOf, type UserBuffer } from './structs.ts';

/** What a descriptor of the simulated process stands for. */
export interface SimFile {
  /** The request's name in the kernel's headers, for hooks and counts; undefined when it is none of this file's. */
  ioctlName(request: number): string | undefined;
  ioctl(request: number, address: number): number;
  /** Returns bytes moved or a negative errno. */
  read?(user: UserBuffer): number;
  write?(user: UserBuffer): number;
  mmap?(bytes: number, offset: number): Vma | number;
  readable?(): boolean;
  /** The device that it gives to its user now. */
  readonly device?: SimDevice | null;
  /** Kernel objects behind it, by kind. */
  objects?(): Record<string, number>;
  /** Its state as plain data. */
  save?(): unknown;
  close(): void;
}

/** Where a file's bytes are, and where the process sees them. */
interface SharedMemory {
  readonly physical: PhysicalMemory;
  readonly process: ProcessMemory;
}

/** A file in shared memory: all its openings share the bytes, which live as long as the simulated machine. */
export class SharedFile implements SimFile {
  readonly #memory: SharedMemory;
  readonly frames: Frames;

  constructor(memory: SharedMemory, bytes: number, frames = memory.physical.allocate(bytes)) {
    this.#memory = memory;
    this.frames = frames;
  }

  reopen(): SharedFile {
    return new SharedFile(this.#memory, this.frames.buffer.byteLength, this.frames);
  }

  ioctlName(): undefined {
    return undefined;
  }

  ioctl(): number {
    return -errno.ENOTTY;
  }

  mmap(bytes: number, offset: number): Vma | number {
    if (offset + bytes > this.frames.buffer.byteLength) return -errno.EINVAL;
    return this.#memory.process.map(this.frames, offset, bytes);
  }

  close(): void {}
}

const COUNT_MAX = 2n ** 64n - 1n;

/** eventfd(2): a counter that a write adds to and a read takes. */
export class EventFile implements SimFile {
  #count = 0n;

  ioctlName(): undefined {
    return undefined;
  }

  ioctl(): number {
    return -errno.ENOTTY;
  }

  read(user: UserBuffer): number {
    if (user.bytes < 8) return -errno.EINVAL;
    if (this.#count === 0n) return -errno.EAGAIN;
    const counted = new Uint8Array(BigUint64Array.of(this.#count).buffer);
    this.#count = 0n;
    return user.write(counted) ? 8 : -errno.EFAULT;
  }

  /** eventfd_write: 8 bytes, no more; the counter stays below 2^64 - 1. */
  write(user: UserBuffer): number {
    if (user.bytes !== 8) return -errno.EINVAL;
    const view = user.view();
    if (view === null) return -errno.EFAULT;
    const added = dataViewOf(view).getBigUint64(0, true);
    if (added === COUNT_MAX) return -errno.EINVAL;
    if (this.#count + added >= COUNT_MAX) return -errno.EAGAIN;
    this.#count += added;
    return 8;
  }

  readable(): boolean {
    return this.#count !== 0n;
  }

  close(): void {}
}
