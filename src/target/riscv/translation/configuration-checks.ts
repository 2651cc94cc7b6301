import { get, getWide, isSet, reservedClear } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import { DC, DC_RESERVED, IohgatpMode, IosatpMode, MsiptpMode, PdtMode } from '../spec/device-context.ts';
import { PC, PC_RESERVED } from '../spec/process-context.ts';
import { Cap, CapHi } from '../spec/registers.ts';

/** What an implementation chooses and contexts are checked against. */
export interface ConfigurationLimits {
  /** fctl.GXL can be written, so that DC.tc.SXL may be 1. */
  readonly gxlWritable: boolean;
  /** fctl.BE can be written, so that DC.tc.SBE may differ from it. */
  readonly beWritable: boolean;
  /** Widths that RCID and MCID have, as masks. */
  readonly rcidMask: number;
  readonly mcidMask: number;
}

type DeviceRule = (dc: Int32Array, registers: Registers, limits: ConfigurationLimits) => boolean;
type ProcessRule = (pc: Int32Array, registers: Registers, sxl: boolean) => boolean;

/** Encodings that the tables of iosatp.MODE and iohgatp.MODE have. */
const MODES_OF_32: ReadonlySet<number> = new Set([IosatpMode.bare, IosatpMode.sv32]);
const MODES_OF_64: ReadonlySet<number> = new Set([IosatpMode.bare, IosatpMode.sv39, IosatpMode.sv48, IosatpMode.sv57]);

const lacks = (registers: Registers, bit: number) => !registers.can(bit);
const lacksHi = (registers: Registers, bit: number) => !registers.canHi(bit);

function lacksFirstStage(registers: Registers, mode: number): boolean {
  return (
    (mode === IosatpMode.sv39 && lacks(registers, Cap.sv39)) ||
    (mode === IosatpMode.sv48 && lacks(registers, Cap.sv48)) ||
    (mode === IosatpMode.sv57 && lacks(registers, Cap.sv57))
  );
}

/** "Device-context configuration checks", by the numbers that they have there. */
export const DEVICE_RULES: Readonly<Record<string, DeviceRule>> = {
  /** Reserved bits; RCID and MCID are reserved where there is no QOSID. */
  '1': (dc, registers) =>
    !reservedClear(dc, DC_RESERVED) || (lacksHi(registers, CapHi.qosid) && (isSet(dc, DC.RCID) || isSet(dc, DC.MCID))),
  '2': (dc, registers) => lacks(registers, Cap.ats) && (isSet(dc, DC.EN_ATS) || isSet(dc, DC.EN_PRI) || isSet(dc, DC.PRPR)),
  '3': (dc) => !isSet(dc, DC.EN_ATS) && isSet(dc, DC.T2GPA),
  '4': (dc) => !isSet(dc, DC.EN_ATS) && isSet(dc, DC.EN_PRI),
  '5': (dc) => !isSet(dc, DC.EN_PRI) && isSet(dc, DC.PRPR),
  '6': (dc, registers) => lacks(registers, Cap.t2gpa) && isSet(dc, DC.T2GPA),
  '7': (dc) => isSet(dc, DC.T2GPA) && get(dc, DC.IOHGATP_MODE) === IohgatpMode.bare,
  '8': (dc, registers) => isSet(dc, DC.PDTV) && !isPdtMode(registers, get(dc, DC.FSC_MODE)),
  '9': (dc) => !isSet(dc, DC.PDTV) && !(isSet(dc, DC.SXL) ? MODES_OF_32 : MODES_OF_64).has(get(dc, DC.FSC_MODE)),
  '10': (dc, registers) => !isSet(dc, DC.PDTV) && !isSet(dc, DC.SXL) && lacksFirstStage(registers, get(dc, DC.FSC_MODE)),
  '11': (dc, registers) =>
    !isSet(dc, DC.PDTV) && isSet(dc, DC.SXL) && get(dc, DC.FSC_MODE) === IosatpMode.sv32 && lacks(registers, Cap.sv32),
  '12': (dc) => !isSet(dc, DC.PDTV) && isSet(dc, DC.DPE),
  '13': (dc, registers) => !(registers.guest32 ? MODES_OF_32 : MODES_OF_64).has(get(dc, DC.IOHGATP_MODE)),
  '14': (dc, registers) => !registers.guest32 && lacksSecondStage(registers, get(dc, DC.IOHGATP_MODE)),
  '15': (dc, registers) => registers.guest32 && get(dc, DC.IOHGATP_MODE) === IohgatpMode.sv32x4 && lacks(registers, Cap.sv32x4),
  /** Without MSI_FLAT the context is of the base format, and the field reads 0. */
  '16': (dc) => get(dc, DC.MSIPTP_MODE) !== MsiptpMode.off && get(dc, DC.MSIPTP_MODE) !== MsiptpMode.flat,
  '17': (dc) => get(dc, DC.IOHGATP_MODE) !== IohgatpMode.bare && getWide(dc, DC.IOHGATP_PPN) % 4 !== 0,
  '18': (dc, registers) => lacks(registers, Cap.amoHwad) && (isSet(dc, DC.SADE) || isSet(dc, DC.GADE)),
  '19': (dc, registers) => lacks(registers, Cap.end) && registers.bigEndian !== isSet(dc, DC.SBE),
  '20': (dc, registers, { gxlWritable }) => (registers.guest32 ? !isSet(dc, DC.SXL) : isSet(dc, DC.SXL) && !gxlWritable),
  '21': (dc, registers, { beWritable }) => !beWritable && registers.bigEndian !== isSet(dc, DC.SBE),
  '22': (dc, _, { rcidMask, mcidMask }) => (get(dc, DC.RCID) & ~rcidMask) !== 0 || (get(dc, DC.MCID) & ~mcidMask) !== 0,
  /** The paragraph behind the list: recommended, and required of software since 20260222. */
  'iohgatp Bare': (dc) => get(dc, DC.IOHGATP_MODE) === IohgatpMode.bare && get(dc, DC.MSIPTP_MODE) !== MsiptpMode.off,
};

