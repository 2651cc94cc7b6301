/* RISC-V IOMMU 20260222, "Fault/Event-Queue (FQ)". */

/** "Fault record CAUSE field encodings". */
export const Cause = {
  instructionAccessFault: 1,
  readAccessFault: 5,
  writeAccessFault: 7,
  instructionPageFault: 12,
  readPageFault: 13,
  writePageFault: 15,
  instructionGuestPageFault: 20,
  readGuestPageFault: 21,
  writeGuestPageFault: 23,
  allDisallowed: 256,
  ddtAccessFault: 257,
  ddtNotValid: 258,
  ddtMisconfigured: 259,
  typeDisallowed: 260,
  msiAccessFault: 261,
  msiNotValid: 262,
  msiMisconfigured: 263,
  mrifAccessFault: 264,
  pdtAccessFault: 265,
  pdtNotValid: 266,
  pdtMisconfigured: 267,
  ddtCorruption: 268,
  pdtCorruption: 269,
  msiCorruption: 270,
  mrifCorruption: 271,
  msiWriteFault: 273,
  tableCorruption: 274,
} as const;

/** "Fault record TTYP field encodings". */
export const TransactionType = {
  none: 0,
  untranslatedExecute: 1,
  untranslatedRead: 2,
  untranslatedWrite: 3,
  translatedExecute: 5,
  translatedRead: 6,
  translatedWrite: 7,
  atsTranslation: 8,
  message: 9,
} as const;

/** Causes that are reported although DC.tc.DTF is 1 (the third column of the cause table). */
export const UNSUPPRESSED: ReadonlySet<number> = new Set([256, 257, 258, 259, 268, 272, 273]);
