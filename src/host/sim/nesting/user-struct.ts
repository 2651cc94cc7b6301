import { errno } from '../../errno.ts';
import type { Decoded, Fields, Struct } from '../structs.ts';

/**
 * A driver's own struct out of data that a user handed in, by the rule of iommu_copy_struct_from_user: shorter than up to
 * `lastRequired`, or longer than the kernel knows it, is EINVAL.
 */
export function userStruct<F extends Fields>(struct: Struct<F>, lastRequired: keyof F & string, data: Uint8Array): Decoded<F> | number {
  if (data.length < struct.endOf(lastRequired) || data.length > struct.bytes) return -errno.EINVAL;
  const bytes = new Uint8Array(struct.bytes);
  bytes.set(data);
  return struct.decode(bytes);
}

/** The same of an item of a whole array (iommu_copy_struct_from_full_user_array): what is missing is zero, what is too much must be (E2BIG). */
export function userItem<F extends Fields>(struct: Struct<F>, data: Uint8Array): Decoded<F> | number {
  if (data.subarray(struct.bytes).some((byte) => byte !== 0)) return -errno.E2BIG;
  const bytes = new Uint8Array(struct.bytes);
  bytes.set(data.subarray(0, struct.bytes));
  return struct.decode(bytes);
}
