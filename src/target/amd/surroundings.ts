import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Schedule } from '../remainder.ts';

/** An interrupt of the IOMMU itself: null is its PCI function's MSI; otherwise what the XT registers say (3.4.20). */
export type OwnInterrupt = { readonly destination: number; readonly vector: number; readonly logical: boolean } | null;

/** INVALIDATE_IOTLB_PAGES, for a device that has an IOTLB. */
export interface IotlbInvalidation {
  readonly device: number;
  /** null: of requests without PASID. */
  readonly pasid: number | null;
  readonly firstPage: number;
  readonly pages: number;
  readonly type: number;
}

/** COMPLETE_PPR_REQUEST, or an answer of the IOMMU's own where the log has no room. */
export interface PprResponse {
  readonly device: number;
  readonly pasid: number | null;
  /** PRG index, and the response code from bit 12 on. */
  readonly tag: number;
}

export interface AmdIommuOptions {
  readonly memory: GuestMemory;
  /** Whether the guest has to announce mappings that become valid, and so can be shadowed: NpCache of the capability block. Default true. */
  readonly npCache?: boolean;
  /** Features by name that are not to be advertised (capabilities.ts). */
  readonly without?: readonly string[];
  /** Translations cached at most: a power of two from 16 on. Default: 65536. */
  readonly iotlbEntries?: number;
  /** Runs what one access of the guest's left of its commands, soon and between accesses. Default: setImmediate. */
  readonly schedule?: Schedule;
  readonly interrupt?: (message: OwnInterrupt) => void;
  /** An answer of `false`: the device has not done it in time (IOTLB_INV_TIMEOUT). */
  readonly invalidateDevice?: (invalidation: IotlbInvalidation) => unknown;
  readonly completePageRequest?: (response: PprResponse) => void;
}
