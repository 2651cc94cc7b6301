export { ccdfOf, type ErrorEvent } from './error-event.ts';
export type { PciSpaces, ZpciFunctionOptions, ZpciIommuOptions } from './options.ts';
export { GeneralRegisters } from './registers.ts';
export type { ZpciIommuState } from './saved-state.ts';
export { type Answer, CC, INTERRUPTION, MPCIFC, PEC, type RefreshAnswer, STATUS, UNFINISHED } from './spec/codes.ts';
export { FAULT_BLOCKED, FAULT_ENDPOINT } from './spec/faults.ts';
export { ZpciIommu } from './zpci-iommu.ts';
