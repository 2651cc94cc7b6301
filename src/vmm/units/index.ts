export { AMD_CAPABILITY, AMD_REGISTER_BYTES, amdFunction, amdMessage, amdRegisterFunction } from './amd.ts';
export { countedRegisters, IOMMU_CLASS, type RegisterCounts } from './registers.ts';
export { RISCV_VECTOR_BITS, riscvFunction } from './riscv.ts';
export { smmuFunction } from './smmuv3.ts';
export { vtdFunction, vtdMessage } from './vtd.ts';
export { isX86Message, type X86Interrupt, x86Message } from './x86-message.ts';
