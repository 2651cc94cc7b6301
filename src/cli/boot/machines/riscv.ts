import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RiscvIommu, riscvCapabilities } from '../../../target/riscv/index.ts';
import { DeviceNode, writeDeviceTree } from '../../../vmm/firmware/device-tree/device-tree.ts';
import { hex } from '../../../vmm/recording-lines.ts';
import { countedRegisters, type RegisterCounts, RISCV_VECTOR_BITS, riscvFunction } from '../../../vmm/units/index.ts';
import { PciVfioDevice } from '../../../vmm/vfio-user/index.ts';
import { ENDPOINTS, GUEST_MODULES, type GuestChoices, type GuestRecipe, kernelCommandLine, type RunFiles } from '../recipe.ts';
import { freePhandle, mapEndpoints, virtMachine } from './virt.ts';

const UNIT_SLOT = 4;
/** Version 1.0; Sv39, Sv48, Sv57 in both stages; flat MSI tables; messages; 56-bit addresses. Linux 7.2 makes no domain on a unit that has everything. */
const CAPABILITIES = riscvCapabilities({
  ...{ Sv32: false, Svrsw60t59b: false, Svpbmt: false, Sv32x4: false, AMO_MRIF: false, MSI_MRIF: false, AMO_HWAD: false },
  ...{ ATS: false, T2GPA: false, END: false, IGS: 0, HPM: false, DBG: false, PD8: false, PD17: false, PD20: false },
  ...{ QOSID: false, NL: false, S: false },
});
/** Where guest RAM begins. */
const RAM_AT = 0x8000_0000n;

/**
 * RISC-V IOMMU as a PCI function on a virt machine, whose device tree says whom it translates. Linux has no DMA API on top of this IOMMU, so a
 * module puts the devices into domains: the disk into one where RAM and interrupt files are at their own addresses, the engine into an empty one.
 */
export const riscv: GuestRecipe = {
  iommu: 'riscv',
  summary: 'RISC-V IOMMU over PCI; takes --module',
  arch: 'riscv64',
  debianArch: 'riscv64',
  // The first kernel of Debian's that has the driver.
  suite: 'forky',
  qemuPackage: 'qemu-system-riscv',
  // Newer kernels have this checksum in themselves.
  modules: GUEST_MODULES.filter((name) => name !== 'crc32c_generic'),
  // VFIO takes no device here: Linux 7.2's driver does not say that caches are coherent (IOMMU_CAP_CACHE_COHERENCY).
  taskModules: {},
  variants: [],
  fault: /0000:00:04\.0: Fault 15 devid: 0x30 iotval: dead0000/,
  inUse: /iommu_pci 0000:00:04\.0: enabling device/,
  remapping: null,
  guess: 0n,

  tasks: ['reboot', 'rebind'],
  needsModule: true,
  recordable: true,
  build: (choices, _deliver, witness) => {
    const { memory } = witness;
    const send = witness.sending((address, data) => device.sendMessage(address, data));
    const iommu = new RiscvIommu(
      { vectorBits: RISCV_VECTOR_BITS, capabilities: CAPABILITIES },
      {
        memory,
        // What is no RAM is an interrupt file.
        storeDevice: (address, value) => {
          send(address, value);
          return true;
        },
      },
    );
    for (const endpoint of ENDPOINTS) iommu.addEndpoint(endpoint);
    const registers: RegisterCounts = { reads: 0, writes: 0 };
    const device: PciVfioDevice = new PciVfioDevice(riscvFunction(witness.registers(countedRegisters(iommu, registers))), {
      hideMsix: true,
      reset: () => witness.reset(() => iommu.reset()),
    });
    witness.machine('riscv', RAM_AT, ENDPOINTS, { vectorBits: RISCV_VECTOR_BITS, capabilities: hex(CAPABILITIES) });
    return {
      target: witness.target(iommu),
      functions: [{ name: 'unit', slot: UNIT_SLOT, device, memory }],
      registers,
      // To an interrupt file: an address that the IOMMU translates like any other.
      message: () => false,
      base: () => null,
      arguments: (files) => riscvArguments(choices, files),
    };
  },
};

async function riscvArguments(choices: GuestChoices, files: RunFiles): Promise<readonly string[]> {
  const { arguments: machine, tree } = await virtMachine('virt,aia=aplic-imsic', [], choices, files);
  describe(tree);
  const described = join(files.folder, 'tree.dtb');
  writeFileSync(described, writeDeviceTree(tree));
  return [
    ...machine,
    ...['-dtb', described, '-kernel', files.kernel, '-initrd', files.initrd, '-append', kernelCommandLine('ttyS0', choices)],
  ];
}

/** Tells the tree of the IOMMU, which is a device of the bus whose other devices it translates. */
function describe(tree: DeviceNode): void {
  const phandle = freePhandle(tree);
  const bus = tree.find('soc', 'pci');
  mapEndpoints(bus, phandle);
  bus.add(
    new DeviceNode(`iommu@${UNIT_SLOT},0`)
      .set('compatible', ['pci1efd,edf1', 'riscv,pci-iommu'])
      // Configuration space of the function: bus, device and function in the first cell.
      .set('reg', [UNIT_SLOT << 11, 0, 0, 0, 0])
      .set('#iommu-cells', [1])
      .set('phandle', [phandle]),
  );
}
