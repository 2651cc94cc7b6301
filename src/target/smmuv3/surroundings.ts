import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Schedule } from '../remainder.ts';
import type { Features } from './capabilities.ts';

/** Sources of interrupts, 3.18. */
export type InterruptSource = 'event' | 'pri' | 'sync' | 'gerror';

/** CMD_ATC_INV, for a device that has a translation cache. */
export interface AtcInvalidation {
  readonly stream: number;
  /** null: of requests without PASID. */
  readonly pasid: number | null;
  /** Translations that are global, too; with a PASID only. */
  readonly global: boolean;
  readonly firstPage: number;
  readonly pages: number;
}

/** A page request of a device (PCI Express Base Specification 6.0, 10.4.1). */
export interface PageRequest {
  readonly stream: number;
  /** null: without PASID. */
  readonly pasid: number | null;
  /** Page number of the address. */
  readonly page: number;
  readonly read: boolean;
  readonly write: boolean;
  /** These two with a PASID only. */
  readonly execute: boolean;
  readonly privileged: boolean;
  /** PRG index, 9 bits, and whether it is the group's last. */
  readonly group: number;
  readonly last: boolean;
}

/** What a device's translation request is answered with (3.9.1.2). */
export type TranslationCompletion =
  | { readonly status: 'unsupported-request' }
  | { readonly status: 'completer-abort' }
  | {
      readonly status: 'success';
      /** lg2 of the bytes around the address for which the answer holds. */
      readonly lg2: number;
      readonly address: bigint;
      /** READ, WRITE and EXECUTE that are granted; 0: none, and the address says nothing. */
      readonly permission: number;
    };

/** CMD_PRI_RESP, or an answer of the SMMU's own (8.1, 8.2). */
export interface PageResponse {
  readonly stream: number;
  readonly pasid: number | null;
  /** PRG index. */
  readonly group: number;
  /** PRG_RESPONSE. */
  readonly response: number;
}

/** What becomes of a stalled access, 4.7.1: it is made again, fails, or succeeds with zeros read and nothing written. */
export interface EndedStall {
  readonly stream: number;
  readonly stag: number;
  readonly action: 'retry' | 'abort' | 'raz-wi';
}

/** Who holds accesses that stall, until the guest has dealt with their fault. */
export interface StallTaker {
  /** The access whose `translate` answered FAULT_STALLED, `Smmuv3.stag` being `stag`, is over. */
  ended(stall: EndedStall): void;
  /**
   * What becomes of all accesses that stalled without a tag (`stag` -1), for want of room for their events or because another's event tells
   * of them too: they are made again, or fail, because the SMMU is turned off.
   */
  untagged(action: 'retry' | 'abort'): void;
}

export interface Smmuv3Options {
  readonly memory: GuestMemory;
  /** Fields of ID registers that are to differ from their defaults (capabilities.ts). */
  readonly features?: Partial<Features>;
  /** Translations cached at most: a power of two from 16 on. Default: 65536. */
  readonly iotlbEntries?: number;
  /** Runs what one access of the guest's left of its commands, soon and between accesses. Default: setImmediate. */
  readonly schedule?: Schedule;
  /** A wired interrupt: a pulse. */
  readonly interrupt?: (source: InterruptSource) => void;
  /** A message write of 32 bits that does not go to guest RAM; answers whether something took it. Left out: MSI is 0. */
  readonly message?: (address: bigint, data: number) => boolean;
  /** Left out: STALL_MODEL is 1, and nothing stalls. */
  readonly stalls?: StallTaker;
  /** CMD_ATC_INV: answers whether the device has done it in time; otherwise the next CMD_SYNC fails (CERROR_ATC_INV_SYNC). */
  readonly invalidateDevice?: (invalidation: AtcInvalidation) => boolean;
  readonly pageResponse?: (response: PageResponse) => void;
}
