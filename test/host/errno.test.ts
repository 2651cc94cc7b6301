import { expect, test } from 'vitest';
import { errno, errnoName, HostError, hostErrorOf } from '../../src/host/errno.ts';

test('an errno has its name in either sign, and one without a name is told by its number', () => {
  expect([errnoName(2), errnoName(-2), errnoName(999), errnoName(-999)]).toEqual(['ENOENT', 'ENOENT', 'errno 999', 'errno 999']);
});

test('a failed call says operation, range in bytes, errno and hint', () => {
  const error = new HostError('IOMMU_IOAS_MAP', -errno.ENOSPC, { first: 2, last: 2 ** 52 - 1 }, 'no room');
  expect(error.message).toBe('IOMMU_IOAS_MAP [0x2000, 0xffffffffffffffff]: ENOSPC (no room)');
  expect([error.errno, error.operation, error.range]).toEqual([errno.ENOSPC, 'IOMMU_IOAS_MAP', { first: 2, last: 2 ** 52 - 1 }]);
  expect(new HostError('close', errno.EBUSY).message).toBe('close: EBUSY');
});

test('only failures of the host are taken up where they are caught; faults of the code go on', () => {
  const failed = new HostError('close', errno.EBUSY);
  expect(hostErrorOf(failed)).toBe(failed);
  const fault = new TypeError('a fault');
  expect(() => hostErrorOf(fault)).toThrow(fault);
});
