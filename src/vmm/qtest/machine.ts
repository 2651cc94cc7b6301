import { PAGE_BYTES } from '../../memory/address.ts';
import { requireInteger, requireObject, requireString } from '../../memory/arguments.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { FunctionDma } from '../pci/dma.ts';
import { ecamBytes, PciHost, requesterId } from '../pci/host.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { type MappedBlock, PhysicalSpace } from './physical-space.ts';
import { TestDevice } from './test-device.ts';
import { testUnit, type UnitName } from './units.ts';

/** A machine without processors: RAM, a PCI host, our IOMMU and a device that does DMA, at the addresses of QEMU's machine of that name. */
export interface TestMachine {
  readonly name: string;
  readonly space: PhysicalSpace;
  readonly pci: PciHost;
  /** QEMU's names of the devices that it can have. */
  readonly deviceTypes: readonly string[];
  /** Whether it has the ports of x86. */
  readonly ports: boolean;
  reset(): void;
}

/** Names that `testMachine` takes. */
export const MACHINES = ['riscv-virt', 'q35', 'arm-virt'] as const;
export type MachineName = (typeof MACHINES)[number];

export interface TestMachineOptions {
  /** Bytes of RAM, whole pages, 4 GiB at most. Default 128 MiB. */
  readonly ramBytes?: number;
  /** Device number of the test device, 0 to 31. Default 2. */
  readonly testDevice?: number;
  /** The same of the IOMMU where it is a PCI function (RISC-V, AMD-Vi). Default 1. */
  readonly iommu?: number;
  /** Which IOMMU, where the machine has a choice: q35. Default `vtd`. */
  readonly unit?: UnitName;
}

/** Where QEMU's machines have things, and the IOMMUs that each can have. Nothing here takes an interrupt, but QEMU's SMMUv3 tests are skipped where there is no GICv3. */
const PLACES = {
  'riscv-virt': { ram: 0x8000_0000n, ecam: 0x3000_0000n, units: ['riscv'], devices: ['riscv-iommu-pci'] },
  q35: { ram: 0n, ecam: 0xb000_0000n, units: ['vtd', 'vtd-scalable', 'amd'], devices: ['intel-iommu', 'amd-iommu'] },
  'arm-virt': { ram: 0x4000_0000n, ecam: 0x40_1000_0000n, units: ['smmuv3'], devices: ['arm-smmuv3', 'arm-gicv3'] },
} as const satisfies Record<MachineName, object>;
/** "virt", which virtio-mmio's registers begin with; no device is behind these (VIRTIO 1.3, 4.2.2). */
const VIRTIO_MMIO = { at: 0x1000_8000n, bytes: 0x1000, magic: 0x7472_6976, version: 2 } as const;
const BUSES = 256;

/** @throws RangeError for a name that there is not, for a unit that the machine does not have, and for an option that is out of range. */
export function testMachine(name: MachineName, options: TestMachineOptions = {}): TestMachine {
  requireString('testMachine', 'name', name);
  requireObject('testMachine', 'options', options);
  const { ramBytes = 128 << 20, testDevice = 2, iommu: iommuSlot = 1 } = options;
  requireInteger('testMachine', 'ramBytes', ramBytes, PAGE_BYTES, 2 ** 32);
  requireInteger('testMachine', 'testDevice', testDevice, 0, 31);
  requireInteger('testMachine', 'iommu', iommuSlot, 0, 31);
  const places = PLACES[name];
  if (places === undefined) throw new RangeError(`testMachine: there is no machine ${name}; there are ${MACHINES.join(', ')}`);
  const units: readonly UnitName[] = places.units;
  const unitName = options.unit ?? places.units[0];
  if (!units.includes(unitName)) throw new RangeError(`testMachine: unit ${unitName} is none of ${name}'s: ${units.join(', ')}`);
  const memory = new GuestMemory([{ gpa: places.ram, buffer: new SharedArrayBuffer(ramBytes) }]);
  const pci = new PciHost();
  const endpoint = requesterId(0, testDevice);
  const unit = testUnit(unitName, memory, endpoint);
  const blocks: MappedBlock[] = [{ at: places.ecam, bytes: ecamBytes(BUSES), registers: ecam(pci) }];
  if (unit.block !== null) blocks.push(unit.block);
  if (unit.fn !== null) pci.add(requesterId(0, iommuSlot), unit.fn);
  if (name === 'riscv-virt') blocks.push({ at: VIRTIO_MMIO.at, bytes: VIRTIO_MMIO.bytes, registers: emptyVirtio });
  const device = new TestDevice(memory);
  device.attach(new FunctionDma(device.fn, endpoint, unit.target, memory));
  pci.add(endpoint, device.fn);
  return {
    name,
    space: new PhysicalSpace(memory, blocks, pci),
    pci,
    deviceTypes: ['iommu-testdev', ...places.devices],
    ports: name === 'q35',
    reset: () => {
      unit.target.reset();
      pci.reset();
    },
  };
}

function ecam(pci: PciHost): RegisterBlock {
  return {
    read: (offset, bytes) => pci.readEcam(offset, bytes),
    write: (offset, bytes, value) => pci.writeEcam(offset, bytes, value),
  };
}

const emptyVirtio: RegisterBlock = {
  read: (offset, bytes) => (bytes === 4 && offset < 8 ? BigInt(offset === 0 ? VIRTIO_MMIO.magic : VIRTIO_MMIO.version) : 0n),
  write: () => {},
};
