import { targetFault } from '../../fault-codes.ts';

/**
 * Fault reasons by their conditions' names: VT-d D51397-018 (revision 5.10), table 30 (7.1.3) and table 15 (5.1.4.1). Where several
 * conditions share a reason, the name is what they share: LCT.4 is LCT.4.1 to LCT.4.3.
 */
export const Fault = {
  /** Root entry not present; not readable; reserved bits. */
  'LRT.2': 0x01,
  'LRT.1': 0x08,
  'LRT.3': 0x0a,
  /** Context entry not present; wrongly programmed (LCT.4.1 AW, LCT.4.2 TT, LCT.4.3 SSPTPTR not readable); not readable; reserved bits. */
  'LCT.2': 0x02,
  'LCT.4': 0x03,
  'LCT.1': 0x09,
  'LCT.3': 0x0b,
  /** TT blocks translation requests and translated ones. */
  'LCT.5': 0x0d,
  /** Second-stage entry not readable; reserved bits. */
  'LSS.1': 0x07,
  'LSS.2': 0x0c,
  /** Address too wide for the tables (LGN.1.1), for a translated request (LGN.1.2), for pass-through (LGN.1.3). */
  'LGN.1': 0x04,
  /** No write permission; no read permission; output in the interrupt range. */
  'LGN.2': 0x05,
  'LGN.3': 0x06,
  'LGN.4': 0x0e,

  /** Interrupts (table 15, without names): reserved bits of the request; index too large; entry not present; not readable; reserved bits of it. */
  'IR.20': 0x20,
  'IR.21': 0x21,
  'IR.22': 0x22,
  'IR.23': 0x23,
  'IR.24': 0x24,
  /** Compatibility format blocked; source refused; posted descriptor not accessible; reserved bits of it; no interrupt, but in its range. */
  'IR.25': 0x25,
  'IR.26': 0x26,
  'IR.27': 0x27,
  'IR.28': 0x28,
  'IR.29': 0x29,

  /** TTM not supported (RTA.1.2 reserved, RTA.1.3 scalable); PASID in legacy mode; page request in legacy mode; abort-dma mode. */
  'RTA.1': 0x30,
  'RTA.2': 0x31,
  'RTA.3': 0x32,
  'RTA.4': 0x33,
  /** Scalable-mode root entry not readable; not present; reserved bits. */
  'SRT.1': 0x38,
  'SRT.2': 0x39,
  'SRT.3': 0x3a,
  /** Scalable-mode context entry not readable; not present; reserved bits; wrongly programmed (SCT.4.1 PRE without DTE, SCT.4.2 RID_PASID too large). */
  'SCT.1': 0x40,
  'SCT.2': 0x41,
  'SCT.3': 0x42,
  'SCT.4': 0x43,
  /** DTE clear; PASIDE clear; PASID larger than the directory; PRE clear; PASID is RID_PASID. */
  'SCT.5': 0x44,
  'SCT.6': 0x45,
  'SCT.7': 0x46,
  'SCT.8': 0x47,
  'SCT.9': 0x48,
  /** Translated request with PASID: EPTR clear (it is reserved here). */
  'SCT.10': 0x49,
  /** PASID directory entry not readable; not present; reserved bits. */
  'SPD.1': 0x50,
  'SPD.2': 0x51,
  'SPD.3': 0x52,
  /** PASID table entry not readable; not present; reserved bits; wrongly programmed (SPT.4.1 AW, SPT.4.2 PGTT, SPT.4.3 FSPM, SPT.4.4 FSPTPTR). */
  'SPT.1': 0x58,
  'SPT.2': 0x59,
  'SPT.3': 0x5a,
  'SPT.4': 0x5b,
  /** Execute requests are not supported; SRE clear. */
  'SPT.5': 0x5c,
  'SPT.6': 0x5d,
  /** First-stage entry not readable; not present; reserved bits; first table not readable. */
  'SFS.1': 0x70,
  'SFS.2': 0x71,
  'SFS.3': 0x72,
  'SFS.4': 0x73,
  /** Nested: first-stage address too wide for the second; no read permission for the first table, for another; no write permission for A and D. */
  'SFS.5': 0x74,
  'SFS.6': 0x75,
  'SFS.7': 0x76,
  'SFS.8': 0x77,
  /** Second-stage entry not readable; grants nothing; reserved bits; first table not readable. */
  'SSS.1': 0x78,
  'SSS.2': 0x79,
  'SSS.3': 0x7a,
  'SSS.4': 0x7b,
  /** Not canonical; supervisor page; host address too wide; address too wide for the second stage. */
  'SGN.1': 0x80,
  'SGN.2': 0x81,
  'SGN.4': 0x83,
  'SGN.5': 0x84,
  /** No write permission; no read permission; output in the interrupt range; PASID larger than ECAP.PSS. */
  'SGN.6': 0x85,
  'SGN.7': 0x86,
  'SGN.8': 0x87,
  'SGN.10': 0x89,
} as const;

export type FaultName = keyof typeof Fault;
export type FaultReason = (typeof Fault)[FaultName];

/** Reasons that are recorded whatever FPD says: "qualified: no" of both tables. */
export const UNQUALIFIED: ReadonlySet<number> = new Set([
  Fault['LRT.1'],
  Fault['LRT.2'],
  Fault['LRT.3'],
  Fault['LCT.1'],
  Fault['IR.20'],
  Fault['IR.21'],
  Fault['IR.23'],
  Fault['IR.25'],
  Fault['IR.29'],
  Fault['RTA.1'],
  Fault['RTA.2'],
  Fault['RTA.3'],
  Fault['RTA.4'],
  Fault['SRT.1'],
  Fault['SRT.2'],
  Fault['SRT.3'],
  Fault['SCT.1'],
  Fault['SPD.1'],
  Fault['SPT.1'],
]);

/**
 * What a translation request gets (table 30): `empty` is success without any permission, and no fault is recorded. Reasons that
 * stand in neither set are answered with Completer Abort.
 */
export const ATS_UNSUPPORTED: ReadonlySet<number> = new Set([
  Fault['LRT.2'],
  Fault['LCT.2'],
  Fault['LCT.5'],
  Fault['RTA.2'],
  Fault['RTA.4'],
  Fault['SRT.2'],
  Fault['SCT.2'],
  Fault['SCT.5'],
  Fault['SCT.6'],
  Fault['SCT.7'],
  Fault['SCT.9'],
  Fault['SGN.10'],
]);
export const ATS_EMPTY: ReadonlySet<number> = new Set([
  Fault['LGN.1'],
  Fault['LGN.2'],
  Fault['LGN.3'],
  Fault['SPD.2'],
  Fault['SPT.2'],
  Fault['SPT.5'],
  Fault['SPT.6'],
  Fault['SFS.1'],
  Fault['SFS.2'],
  Fault['SFS.3'],
  Fault['SFS.4'],
  Fault['SFS.5'],
  Fault['SFS.6'],
  Fault['SFS.7'],
  Fault['SFS.8'],
  Fault['SSS.2'],
  Fault['SGN.1'],
  Fault['SGN.2'],
  Fault['SGN.4'],
  Fault['SGN.5'],
  Fault['SGN.6'],
  Fault['SGN.7'],
]);

/** What protected memory blocks (11.4.8.1), which is no remapping fault and is not recorded. Reasons have 8 bits: this is none. */
export const PROTECTED = 0x100;
export const FAULT_PROTECTED = targetFault('vtd', PROTECTED);
