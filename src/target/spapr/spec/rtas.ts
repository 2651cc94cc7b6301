/* LoPAR 2.9, 7.3.27: RTAS calls for dynamic DMA windows. Cells of the argument buffer, by their places among the inputs and the outputs. */

/** Status words (7.2.8), outputs[STATUS]. */
export const RTAS_SUCCESS = 0;
export const RTAS_HARDWARE_ERROR = -1;
export const RTAS_PARAMETER_ERROR = -3;

/** Of every call. */
export const STATUS = 0;

/** What names a PE: the first inputs of all but ibm,remove-pe-dma-window. */
export const PE = {
  CONFIG_ADDRESS: 0,
  BUID_HI: 1,
  BUID_LO: 2,
} as const;

/** ibm,query-pe-dma-window (7.3.27.1). */
export const QUERY = {
  INPUTS: 3,
  /** With the first five outputs; with a sixth, TCEs take two cells ("ibm,ddw-extensions"). */
  OUTPUTS: [5, 6],
  WINDOWS: 1,
  /** TCEs of the largest window. */
  TCES: 2,
  PAGE_SIZES: 3,
  MIGRATION: 4,
  WIDE_TCES_HI: 2,
  WIDE_TCES_LO: 3,
  WIDE_PAGE_SIZES: 4,
  WIDE_MIGRATION: 5,
} as const;

/** ibm,create-pe-dma-window (7.3.27.2). */
export const CREATE = {
  INPUTS: 5,
  OUTPUTS: [4],
  /** lg2 of the bytes of an I/O page. */
  PAGE_LG2: 3,
  /** lg2 of the bytes of the window. */
  WINDOW_LG2: 4,
  LIOBN: 1,
  START_HI: 2,
  START_LO: 3,
} as const;

/** ibm,remove-pe-dma-window (7.3.27.3). */
export const REMOVE = {
  INPUTS: 1,
  OUTPUTS: [1],
  LIOBN: 0,
} as const;

/** ibm,reset-pe-dma-windows (7.3.27.4.1). */
export const RESET = {
  INPUTS: 3,
  OUTPUTS: [1],
} as const;

/** lg2 of the I/O page size that each bit of "I/O Page Sizes" (7.3.27.1) stands for, from the lowest bit up; 2 MiB came later, and out of order. */
export const IO_PAGE_LG2S: readonly number[] = [12, 16, 24, 25, 26, 27, 28, 34, 21];
