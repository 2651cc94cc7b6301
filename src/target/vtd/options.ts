import { requireObject } from '../../memory/arguments.ts';

/** What an implementation of VT-d may choose; the rest follows from it (capabilities.ts). */
export interface VtdIommuOptions {
  /** CAP.CM: the guest announces mappings that become valid, which a shadowed device needs. Default true. */
  readonly cachingMode?: boolean;
  /** Bits of a physical address (HAW): what lies above is reserved in tables. 36 to 52, default 48. */
  readonly hostAddressWidth?: number;
  /** Levels of second-stage tables, of 3, 4 and 5 (CAP.SAGAW); the most of them decide CAP.MGAW. Default 3 and 4. */
  readonly secondStageLevels?: readonly (3 | 4 | 5)[];
  /** ECAP.SMTS, and with it first stage, nested and PASIDs. Default false. */
  readonly scalableMode?: boolean;
  /** CAP.FS5LP. Default false. */
  readonly firstStage5Level?: boolean;
  /** ECAP.DT: ATS. Default false. */
  readonly deviceTlb?: boolean;
  /** ECAP.PRS: page requests; with `scalableMode` and `deviceTlb`. Default false. */
  readonly pageRequests?: boolean;
  /** ECAP.IR. Default true. */
  readonly interruptRemapping?: boolean;
  /** ECAP.EIM: x2APIC destinations. Default: with `interruptRemapping`. */
  readonly extendedInterruptMode?: boolean;
  /** CAP.PI. Default: with `interruptRemapping`. */
  readonly postedInterrupts?: boolean;
  /** CAP.PLMR and PHMR: protected low and high memory. Default false. */
  readonly protectedMemory?: boolean;
  /** CAP.NFR: fault recording registers, 1 to 256; from 15 on the registers take two pages. Default 8. */
  readonly faultRecords?: number;
  /** Translations cached at most: a power of two from 16 on. Default 65536. */
  readonly iotlbEntries?: number;
  /** Device and PASID entries cached at most. Default 4096. */
  readonly contextEntries?: number;
}

/** The same with every choice made. */
export type VtdChoices = Required<VtdIommuOptions>;

/** @throws TypeError for an option of the wrong type; RangeError for one that is not possible. */
export function checkedOptions(options: VtdIommuOptions): VtdChoices {
  requireObject('VtdIommu', 'options', options);
  const interruptRemapping = options.interruptRemapping ?? true;
  const choices: VtdChoices = {
    cachingMode: options.cachingMode ?? true,
    hostAddressWidth: options.hostAddressWidth ?? 48,
    secondStageLevels: options.secondStageLevels ?? [3, 4],
    scalableMode: options.scalableMode ?? false,
    firstStage5Level: options.firstStage5Level ?? false,
    deviceTlb: options.deviceTlb ?? false,
    pageRequests: options.pageRequests ?? false,
    interruptRemapping,
    extendedInterruptMode: options.extendedInterruptMode ?? interruptRemapping,
    postedInterrupts: options.postedInterrupts ?? interruptRemapping,
    protectedMemory: options.protectedMemory ?? false,
    faultRecords: options.faultRecords ?? 8,
    iotlbEntries: options.iotlbEntries ?? 65536,
    contextEntries: options.contextEntries ?? 4096,
  };
  for (const [name, value] of Object.entries(choices)) {
    const type = numbers.has(name) ? 'number' : name === 'secondStageLevels' ? 'object' : 'boolean';
    if (typeof value !== type) throw new TypeError(`VtdIommu: ${name} is no ${type}`);
  }
  const within = (name: 'hostAddressWidth' | 'faultRecords' | 'contextEntries', low: number, high: number) => {
    const value = choices[name];
    if (!Number.isInteger(value) || value < low || value > high)
      throw new RangeError(`VtdIommu: ${name} ${value} is not in ${low}..${high}`);
  };
  within('hostAddressWidth', 36, 52);
  within('faultRecords', 1, 256);
  within('contextEntries', 1, 2 ** 24);
  if (!Array.isArray(choices.secondStageLevels)) throw new TypeError('VtdIommu: secondStageLevels are no array');
  const levels: readonly number[] = choices.secondStageLevels;
  if (levels.length === 0 || levels.some((level) => ![3, 4, 5].includes(level)))
    throw new RangeError(`VtdIommu: secondStageLevels [${levels.join(', ')}] are not of 3, 4 and 5`);
  // 11.4.2, MGAW: at least as wide as the host's addresses.
  if (12 + 9 * Math.max(...levels) < choices.hostAddressWidth)
    throw new RangeError(`VtdIommu: secondStageLevels [${levels.join(', ')}] do not reach hostAddressWidth ${choices.hostAddressWidth}`);
  const needs = (name: keyof VtdChoices, needed: keyof VtdChoices) => {
    if (choices[name] === true && choices[needed] !== true) throw new RangeError(`VtdIommu: ${name} needs ${needed}`);
  };
  needs('firstStage5Level', 'scalableMode');
  needs('pageRequests', 'scalableMode');
  needs('pageRequests', 'deviceTlb');
  needs('extendedInterruptMode', 'interruptRemapping');
  needs('postedInterrupts', 'interruptRemapping');
  return choices;
}

const numbers = new Set(['hostAddressWidth', 'faultRecords', 'iotlbEntries', 'contextEntries']);
