import { errno } from '../../errno.ts';
import type { Decoded, Fields, Struct } from '../structs.ts';

/**
 * A driver's own struct out of data that a user handed in, by the rule of iommu_copy_struct_from_user: too short for
 * `lastRequired` is EINVAL, non-zero bytes behind what the kernel knows are E2BIG.
 */
export function userStruct<F extends Fields>(struct: Struct<F>, lastRequired: keyof F & string, data: Buffer): Decoded<F> | number {
  if (data.length < struct.endOf(lastRequired)) return -errno.EINVAL;
  if (data.subarray(struct.bytes).some((byte) => byte !== 0)) return -errno.E2BIG;
  const bytes = Buffer.alloc(struct.bytes);
  data.copy(bytes);
  return struct.decode(bytes);
}
