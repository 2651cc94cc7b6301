import { beforeEach, expect, test } from 'vitest';
import { errnoName } from '../../src/host/errno.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import * as uapi from '../../src/host/vfio/uapi.ts';

/* Bitmaps and structs of type1 that lie where memory ends, or are longer than a word: vfio_iommu_type1.c. */

const PAGE = 4096n;
const IOVA = 0x100_0000n;
const USER_MAX = 2n ** 47n - PAGE;
const NOWHERE = 0x1000n;

let kernel: SimKernel;
let struct: PortMemory;
let memory: PortMemory;
let container: number;

beforeEach(() => {
  kernel = simKernel();
  struct = kernel.allocate(4096);
  memory = kernel.allocate(256 * 4096);
  container = kernel.open('/dev/vfio/vfio');
  const group = kernel.open(`/dev/vfio/${kernel.device().group.number}`);
  new DataView(struct.buffer).setInt32(0, container, true);
  expect(kernel.ioctl(group, uapi.VFIO_GROUP_SET_CONTAINER, struct)).toBe(0);
  expect(kernel.ioctl(container, uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1v2_IOMMU)).toBe(0);
});

/** A call with a struct of argsz, flags and 64-bit fields. */
function call(request: number, flags: number, ...fields: readonly bigint[]): string | number {
  const view = new DataView(struct.buffer);
  view.setUint32(0, 8 + 8 * fields.length, true);
  view.setUint32(4, flags, true);
  for (const [i, field] of fields.entries()) view.setBigUint64(8 + 8 * i, field, true);
  const result = kernel.ioctl(container, request, struct);
  return result < 0 ? errnoName(result) : result;
}

const map = (pages: bigint) => call(uapi.VFIO_IOMMU_MAP_DMA, 3, memory.address, IOVA, pages * PAGE);

function tracking(pages: bigint): void {
  expect(map(pages)).toBe(0);
  expect(call(uapi.VFIO_IOMMU_DIRTY_PAGES, 1)).toBe(0);
}

const dirty = (iova: bigint, pages: bigint, at: bigint, bytes = 64n, pageBytes = PAGE) =>
  call(uapi.VFIO_IOMMU_DIRTY_PAGES, 4, iova, pages * PAGE, pageBytes, bytes, at);

test('a bitmap lies in memory that a process can have, and is of pages', () => {
  tracking(2n);
  expect([dirty(IOVA, 2n, USER_MAX - 63n), dirty(IOVA, 2n, USER_MAX - 64n)], 'there is no memory, though there could be').toEqual([
    'EINVAL',
    'EFAULT',
  ]);
  expect(dirty(IOVA, 2n, memory.address, 64n, 0n)).toBe('EINVAL');
});

test('bits that begin within a word go on in the next', () => {
  tracking(130n);
  const bits = new BigUint64Array(memory.buffer, 0, 4);
  expect(dirty(IOVA - 3n * PAGE, 140n, memory.address)).toBe(0);
  expect([...bits]).toEqual([~0x7n & 0xffff_ffff_ffff_ffffn, 0xffff_ffff_ffff_ffffn, 0x1fn, 0n]);
});

test('the word that bits begin in is read first, and where it cannot be is EFAULT', () => {
  tracking(2n);
  expect([dirty(IOVA - PAGE, 4n, NOWHERE), dirty(IOVA, 2n, NOWHERE)]).toEqual(['EFAULT', 'EFAULT']);
});

test('GET_INFO: a chain that memory has no room for is EFAULT', () => {
  const view = new DataView(memory.buffer);
  expect(call(uapi.VFIO_IOMMU_GET_INFO, 0, 0n, 0n)).toBe(0);
  const wanted = new DataView(struct.buffer).getUint32(0, true);
  /** The struct that ends with memory so many bytes after its beginning. */
  const info = (bytes: number) => {
    view.setUint32(memory.bytes - bytes, wanted, true);
    const result = kernel.ioctl(container, uapi.VFIO_IOMMU_GET_INFO, Number(memory.address) + memory.bytes - bytes);
    return result < 0 ? errnoName(result) : result;
  };
  expect([info(wanted), info(wanted - 1), info(24)]).toEqual([0, 'EFAULT', 'EFAULT']);
});
