import { requireBigint, requireFunction, requireNumber, requireObject } from '../../memory/arguments.ts';
import { type AmdIommu, CAPABILITY_BYTES } from '../../target/amd/index.ts';
import { type Capability, msi } from '../pci/capabilities.ts';
import type { ConfigField } from '../pci/config-space.ts';
import { PciFunction } from '../pci/function.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { IOMMU_CLASS } from './registers.ts';
import { isX86Message, x86Message } from './x86-message.ts';

/** Where the capability block is in configuration space: what IVHD says of it. */
export const AMD_CAPABILITY = 0x40;
/** Bytes of registers, without performance counters (48882, 3.4). */
export const AMD_REGISTER_BYTES = 0x4000;

/**
 * The unit's PCI function (3.2), which IVHD names: its capability block, and MSI for its own interrupts. Software never lets it be a bus
 * master, and its messages go out all the same.
 */
export function amdFunction(iommu: AmdIommu, sendMessage: (address: bigint, data: number) => void): PciFunction {
  requireObject('amdFunction', 'iommu', iommu, 'AmdIommu', ['read', 'write']);
  requireFunction('amdFunction', 'sendMessage', sendMessage);
  return new PciFunction(
    {
      vendor: 0x1022,
      device: 0x1419,
      classCode: IOMMU_CLASS,
      capabilities: [capabilityBlock(iommu), msi()],
      messagesWithoutBusMaster: true,
    },
    { sendMessage },
  );
}

function capabilityBlock({ pci }: AmdIommu): Capability {
  const fields: ConfigField[] = [{ name: 'Capability Header', at: 2, bytes: 2, value: pci.read(0) >>> 16 }];
  for (let at = 4; at < CAPABILITY_BYTES; at += 4) fields.push({ name: `Capability Block +${at}`, at, bytes: 4, value: pci.read(at) });
  return { id: pci.read(0) & 0xff, bytes: CAPABILITY_BYTES, fields, at: AMD_CAPABILITY };
}

/** Registers behind BAR 0 of a function, for machines that have no other place for them. */
export function amdRegisterFunction(registers: RegisterBlock): PciFunction {
  requireObject('amdRegisterFunction', 'registers', registers, 'RegisterBlock', ['read', 'write']);
  return new PciFunction({ vendor: 0x1efd, device: 0x0d02, classCode: IOMMU_CLASS, bars: [{ bytes: AMD_REGISTER_BYTES, registers }] });
}

/** What becomes of a message of a function behind the unit; as `vtdMessage`. */
export function amdMessage(
  iommu: AmdIommu,
  source: number,
  address: bigint,
  data: number,
  deliver: (address: bigint, data: number) => void,
): boolean {
  requireObject('amdMessage', 'iommu', iommu, 'AmdIommu', ['remap']);
  requireNumber('amdMessage', 'source', source);
  requireNumber('amdMessage', 'data', data);
  requireBigint('amdMessage', 'address', address);
  requireFunction('amdMessage', 'deliver', deliver);
  if (!isX86Message(address)) return false;
  const answer = iommu.remap(source, Number(address & 0xffff_ffffn) | 0, data);
  if (answer.kind === 'pass') deliver(address, data);
  if (answer.kind !== 'remap') return true;
  const { destination, logical, vector, delivery } = answer;
  const message = x86Message({ vector, destination, logical, redirectionHint: false, deliveryMode: delivery, levelTriggered: false });
  if (message !== null) deliver(message.address, message.data);
  return true;
}
