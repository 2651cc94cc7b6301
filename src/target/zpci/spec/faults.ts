import { targetFault } from '../../fault-codes.ts';

/** What `translate` answers beside the code of the error event (PEC): there is no such function, or the request has a PASID. */
export const FAULT_ENDPOINT = targetFault('zpci', 0x100);
/** The function does no DMA: not enabled, in the error state, or without a registered translation. Nothing is reported. */
export const FAULT_BLOCKED = targetFault('zpci', 0x101);
