import type { Row } from '../row.ts';
import { hitVariants } from './iotlb-hit.ts';

export const row: Row = {
  name: 'iotlb-vs-ghash',
  baseline: 'open-hashing table, malloced 16-byte keys',
  variants: hitVariants('ghash', { inlined: 0.33, object: 0.33 }),
};
