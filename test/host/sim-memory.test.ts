import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import { PhysicalMemory, ProcessMemory } from '../../src/host/sim/memory.ts';
import { PhysicalTables } from '../../src/host/sim/physical-tables.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { HI, hiOf, LO, loOf, pfnOf } from '../../src/memory/address.ts';
import { MEM_FAULT, MEM_OK } from '../../src/memory/guest-memory.ts';

const PAGE = 4096;

describe('physical memory as table walkers read it', () => {
  function machine() {
    const physical = new PhysicalMemory();
    const frames = physical.allocate(PAGE);
    const bytes = new Uint8Array(frames.buffer);
    const at = (offset: number) => [hiOf(BigInt(frames.first + offset)), loOf(BigInt(frames.first + offset))] as const;
    return { physical, bytes, view: new DataView(frames.buffer), at, real: new PhysicalTables(physical, true) };
  }

  test('words of 32 and 64 bits in either order', () => {
    const { bytes, at, real } = machine();
    bytes.set([1, 2, 3, 4, 5, 6, 7, 8], 16);
    expect([real.load64(...at(16)), real.word[HI], real.word[LO]]).toEqual([MEM_OK, 0x0807_0605, 0x0403_0201]);
    expect([real.load64BE(...at(16)), real.word[HI], real.word[LO]]).toEqual([MEM_OK, 0x0102_0304, 0x0506_0708]);
    expect([real.load32(...at(16)), real.word[HI], real.word[LO]]).toEqual([MEM_OK, 0, 0x0403_0201]);
    expect([real.load32BE(...at(16)), real.word[HI], real.word[LO]]).toEqual([MEM_OK, 0, 0x0102_0304]);
    const stored = (result: number) => [result, ...bytes.subarray(32, 40)];
    expect(stored(real.store64(...at(32), 0x0807_0605, 0x0403_0201))).toEqual([MEM_OK, 1, 2, 3, 4, 5, 6, 7, 8]);
    expect(stored(real.store64BE(...at(32), 0x0807_0605, 0x0403_0201))).toEqual([MEM_OK, 8, 7, 6, 5, 4, 3, 2, 1]);
    expect(stored(real.store32(...at(32), 0x0403_0201))).toEqual([MEM_OK, 1, 2, 3, 4, 4, 3, 2, 1]);
    expect(stored(real.store32BE(...at(36), 0x0403_0201))).toEqual([MEM_OK, 1, 2, 3, 4, 4, 3, 2, 1]);
  });

  test('an entry is exchanged only where it still is what was read', () => {
    const { view, at, real } = machine();
    view.setBigUint64(8, 0x1_0000_0002n, true);
    expect(real.compareExchange64(...at(8), 1, 3, 9, 9)).toBe(0);
    expect(view.getBigUint64(8, true)).toBe(0x1_0000_0002n);
    expect(real.compareExchange64(...at(8), 1, 2, 5, 6)).toBe(1);
    expect(view.getBigUint64(8, true)).toBe(0x5_0000_0006n);
  });

  test('a probe is told that it has stored, and has not', () => {
    const { physical, bytes, at } = machine();
    const probe = new PhysicalTables(physical, false);
    expect([
      probe.store64(...at(0), 1, 1),
      probe.store64BE(...at(0), 1, 1),
      probe.store32(...at(0), 1),
      probe.store32BE(...at(0), 1),
    ]).toEqual([MEM_OK, MEM_OK, MEM_OK, MEM_OK]);
    expect(probe.compareExchange64(...at(0), 0, 0, 1, 1)).toBe(1);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  test('where there is no memory, or it ends in the word, is a fault', () => {
    const { at, real } = machine();
    for (const place of [at(-8), at(PAGE), at(PAGE - 4)]) {
      expect([real.load64(...place), real.load64BE(...place), real.store64(...place, 0, 0), real.store64BE(...place, 0, 0)]).toEqual([
        MEM_FAULT,
        MEM_FAULT,
        MEM_FAULT,
        MEM_FAULT,
      ]);
      expect(real.compareExchange64(...place, 0, 0, 0, 0)).toBe(MEM_FAULT);
    }
    for (const place of [at(-4), at(PAGE), at(PAGE - 2)]) {
      const answers = [real.load32(...place), real.load32BE(...place), real.store32(...place, 0), real.store32BE(...place, 0)];
      expect(answers).toEqual([MEM_FAULT, MEM_FAULT, MEM_FAULT, MEM_FAULT]);
    }
  });
});

describe('memory of a process', () => {
  test('shared memory is the child’s too, and goes with the last who has it', () => {
    const kernel = simKernel();
    kernel.createFile('/dev/shm/file', PAGE);
    const fd = kernel.open('/dev/shm/file');
    const shared = kernel.mmap(fd, PAGE, 0n);
    if (typeof shared === 'number') throw new Error(`mmap: ${shared}`);
    const child = kernel.fork();
    new Uint8Array(shared.buffer)[3] = 7;
    expect(child.memory.view(shared.address, 4)?.[3]).toBe(7);
    shared.release();
    expect(kernel.process.view(shared.address, 4)).toBe(null);
    expect(child.memory.view(shared.address, 4)?.[3]).toBe(7);
    kernel.exit(child);
    expect(kernel.live()).toMatchObject({ mappings: 0 });
  });

  test('a page is seen where a mapping shows it, and in none of the mappings that show other parts', () => {
    const physical = new PhysicalMemory();
    const process = new ProcessMemory(physical);
    const frames = physical.allocate(4 * PAGE);
    const [low, high] = [process.map(frames, 0, PAGE), process.map(frames, 2 * PAGE, PAGE)];
    expect([0, 1, 2, 3].map((page) => process.addressOf(frames.first + page * PAGE))).toEqual([low.first, -1, high.first, -1]);
    process.unmap(low);
    expect(process.addressOf(frames.first)).toBe(-1);
  });

  test('nothing is read where nothing is wanted, and that is no fault', () => {
    const { process } = simKernel();
    expect(process.view(PAGE, 0)).toHaveLength(0);
    expect(process.view(PAGE, 1)).toBe(null);
  });

  test('a device reaches what is pinned when its process has it no more', () => {
    const kernel = simKernel();
    const host = new IommufdHost(kernel);
    const space = host.createSpace();
    expect(space.attach(host.openDevice('/dev/vfio/devices/vfio0'))).toBe(0);
    const memory = kernel.allocate(PAGE);
    const pfn = pfnOf(memory.address);
    expect(space.map(0x1000, pfn, 1, READ_WRITE)).toBe(0);
    expect(kernel.device().hostPfn(0x1000, READ_WRITE)).toBe(pfn);
    memory.release();
    expect(kernel.device().hostPfn(0x1000, READ_WRITE)).toBe(-1);
    expect(kernel.device().dmaWrite(0x100_0000n, Uint8Array.of(9))).toBe(0);
    expect(new Uint8Array(memory.buffer)[0]).toBe(9);
    host.close();
  });
});

describe('eventfd(2)', () => {
  test('8 bytes, which are memory', () => {
    const kernel = simKernel();
    const fd = kernel.eventfd();
    const memory = kernel.allocate(PAGE);
    const nowhere = kernel.allocate(PAGE);
    nowhere.release();
    new DataView(memory.buffer).setBigUint64(0, 5n, true);
    expect([kernel.write(fd, memory, 7), kernel.write(fd, memory, 9), kernel.write(fd, nowhere, 8)]).toEqual([
      -errno.EINVAL,
      -errno.EINVAL,
      -errno.EFAULT,
    ]);
    expect(kernel.poll(fd, 0)).toBe(0);
    expect(kernel.write(fd, memory, 8)).toBe(8);
    expect([kernel.poll(fd, 0), kernel.read(fd, memory, 7)]).toEqual([1, -errno.EINVAL]);
    expect([kernel.read(fd, memory, 8), new DataView(memory.buffer).getBigUint64(0, true)]).toEqual([8, 5n]);
    expect(kernel.read(fd, memory, 8)).toBe(-errno.EAGAIN);
  });
});
