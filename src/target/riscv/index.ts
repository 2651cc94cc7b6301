export type { AtsCompletion, AtsRequest } from './ats.ts';
export { Cause } from './fault-queue.ts';
export { Registers } from './registers.ts';
export { Kind, type RequestKind } from './requests.ts';
export { RiscvIommu, type RiscvIommuConfig } from './riscv-iommu.ts';
export { AtsCode, type AtsMessage, type IommuMemory, type RiscvIommuSurroundings } from './surroundings.ts';
export { type Answer, INTERRUPT_IN_MEMORY } from './translate.ts';
