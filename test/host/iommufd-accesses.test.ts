import { beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { Access } from '../../src/host/sim/iommufd/access.ts';
import type { AccessUser } from '../../src/host/sim/iommufd/area.ts';
import type { IommufdContext } from '../../src/host/sim/iommufd/context.ts';
import { Ioas } from '../../src/host/sim/iommufd/ioas.ts';
import { AbiMachine, FIXED, READABLE, U64_MAX } from './abi-machine.ts';

/** Memory of an IOAS that is reached without DMA: the kernel's iommufd_access_* (drivers/iommu/iommufd/device.c), as a mediated device's driver calls them. */
describe('accesses', () => {
  const PAGE = 4096n;
  const IOVA = 0x10_0000n;
  const SILENT: AccessUser = { pins: true };

  let kernel: SimKernel;
  let m: AbiMachine;
  let context: IommufdContext;
  let id: number;

  beforeEach(() => {
    kernel = simKernel();
    m = new AbiMachine({
      port: kernel,
      device: '/dev/vfio/devices/vfio0',
      file: '',
      iommu: { describes: false, virtual: false },
      close() {},
    });
    context = kernel.file(m.fd) as IommufdContext;
    id = m.ioas();
  });

  const ioas = (of = id) => context.get(of, Ioas) as Ioas;

  function access(user: AccessUser = SILENT, to = ioas()): Access {
    const made = context.add(new Access(context, user));
    expect(made.attach(to)).toBe(0);
    return made;
  }

  /** Physical address of a page of the machine's memory. */
  function physical(page: number): number {
    const { frames, offset } = kernel.process.find(Number(m.memory.address))!;
    return frames.first + offset + page * 4096;
  }

  test('pages of several mappings are pinned in order, each for as long as somebody has it pinned', () => {
    for (const page of [0n, 1n]) expect(m.map(id, IOVA + page * PAGE, PAGE, (3n - page) * PAGE)).toBe(0);
    const [one, other] = [access(), access()];
    expect(one.pin(IOVA, 2n * PAGE, true)).toEqual([physical(3), physical(2)]);
    expect(other.pin(IOVA + PAGE, PAGE, false)).toEqual([physical(2)]);
    expect(kernel.pinnedBytes).toBe(8192);
    one.unpin(IOVA, 2n * PAGE);
    expect(kernel.pinnedBytes).toBe(4096);
    expect(m.unmap(id, IOVA + PAGE, PAGE), 'pinned by who cannot be told').toBe('EBUSY');
    other.unpin(IOVA + PAGE, PAGE);
    expect(m.unmap(id, IOVA, 2n * PAGE)).toBe(0);
  });

  test('what cannot be pinned to its end is not pinned at all', () => {
    expect(m.map(id, IOVA, PAGE)).toBe(0);
    expect(m.map(id, IOVA + PAGE, PAGE, PAGE, FIXED | READABLE)).toBe(0);
    expect(m.map(id, IOVA + 2n * PAGE, PAGE, 16n * PAGE), 'behind memory of the process').toBe(0);
    const one = access();
    const pin = (bytes: bigint, write = false, from = IOVA) => one.pin(from, bytes, write);
    expect(pin(0n)).toBe(-errno.EINVAL);
    expect(pin(PAGE, false, IOVA + 1n), 'in a page').toBe(-errno.EINVAL);
    expect(pin(PAGE + 1n, false, U64_MAX - PAGE + 1n)).toBe(-errno.EOVERFLOW);
    expect(pin(2n * PAGE, true), 'read only').toBe(-errno.EPERM);
    expect(pin(3n * PAGE), 'no memory').toBe(-errno.EFAULT);
    expect(pin(PAGE, false, IOVA - PAGE), 'nothing').toBe(-errno.ENOENT);
    expect(pin(4n * PAGE, false, IOVA - PAGE), 'nothing first').toBe(-errno.ENOENT);
    expect(m.unmap(id, IOVA + 2n * PAGE, PAGE)).toBe(0);
    expect(pin(3n * PAGE), 'nothing last').toBe(-errno.ENOENT);
    expect(kernel.pinnedBytes).toBe(0);
    expect(m.unmap(id, IOVA, 2n * PAGE)).toBe(0);
  });

  test('pages above the limit are ENOMEM', () => {
    const limited = simKernel({ pinLimit: 4096 });
    const host = new AbiMachine({ ...m.fixture, port: limited });
    const space = host.ioas();
    expect(host.map(space, IOVA, 2n * PAGE)).toBe(0);
    const of = limited.file(host.fd) as IommufdContext;
    const made = of.add(new Access(of, SILENT));
    expect(made.attach(of.get(space, Ioas))).toBe(0);
    expect(made.pin(IOVA, 2n * PAGE, true)).toBe(-errno.ENOMEM);
    expect(made.pin(IOVA, PAGE, true)).toHaveLength(1);
  });

  test('copies go through mappings that follow on each other, and what lies before one that is refused is copied', () => {
    expect(m.map(id, IOVA, PAGE + 100n, 5n)).toBe(0);
    expect(m.map(id, IOVA + PAGE + 100n, 100n, 0n, FIXED | READABLE)).toBe(0);
    const one = access({ pins: false });
    const memory = new Uint8Array(m.memory.buffer);
    memory[5 + 4096 + 99] = 7;
    memory[0] = 8;
    const read = new Uint8Array(2);
    expect(one.copy(IOVA + PAGE + 99n, read, false)).toBe(0);
    expect([...read]).toEqual([7, 8]);
    expect(one.copy(IOVA + PAGE + 99n, Uint8Array.of(1, 2), true), 'the second is read only').toBe(-errno.EPERM);
    expect([memory[5 + 4096 + 99], memory[0]]).toEqual([1, 8]);
    expect(one.copy(IOVA, new Uint8Array(0), false)).toBe(-errno.EINVAL);
    expect(one.copy(U64_MAX, new Uint8Array(2), false)).toBe(-errno.EOVERFLOW);
    expect(one.copy(IOVA + PAGE + 199n, new Uint8Array(2), false)).toBe(-errno.ENOENT);
    expect(m.map(id, IOVA + 2n * PAGE, PAGE, 16n * PAGE)).toBe(0);
    expect(one.copy(IOVA + 2n * PAGE, new Uint8Array(1), false), 'behind memory of the process').toBe(-errno.EFAULT);
  });

  test('who does not let go keeps what is mapped, which nobody reaches any more', () => {
    expect(m.map(id, IOVA, PAGE)).toBe(0);
    const told: bigint[][] = [];
    const one = access({ pins: true, unmap: (first, last) => void told.push([first, last]) });
    expect(one.pin(IOVA, PAGE, false)).toHaveLength(1);
    expect(m.unmap(id, IOVA, PAGE)).toBe('EDEADLK');
    expect(told).toEqual([[IOVA, IOVA + PAGE - 1n]]);
    expect(one.pin(IOVA, PAGE, false)).toBe(-errno.EINVAL);
    expect(one.copy(IOVA, new Uint8Array(1), false)).toBe(-errno.EINVAL);
    one.unpin(IOVA, PAGE);
    expect(m.unmap(id, IOVA, PAGE)).toBe(0);
  });

  test('who lets go when told has nothing pinned any more', () => {
    expect(m.map(id, IOVA, PAGE)).toBe(0);
    const user: AccessUser = { pins: true, unmap: () => one.unpin(IOVA, PAGE) };
    const one = access(user);
    expect(one.pin(IOVA, PAGE, false)).toHaveLength(1);
    expect(m.unmap(id, IOVA, PAGE)).toBe(0);
    expect(kernel.pinnedBytes).toBe(0);
  });

  test('an access moves to another space, tells its user of all that it leaves, and back to the same is nothing', () => {
    const told: bigint[][] = [];
    const one = access({ pins: true, unmap: (first, last) => void told.push([first, last]) });
    const second = m.ioas();
    expect(one.attach(ioas())).toBe(0);
    expect(told).toEqual([]);
    expect(m.call('IOMMU_DESTROY', id)).toBe('EBUSY');
    expect(one.attach(ioas(second))).toBe(0);
    expect(told).toEqual([[0n, U64_MAX]]);
    expect(m.call('IOMMU_DESTROY', id)).toBe(0);
    expect(one.attach(undefined)).toBe(-errno.ENOENT);
    expect(one.save()).toEqual({ ioas: second });
  });

  test('who pins reaches no space where something mapped is not whole pages, and such a space maps whole pages only', () => {
    const second = m.ioas();
    expect(m.map(second, IOVA, 100n)).toBe(0);
    const one = access();
    expect(one.attach(ioas(second))).toBe(-errno.EADDRINUSE);
    expect(one.save()).toEqual({ ioas: id });
    expect(m.map(second, IOVA + 100n, 100n, 100n), 'as before').toBe(0);
    expect(m.map(id, IOVA, 100n)).toBe('EINVAL');
    one.close();
    expect(m.map(id, IOVA, 100n)).toBe(0);
  });
});
