import { targetFault } from '../../fault-codes.ts';

/** The stream is disabled, or the SMMU is off and aborts: no event says so. */
export const FAULT_ABORT = targetFault('smmuv3', 0x100);
/** The request succeeded as far as the device sees: what it read is 0, what it wrote is gone (CD.A = 0, 5.5). */
export const FAULT_RAZ_WI = targetFault('smmuv3', 0x101);
/** The request waits for the guest: `Smmuv3.stag` is its tag, or -1 where none was left or no event could be written. */
export const FAULT_STALLED = targetFault('smmuv3', 0x102);
