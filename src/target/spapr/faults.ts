import { targetFault } from '../fault-codes.ts';

/** Why `translate` of this target found nothing. The endpoint is none of a bridge's, or the request carries a PASID. */
export const FAULT_ENDPOINT = targetFault('spapr', 1);
/** TCE extent error: the address lies in no window (LoPAR R2-3 of 3.2.2.2). */
export const FAULT_EXTENT = targetFault('spapr', 2);
/** The TCE says page fault (3.2.2.2). */
export const FAULT_PAGE = targetFault('spapr', 3);
/** The TCE allows the other direction only (3.2.2.2). */
export const FAULT_PERMISSION = targetFault('spapr', 4);
