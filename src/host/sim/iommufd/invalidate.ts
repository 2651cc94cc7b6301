import { errno } from '../../errno.ts';
import { handler, type IoctlHandler, type IommufdContext } from './context.ts';
import { NestedHwpt } from './page-tables.ts';
import { iommuHwptInvalidate } from './structs.ts';
import { Viommu } from './viommu.ts';

/** IOMMU_HWPT_INVALIDATE: an array of the driver's own entries, carried out in order up to the first that is wrong. */

interface Entries {
  readonly address: bigint;
  readonly type: number;
  readonly bytes: number;
  readonly count: number;
}

function run(context: IommufdContext, id: number, array: Entries): { readonly done: number; readonly error: number } {
  const object = context.any(id);
  if (object === undefined) return { done: 0, error: -errno.ENOENT };
  if (!(object instanceof NestedHwpt) && !(object instanceof Viommu)) return { done: 0, error: -errno.EINVAL };
  const invalidation = object instanceof NestedHwpt ? object.domain.invalidation : object.hardware.invalidation;
  if (invalidation === undefined) return { done: 0, error: -errno.EOPNOTSUPP };
  if (array.type !== invalidation.type) return { done: 0, error: -errno.EINVAL };
  const device = (virtualId: bigint) => object instanceof Viommu && object.devices.has(virtualId);
  for (let done = 0; done < array.count; done++) {
    const entry = context.kernel.process.view(array.address + BigInt(done * array.bytes), array.bytes);
    const error = entry === null ? -errno.EFAULT : invalidation.run(entry, device);
    if (error < 0) return { done, error };
  }
  return { done: array.count, error: 0 };
}

const invalidate = handler('IOMMU_HWPT_INVALIDATE', iommuHwptInvalidate, 'reserved', (context, command) => {
  const { hwpt_id, data_uptr, data_type, entry_len, entry_num, reserved } = command.in;
  let answer = { done: 0, error: 0 };
  if (reserved !== 0) answer.error = -errno.EOPNOTSUPP;
  else if (entry_num > 0 && (data_uptr === 0n || entry_len === 0)) answer.error = -errno.EINVAL;
  else answer = run(context, hwpt_id, { address: data_uptr, type: data_type, bytes: entry_len, count: entry_num });
  const failed = command.respond({ entry_num: answer.done });
  return failed < 0 ? failed : answer.error;
});

export const invalidateHandlers: readonly IoctlHandler[] = [invalidate];
