import { beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { ioctl } from '../../src/host/iommufd/uapi.ts';
import { type IommuConfig, type SimKernel, type SimMachine, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { AbiMachine, FIXED, NO_ID, NOWHERE, READABLE, RW, U64_MAX, WRITEABLE } from './abi-machine.ts';

/** I/O address spaces and invalidations where a call is refused late, or for its place: the kernel's ioas.c, io_pagetable.c and hw_pagetable.c. */

const PAGE = 4096n;
const IOVA = 0x10_0000n;
const ANYWHERE = READABLE | WRITEABLE;
const MSI = 0xfee0_0000n;

let kernel: SimKernel;
let m: AbiMachine;

function machineOn(port: SimKernel, device = 'vfio0'): AbiMachine {
  return new AbiMachine({ port, device: `/dev/vfio/devices/${device}`, file: '', iommu: { describes: false, virtual: false }, close() {} });
}

function start(machine: SimMachine = {}): void {
  kernel = simKernel(machine);
  m = machineOn(kernel);
}
beforeEach(() => start());

/** A space with the device in it. */
function attached(): number {
  const id = m.ioas();
  m.attach(m.bind().cdev, id);
  return id;
}

describe('I/O address spaces', () => {
  test('memory that can only be read is not mapped for writing', () => {
    const id = attached();
    const { address } = kernel.allocate(4096, { writable: false });
    const map = (flags: number) => m.call('IOMMU_IOAS_MAP', flags, id, 0, address, PAGE, IOVA);
    expect([map(RW), map(FIXED | READABLE)]).toEqual(['EFAULT', 0]);
  });

  test('a file is mapped as far as it reaches', () => {
    kernel.createFile('/dev/shm/file', 8192);
    const id = attached();
    const file = m.opened('/dev/shm/file');
    const map = (start: bigint, length: bigint) => m.call('IOMMU_IOAS_MAP_FILE', RW, id, file, start, length, IOVA);
    expect([map(PAGE, 2n * PAGE), map(U64_MAX, 2n), map(PAGE, PAGE)]).toEqual(['EINVAL', 'EOVERFLOW', 0]);
  });

  test('a copy from beyond the last address is none', () => {
    const id = m.ioas();
    expect(m.call('IOMMU_IOAS_COPY', RW, id, id, 2n * PAGE, IOVA, U64_MAX - PAGE + 1n)).toBe('EOVERFLOW');
  });

  test('ranges are told though the struct cannot be answered', () => {
    const id = m.ioas();
    const struct = kernel.allocate(4096, { writable: false });
    const view = new DataView(struct.buffer);
    for (const [at, value] of [40, id, 1].entries()) view.setUint32(4 * at, value, true);
    view.setBigUint64(16, m.memory.address, true);
    expect(kernel.ioctl(m.fd, ioctl.IOMMU_IOAS_IOVA_RANGES, struct)).toBe(-errno.EFAULT);
    expect(new DataView(m.memory.buffer).getBigUint64(8, true)).toBe(U64_MAX);
  });

  test('pinned memory is the user’s, or the process’s where that was chosen', () => {
    const devices = ['vfio0', 'vfio1'].map((name) => ({ name }));
    for (const [byProcess, expected] of [
      [0n, 'ENOMEM'],
      [1n, 0],
    ] as const) {
      start({ devices, pinLimit: 8192 });
      const child = kernel.fork();
      const pin = (host: AbiMachine) => {
        expect(host.call('IOMMU_OPTION', 0, [0], [0], 0, byProcess)).toBe(0);
        const id = host.ioas();
        host.attach(host.bind().cdev, id);
        return host.map(id, IOVA, 2n * PAGE);
      };
      expect(pin(m)).toBe(0);
      expect(kernel.as(child, () => pin(machineOn(kernel, 'vfio1')))).toBe(expected);
    }
  });

  test('the physical address of a mapping is for devices without an IOMMU, which there are none', () => {
    const GET_PA = 0x3b95;
    const id = m.ioas();
    expect(m.map(id, IOVA, PAGE)).toBe(0);
    const ask = (of: number, flags: number, length: bigint, iova: bigint, reserved = 0) => {
      const view = new DataView(m.struct.buffer);
      for (const [at, value] of [40, flags, of, reserved].entries()) view.setUint32(4 * at, value, true);
      for (const [at, value] of [iova, length, 0n].entries()) view.setBigUint64(16 + 8 * at, value, true);
      return kernel.ioctl(m.fd, GET_PA, m.struct);
    };
    expect([ask(id, 1, PAGE, IOVA), ask(id, 0, PAGE, IOVA, 1)]).toEqual([-errno.EOPNOTSUPP, -errno.EOPNOTSUPP]);
    expect([ask(id, 0, 0n, IOVA), ask(id, 0, PAGE, U64_MAX)]).toEqual([-errno.EINVAL, -errno.EOVERFLOW]);
    expect([ask(NO_ID, 0, PAGE, IOVA), ask(id, 0, PAGE, 0n), ask(id, 0, PAGE, IOVA)]).toEqual([
      -errno.ENOENT,
      -errno.ENOENT,
      -errno.EOPNOTSUPP,
    ]);
  });
});

describe('places that the kernel chooses (iopt_alloc_iova)', () => {
  const place = (id: number, length: bigint, address = m.memory.address) => {
    const result = m.call('IOMMU_IOAS_MAP', ANYWHERE, id, 0, address, length, 0n);
    return result === 0 ? m.out64(32) : result;
  };

  test('are aligned as memory is, to a huge page at most', () => {
    const id = m.ioas();
    expect(place(id, 0x80_0000n, 0n)).toBe(0x20_0000n);
    expect(place(id, 1n << 63n, 0n)).toBe('EOVERFLOW');
    expect(place(attached(), PAGE, m.memory.address + 0x800n), 'memory is aligned less than pages').toBe('EINVAL');
  });

  test('are the lowest with room', () => {
    const id = m.ioas();
    expect(m.map(id, 0x2000n, PAGE)).toBe(0);
    expect(place(id, 2n * PAGE)).toBe(0x4000n);
    expect(place(id, PAGE)).toBe(0x1000n);
    expect(place(id, PAGE)).toBe(0x3000n);
  });

  test('lie in what was promised, where nothing is reserved', () => {
    const id = attached();
    const allow = (...ranges: readonly (readonly [bigint, bigint])[]) => {
      new BigUint64Array(m.memory.buffer).set(ranges.flat());
      return m.call('IOMMU_IOAS_ALLOW_IOVAS', id, ranges.length, 0, m.memory.address);
    };
    expect(allow([MSI - PAGE, MSI])).toBe('EADDRINUSE');
    expect(allow([IOVA, IOVA + PAGE - 1n], [2n * IOVA, 2n * IOVA + 0xffffn])).toBe(0);
    expect(place(id, 2n * PAGE)).toBe(2n * IOVA);
    expect(place(id, PAGE)).toBe(IOVA);
    expect(place(id, 0x1_0000n)).toBe('ENOSPC');
  });
});

describe('invalidations', () => {
  const VTD = 0;
  const SMMUV3 = 1;
  const invalidate = (id: number, type: number, entries: readonly [at: bigint, bytes: number, count: number], reserved = 0) => {
    const [at, bytes, count] = entries;
    const result = m.call('IOMMU_HWPT_INVALIDATE', id, at, type, bytes, count, reserved);
    return [result, m.out32(24)];
  };

  function parent(iommus: readonly IommuConfig[]) {
    start({ iommus });
    const { id: device } = m.bind();
    const space = m.ioas();
    expect(m.map(space, 0n, 16n * PAGE)).toBe(0);
    expect(m.call('IOMMU_HWPT_ALLOC', 1, device, space, 0, 0, 0, 0, 0n, 0, 0)).toBe(0);
    return { device, parent: m.out32(16) };
  }

  test('of a first stage are read one by one', () => {
    const { device, parent: table } = parent([{ nesting: vtd() }]);
    const stage = (at: bigint) => m.call('IOMMU_HWPT_ALLOC', 0, device, table, 0, 0, 1, 24, at, 0, 0);
    expect(stage(NOWHERE), 'its data').toBe('EFAULT');
    new BigUint64Array(m.memory.buffer).set([0n, 0n, 48n]);
    expect(stage(m.memory.address)).toBe(0);
    const id = m.out32(16);
    const end = m.memory.address + 16n * PAGE - 24n;
    new BigUint64Array(m.memory.buffer).set([0n, U64_MAX, 0n], 16 * 512 - 3);
    expect(invalidate(id, VTD, [end, 24, 2]), 'the first').toEqual(['EFAULT', 1]);
    expect(invalidate(id, VTD, [NOWHERE, 24, 0])).toEqual([0, 0]);
    expect(invalidate(id, VTD + 1, [m.memory.address, 24, 0])).toEqual(['EINVAL', 0]);
    expect(invalidate(id, VTD, [m.memory.address, 24, 1], 1)).toEqual(['EOPNOTSUPP', 0]);
    expect([invalidate(NO_ID, VTD, [end, 24, 1]), invalidate(table, VTD, [end, 24, 1])]).toEqual([
      ['ENOENT', 0],
      ['EINVAL', 0],
    ]);
  });

  test('of a vIOMMU are read at once, and are some', () => {
    const { device, parent: table } = parent([{ nesting: smmuv3(), reserved: [] }]);
    expect(m.call('IOMMU_VIOMMU_ALLOC', 0, 1, device, table, 0, 0, 0, 0n)).toBe(0);
    const id = m.out32(20);
    const all = 0x10n;
    new BigUint64Array(m.memory.buffer).set([all, 0n], 16 * 512 - 2);
    const end = m.memory.address + 16n * PAGE - 16n;
    expect(invalidate(id, SMMUV3, [end, 16, 1])).toEqual([0, 1]);
    expect(invalidate(id, SMMUV3, [end, 16, 2])).toEqual(['EFAULT', 0]);
    expect(invalidate(id, SMMUV3, [end, 16, 0])).toEqual(['EINVAL', 0]);
    expect(invalidate(id, SMMUV3 + 1, [end, 16, 1])).toEqual(['EINVAL', 0]);
  });

  test('that are done, and cannot be told, are done', () => {
    const { device, parent: table } = parent([{ nesting: smmuv3(), reserved: [] }]);
    expect(m.call('IOMMU_VIOMMU_ALLOC', 0, 1, device, table, 0, 0, 0, 0n)).toBe(0);
    const id = m.out32(20);
    new BigUint64Array(m.memory.buffer).set([0x10n, 0n]);
    const struct = kernel.allocate(4096, { writable: false });
    const view = new DataView(struct.buffer);
    view.setUint32(0, 32, true);
    view.setUint32(4, id, true);
    view.setBigUint64(8, m.memory.address, true);
    for (const [at, value] of [SMMUV3, 16, 1, 0].entries()) view.setUint32(16 + 4 * at, value, true);
    expect(kernel.ioctl(m.fd, ioctl.IOMMU_HWPT_INVALIDATE, struct)).toBe(-errno.EFAULT);
  });
});
