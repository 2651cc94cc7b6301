import { targetFault } from '../../fault-codes.ts';

/** What `translate` answers beside the code of an event: the request is no PCI function's. */
export const FAULT_ENDPOINT = targetFault('amd', 0x100);
