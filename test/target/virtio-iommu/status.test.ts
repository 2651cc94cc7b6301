import { expect, test } from 'vitest';
import { errno } from '../../../src/host/errno.ts';
import { statusName } from '../../../src/target/virtio-iommu/index.ts';
import { statusOf } from '../../../src/target/virtio-iommu/status.ts';

test('statuses have their names of 5.13.6, and others their number', () => {
  expect([0, 5, 8, 9, -1].map(statusName)).toEqual(['OK', 'RANGE', 'NOMEM', 'status 9', 'status -1']);
});

test('a host’s errno is the status that says the same', () => {
  const said = (...errors: number[]) => errors.map((error) => statusName(statusOf(-error)));
  expect(said(errno.ENOMEM, errno.ENOSPC, errno.EFAULT, errno.ERANGE)).toEqual(['NOMEM', 'NOMEM', 'FAULT', 'RANGE']);
  expect(said(errno.EIO, errno.EINVAL, errno.ENODEV)).toEqual(['DEVERR', 'DEVERR', 'DEVERR']);
});
