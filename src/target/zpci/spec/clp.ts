/*
 * Call logical processor: request and response blocks, byte offsets from the start of each, big-endian (QEMU:
 * include/hw/s390x/s390-pci-clp.h; Linux: arch/s390/include/asm/clp.h, pci_clp.h).
 */

export const CLP_HEADER = {
  /** 2 bytes: of the block. */
  LENGTH: 0x00,
  /** Request, 2 bytes: the command. Response: the code. */
  CODE: 0x02,
  /** 4 bytes: the format in the four high bits, otherwise 0. */
  FORMAT: 0x04,
  /** 8 bytes: 0. */
  RESERVED: 0x08,
} as const;

export const CLP_COMMAND = { listPci: 2, queryFunction: 3, queryGroup: 4, setFunction: 5 } as const;

/** Response codes. */
export const CLP_RESPONSE = {
  ok: 0x0010,
  command: 0x0020,
  format: 0x0040,
  length: 0x0050,
  blockSize: 0x0060,
  reserved: 0x0070,
  /** Set, query: the handle is no function's. */
  handle: 0x0101,
  /** Set: not in this state, or no such operation. */
  handleOperation: 0x0102,
  /** Set: no DMA address space was asked for, */
  addressSpaces: 0x0103,
  /** or more than there are. */
  resources: 0x0104,
  resumeToken: 0x010a,
  group: 0x010b,
} as const;

/** Every request is 32 bytes. */
export const REQUEST_BYTES = 32;

export const LIST_REQUEST = { RESUME_TOKEN: 0x10 } as const;
export const LIST_RESPONSE = {
  RESUME_TOKEN: 0x10,
  /** 4 bytes: bits of a handle that are set where functions are the machine's own. */
  MODEL_DEPENDENT: 0x18,
  /** 2 bytes: functions at most. */
  MAX_FUNCTIONS: 0x1c,
  /** 1 byte: UIDs are unique. */
  FLAGS: 0x1e,
  /** 1 byte: bytes of an entry. */
  ENTRY_BYTES: 0x1f,
  ENTRIES: 0x20,
} as const;
export const LIST_ENTRY = { DEVICE: 0x00, VENDOR: 0x02, CONFIGURED: 0x04, FID: 0x08, HANDLE: 0x0c } as const;
export const LIST_ENTRY_BYTES = 16;

/** Query function, set function. */
export const FUNCTION_REQUEST = {
  HANDLE: 0x10,
  /** 1 byte: SET_OPERATION. */ OPERATION: 0x16,
  /** 1 byte. */ ADDRESS_SPACES: 0x17,
} as const;
export const SET_OPERATION = { enable: 0, disable: 1 } as const;
export const SET_RESPONSE = { HANDLE: 0x10 } as const;

export const QUERY_RESPONSE = {
  /** 1 byte: group. */
  GROUP: 0x13,
  FID: 0x14,
  /** First and last byte of the DMA aperture. */
  SDMA: 0x40,
  EDMA: 0x48,
  UID: 0x7c,
} as const;
export const QUERY_RESPONSE_BYTES = 0xc0;

export const GROUP_REQUEST = { /** 1 byte. */ GROUP: 0x13 } as const;
export const GROUP_RESPONSE = {
  /** 2 bytes: interrupts of a function. */
  INTERRUPTS: 0x10,
  /** 1 byte: GROUP_FLAGS. */
  FLAGS: 0x13,
  /** 2 bytes: bytes of a store block at most. */
  STORE_BLOCK: 0x14,
  /** 2 bytes: milliseconds between measurements. */
  MEASUREMENT_INTERVAL: 0x16,
  /** 1 byte, from the left: designation types 0 to 7. */
  DESIGNATIONS: 0x18,
  /** DMA address space mask. */
  DASM: 0x20,
  /** Address that MSIs are written to. */
  MSIA: 0x28,
} as const;
/** refresh: RPCIT is needed after a mapping is added, too; frames: of 1 MiB and 2 GiB; relaxed: IOTA.T may be 0. */
export const GROUP_FLAGS = { refresh: 0x01, frames: 0x02, relaxed: 0x20 } as const;
export const GROUP_RESPONSE_BYTES = 0x40;
