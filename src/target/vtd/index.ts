export { capabilities, type RegisterCapability } from './capabilities.ts';
export type { VtdChoices, VtdIommuOptions } from './options.ts';
export type { PageRequest } from './reporting/page-request-queue.ts';
export type { VtdIommuState } from './saved-state.ts';
export { FAULT_PROTECTED, Fault, type FaultName, type FaultReason } from './spec/faults.ts';
export type { DeviceInvalidation, PageGroupResponse, VtdSurroundings } from './surroundings.ts';
export type { TranslationCompletion, TranslationRequest } from './translation/device-tlb.ts';
export { DELIVER, POSTED, type RemappedInterrupt } from './translation/interrupt-remapping.ts';
export { VtdIommu } from './vtd-iommu.ts';
