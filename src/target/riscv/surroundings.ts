import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Schedule } from '../remainder.ts';

/** Guest memory as this target uses it; a GuestMemory is one. */
export type IommuMemory = Pick<
  GuestMemory,
  'word' | 'load64' | 'load64BE' | 'load32' | 'load32BE' | 'store64' | 'store64BE' | 'store32' | 'store32BE' | 'compareExchange64'
> & {
  /** RAM, for endpoints that nothing is translated for. */
  readonly regions?: GuestMemory['regions'];
  /** True after an access that failed because the data is poisoned (RAS), where memory can tell. */
  readonly poisoned?: boolean;
};

/** PCIe ATS message codes (PCI Express Base Specification 6.0, 10.3 to 10.5). */
export const AtsCode = { invalidationRequest: 1, invalidationCompletion: 2, pageRequest: 4, pageGroupResponse: 5 } as const;

/** A PCIe ATS message between the IOMMU and a device. */
export interface AtsMessage {
  readonly code: number;
  /** ITag of an invalidation request, otherwise 0. */
  readonly tag: number;
  /** Requester ID of the device, and its segment where the message carries one. */
  readonly requester: number;
  readonly segment: number | null;
  /** null: without a PASID; then `privileged` and `execute` are false. */
  readonly pasid: number | null;
  readonly privileged: boolean;
  readonly execute: boolean;
  /** Bytes 8 to 15 of the message. */
  readonly payload: bigint;
}

/** What the device needs of the machine around it. */
export interface RiscvIommuSurroundings {
  readonly memory: IommuMemory;
  /** A wire changed ("Interrupt pending status register": fctl.WSI is 1). */
  wire?(vector: number, asserted: boolean): void;
  /** A 4-byte store that is not RAM's: an interrupt file's register (MSIs, IOFENCE.C). True when something took it. */
  storeDevice?(address: bigint, value: number): boolean;
  /** Runs what one access of the guest's left of its commands, soon and between accesses. Default: setImmediate. */
  readonly schedule?: Schedule;
  /** Sends an ATS message to a device. Without it nobody answers, and invalidations time out when the embedder says so. */
  sendMessage?(message: AtsMessage): void;
  /** IOFENCE.C with PR or PW: all earlier reads or writes of devices are to be made visible before it completes. */
  orderRequests?(reads: boolean, writes: boolean): void;
  /** Clock cycles since some moment, for iohpmcycles; without it the counter stands still. */
  cycles?(): number;
}
