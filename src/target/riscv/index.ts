export { type CapabilityName, riscvCapabilities } from './capabilities.ts';
export { Registers } from './control/registers.ts';
export type { RiscvIommuConfig } from './options.ts';
export { RiscvIommu } from './riscv-iommu.ts';
export type { RiscvIommuState } from './saved-state.ts';
export { Cause } from './spec/causes.ts';
export { INTERRUPT_IN_MEMORY } from './spec/faults.ts';
export {
  CAPABILITIES,
  Cap,
  CapHi,
  CQB,
  CQCSR,
  CQH,
  CQT,
  DDTP,
  DdtMode,
  FCTL,
  Fctl,
  FQB,
  FQCSR,
  FQH,
  FQT,
  ICVEC,
  IOCOUNTINH,
  IOCOUNTOVF,
  IOHPMCTR,
  IOHPMCYCLES,
  IOHPMEVT,
  IOMMU_QOSID,
  IPSR,
  MSI_CFG_TBL,
  PAGE_OF_REGISTERS,
  PQB,
  PQCSR,
  PQH,
  PQT,
  TR_REQ_CTL,
  TR_REQ_IOVA,
  TR_RESPONSE,
} from './spec/registers.ts';
export { AtsCode, type AtsMessage, type IommuMemory, type RiscvIommuSurroundings } from './surroundings.ts';
export type { AtsCompletion, AtsRequest } from './translation/ats.ts';
export { Kind, type RequestKind } from './translation/requests.ts';
export type { Answer } from './translation/translator.ts';
