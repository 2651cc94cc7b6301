import { requireObject } from '../../memory/arguments.ts';
import { MSI_CFG_TBL } from '../../target/riscv/index.ts';
import { msix } from '../pci/capabilities.ts';
import { PciFunction } from '../pci/function.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { IOMMU_CLASS } from './registers.ts';

/** Bytes of registers ("Memory-mapped register interface"). */
const REGISTER_BYTES = 0x1000;
/** The vectors that icvec names with two bits, and a place for their pending bits, which the table's owner keeps elsewhere. */
const VECTORS = 4;
const PENDING = 0x400;

/** What RiscvIommuConfig.vectorBits is for the function's vectors. */
export const RISCV_VECTOR_BITS = 2;

/** The unit as a PCI function, as QEMU has it; its MSI-X table is msi_cfg_tbl, so that the messages are the unit's own. */
export function riscvFunction(registers: RegisterBlock): PciFunction {
  requireObject('riscvFunction', 'registers', registers, 'RegisterBlock', ['read', 'write']);
  return new PciFunction({
    vendor: 0x1b36,
    device: 0x0014,
    classCode: IOMMU_CLASS,
    bars: [{ bytes: REGISTER_BYTES, kind: 'memory64', registers }],
    capabilities: [msix(VECTORS, { bar: 0, offset: MSI_CFG_TBL }, { bar: 0, offset: PENDING })],
    msixInRegisters: true,
  });
}
