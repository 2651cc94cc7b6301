import { requireArray, requireObject } from '../../memory/arguments.ts';
import type { Capability } from '../capability.ts';
import type { VtdChoices } from './options.ts';
import { FRCD, FRCD_FITTING, FRCD_NEXT_PAGE, IVA } from './spec/registers.ts';

/** A field of CAP_REG or ECAP_REG: VT-d D51397-018 (revision 5.10), 11.4.2 and 11.4.3. */
export interface RegisterCapability extends Capability {
  /** Its lowest bit. */
  readonly at: number;
}

/** Maximum address mask value: 1 GiB, the largest leaf (11.4.2 recommends it). */
export const MAMV = 18;
/** Widths of domain identifiers and of PASIDs. */
export const PASID_BITS = 20;

/** Whatever the guest can read of the unit, and why it is so. */
export function capabilities(choices: VtdChoices): readonly RegisterCapability[] {
  requireObject('VtdIommu', 'choices', choices);
  requireArray('VtdIommu', 'secondStageLevels', choices.secondStageLevels);
  const { cachingMode, secondStageLevels, scalableMode, deviceTlb, pageRequests, interruptRemapping } = choices;
  const cap = (name: string, at: number, value: Capability['value'], reason: string): RegisterCapability => ({
    name: `CAP.${name}`,
    section: '11.4.2',
    at,
    value,
    reason,
  });
  const ecap = (name: string, at: number, value: Capability['value'], reason: string): RegisterCapability => ({
    name: `ECAP.${name}`,
    section: '11.4.3',
    at,
    value,
    reason,
  });
  const widest = 12 + 9 * Math.max(...secondStageLevels);
  const sagaw = secondStageLevels.reduce((mask, levels) => mask | (1 << (levels - 2)), 0);
  const records = choices.faultRecords <= FRCD_FITTING ? FRCD : FRCD_NEXT_PAGE;
  return [
    cap('ND', 0, 6, '16-bit domain identifiers, all that the field can say'),
    cap('RWBF', 4, false, 'memory is coherent'),
    cap(
      'PLMR',
      5,
      choices.protectedMemory,
      'option protectedMemory: without it the machine decides what devices reach before translation is on',
    ),
    cap('PHMR', 6, choices.protectedMemory, 'as PLMR'),
    cap('CM', 7, cachingMode, 'option cachingMode: shadowed devices need to hear of mappings that become valid (6.1)'),
    cap('SAGAW', 8, sagaw, 'option secondStageLevels'),
    cap('MGAW', 16, widest - 1, 'what the widest second-stage table translates'),
    cap('ZLR', 22, true, 'recommended: a read of no bytes needs no read permission'),
    cap('FRO', 24, records / 16, 'where fault records begin'),
    cap('SSLPS', 34, 3, '2 MiB and 1 GiB pages'),
    cap('PSI', 39, true, 'invalidation by pages'),
    cap('NFR', 40, choices.faultRecords - 1, 'option faultRecords'),
    cap('MAMV', 48, MAMV, 'up to 1 GiB, the largest page'),
    cap('DWD', 54, true, 'nothing is in flight when an invalidation ends'),
    cap('DRD', 55, true, 'as DWD'),
    cap('FS1GP', 56, scalableMode, '1 GiB pages of the first stage'),
    cap('PI', 59, choices.postedInterrupts, 'option postedInterrupts'),
    cap('FS5LP', 60, choices.firstStage5Level, 'option firstStage5Level'),
    cap('ECMDS', 61, false, 'no command of the enhanced interface means anything to an emulated unit'),
    cap('ESIRTPS', 62, interruptRemapping, 'setting the table pointer forgets what came of the old one'),
    cap('ESRTPS', 63, true, 'setting the root pointer forgets what came of the old one'),
    ecap('C', 0, true, 'memory is coherent'),
    ecap('QI', 1, true, 'queued invalidation'),
    ecap('DT', 2, deviceTlb, 'option deviceTlb'),
    ecap('IR', 3, interruptRemapping, 'option interruptRemapping'),
    ecap('EIM', 4, choices.extendedInterruptMode, 'option extendedInterruptMode'),
    ecap('PT', 6, true, 'pass-through'),
    ecap('SC', 7, true, 'every access snoops, so SNP and PGSNP may be set'),
    ecap('IRO', 8, IVA / 16, 'where the IOTLB registers are'),
    ecap('MHMV', 20, interruptRemapping ? 15 : 0, 'any range of interrupt indexes'),
    ecap('MTS', 25, false, 'no device here is in the coherency domain of a processor'),
    ecap('NEST', 26, scalableMode, 'first stage over second stage'),
    ecap('PRS', 29, pageRequests, 'option pageRequests'),
    ecap('ERS', 30, false, 'deprecated, must be 0'),
    ecap('SRS', 31, scalableMode, 'supervisor requests'),
    ecap('NWFS', 33, false, 'a translation request is always answered with all that the tables grant'),
    ecap('EAFS', 34, scalableMode, 'extended accessed flags of the first stage'),
    ecap('PSS', 35, scalableMode ? PASID_BITS - 1 : 0, '20-bit PASIDs, all that PCI Express has'),
    ecap('PASID', 40, scalableMode, 'requests with PASID'),
    ecap('DIT', 41, false, 'invalidations of devices are not throttled'),
    ecap('PDS', 42, deviceTlb, 'page requests are in the queue before a wait descriptor completes'),
    ecap('SMTS', 43, scalableMode, 'option scalableMode'),
    ecap('VCS', 44, false, 'PASIDs are the guest’s own'),
    ecap('SSADS', 45, scalableMode, 'accessed and dirty bits of the second stage'),
    ecap('SSTS', 46, scalableMode, 'second stage'),
    ecap('FSTS', 47, scalableMode, 'first stage'),
    ecap('SMPWCS', 48, scalableMode, 'memory is coherent; Linux asks for it'),
    ecap('RPS', 49, scalableMode, 'RID_PASID'),
    ecap('TDXCS', 50, false, 'no TDX'),
    ecap('PMS', 51, false, 'an emulated unit has no cycles that would tell a guest anything'),
    ecap('ADMS', 52, true, 'abort-dma mode'),
    ecap('RPRIVS', 53, false, 'requests without PASID are user requests'),
    ecap('HPTS', 55, false, 'devices here are trusted with the addresses that they were told'),
    ecap('PTRS', 56, false, 'translated requests carry no PASID'),
    ecap('SSIRWS', 57, false, 'R and W decide'),
    ecap('SMS', 58, pageRequests, 'a stop marker goes through the queue, or is dropped where it is full'),
    ecap('RDTS', 60, false, 'no resource director'),
    ecap('EIMER', 61, false, 'xAPIC guests exist'),
    ecap('IRREQ', 62, false, 'guests that do not remap exist'),
  ];
}

/** CAP_REG or ECAP_REG. */
export function registerOf(table: readonly RegisterCapability[], register: 'CAP' | 'ECAP'): bigint {
  return table
    .filter(({ name }) => name.startsWith(`${register}.`))
    .reduce((word, { at, value }) => word | (BigInt(value) << BigInt(at)), 0n);
}
