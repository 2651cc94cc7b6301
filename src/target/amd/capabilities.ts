import type { Capability } from '../capability.ts';

/** A feature, and where EFR or EFR2 says so. */
export interface AmdCapability extends Capability {
  readonly low: number;
  readonly width: number;
}

function feature(name: string, low: number, width: number, value: number, reason: string): AmdCapability {
  return { name, section: '3.4.9', low, width, value, reason };
}

/** EFR, MMIO offset 0030h. */
export const EFR: readonly AmdCapability[] = [
  feature('PreFSup', 0, 1, 1, 'PREFETCH_IOMMU_PAGES is a hint, and may do nothing'),
  feature('PPRSup', 1, 1, 1, 'PPR log and COMPLETE_PPR_REQUEST'),
  feature('XTSup', 2, 1, 1, '32-bit destinations of remapped interrupts and of the own ones'),
  feature('NXSup', 3, 1, 1, 'no-execute and privilege in guest tables'),
  feature('GTSup', 4, 1, 1, 'guest translation'),
  feature('IASup', 6, 1, 1, 'INVALIDATE_IOMMU_ALL'),
  feature('GASup', 7, 1, 1, '128-bit interrupt table entries; guest mode itself is off (GAMSup)'),
  feature('HESup', 8, 1, 1, 'hardware event registers'),
  feature('PCSup', 9, 1, 0, 'no performance counters'),
  feature('HATS', 10, 2, 2, 'host tables of 6 levels'),
  feature('GATS', 12, 2, 1, 'guest tables of 5 levels'),
  feature('GLXSup', 14, 2, 2, 'GCR3 tables of 3 levels'),
  feature('SmiFSup', 16, 2, 0, 'SMIs of devices are no concern of a virtual machine'),
  feature('GAMSup', 21, 3, 0, 'posting interrupts to a nested guest is not modelled'),
  feature('DualPprLogSup', 24, 2, 0, 'one log is enough: a guest reads as fast as it is run'),
  feature('DualEventLogSup', 28, 2, 0, 'the same'),
  feature('PASMax', 32, 5, 15, '16-bit PASIDs: Linux 6.12 stops with a BUG at more'),
  feature('USSup', 37, 1, 1, 'privilege of requests with PASID'),
  feature('DevTblSegSup', 38, 2, 3, 'device tables of 8 segments'),
  feature('PprOvrflwEarlySup', 40, 1, 0, 'no early warning'),
  feature('PprAutoRspSup', 41, 1, 0, 'a full log answers by itself in any case'),
  feature('MarcSup', 42, 2, 0, 'no relocated apertures'),
  feature('MsiCapMmioSup', 46, 1, 0, 'the MSI capability is the PCI function’s alone'),
  feature('GIoSup', 48, 1, 1, 'requests without PASID through guest tables'),
  feature('HASup', 49, 1, 1, 'accessed bits of host tables'),
  feature('EPHSup', 50, 1, 1, 'PPR bits of device table entries'),
  feature('HDSup', 52, 1, 1, 'dirty bits of host tables'),
  feature('InvIotlbTypeSup', 54, 1, 1, 'the type field of INVALIDATE_IOTLB_PAGES is passed on'),
  feature('SNPSup', 63, 1, 0, 'no memory encryption'),
];

/** EFR2, MMIO offset 01A0h. */
export const EFR2: readonly AmdCapability[] = [
  { name: 'GCR3TRPMode', section: '3.4.23', low: 3, width: 1, value: 1, reason: 'the GCR3 root may be a guest-physical address' },
];

/** The register that a table makes. */
export function registerOf(table: readonly AmdCapability[], without: readonly string[]): bigint {
  return table.reduce((value, { name, low, value: has }) => value | (without.includes(name) ? 0n : BigInt(has) << BigInt(low)), 0n);
}
