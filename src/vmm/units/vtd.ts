import { requireBigint, requireFunction, requireNumber, requireObject } from '../../memory/arguments.ts';
import { DELIVER, type VtdIommu } from '../../target/vtd/index.ts';
import { PciFunction } from '../pci/function.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { IOMMU_CLASS } from './registers.ts';
import { isX86Message, x86Message } from './x86-message.ts';

/** The registers behind BAR 0 of a function: for machines that have no other place for them. */
export function vtdFunction(iommu: VtdIommu, registers: RegisterBlock): PciFunction {
  return new PciFunction({
    vendor: 0x1efd,
    device: 0x0d01,
    classCode: IOMMU_CLASS,
    bars: [{ bytes: iommu.registerBytes, registers }],
  });
}

/**
 * What becomes of a message that a function behind the unit sends: remapped, or (no address of interrupts) a write that the machine
 * translates like any other. `deliver` gets what the processors see, if anything; false: it is a write.
 */
export function vtdMessage(
  iommu: VtdIommu,
  source: number,
  address: bigint,
  data: number,
  deliver: (address: bigint, data: number) => void,
): boolean {
  requireObject('vtdMessage', 'iommu', iommu, 'VtdIommu', ['remap']);
  requireNumber('vtdMessage', 'source', source);
  requireNumber('vtdMessage', 'data', data);
  requireBigint('vtdMessage', 'address', address);
  requireFunction('vtdMessage', 'deliver', deliver);
  if (!isX86Message(address)) return false;
  if (iommu.remap(source, Number(address & 0xffff_ffffn) | 0, data) !== DELIVER) return true;
  const message = x86Message(iommu.interrupt);
  if (message !== null) deliver(message.address, message.data);
  return true;
}
