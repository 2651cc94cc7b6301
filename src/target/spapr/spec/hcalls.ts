/*
 * LoPAR 2.9, 14.5: hypercalls (the same numbers in LoPAPR 1.1 and PAPR+ 2.7). Parameters come in GPRs from R4 on, what is answered goes to R3, further
 * results from R4 on.
 */

/** Opcodes: "Hypervisor Call Function Table", 14.5.4 (hcall-tce, hcall-multi-tce). */
export const H_GET_TCE = 0x1c;
export const H_PUT_TCE = 0x20;
export const H_STUFF_TCE = 0x138;
export const H_PUT_TCE_INDIRECT = 0x13c;

/** Return codes: "Hypervisor Call Return Code Table", 14.5.3. */
export const H_SUCCESS = 0;
/** Requirement R1-13 there: partial changes are backed out, the partition's state appears not to change. */
export const H_HARDWARE = -1;
export const H_FUNCTION = -2;
export const H_PARAMETER = -4;
export const H_NOT_ENOUGH_RESOURCES = -44;
/** The fourth parameter is illegal. */
export const H_P4 = -57;

/** GPRs of each call's parameters (14.5.4.2.1 to 14.5.4.2.4). */
export const PARAMETER = {
  /** All: logical I/O bus number, in the lower half. */
  LIOBN: 4,
  /** All: I/O bus address. */
  IOBA: 5,
  /** H_PUT_TCE, H_STUFF_TCE: the TCE. */
  TCE: 6,
  /** H_PUT_TCE_INDIRECT: address of the page that holds the list. */
  LIST: 6,
  /** H_STUFF_TCE, H_PUT_TCE_INDIRECT: how many TCEs. */
  COUNT: 7,
} as const;
/** GPR of the TCE that H_GET_TCE answers. */
export const RESULT_TCE = 4;

/** TCEs that one H_PUT_TCE_INDIRECT or H_STUFF_TCE may store: 14.5.4.2.3, 14.5.4.2.4. */
export const TCES_PER_CALL = 512;
