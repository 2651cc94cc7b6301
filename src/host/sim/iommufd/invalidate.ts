import { errno } from '../../errno.ts';
import { UserBuffer } from '../structs.ts';
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

/** iommufd_hwpt_invalidate */
const ENTRY_BYTES_MAX = 4096;
const ENTRIES_MAX = 2 ** 19;

interface Done {
  readonly done: number;
  readonly error: number;
}

/** `error`: or 0. */
function refused(error: number): Done {
  return { done: 0, error };
}

/** arm_vsmmu_cache_invalidate, over iommu_copy_struct_from_full_user_array. */
function runBlocks(context: IommufdContext, array: Entries, { hardware, devices }: Viommu): Done {
  if (hardware.invalidation === undefined) return refused(-errno.EOPNOTSUPP);
  const { type, blocks } = hardware.invalidation;
  if (array.type !== type) return refused(-errno.EINVAL);
  if (array.count === 0) return refused(blocks.takesNone === true ? 0 : -errno.EINVAL);
  const all = context.kernel.process.view(array.address, array.count * array.bytes)?.slice();
  if (all === undefined) return refused(-errno.EFAULT);
  const entries = Array.from({ length: array.count }, (_, index) => all.subarray(index * array.bytes, (index + 1) * array.bytes));
  if (entries.some((entry) => entry.subarray(blocks.entryBytes).some((byte) => byte !== 0))) return refused(-errno.E2BIG);
  const device = (virtualId: bigint) => devices.get(virtualId)?.device;
  for (let begin = 0; begin < entries.length; begin += blocks.entries) {
    const block = entries.slice(begin, begin + blocks.entries);
    for (const [index, entry] of block.entries()) {
      const error = blocks.check(entry, device);
      if (error < 0) return { done: begin + index, error };
    }
    for (const [index, entry] of block.entries()) {
      const error = blocks.run(entry, device);
      if (error < 0) return { done: begin + index, error };
    }
  }
  return { done: array.count, error: 0 };
}

/** Each entry is read when its turn comes. */
function runEach(context: IommufdContext, array: Entries, { domain: { invalidation } }: NestedHwpt): Done {
  if (invalidation === undefined) return refused(-errno.EOPNOTSUPP);
  if (array.type !== invalidation.type) return refused(-errno.EINVAL);
  for (let done = 0; done < array.count; done++) {
    const error = invalidation.run(new UserBuffer(context.kernel.process, array.address + BigInt(done * array.bytes), array.bytes));
    if (error < 0) return { done, error };
  }
  return { done: array.count, error: 0 };
}

function run(context: IommufdContext, id: number, array: Entries): Done {
  const object = context.any(id);
  if (object instanceof NestedHwpt) return runEach(context, array, object);
  if (object instanceof Viommu) return runBlocks(context, array, object);
  return refused(object === undefined ? -errno.ENOENT : -errno.EINVAL);
}

const invalidate = handler('IOMMU_HWPT_INVALIDATE', iommuHwptInvalidate, 'reserved', (context, command) => {
  const { hwpt_id, data_uptr, data_type, entry_len, entry_num, reserved } = command.in;
  let answer: Done;
  if (reserved !== 0) answer = refused(-errno.EOPNOTSUPP);
  else if (entry_num > 0 && (data_uptr === 0n || entry_len === 0 || entry_len > ENTRY_BYTES_MAX || entry_num > ENTRIES_MAX))
    answer = refused(-errno.EINVAL);
  else answer = run(context, hwpt_id, { address: data_uptr, type: data_type, bytes: entry_len, count: entry_num });
  const failed = command.respond({ entry_num: answer.done });
  return failed < 0 ? failed : answer.error;
});

export const invalidateHandlers: readonly IoctlHandler[] = [invalidate];
