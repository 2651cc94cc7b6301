/** Instead of an ASID, whose translations a command means: every ASID's; */
export const ANY_ASID = -1;
/** those of stage 2 alone. */
export const STAGE_2_ONLY = -2;
/**
 * Contexts of the TLB are 2 × ASID + privilege; those of private ASIDs (CD.ASET) are so much above, since their global translations are not
 * those of shared ones (3.17.1).
 */
export const PRIVATE_TAG = 1 << 17;
