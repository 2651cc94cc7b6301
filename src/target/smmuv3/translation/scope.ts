/** Instead of an ASID, whose translations a command means: every ASID's; */
export const ANY_ASID = -1;
/** those of stage 2 alone. */
export const STAGE_2_ONLY = -2;
