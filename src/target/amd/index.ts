export { AmdIommu } from './amd-iommu.ts';
export { type AmdCapability, EFR, EFR2 } from './capabilities.ts';
export { CAPABILITY_BYTES, type PciCapability } from './control/pci-capability.ts';
export type { PageRequest } from './reporting/page-requests.ts';
export type { AmdIommuState } from './saved-state.ts';
export { EVENT } from './spec/events.ts';
export { FAULT_ENDPOINT } from './spec/faults.ts';
export type { AmdIommuOptions, IotlbInvalidation, OwnInterrupt, PprResponse } from './surroundings.ts';
export type { RemappedInterrupt } from './translation/interrupts.ts';
