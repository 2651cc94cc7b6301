import { require64, requireInteger, requireObject } from '../../memory/arguments.ts';
import { ALL_CAPABILITIES } from './capabilities.ts';

/** What an implementation may choose. */
export interface RiscvIommuConfig {
  /** The capabilities register. Default: all of capabilities.ts. */
  readonly capabilities?: bigint;
  /** fctl at reset. Default: 0, or WSI where only wires are supported. */
  readonly fctl?: number;
  /** fctl.GXL can be written. Default: no. */
  readonly gxlWritable?: boolean;
  /** DC.tc.SBE may differ from fctl.BE. Default: with capabilities.END. */
  readonly sbeFree?: boolean;
  /** ddtp.iommu_mode at reset: 0 (Off) or 1 (Bare), and the highest that can be written. Default: 0 and 4 (3LVL). */
  readonly resetMode?: 0 | 1;
  readonly maxMode?: number;
  /** Widest device_id, 6 to 24 bits. Default: 24. */
  readonly deviceIdBits?: number;
  /** Performance counters, iohpmcycles included, 2 to 32; width of the event counters; highest eventID. Default: 32, 64, 8. */
  readonly counters?: number;
  readonly counterBits?: number;
  readonly eventLimit?: number;
  /** Writable bits of each field of icvec, 0 to 4. Default: 4. */
  readonly vectorBits?: number;
  /** Widths of RCID and MCID. Default: 12 each. */
  readonly rcidBits?: number;
  readonly mcidBits?: number;
  /** ATS invalidations under way at most, 1 to 32. Default: 32. */
  readonly invalidationTags?: number;
  /** Translations cached at most: a power of two from 16 on. Default: 65536. */
  readonly iotlbEntries?: number;
  /** Device-contexts cached at most, and process-contexts of each. Default: 1024. */
  readonly directoryEntries?: number;
  /** Commands wait for `processCommands` instead of being processed when cqt is written. */
  readonly deferCommands?: boolean;
}

/** "IOMMU capabilities", IGS: 1 is wires only. */
export function defaultFctl(capabilities: bigint): number {
  return ((capabilities >> 28n) & 3n) === 1n ? 2 : 0;
}

const pasOf = (capabilities: bigint) => Number((capabilities >> 32n) & 0x3fn);

/** Physical addresses have 32 to 56 bits. */
export function hasPossiblePas(capabilities: bigint): boolean {
  return pasOf(capabilities) >= 32 && pasOf(capabilities) <= 56;
}

/** @throws TypeError for a choice of the wrong type; RangeError for one that the specification does not allow. */
export function checkConfig(config: RiscvIommuConfig): void {
  requireObject('RiscvIommu', 'config', config);
  const within = (name: keyof RiscvIommuConfig, low: number, high: number) => {
    const value = config[name];
    if (value !== undefined) requireInteger('RiscvIommu', name, value, low, high);
  };
  const { capabilities = ALL_CAPABILITIES } = config;
  require64('RiscvIommu', 'capabilities', capabilities);
  for (const name of ['gxlWritable', 'sbeFree', 'deferCommands'] as const)
    if (config[name] !== undefined && typeof config[name] !== 'boolean') throw new TypeError(`RiscvIommu: ${name} is no boolean`);
  if (!hasPossiblePas(capabilities)) throw new RangeError(`RiscvIommu: capabilities.PAS ${pasOf(capabilities)} is not in 32..56`);
  within('fctl', 0, 0xffff_ffff);
  within('resetMode', 0, 1);
  within('maxMode', 1, 4);
  within('deviceIdBits', 6, 24);
  within('counters', 2, 32);
  within('counterBits', 32, 64);
  within('eventLimit', 0, 0x7fff);
  within('vectorBits', 0, 4);
  within('rcidBits', 0, 12);
  within('mcidBits', 0, 12);
  within('invalidationTags', 1, 32);
  within('directoryEntries', 1, 2 ** 24);
}
