/**
 * The registers: VT-d D51397-018 (revision 5.10), 11.4, by their offsets in bytes; under each the masks of its fields in 32-bit words.
 * A register of 64 bits is two words, the upper one 4 bytes on.
 */

/** Version (11.4.1). */
export const VER = 0x000;
/** Capability (11.4.2) and extended capability (11.4.3): their fields stand in capabilities.ts. */
export const CAP = 0x008;
export const ECAP = 0x010;

/** Global command and global status (11.4.4): a command's bit is its status bit. */
export const GCMD = 0x018;
export const GSTS = 0x01c;
export const Global = {
  /** Translation enable. */
  TE: 1 << 31,
  /** Set root table pointer; one-shot. */
  SRTP: 1 << 30,
  /** Queued invalidation enable. */
  QIE: 1 << 26,
  /** Interrupt remapping enable. */
  IRE: 1 << 25,
  /** Set interrupt remap table pointer; one-shot. */
  SIRTP: 1 << 24,
  /** Compatibility format interrupts pass. */
  CFI: 1 << 23,
} as const;

/** Root table address (11.4.5). */
export const RTADDR = 0x020;
export const RootTable = {
  /** Translation table mode, bits 11:10. */
  TTM_SHIFT: 10,
  TTM: 3 << 10,
  /** Second-stage I/O read/write enable; reserved without ECAP.SSIRWS. */
  SSIRWE: 1 << 7,
} as const;
/** Values of TTM. */
export const TTM_LEGACY = 0;
export const TTM_SCALABLE = 1;
export const TTM_RESERVED = 2;
export const TTM_ABORT = 3;

/** Context command (11.4.6.1). */
export const CCMD = 0x028;
export const ContextCommand = {
  /** Upper word: invalidate context-cache; requested granularity; actual granularity. */
  ICC: 1 << 31,
  CIRG_SHIFT: 29,
  CAIG_SHIFT: 27,
  CAIG: 3 << 27,
  /** Upper word: function mask. */
  FM: 3,
} as const;

/** IOTLB registers (11.4.6.2), where ECAP.IRO says: invalidate address, then invalidate. */
export const IVA = 0x0f0;
export const IOTLB = 0x0f8;
export const IotlbCommand = {
  /** Upper word: invalidate IOTLB; requested granularity; actual granularity; drain flags; domain ID. */
  IVT: 1 << 31,
  IIRG_SHIFT: 28,
  IAIG_SHIFT: 25,
  IAIG: 3 << 25,
  DRAINS: 3 << 16,
  DID: 0xffff,
  /** Lower word of IVA: address mask and invalidation hint. */
  AM: 0x3f,
  IH: 1 << 6,
} as const;

/** Fault status (11.4.7.1). */
export const FSTS = 0x034;
export const FaultStatus = {
  /** Primary fault overflow, write 1 to clear. */
  PFO: 1 << 0,
  /** Primary pending fault: the OR of all records' F. */
  PPF: 1 << 1,
  /** Invalidation queue error, write 1 to clear. */
  IQE: 1 << 4,
  /** Invalidation completion error, write 1 to clear. */
  ICE: 1 << 5,
  /** Invalidation time-out error, write 1 to clear. */
  ITE: 1 << 6,
  /** Fault record index, bits 15:8. */
  FRI_SHIFT: 8,
} as const;

/** Event registers of faults (11.4.7.2), invalidation completions (11.4.9.5) and page requests (11.4.11.5): control, data, address, upper address. */
export const FECTL = 0x038;
export const IECTL = 0x0a0;
export const PECTL = 0x0e0;
/** From the control register on. */
export const EVENT_DATA = 4;
export const EVENT_ADDRESS = 8;
export const EVENT_UPPER_ADDRESS = 12;
export const EventControl = {
  /** Interrupt mask, 1 at reset. */
  IM: 1 << 31,
  /** Interrupt pending. */
  IP: 1 << 30,
} as const;

/** Protected memory (11.4.8): enable; base and limit of the low region, 32 bits each, and of the high one, 64 bits each. */
export const PMEN = 0x064;
export const ProtectedMemoryEnable = {
  /** Enable protected memory. */
  EPM: 1 << 31,
  /** Protected region status. */
  PRS: 1 << 0,
} as const;
export const PLMBASE = 0x068;
export const PLMLIMIT = 0x06c;
export const PHMBASE = 0x070;
export const PHMLIMIT = 0x078;

/** Invalidation queue: head, tail, address (11.4.9.1 to 11.4.9.3). */
export const IQH = 0x080;
export const IQT = 0x088;
export const IQA = 0x090;
export const InvalidationQueueAddress = {
  /** Lower word: queue size, lg2 of its 4 KiB pages; descriptor width: 256 bits. */
  QS: 7,
  DW: 1 << 11,
} as const;
/** Head and tail of both queues are offsets in bytes, bits 18:4. */
export const QUEUE_OFFSET = 0x7fff0;

/** Invalidation completion status (11.4.9.4). */
export const ICS = 0x09c;
/** Invalidation wait descriptor complete, write 1 to clear. */
export const ICS_IWC = 1;

/** Invalidation queue error record (11.4.9.9): IQEI in bits 3:0; upper word ITESID and ICESID. */
export const IQERCD = 0x0b0;
/** Values of IQEI. */
export const QueueError = {
  invalidTail: 1,
  fetch: 2,
  type: 3,
  reserved: 4,
  width: 5,
  misalignedTail: 6,
  mode: 7,
} as const;

/** Interrupt remapping table address (11.4.10). */
export const IRTA = 0x0b8;
export const InterruptTable = {
  /** Lower word: extended interrupt mode; size: 2^(S+1) entries. */
  EIME: 1 << 11,
  S: 0xf,
} as const;

/** Page request queue: head, tail, address, status (11.4.11). */
export const PQH = 0x0c0;
export const PQT = 0x0c8;
export const PQA = 0x0d0;
/** Lower word of PQA: lg2 of the queue's 4 KiB pages. */
export const PQA_PQS = 7;
export const PRS = 0x0dc;
export const PageRequestStatus = {
  /** Pending page request, overflow; write 1 to clear. */
  PPR: 1 << 0,
  PRO: 1 << 1,
} as const;

/** Fault records of 16 bytes (11.4.7.6), where CAP.FRO says: here while they fit before the performance registers, else in the next page. */
export const FRCD = 0x220;
export const FRCD_FITTING = 14;
export const FRCD_NEXT_PAGE = 0x1000;
