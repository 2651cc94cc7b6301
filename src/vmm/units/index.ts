export { AMD_CAPABILITY, AMD_REGISTER_BYTES, amdFunction, amdMessage, amdRegisterFunction, amdRegisters } from './amd.ts';
export { RISCV_VECTOR_BITS, riscvFunction, riscvRegisters } from './riscv.ts';
export { SMMU_REGISTER_BYTES, smmuFunction, smmuRegisters } from './smmuv3.ts';
export { IOMMU_CLASS, type RegisterCounts, vtdFunction, vtdMessage, vtdRegisters } from './vtd.ts';
export { isX86Message, type X86Interrupt, x86Message } from './x86-message.ts';
