import { bit, bits, wide } from '../../fields.ts';

/** Events, 2.5, and page requests, 2.6: two doublewords. */
export const RECORD_BYTES = 16;

/** Codes of events; `targetFault('amd', …)` of one is what `translate` answers. */
export const EVENT = {
  illegalDeviceEntry: 1,
  pageFault: 2,
  deviceTableHardware: 3,
  pageTableHardware: 4,
  illegalCommand: 5,
  commandHardware: 6,
  iotlbTimeout: 7,
  invalidRequest: 8,
} as const;

/** Fields of events; each event has some of them. */
export const RECORD = {
  DEVICE: bits(15, 0),
  PASID_HIGH: bits(19, 16),
  /** Domain, or PASID[15:0] with GN. */
  DOMAIN: bits(47, 32),
  GN: bit(48),
  /** Execute was asked for. */
  NX: bit(49),
  /** User privilege. */
  US: bit(50),
  /** An interrupt request. */
  I: bit(51),
  /** The page is present. */
  PR: bit(52),
  /** A write. */
  RW: bit(53),
  /** Permission is what was missing. */
  PE: bit(54),
  /** A reserved bit is set; otherwise, in a present entry, the level is what is wrong. */
  RZ: bit(55),
  /** An ATS translation request. */
  TR: bit(56),
  /** Of hardware errors and invalid requests. */
  TYPE: bits(59, 57),
  CODE: bits(63, 60),
  ADDRESS_LOW: bits(31, 0, 1),
  ADDRESS_HIGH: bits(63, 32, 1),
} as const;

/** RECORD.TYPE of hardware errors: bits 58:57. */
export const HARDWARE_TYPE = { masterAbort: 1, targetAbort: 2, dataError: 3 } as const;
/** RECORD.TYPE of INVALID_DEVICE_REQUEST, of what is no ATS translation request. */
export const REQUEST_TYPE = {
  /** A read of the interrupt range. */
  interruptRead: 0,
  /** Port I/O with IoCtl 0. */
  portIo: 2,
  /** A system management message with SysMgt 0, or with 2 and no INTx message. */
  systemManagementWrite: 3,
  /** A read of the system management range. */
  systemManagementRead: 4,
  /** An interrupt with IntCtl 0. */
  interruptRefused: 5,
  /** System management or port I/O that is to be translated (SysMgt 3, IoCtl 2), with TV = 0. */
  untranslatable: 7,
} as const;

/** PAGE_SERVICE_REQUEST, 2.6.1. */
export const PPR = {
  DEVICE: bits(15, 0),
  PASID_LOW: bits(31, 16),
  /** PRG index, and whether it is the last request of its group. */
  TAG: bits(41, 32),
  PASID_HIGH: bits(45, 42),
  EXECUTE: bit(49),
  READ: bit(50),
  WRITE: bit(53),
  USER: bit(54),
  GN: bit(56),
  CODE: bits(63, 60),
  PAGE: wide(63, 12, 1),
} as const;
export const PPR_CODE = 1;
