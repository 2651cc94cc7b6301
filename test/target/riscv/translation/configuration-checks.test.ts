import { describe, expect, test } from 'vitest';
import { READ } from '../../../../src/memory/access.ts';
import { targetFault } from '../../../../src/target/fault-codes.ts';
import { get, put, putWide } from '../../../../src/target/fields.ts';
import { Cause, Registers } from '../../../../src/target/riscv/index.ts';
import { DC, DC_RESERVED } from '../../../../src/target/riscv/spec/device-context.ts';
import { PC } from '../../../../src/target/riscv/spec/process-context.ts';
import {
  brokenDeviceRule,
  brokenProcessRule,
  type ConfigurationLimits,
  DEVICE_RULES,
  PROCESS_RULES,
} from '../../../../src/target/riscv/translation/configuration-checks.ts';
import { NO_PASID } from '../../../../src/target/target.ts';
import { EVERYTHING, Guest } from '../guest.ts';

const LIMITS: ConfigurationLimits = { gxlWritable: true, beWritable: true, rcidMask: 0xf, mcidMask: 0xff };
const FCTL = 8;

/** Bits of capabilities. */
const CAP = {
  sv32: 8n,
  sv39: 9n,
  sv48: 10n,
  sv57: 11n,
  sv32x4: 16n,
  sv39x4: 17n,
  sv48x4: 18n,
  sv57x4: 19n,
  amoHwad: 24n,
  ats: 25n,
} as const;
const [T2GPA, END, PD8, PD17, PD20, QOSID] = [26n, 27n, 38n, 39n, 40n, 41n];

type DcName = keyof typeof DC;
type Fields = Partial<Record<DcName, number>>;

function registersWith(without: readonly bigint[], fctl = 0): Registers {
  const registers = new Registers();
  const capabilities = without.reduce((all, bit) => all & ~(1n << bit), EVERYTHING);
  registers.set(0, Number(capabilities & 0xffff_ffffn) | 0);
  registers.set(4, Number(capabilities >> 32n) | 0);
  registers.set(FCTL, fctl);
  return registers;
}

function contextOf(fields: Fields): Int32Array {
  const words = new Int32Array(16);
  put(words, DC.V, 1);
  for (const [name, value] of Object.entries(fields)) {
    const field = DC[name as DcName];
    if ('mask' in field) put(words, field, value);
    else putWide(words, field, value);
  }
  return words;
}

interface Case {
  readonly rule: string;
  /** Breaks the rule and none before it. */
  readonly broken: Fields;
  /** The same without what breaks it; left out: with all capabilities. */
  readonly good?: Fields;
  readonly without?: readonly bigint[];
  readonly fctl?: number;
  readonly limits?: Partial<ConfigurationLimits>;
}

const GXL = 4;
const BE = 1;

/** "Device-context configuration checks". */
const DEVICE_CASES: readonly Case[] = [
  { rule: '1', broken: { RCID: 1 }, without: [QOSID] },
  { rule: '2', broken: { EN_ATS: 1 }, without: [CAP.ats] },
  { rule: '2', broken: { EN_ATS: 1, EN_PRI: 1, PRPR: 1 }, without: [CAP.ats] },
  { rule: '3', broken: { T2GPA: 1, IOHGATP_MODE: 8 }, good: { EN_ATS: 1, T2GPA: 1, IOHGATP_MODE: 8 } },
  { rule: '4', broken: { EN_PRI: 1 }, good: { EN_ATS: 1, EN_PRI: 1 } },
  { rule: '5', broken: { EN_ATS: 1, PRPR: 1 }, good: { EN_ATS: 1, EN_PRI: 1, PRPR: 1 } },
  { rule: '6', broken: { EN_ATS: 1, T2GPA: 1, IOHGATP_MODE: 8 }, without: [T2GPA] },
  { rule: '7', broken: { EN_ATS: 1, T2GPA: 1 }, good: { EN_ATS: 1, T2GPA: 1, IOHGATP_MODE: 9 } },
  { rule: '8', broken: { PDTV: 1, FSC_MODE: 4 }, good: { PDTV: 1, FSC_MODE: 0 } },
  { rule: '8', broken: { PDTV: 1, FSC_MODE: 3 }, without: [PD20] },
  { rule: '8', broken: { PDTV: 1, FSC_MODE: 2 }, without: [PD17] },
  { rule: '8', broken: { PDTV: 1, FSC_MODE: 1 }, without: [PD8] },
  { rule: '9', broken: { FSC_MODE: 7 }, good: { FSC_MODE: 0 } },
  { rule: '9', broken: { SXL: 1, FSC_MODE: 9 }, good: { SXL: 1, FSC_MODE: 8 } },
  { rule: '10', broken: { FSC_MODE: 8 }, without: [CAP.sv39] },
  { rule: '10', broken: { FSC_MODE: 9 }, without: [CAP.sv48] },
  { rule: '10', broken: { FSC_MODE: 10 }, without: [CAP.sv57] },
  { rule: '11', broken: { SXL: 1, FSC_MODE: 8 }, without: [CAP.sv32] },
  { rule: '12', broken: { DPE: 1 }, good: { PDTV: 1, DPE: 1 } },
  { rule: '13', broken: { IOHGATP_MODE: 7 }, good: { IOHGATP_MODE: 10 } },
  { rule: '13', broken: { SXL: 1, IOHGATP_MODE: 9 }, good: { SXL: 1, IOHGATP_MODE: 8 }, fctl: GXL },
  { rule: '14', broken: { IOHGATP_MODE: 8 }, without: [CAP.sv39x4] },
  { rule: '14', broken: { IOHGATP_MODE: 9 }, without: [CAP.sv48x4] },
  { rule: '14', broken: { IOHGATP_MODE: 10 }, without: [CAP.sv57x4] },
  { rule: '15', broken: { SXL: 1, IOHGATP_MODE: 8 }, without: [CAP.sv32x4], fctl: GXL },
  { rule: '16', broken: { IOHGATP_MODE: 8, MSIPTP_MODE: 2 }, good: { IOHGATP_MODE: 8, MSIPTP_MODE: 1 } },
  { rule: '17', broken: { IOHGATP_MODE: 8, IOHGATP_PPN: 2 }, good: { IOHGATP_MODE: 8, IOHGATP_PPN: 4 } },
  { rule: '18', broken: { SADE: 1 }, without: [CAP.amoHwad] },
  { rule: '18', broken: { GADE: 1 }, without: [CAP.amoHwad] },
  { rule: '19', broken: { SBE: 1 }, without: [END] },
  { rule: '20', broken: {}, good: { SXL: 1 }, fctl: GXL },
  { rule: '20', broken: { SXL: 1 }, limits: { gxlWritable: false } },
  { rule: '21', broken: {}, good: { SBE: 1 }, fctl: BE, limits: { beWritable: false } },
  { rule: '22', broken: { RCID: 0x10 }, good: { RCID: 0xf } },
  { rule: '22', broken: { MCID: 0x100 }, good: { MCID: 0xff } },
  { rule: 'iohgatp Bare', broken: { MSIPTP_MODE: 1 }, good: { MSIPTP_MODE: 1, IOHGATP_MODE: 8 } },
];

