import { targetFault } from '../../fault-codes.ts';

/** What `translate` answers beside the causes: an MSI whose interrupt file lies in memory. The access is `storeInterrupt`'s; no fault is reported. */
export const INTERRUPT_IN_MEMORY = targetFault('riscv', 0x1000);
