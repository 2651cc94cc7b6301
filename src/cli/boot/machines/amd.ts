import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GuestMemory } from '../../../memory/guest-memory.ts';
import { AmdIommu } from '../../../target/amd/index.ts';
import { type IvhdDevice, ivrsTable } from '../../../vmm/firmware/acpi/ivrs.ts';
import {
  AMD_CAPABILITY,
  amdFunction,
  amdMessage,
  amdRegisterFunction,
  countedRegisters,
  type RegisterCounts,
} from '../../../vmm/units/index.ts';
import { PciVfioDevice } from '../../../vmm/vfio-user/index.ts';
import { ENDPOINTS, GUEST_MODULES, type GuestRecipe, USERSPACE_MODULES } from '../recipe.ts';
import { HiddenAfterUse } from './hidden.ts';
import { x86Arguments } from './x86.ts';

const UNIT_SLOT = 3;
const REGISTERS_SLOT = 4;
/** Offset of the extended feature register, which IVHD repeats. */
const EFR = 0x30;
const EFR2 = 0x1a0;
/** x2APIC destinations cannot be told to QEMU's APICs. */
const WITHOUT = ['XTSup', 'GASup'];
/** QEMU's I/O APIC as a source of interrupts; it does not ask the unit, so nothing ever comes from it. */
const IOAPIC: IvhdDevice = { kind: 'ioapic', handle: 0, device: 0xa0 };

/** AMD-Vi: the function that IVHD names, which the guest sees, and one with the registers, which it does not. */
export const amd: GuestRecipe = {
  iommu: 'amd',
  summary: 'AMD-Vi, host tables (v1); --variant v2 (guest tables), npcache',
  arch: 'x86_64',
  debianArch: 'amd64',
  suite: 'trixie',
  qemuPackage: 'qemu-system-x86',
  modules: GUEST_MODULES,
  taskModules: { rebind: ['irqbypass', ...USERSPACE_MODULES] },
  variants: ['v2', 'npcache'],
  fault: /0000:00:06\.0: AMD-Vi: Event logged \[IO_PAGE_FAULT .*address=0xdead0000/,
  inUse: /AMD-Vi: Extended features/,
  remapping: /AMD-Vi: Interrupt remapping enabled/,
  guess: 0xfebf_0000n,

  tasks: ['reboot', 'rebind'],
  needsModule: false,
  recordable: true,
  build: (choices, deliver, witness) => {
    const { memory } = witness;
    const npCache = choices.variant === 'npcache';
    const own = witness.sending(() => void unit.signal(0));
    const iommu = new AmdIommu(
      // Which message it is stands in its function's configuration space.
      { memory, npCache, without: WITHOUT, interrupt: () => own(0n, 0) },
      {},
    );
    for (const device of ENDPOINTS) iommu.addEndpoint(device);
    const registers: RegisterCounts = { reads: 0, writes: 0 };
    const unit = amdFunction(iommu, deliver);
    const fn = amdRegisterFunction(witness.registers(countedRegisters(iommu, registers)));
    const hidden = new HiddenAfterUse(registers);
    const device = new PciVfioDevice(fn, {
      absent: hidden.absent,
      reset: () => {
        witness.reset(() => iommu.reset());
        hidden.reset();
      },
    });
    witness.machine('amd', 0n, ENDPOINTS, { npCache: Number(npCache), without: WITHOUT.join(',') });
    return {
      target: witness.target(iommu),
      functions: [
        { name: 'unit', slot: UNIT_SLOT, device: new PciVfioDevice(unit), memory: new GuestMemory([]) },
        { name: 'registers', slot: REGISTERS_SLOT, device, memory },
      ],
      registers,
      message: (source, address, data, to) =>
        witness.message(source, address, data, to, (remapped) => amdMessage(iommu, source, address, data, remapped)),
      base: () => fn.addressOf(0),
      arguments: (files, base) => {
        const table = join(files.folder, 'ivrs.bin');
        const devices: IvhdDevice[] = ENDPOINTS.map((endpoint) => ({ kind: 'select', device: endpoint }));
        if (choices.remap) devices.push(IOAPIC);
        const described = {
          device: UNIT_SLOT << 3,
          capability: AMD_CAPABILITY,
          registers: base,
          efr: iommu.read(EFR, 8),
          efr2: iommu.read(EFR2, 8),
          devices,
        };
        writeFileSync(table, ivrsTable({ physicalBits: 48, virtualBits: 48, units: [described] }));
        const commandLine = choices.variant === 'v2' ? ['amd_iommu=pgtbl_v2'] : [];
        return [...x86Arguments(choices, files, commandLine), '-acpitable', `file=${table}`];
      },
    };
  },
};
