import type { Row } from '../row.ts';
import { hitVariants } from './iotlb-hit.ts';

export const row: Row = {
  name: 'iotlb-vs-ghash',
  baseline: 'GHashTable as QEMU uses it: open addressing, malloced keys',
  variants: hitVariants('ghash', { inlined: 0.33, object: 0.33 }),
};
