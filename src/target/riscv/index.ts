export { Registers } from './control/registers.ts';
export { RiscvIommu, type RiscvIommuConfig } from './riscv-iommu.ts';
export { Cause } from './spec/causes.ts';
export { AtsCode, type AtsMessage, type IommuMemory, type RiscvIommuSurroundings } from './surroundings.ts';
export type { AtsCompletion, AtsRequest } from './translation/ats.ts';
export { Kind, type RequestKind } from './translation/requests.ts';
export { type Answer, INTERRUPT_IN_MEMORY } from './translation/translator.ts';
