import { afterEach, describe, expect, test, vi } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { openKernelPort } from '../../src/host/kernel/index.ts';
import type { PortMemory } from '../../src/host/port.ts';

/** What the kernel port does that needs no IOMMU: system calls of this machine. The rest is for `npm run test:kernel`. */

const { platform } = process;

describe.skipIf(platform !== 'linux')('the kernel port (Linux only)', () => {
  test('answers errnos, and throws none', async () => {
    const port = await openKernelPort();
    const memory = port.allocate(1);
    expect(port.open('/nowhere/at/all')).toBe(-errno.ENOENT);
    expect(port.close(4711)).toBe(-errno.EBADF);
    expect(port.ioctl(4711, 0x3b64, memory)).toBe(-errno.EBADF);
    expect(port.ioctl(4711, 0x3b64, 0)).toBe(-errno.EBADF);
    expect(port.read(4711, memory, 8)).toBe(-errno.EBADF);
    expect(port.mmap(4711, 4096, 0n)).toBe(-errno.EBADF);
    expect(port.mmap(4711, 0, 0n)).toBe(-errno.EINVAL);
    memory.release();
  });

  test('a descriptor that is open, and a control of it', async () => {
    const port = await openKernelPort();
    const memory = port.allocate(1);
    const fd = port.open('/dev/null');
    expect(fd).toBeGreaterThan(2);
    expect(port.write(fd, memory, 1)).toBe(1);
    expect(port.read(fd, memory, 1)).toBe(0);
    // FIOCLEX of asm-generic/ioctls.h; another number on PowerPC.
    if (process.arch !== 'ppc64') expect([port.ioctl(fd, 0x5451, 0), port.ioctl(fd, 0x5451, memory)]).toEqual([0, 0]);
    expect(port.close(fd)).toBe(0);
    memory.release();
  });

  test('a file is mapped to be read, or to be written too', async () => {
    const port = await openKernelPort();
    const fd = port.open('/dev/zero');
    const mapped = [true, false].map((readOnly) => port.mmap(fd, 4096, 0n, readOnly) as PortMemory);
    const bytes = mapped.map(({ buffer }) => new Uint8Array(buffer));
    bytes[1][7] = 5;
    expect(bytes.map((page) => page[7])).toEqual([0, 5]);
    for (const memory of mapped) memory.release();
    port.close(fd);
  });

  test('links are read; what is none, and what is no path, is an errno', async () => {
    const port = await openKernelPort();
    expect(port.readlink('/proc/self')).toBe(`${process.pid}`);
    expect([port.readlink('/nowhere/at/all'), port.readlink('/proc'), port.readlink('/a\0b')]).toEqual([
      -errno.ENOENT,
      -errno.EINVAL,
      -errno.EIO,
    ]);
  });

  test('an eventfd is written, waited for and read through memory of the port', async () => {
    const port = await openKernelPort();
    const memory = port.allocate(8);
    const count = new BigUint64Array(memory.buffer, 0, 1);
    const fd = port.eventfd();
    expect(fd).toBeGreaterThan(2);
    expect(port.poll(fd, 0)).toBe(0);
    expect(port.read(fd, memory, 8)).toBe(-errno.EAGAIN);
    count[0] = 3n;
    expect(port.write(fd, memory, 8)).toBe(8);
    expect(port.poll(fd, 0)).toBe(1);
    count[0] = 0n;
    expect(port.read(fd, memory, 8)).toBe(8);
    expect(count[0]).toBe(3n);
    expect(port.close(fd)).toBe(0);
    memory.release();
  });

  test('memory is zeroed whole pages, at a page’s address', async () => {
    const port = await openKernelPort();
    const memory = port.allocate(5000);
    expect(memory.bytes).toBe(8192);
    expect(memory.address % 4096n).toBe(0n);
    expect(new Uint8Array(memory.buffer).every((byte) => byte === 0)).toBe(true);
    memory.release();
    memory.release();
    expect(() => port.allocate(0)).toThrow(RangeError);
    expect(() => port.allocate(2 ** 32 + 1)).toThrow(/1 to 4 GiB/);
  });
});

describe('where the kernel port cannot be', () => {
  afterEach(() => {
    Object.defineProperty(process, 'platform', { value: platform });
    vi.doUnmock('koffi');
  });

  test('another system is named', async () => {
    Object.defineProperty(process, 'platform', { value: 'plan9' });
    await expect(openKernelPort()).rejects.toThrow('kernel port: needs Linux, and this is plan9');
  });

  test('koffi that does not load is named', async () => {
    Object.defineProperty(process, 'platform', { value: 'linux' });
    vi.doMock('koffi', () => {
      throw new Error('no binary for this processor');
    });
    await expect(openKernelPort()).rejects.toThrow(/optional package koffi did not load .*npm install koffi/);
  });
});