describe('device-context configuration checks', () => {
  test.each(DEVICE_CASES)('rule $rule: $broken', ({ rule, broken, good, without = [], fctl = 0, limits }) => {
    const all = { ...LIMITS, ...limits };
    expect(brokenDeviceRule(contextOf(broken), registersWith(without, fctl), all)).toBe(rule);
    const better =
      good === undefined ? [contextOf(broken), registersWith([], fctl), LIMITS] : [contextOf(good), registersWith(without, fctl), all];
    expect(brokenDeviceRule(...(better as [Int32Array, Registers, ConfigurationLimits]))).toBeNull();
  });

  test('rule 1: each reserved bit', () => {
    for (let bit = 0; bit < 512; bit++) {
      if (((DC_RESERVED[bit >>> 5] >>> (bit & 31)) & 1) === 0) continue;
      const words = contextOf({ IOHGATP_MODE: 8 });
      words[bit >>> 5] |= 1 << (bit & 31);
      expect(brokenDeviceRule(words, registersWith([]), LIMITS)).toBe('1');
    }
    // tc 23:12 (31:24 are for custom use) and its high half; iohgatp none; ta 11:0 and 39:32; fsc, msiptp 59:44; mask, pattern 63:52; the last doubleword.
    expect(DC_RESERVED).toEqual(
      Int32Array.of(0xfff << 12, -1, 0, 0, 0xfff, 0xff, 0, 0xffff << 12, 0, 0xffff << 12, 0, ~0xfffff, 0, ~0xfffff, -1, -1),
    );
  });

  test('every rule has its case', () => {
    expect(new Set(DEVICE_CASES.map(({ rule }) => rule))).toEqual(new Set(Object.keys(DEVICE_RULES)));
    expect(Object.keys(DEVICE_RULES).slice(0, 22)).toEqual(Array.from({ length: 22 }, (_, i) => String(i + 1)));
  });

  test('what breaks a rule is "DDT entry misconfigured" (259)', () => {
    const guest = new Guest();
    guest.start();
    guest.setContext(8, { tc: 1 << 3 });
    expect(guest.iommu.translate(8, NO_PASID, 0, 0x5000, READ)).toBe(targetFault('riscv', Cause.ddtMisconfigured));
    expect(guest.takeFaults()[0][0] & 0xfffn).toBe(259n);
  });
});

describe('process-context configuration checks', () => {
  test.each([
    { rule: '1', mode: 0, sxl: false, without: [], reserved: true },
    { rule: '2', mode: 7, sxl: false, without: [] },
    { rule: '2', mode: 9, sxl: true, without: [] },
    { rule: '3', mode: 8, sxl: false, without: [CAP.sv39] },
    { rule: '3', mode: 9, sxl: false, without: [CAP.sv48] },
    { rule: '3', mode: 10, sxl: false, without: [CAP.sv57] },
    { rule: '4', mode: 8, sxl: true, without: [CAP.sv32] },
  ])('rule $rule: MODE $mode, SXL $sxl', ({ rule, mode, sxl, without, reserved = false }) => {
    const words = new Int32Array(4);
    put(words, PC.V, 1);
    put(words, PC.FSC_MODE, mode);
    if (without.length > 0) expect(brokenProcessRule(words, registersWith([]), sxl)).toBeNull();
    if (reserved) words[0] |= 1 << 3;
    expect(brokenProcessRule(words, registersWith(without), sxl)).toBe(rule);
    put(words, PC.FSC_MODE, 0);
    words[0] = get(words, PC.V);
    expect(brokenProcessRule(words, registersWith(without), sxl)).toBeNull();
  });

  test('the rules are those of the list', () => {
    expect(Object.keys(PROCESS_RULES)).toEqual(['1', '2', '3', '4']);
  });
});
