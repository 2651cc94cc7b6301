import { errno } from '../../errno.ts';
import { handler, type IoctlHandler } from './context.ts';
import { DeviceObject } from './device.ts';
import { Ioas } from './ioas.ts';
import { PagingHwpt } from './page-tables.ts';
import { iommuHwInfo, iommuHwptAlloc } from './structs.ts';

/** The ioctls of hardware page tables (the kernel's hw_pagetable.c), checks in the kernel's order. */

const DATA_NONE = 0;

const alloc = handler('IOMMU_HWPT_ALLOC', iommuHwptAlloc, 'reserved', (context, command) => {
  const { flags, dev_id, pt_id, reserved, data_type, data_len } = command.in;
  if (reserved !== 0) return -errno.EOPNOTSUPP;
  if ((data_type === DATA_NONE) !== (data_len === 0)) return -errno.EINVAL;
  const device = context.get(dev_id, DeviceObject);
  if (device === undefined) return -errno.ENOENT;
  const from = context.any(pt_id);
  if (!(from instanceof Ioas)) return -errno.EINVAL;
  if (flags !== 0 || data_type !== DATA_NONE) return -errno.EOPNOTSUPP;
  const made = PagingHwpt.create(context, from, device.device, { automatic: false });
  return typeof made === 'number' ? made : command.respond({ out_hwpt_id: made.id });
});

const hwInfo = handler('IOMMU_GET_HW_INFO', iommuHwInfo, 'reserved2', (context, command) => {
  const { flags, dev_id, data_len, data_uptr, reserved0, reserved1, reserved2 } = command.in;
  if (flags !== 0 || (reserved0 | reserved1 | reserved2) !== 0) return -errno.EOPNOTSUPP;
  const device = context.get(dev_id, DeviceObject);
  if (device === undefined) return -errno.ENOENT;
  const room = context.kernel.process.view(data_uptr, data_len);
  if (room === null) return -errno.EFAULT;
  room.fill(0);
  return command.respond({ data_len: 0, data_type: 0, out_max_pasid_log2: 0, out_capabilities: 0n });
});

export const hwptHandlers: readonly IoctlHandler[] = [alloc, hwInfo];
