/** Whose translations a command means: `asid` -1: every ASID's, -2: those of stage 2 alone. */
export interface Scope {
  readonly world: number;
  readonly asid: number;
  readonly first: number;
  readonly last: number;
}
export const ANY_ASID = -1;
export const STAGE_2_ONLY = -2;
