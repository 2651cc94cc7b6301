import { errno } from '../../errno.ts';
import type { Decoded, Fields, Struct, UserBuffer } from '../structs.ts';

/**
 * A driver's own struct out of data that a user handed in, by the rule of iommu_copy_struct_from_user: shorter than up to
 * `lastRequired`, or longer than the kernel knows it, is EINVAL.
 */
export function userStruct<F extends Fields>(struct: Struct<F>, lastRequired: keyof F & string, data: UserBuffer): Decoded<F> | number {
  if (data.bytes < struct.endOf(lastRequired) || data.bytes > struct.bytes) return -errno.EINVAL;
  const view = data.view();
  if (view === null) return -errno.EFAULT;
  const bytes = new Uint8Array(struct.bytes);
  bytes.set(view);
  return struct.decode(bytes);
}

/** An item of an array that was copied whole (iommu_copy_struct_from_full_user_array): what is missing is zero, what is too much was zero. */
export function wholeItem<F extends Fields>(struct: Struct<F>, data: Uint8Array): Decoded<F> {
  const bytes = new Uint8Array(struct.bytes);
  bytes.set(data.subarray(0, struct.bytes));
  return struct.decode(bytes);
}
