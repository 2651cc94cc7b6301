/**
 * The port to the kernel that this process runs on. System calls go through koffi, a foreign-function package that is
 * loaded only here and only when a port is opened. Structs lie in mmap'ed memory whose address is kept as one bigint, so
 * that a call converts nothing but small integers (measured in bench/kernel against the same calls in C).
 */

import { readlinkSync } from 'node:fs';
import { PAGE_BYTES } from '../../memory/address.ts';
import { errno, errnoName } from '../errno.ts';
import type { Port, PortMemory } from '../port.ts';

type Koffi = typeof import('koffi');

// Flags of open(2), mmap(2), eventfd(2), poll(2): include/uapi/asm-generic/{fcntl,mman-common,mman,poll}.h, the same on
// every architecture that koffi has a Linux binary for.
const O_RDWR = 0o2;
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const PROT_READ = 1;
const PROT_READ_WRITE = 1 | 2;
const MAP_SHARED = 1;
const MAP_PRIVATE_ANONYMOUS = 2 | 0x20;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;
const POLLIN = 1;

/**
 * _IO(type, number) has no direction, which is 0 in asm-generic/ioctl.h, as drivers write it, and 1 << 29 in PowerPC's own
 * (arch/powerpc/include/uapi/asm/ioctl.h).
 */
const NO_DIRECTION = process.arch === 'ppc64' ? 0x2000_0000 : 0;

/** koffi.view aborts the process above this. */
const VIEW_LIMIT = 2 ** 32;

class KernelMemory implements PortMemory {
  readonly buffer: ArrayBuffer;
  readonly address: bigint;
  readonly bytes: number;
  #unmap: ((address: bigint, bytes: number) => void) | null;

  constructor(buffer: ArrayBuffer, address: bigint, bytes: number, unmap: (address: bigint, bytes: number) => void) {
    this.buffer = buffer;
    this.address = address;
    this.bytes = bytes;
    this.#unmap = unmap;
  }

  release(): void {
    this.#unmap?.(this.address, this.bytes);
    this.#unmap = null;
  }
}

async function loadKoffi(): Promise<Koffi> {
  try {
    return await import('koffi');
  } catch (cause) {
    throw new Error(
      `kernel port: the optional package koffi did not load (npm install koffi; it has binaries for Linux on x64, arm64, riscv64, ppc64 and others): ${(cause as Error).message}`,
      { cause },
    );
  }
}

/**
 * Opens the way to the kernel of this machine.
 * @throws Error that says what is missing: Linux, or koffi for this processor. What the user may not open, `open` answers.
 */
export async function openKernelPort(): Promise<Port> {
  if (process.platform !== 'linux') throw new Error(`kernel port: needs Linux, and this is ${process.platform}`);
  const koffi = await loadKoffi();
  const libc = koffi.load(null);
  const errnoOf = () => -koffi.errno();
  /** What a system call answers: below 0 it is none. */
  const answer = (value: number) => (value < 0 ? errnoOf() : value);

  const sys = {
    open: libc.func('int open(const char *path, int flags)'),
    close: libc.func('int close(int fd)'),
    // ioctl is variadic in C; on the processors that koffi serves a third argument travels the same way when it is not.
    ioctl: libc.func('int ioctl(int fd, unsigned long request, void *argument)'),
    ioctlValue: libc.func('ioctl', 'int', ['int', 'unsigned long', 'long']),
    mmap: libc.func('uint64_t mmap(void *address, size_t bytes, int prot, int flags, int fd, int64_t offset)'),
    munmap: libc.func('int munmap(void *address, size_t bytes)'),
    read: libc.func('long read(int fd, void *buffer, size_t bytes)'),
    write: libc.func('long write(int fd, const void *buffer, size_t bytes)'),
    poll: libc.func('int poll(void *fds, unsigned long count, int milliseconds)'),
    eventfd: libc.func('int eventfd(unsigned int value, int flags)'),
  };

  const unmap = (address: bigint, bytes: number) => sys.munmap(address, bytes);
  function map(bytes: number, flags: number, fd: number, offset: bigint, protection: number): PortMemory | number {
    const address = BigInt(sys.mmap(null, bytes, protection, flags, fd, offset));
    if (address === MAP_FAILED) return errnoOf();
    return new KernelMemory(koffi.view(address, bytes), address, bytes, unmap);
  }
  function allocate(bytes: number): PortMemory {
    const size = Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
    if (!(bytes > 0 && size <= VIEW_LIMIT)) throw new RangeError(`kernel port: cannot allocate ${bytes} bytes (1 to 4 GiB at a time)`);
    const memory = map(size, MAP_PRIVATE_ANONYMOUS, -1, 0n, PROT_READ_WRITE);
    if (typeof memory === 'number') throw new RangeError(`kernel port: mmap of ${bytes} bytes: ${errnoName(memory)}`);
    return memory;
  }

  const pollFd = allocate(PAGE_BYTES);
  const pollInts = new Int32Array(pollFd.buffer);
  return {
    name: 'kernel',
    open: (path) => answer(sys.open(path, O_RDWR | O_CLOEXEC)),
    readlink: (path) => {
      try {
        return readlinkSync(path);
      } catch (error) {
        return (error as { errno?: number }).errno ?? -errno.EIO;
      }
    },
    close: (fd) => answer(sys.close(fd)),
    ioctl: (fd, request, argument) =>
      answer(
        typeof argument === 'number'
          ? sys.ioctlValue(fd, request | NO_DIRECTION, argument)
          : sys.ioctl(fd, request | NO_DIRECTION, argument.address),
      ),
    allocate,
    mmap: (fd, bytes, offset, readOnly = false) =>
      bytes > 0 && bytes <= VIEW_LIMIT ? map(bytes, MAP_SHARED, fd, offset, readOnly ? PROT_READ : PROT_READ_WRITE) : -errno.EINVAL,
    read: (fd, into, bytes) => answer(Number(sys.read(fd, into.address, Math.min(bytes, into.bytes)))),
    write: (fd, from, bytes) => answer(Number(sys.write(fd, from.address, Math.min(bytes, from.bytes)))),
    poll: (fd, milliseconds) => {
      // struct pollfd { int fd; short events; short revents; }
      pollInts[0] = fd;
      pollInts[1] = POLLIN;
      return answer(sys.poll(pollFd.address, 1, milliseconds));
    },
    // Hardware goes on by itself.
    relax: () => {},
    eventfd: () => answer(sys.eventfd(0, O_CLOEXEC | O_NONBLOCK)),
  };
}
