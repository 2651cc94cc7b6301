/**
 * Values of the Linux on Power Architecture Reference (LoPAR), revision 2.9; the same in LoPAPR 1.1 and PAPR+ 2.7.
 */

/** Hypercall opcodes: "Hypervisor Call Function Table", 14.5.4 (hcall-tce, hcall-multi-tce). */
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

/** TCEs that one H_PUT_TCE_INDIRECT or H_STUFF_TCE may store: 14.5.4.2.3, 14.5.4.2.4. */
export const TCES_PER_CALL = 512;

/** TCE, bits 62 and 63: page mapping and control (3.2.2.2). 0: page fault; 1: read; 2: write; 3: both, as in src/memory/access.ts. */
export const TCE_PERMISSION = 3;

/** RTAS status words (7.2.8) that the DMA window calls give (7.3.27). */
export const RTAS_SUCCESS = 0;
export const RTAS_HARDWARE_ERROR = -1;
export const RTAS_PARAMETER_ERROR = -3;

/**
 * lg2 of the I/O page size that each bit of "I/O Page Sizes" (7.3.27.1) stands for, from the lowest bit up: 4K, 64K, 16M, 32M, 64M,
 * 128M, 256M, 16G; 2M came later, and out of order.
 */
export const IO_PAGE_LG2S: readonly number[] = [12, 16, 24, 25, 26, 27, 28, 34, 21];
