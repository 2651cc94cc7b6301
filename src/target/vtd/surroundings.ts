import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { TableMemory } from '../../pagetable/page-table.ts';
import type { Schedule } from '../remainder.ts';

/** An invalidation request to a device (PCIe ATS), which `invalidationCompletion` answers. */
export interface DeviceInvalidation {
  readonly device: number;
  /** null: of requests without PASID. */
  readonly pasid: number | null;
  /** Every PASID. */
  readonly global: boolean;
  /** First byte, and lg2 of the bytes: 12 to 64. */
  readonly address: bigint;
  readonly lg2: number;
  /** Tag to be named in the completion. */
  readonly tag: number;
}

/** A page group response to a device (PCIe PRI). */
export interface PageGroupResponse {
  readonly device: number;
  readonly pasid: number | null;
  readonly group: number;
  /** 0 success, 1 invalid request, 15 failure. */
  readonly code: number;
}

/** What the unit needs of the machine around it. */
export interface VtdSurroundings {
  /** Guest memory: GuestMemory is one. */
  readonly memory: TableMemory & { readonly regions?: GuestMemory['regions'] };
  /** Runs what one access of the guest's left of its commands, soon and between accesses. Default: setImmediate. */
  readonly schedule?: Schedule;
  /** The unit's own interrupts (fault, invalidation, page request events), never remapped. */
  sendInterrupt?(address: bigint, data: number): void;
  /** Entries [first, last] of the interrupt remapping table may mean something else: routes made from `remap` are to be made anew. */
  interruptsChanged?(first: number, last: number): void;
  /** Sends an invalidation to a device. Without it nobody answers, and invalidations time out when the embedder says so. */
  invalidateDevice?(request: DeviceInvalidation): void;
  /** Sends a page group response to a device. */
  respond?(response: PageGroupResponse): void;
}
