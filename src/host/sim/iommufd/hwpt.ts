import { errno } from '../../errno.ts';
import { UserBuffer } from '../structs.ts';
import { handler, type IoctlHandler, type IommufdContext } from './context.ts';
import { DeviceObject } from './device.ts';
import { FaultQueue } from './fault-queue.ts';
import { Ioas } from './ioas.ts';
import { DIRTY_TRACKING, FAULT_ID_VALID, FOR_PASID, NEST_PARENT, NestedHwpt, PagingHwpt } from './page-tables.ts';
import { iommuHwInfo, iommuHwptAlloc } from './structs.ts';
import { Viommu } from './viommu.ts';

/** The ioctls of hardware page tables (the kernel's hw_pagetable.c), checks in the kernel's order. */

const DATA_NONE = 0;

/** struct iommu_user_data: what a driver gets of its own. */
interface UserData {
  readonly type: number;
  readonly buffer: UserBuffer;
}

function allocPaging(context: IommufdContext, ioas: Ioas, device: DeviceObject, flags: number, data: UserData): PagingHwpt | number {
  const { nesting } = device.device.iommu.config;
  const { dirtyTracking, pasidLog2 } = device.device;
  const nests = nesting?.nestParent ?? (nesting?.nest !== undefined || nesting?.virtual !== undefined);
  // A driver as virtio's, which makes one kind of page table and knows no flags.
  const simple = nesting === null && !device.device.iommu.config.dirtyTracking && pasidLog2 === 0;
  if (flags !== 0 && simple) return -errno.EOPNOTSUPP;
  if ((flags & ~(NEST_PARENT | DIRTY_TRACKING | FAULT_ID_VALID | FOR_PASID)) !== 0) return -errno.EOPNOTSUPP;
  if ((flags & FAULT_ID_VALID) !== 0 && (flags & NEST_PARENT) !== 0) return -errno.EOPNOTSUPP;
  if ((flags & DIRTY_TRACKING) !== 0 && !dirtyTracking) return -errno.EOPNOTSUPP;
  if ((flags & NEST_PARENT) !== 0 && (!nests || (flags & ~NEST_PARENT & ~(nesting?.parentFlags ?? -1)) !== 0)) return -errno.EOPNOTSUPP;
  if ((flags & FOR_PASID) !== 0 && device.device.iommu.config.pasidLog2 === 0 && nesting?.pasidTables !== true) return -errno.EOPNOTSUPP;
  if (data.buffer.bytes === 0) return PagingHwpt.create(context, ioas, device.device, { automatic: false, flags });
  if (nesting?.paging === undefined) return -errno.EOPNOTSUPP;
  const format = nesting.paging(data.type, data.buffer);
  return typeof format === 'number' ? format : PagingHwpt.create(context, ioas, device.device, { automatic: false, flags, format });
}

/** A first stage on a nesting parent, where the hardware wants no vIOMMU for it. */
function allocNested(
  context: IommufdContext,
  parent: PagingHwpt,
  device: DeviceObject,
  flags: number,
  data: UserData,
): NestedHwpt | number {
  const { nesting } = device.device.iommu.config;
  if ((flags & ~(FAULT_ID_VALID | FOR_PASID)) !== 0 || data.buffer.bytes === 0 || nesting?.nest === undefined) return -errno.EOPNOTSUPP;
  if (parent.automatic || (parent.flags & NEST_PARENT) === 0 || parent.domain.iommu !== device.device.iommu) return -errno.EINVAL;
  const domain = nesting.nest(parent.domain, context.kernel.physical, data.type, data.buffer);
  return typeof domain === 'number' ? domain : context.add(new NestedHwpt(domain, parent, null, flags));
}