/** "Process-context configuration checks". */
export const PROCESS_RULES: Readonly<Record<string, ProcessRule>> = {
  '1': (pc) => !reservedClear(pc, PC_RESERVED),
  '2': (pc, _, sxl) => !(sxl ? MODES_OF_32 : MODES_OF_64).has(get(pc, PC.FSC_MODE)),
  '3': (pc, registers, sxl) => !sxl && lacksFirstStage(registers, get(pc, PC.FSC_MODE)),
  '4': (pc, registers, sxl) => sxl && get(pc, PC.FSC_MODE) === IosatpMode.sv32 && lacks(registers, Cap.sv32),
};

/* Keys that are numbers come first, ascending. */
const DEVICE_ROWS = Object.entries(DEVICE_RULES);
const PROCESS_ROWS = Object.entries(PROCESS_RULES);

/** The first rule that a device-context breaks; null: it is configured as it may be. */
export function brokenDeviceRule(dc: Int32Array, registers: Registers, limits: ConfigurationLimits): string | null {
  for (const [rule, isBroken] of DEVICE_ROWS) if (isBroken(dc, registers, limits)) return rule;
  return null;
}

/** The same of a process-context, whose device-context has SXL. */
export function brokenProcessRule(pc: Int32Array, registers: Registers, sxl: boolean): string | null {
  for (const [rule, isBroken] of PROCESS_ROWS) if (isBroken(pc, registers, sxl)) return rule;
  return null;
}

function isPdtMode(registers: Registers, mode: number): boolean {
  if (mode === PdtMode.pd8) return registers.canHi(CapHi.pd8);
  if (mode === PdtMode.pd17) return registers.canHi(CapHi.pd17);
  return mode === PdtMode.pd20 ? registers.canHi(CapHi.pd20) : mode === PdtMode.bare;
}

function lacksSecondStage(registers: Registers, mode: number): boolean {
  return (
    (mode === IohgatpMode.sv39x4 && lacks(registers, Cap.sv39x4)) ||
    (mode === IohgatpMode.sv48x4 && lacks(registers, Cap.sv48x4)) ||
    (mode === IohgatpMode.sv57x4 && lacks(registers, Cap.sv57x4))
  );
}
