import { bit, bits, type Field, reservedMask } from '../../fields.ts';

/**
 * Invalidation descriptors: VT-d D51397-018 (revision 5.10), 6.5.2, and the page group response of 7.6.1. 128 bits where not said
 * otherwise, which a queue of 256-bit descriptors pads with zeros.
 */

/** Type: bits 11:9 above bits 3:0. */
export const TYPE_HIGH = bits(11, 9);
export const TYPE_LOW = bits(3, 0);
export const Type = {
  /** cc_inv_dsc */
  context: 1,
  /** iotlb_inv_dsc */
  iotlb: 2,
  /** dev_tlb_inv_dsc */
  deviceTlb: 3,
  /** iec_inv_dsc */
  interruptEntry: 4,
  /** inv_wait_dsc */
  wait: 5,
  /** p_iotlb_inv_dsc, 256 bits */
  pasidIotlb: 6,
  /** pc_inv_dsc, 256 bits */
  pasidCache: 7,
  /** p_dev_tlb_inv_dsc, 256 bits */
  pasidDeviceTlb: 8,
  /** page_grp_resp_dsc, 256 bits */
  pageGroupResponse: 9,
} as const;

const TYPE = [TYPE_HIGH, TYPE_LOW];

/** Context-cache invalidate (6.5.2.1). */
export const CONTEXT_INVALIDATE = {
  /** Granularity: one of Granularity. */
  G: bits(5, 4),
  /** Domain identifier. */
  DID: bits(31, 16),
  /** Source identifier. */
  SID: bits(47, 32),
  /** Function mask: how many of the source's low bits do not count. */
  FM: bits(49, 48),
} as const;

/** IOTLB invalidate (6.5.2.3). */
export const IOTLB_INVALIDATE = {
  /** Granularity: one of Granularity. */
  G: bits(5, 4),
  /** Drain writes, drain reads. */
  DW: bit(6),
  DR: bit(7),
  /** Domain identifier. */
  DID: bits(31, 16),
  /** Address mask: lg2 of the pages. */
  AM: bits(5, 0, 1),
  /** Invalidation hint: only leaves have changed. */
  IH: bit(6, 1),
  /** Address, bits 63:12. */
  ADDR_LO: bits(31, 12, 1),
  ADDR_HI: bits(63, 32, 1),
} as const;

/** Granularities of both, and of the registers that do the same (11.4.6); 0 is reserved. */
export const Granularity = { global: 1, domain: 2, selective: 3 } as const;

/** Device-TLB invalidate (6.5.2.5). PFSID is reserved without ECAP.DIT. */
export const DEVICE_TLB_INVALIDATE = {
  /** Maximum invalidations pending: a hint. */
  MIP: bits(20, 16),
  /** Source identifier. */
  SID: bits(47, 32),
  /** Size: the address says how many pages (PCIe ATS). */
  S: bit(0, 1),
  /** Address, bits 63:12. */
  ADDR_LO: bits(31, 12, 1),
  ADDR_HI: bits(63, 32, 1),
} as const;

/** Interrupt entry cache invalidate (6.5.2.8). */
export const INTERRUPT_ENTRY_INVALIDATE = {
  /** Granularity: 0 global, 1 by index. */
  G: bit(4),
  /** Index mask: lg2 of the indexes. */
  IM: bits(31, 27),
  /** Interrupt index. */
  IIDX: bits(47, 32),
} as const;

/** Invalidation wait (6.5.2.9). PD is reserved without ECAP.PDS. */
export const WAIT = {
  /** Interrupt flag. */
  IF: bit(4),
  /** Status write. */
  SW: bit(5),
  /** Fence. */
  FN: bit(6),
  /** Page-request drain. */
  PD: bit(7),
  /** Status data. */
  DATA: bits(63, 32),
  /** Status address, bits 63:2. */
  ADDR_LO: bits(31, 2, 1),
  ADDR_HI: bits(63, 32, 1),
} as const;

/** PASID-based IOTLB invalidate, 256 bits (6.5.2.4). */
export const PASID_IOTLB_INVALIDATE = {
  /** Granularity: one of PasidIotlbGranularity. */
  G: bits(5, 4),
  /** Domain identifier. */
  DID: bits(31, 16),
  /** Process address space. */
  PASID: bits(51, 32),
  /** Address mask: lg2 of the pages. */
  AM: bits(5, 0, 1),
  /** Invalidation hint: only leaves have changed. */
  IH: bit(6, 1),
  /** Address, bits 63:12. */
  ADDR_LO: bits(31, 12, 1),
  ADDR_HI: bits(63, 32, 1),
} as const;
export const PasidIotlbGranularity = { pasid: 2, page: 3 } as const;

/** PASID-cache invalidate, 256 bits (6.5.2.2). */
export const PASID_CACHE_INVALIDATE = {
  /** Granularity: one of PasidCacheGranularity. */
  G: bits(5, 4),
  /** Domain identifier. */
  DID: bits(31, 16),
  /** Process address space. */
  PASID: bits(51, 32),
} as const;
export const PasidCacheGranularity = { domain: 0, pasid: 1, global: 3 } as const;

/** PASID-based device-TLB invalidate, 256 bits (6.5.2.6). PFSID is reserved without ECAP.DIT. */
export const PASID_DEVICE_TLB_INVALIDATE = {
  /** Maximum invalidations pending: a hint. */
  MIP: bits(8, 4),
  /** Source identifier. */
  SID: bits(31, 16),
  /** Process address space. */
  PASID: bits(51, 32),
  /** Global invalidate: every process. */
  GI: bit(0, 1),
  /** Size: the address says how many pages (PCIe ATS). */
  S: bit(11, 1),
  /** Address, bits 63:12. */
  ADDR_LO: bits(31, 12, 1),
  ADDR_HI: bits(63, 32, 1),
} as const;

/** Page group response, 256 bits (7.6.1). */
export const PAGE_GROUP_RESPONSE = {
  /** PASID present. */
  PP: bit(4),
  /** Response code (table 32): 0 success, 1 invalid request, 15 failure. */
  RC: bits(15, 12),
  /** Requester identifier. */
  RID: bits(31, 16),
  /** Process address space. */
  PASID: bits(51, 32),
  /** Ignored. */
  IGN: bit(2, 1),
  /** Page request group index. */
  PRGI: bits(11, 3, 1),
} as const;

/** What is reserved in each, by its type; the padding of 128-bit ones counts. */
const NOTHING: Readonly<Record<string, Field>> = {};
export const RESERVED: readonly Int32Array[] = [
  NOTHING,
  CONTEXT_INVALIDATE,
  IOTLB_INVALIDATE,
  DEVICE_TLB_INVALIDATE,
  INTERRUPT_ENTRY_INVALIDATE,
  WAIT,
  PASID_IOTLB_INVALIDATE,
  PASID_CACHE_INVALIDATE,
  PASID_DEVICE_TLB_INVALIDATE,
  PAGE_GROUP_RESPONSE,
].map((fields) => reservedMask(4, [...TYPE, ...Object.values(fields)]));