function allocOnViommu(context: IommufdContext, viommu: Viommu, device: DeviceObject, flags: number, data: UserData): NestedHwpt | number {
  if (viommu.iommu !== device.device.iommu) return -errno.EINVAL;
  if ((flags & ~(FAULT_ID_VALID | FOR_PASID)) !== 0 || data.buffer.bytes === 0) return -errno.EOPNOTSUPP;
  if ((flags & FOR_PASID) !== 0 && viommu.hardware.forPasid === false) return -errno.EOPNOTSUPP;
  const domain = viommu.hardware.nest(data.type, data.buffer);
  return typeof domain === 'number' ? domain : context.add(new NestedHwpt(domain, viommu.parent, viommu, flags));
}

const alloc = handler('IOMMU_HWPT_ALLOC', iommuHwptAlloc, 'reserved', (context, command) => {
  const { flags, dev_id, pt_id, reserved, data_type, data_len, data_uptr, fault_id } = command.in;
  if (reserved !== 0) return -errno.EOPNOTSUPP;
  if ((data_type === DATA_NONE) !== (data_len === 0)) return -errno.EINVAL;
  const device = context.get(dev_id, DeviceObject);
  if (device === undefined) return -errno.ENOENT;
  const data = { type: data_type, buffer: new UserBuffer(context.kernel.process, data_uptr, data_len) };
  const from = context.any(pt_id);
  let made: PagingHwpt | NestedHwpt | number = -errno.EINVAL;
  if (from instanceof Ioas) made = allocPaging(context, from, device, flags, data);
  else if (from instanceof PagingHwpt) made = allocNested(context, from, device, flags, data);
  else if (from instanceof Viommu) made = allocOnViommu(context, from, device, flags, data);
  if (typeof made === 'number') return made;
  if ((flags & FAULT_ID_VALID) !== 0) {
    const faults = context.get(fault_id, FaultQueue);
    if (faults === undefined) {
      context.remove(made.id);
      return -errno.ENOENT;
    }
    made.faults = faults;
    faults.users++;
  }
  return context.settle(made, command.respond({ out_hwpt_id: made.id }));
});

const INPUT_TYPE = 1;
/** enum iommufd_hw_capabilities */
const CAP_DIRTY_TRACKING = 1n;
const CAP_PASID_EXEC = 2n;
const CAP_PASID_PRIV = 4n;
const CAP_NO_ATS = 8n;

const hwInfo = handler('IOMMU_GET_HW_INFO', iommuHwInfo, 'reserved2', (context, command) => {
  const { flags, dev_id, data_len, data_uptr, data_type, reserved0, reserved1, reserved2 } = command.in;
  if ((flags & ~INPUT_TYPE) !== 0 || (reserved0 | reserved1 | reserved2) !== 0) return -errno.EOPNOTSUPP;
  const device = context.get(dev_id, DeviceObject);
  if (device === undefined) return -errno.ENOENT;
  const { nesting } = device.device.iommu.config;
  const { dirtyTracking, pasidLog2 } = device.device;
  const wanted = (flags & INPUT_TYPE) !== 0 && nesting !== null ? data_type : 0;
  const info = nesting === null ? new Uint8Array(0) : nesting.info(wanted);
  if (info === null) return -errno.EOPNOTSUPP;
  const user = new UserBuffer(context.kernel.process, data_uptr, data_len);
  const known = info.subarray(0, data_len);
  if (!user.write(known) || !user.write(new Uint8Array(data_len - known.length), known.length)) return -errno.EFAULT;
  return command.respond({
    data_len: info.length,
    data_type: wanted === 0 ? (nesting?.infoType ?? 0) : wanted,
    out_max_pasid_log2: pasidLog2,
    out_capabilities:
      (dirtyTracking ? CAP_DIRTY_TRACKING : 0n) |
      (pasidLog2 > 0 && device.device.isPci ? CAP_PASID_EXEC | CAP_PASID_PRIV : 0n) |
      (device.device.pageRequests && device.device.isPci ? 0n : CAP_NO_ATS),
  });
});

export const hwptHandlers: readonly IoctlHandler[] = [alloc, hwInfo];
