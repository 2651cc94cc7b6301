import type { Domain } from './domain.ts';
import type { ReservedRegions } from './reserved-regions.ts';

/** Something that does DMA behind this IOMMU. */
export interface Endpoint {
  readonly id: number;
  reserved: ReservedRegions;
  /** Of which it is one of the members. */
  domain: Domain | null;
}
