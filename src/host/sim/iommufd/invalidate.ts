import { errno } from '../../errno.ts';
import type { InvalidationBlocks, StreamLookup } from '../nesting/model.ts';
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

/** arm_vsmmu_cache_invalidate, over iommu_copy_struct_from_full_user_array. */
function runBlocks(context: IommufdContext, array: Entries, blocks: InvalidationBlocks, device: StreamLookup): Done {
  if (array.count === 0) return { done: 0, error: blocks.takesNone === true ? 0 : -errno.EINVAL };
  const all = context.kernel.process.view(array.address, array.count * array.bytes)?.slice();
  if (all === undefined) return { done: 0, error: -errno.EFAULT };
  const entries = Array.from({ length: array.count }, (_, index) => all.subarray(index * array.bytes, (index + 1) * array.bytes));
  if (entries.some((entry) => entry.subarray(blocks.entryBytes).some((byte) => byte !== 0))) return { done: 0, error: -errno.E2BIG };
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

function run(context: IommufdContext, id: number, array: Entries): Done {
  const object = context.any(id);
  if (object === undefined) return { done: 0, error: -errno.ENOENT };
  if (!(object instanceof NestedHwpt) && !(object instanceof Viommu)) return { done: 0, error: -errno.EINVAL };
  const invalidation = object instanceof NestedHwpt ? object.domain.invalidation : object.hardware.invalidation;
  if (invalidation === undefined) return { done: 0, error: -errno.EOPNOTSUPP };
  if (array.type !== invalidation.type) return { done: 0, error: -errno.EINVAL };
  const device = (virtualId: bigint) => (object instanceof Viommu ? object.devices.get(virtualId)?.device : undefined);
  if ('blocks' in invalidation) return runBlocks(context, array, invalidation.blocks, device);
  for (let done = 0; done < array.count; done++) {
    const entry = new UserBuffer(context.kernel.process, array.address + BigInt(done * array.bytes), array.bytes);
    const error = invalidation.run(entry, device);
    if (error < 0) return { done, error };
  }
  return { done: array.count, error: 0 };
}

const invalidate = handler('IOMMU_HWPT_INVALIDATE', iommuHwptInvalidate, 'reserved', (context, command) => {
  const { hwpt_id, data_uptr, data_type, entry_len, entry_num, reserved } = command.in;
  let answer: Done = { done: 0, error: 0 };
  if (reserved !== 0) answer = { done: 0, error: -errno.EOPNOTSUPP };
  else if (entry_num > 0 && (data_uptr === 0n || entry_len === 0 || entry_len > ENTRY_BYTES_MAX || entry_num > ENTRIES_MAX))
    answer = { done: 0, error: -errno.EINVAL };
  else answer = run(context, hwpt_id, { address: data_uptr, type: data_type, bytes: entry_len, count: entry_num });
  const failed = command.respond({ entry_num: answer.done });
  return failed < 0 ? failed : answer.error;
});

export const invalidateHandlers: readonly IoctlHandler[] = [invalidate];
