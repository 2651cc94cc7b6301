export { Registers } from './control/registers.ts';
export { RiscvIommu, type RiscvIommuConfig } from './riscv-iommu.ts';
export { Cause } from './spec/causes.ts';
export { INTERRUPT_IN_MEMORY } from './spec/faults.ts';
export { AtsCode, type AtsMessage, type IommuMemory, type RiscvIommuSurroundings } from './surroundings.ts';
export type { AtsCompletion, AtsRequest } from './translation/ats.ts';
export { Kind, type RequestKind } from './translation/requests.ts';
export type { Answer } from './translation/translator.ts';
