import { GuestMemory } from '../../memory/guest-memory.ts';
import { RiscvIommu, riscvCapabilities } from '../../target/riscv/index.ts';
import { Smmuv3 } from '../../target/smmuv3/index.ts';
import type { Target } from '../../target/target.ts';
import { VtdIommu } from '../../target/vtd/index.ts';
import { FunctionDma } from '../pci/dma.ts';
import { PciFunction } from '../pci/function.ts';
import { ecamBytes, PciHost, requesterId } from '../pci/host.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { IOMMU_CLASS, SMMU_REGISTER_BYTES, smmuRegisters, vtdRegisters } from '../units/index.ts';
import { type MappedBlock, PhysicalSpace } from './physical-space.ts';
import { TestDevice } from './test-device.ts';

/** A machine without processors: RAM, a PCI host, our IOMMU and a device that does DMA, at the addresses of QEMU's machine of that name. */
export interface TestMachine {
  readonly name: string;
  readonly space: PhysicalSpace;
  readonly pci: PciHost;
  /** Whether it has the ports of x86. */
  readonly ports: boolean;
  reset(): void;
}

/** Names that `testMachine` takes. */
export const MACHINES = ['riscv-virt', 'q35', 'arm-virt'] as const;
export type MachineName = (typeof MACHINES)[number];

export interface TestMachineOptions {
  /** Bytes of RAM. Default 128 MiB. */
  readonly ramBytes?: number;
  /** Device number of the test device, 0 to 31. Default 2. */
  readonly testDevice?: number;
  /** The same of the IOMMU where it is a PCI function (riscv-virt). Default 1. */
  readonly iommu?: number;
}

/** Where QEMU's machines have things. */
const PLACES = {
  'riscv-virt': { ram: 0x8000_0000n, ecam: 0x3000_0000n },
  q35: { ram: 0n, ecam: 0xb000_0000n, iommu: 0xfed9_0000n },
  'arm-virt': { ram: 0x4000_0000n, ecam: 0x40_1000_0000n, iommu: 0x0905_0000n },
} as const;
/** "virt", which virtio-mmio's registers begin with; no device is behind these (VIRTIO 1.3, 4.2.2). */
const VIRTIO_MMIO = { at: 0x1000_8000n, bytes: 0x1000, magic: 0x7472_6976, version: 2 } as const;
const RISCV_REGISTERS = 4096;
const BUSES = 256;

/** @throws RangeError for a name that there is not. */
export function testMachine(name: MachineName, options: TestMachineOptions = {}): TestMachine {
  const { ramBytes = 128 << 20, testDevice = 2, iommu: iommuSlot = 1 } = options;
  const places = PLACES[name];
  if (places === undefined) throw new RangeError(`there is no machine ${name}; there are ${MACHINES.join(', ')}`);
  const memory = new GuestMemory([{ gpa: places.ram, buffer: new SharedArrayBuffer(ramBytes) }]);
  const pci = new PciHost();
  const endpoint = requesterId(0, testDevice);
  const unit = UNITS[name](memory, endpoint);
  const blocks: MappedBlock[] = [{ at: places.ecam, bytes: ecamBytes(BUSES), registers: ecam(pci) }];
  if ('iommu' in places) blocks.push({ at: places.iommu, bytes: unit.bytes, registers: unit.registers });
  else {
    blocks.push({ at: VIRTIO_MMIO.at, bytes: VIRTIO_MMIO.bytes, registers: emptyVirtio });
    const bars = [{ bytes: unit.bytes, kind: 'memory64' as const, registers: unit.registers }];
    pci.add(requesterId(0, iommuSlot), new PciFunction({ vendor: 0x1b36, device: 0x0014, classCode: IOMMU_CLASS, bars }));
  }
  const device = new TestDevice(memory);
  device.attach(new FunctionDma(device.fn, endpoint, unit.target, memory));
  pci.add(endpoint, device.fn);
  return {
    name,
    space: new PhysicalSpace(memory, blocks, pci),
    pci,
    ports: name === 'q35',
    reset: () => {
      unit.target.reset();
      device.reset();
      pci.reset();
    },
  };
}

interface Unit {
  readonly target: Target;
  readonly registers: RegisterBlock;
  readonly bytes: number;
}

const UNITS: Readonly<Record<MachineName, (memory: GuestMemory, endpoint: number) => Unit>> = {
  'riscv-virt': (memory) => {
    const target = new RiscvIommu({ capabilities: riscvCapabilities() }, { memory });
    return { target, registers: target, bytes: RISCV_REGISTERS };
  },
  q35: (memory, endpoint) => {
    const target = new VtdIommu({}, { memory });
    target.addEndpoint(endpoint);
    return { target, registers: vtdRegisters(target, { reads: 0, writes: 0 }), bytes: target.registerBytes };
  },
  'arm-virt': (memory, endpoint) => {
    const target = new Smmuv3({ memory });
    target.addEndpoint(endpoint);
    return { target, registers: smmuRegisters(target, { reads: 0, writes: 0 }), bytes: SMMU_REGISTER_BYTES };
  },
};

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
