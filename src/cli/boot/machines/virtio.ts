import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GuestMemory } from '../../../memory/guest-memory.ts';
import { VirtioIommu } from '../../../target/virtio-iommu/index.ts';
import { viotTable } from '../../../vmm/firmware/acpi/viot.ts';
import { IOMMU_CLASS } from '../../../vmm/units/index.ts';
import { PciVfioDevice } from '../../../vmm/vfio-user/index.ts';
import { VirtioPci, VirtioType } from '../../../vmm/virtio/index.ts';
import { DISK, ENDPOINTS, ENGINE, GUEST_MODULES, type GuestRecipe, USERSPACE_MODULES } from '../recipe.ts';
import { x86Arguments } from './x86.ts';

const UNIT_SLOT = 4;
const QUEUES = 2;
const CONFIG_BYTES = 40;
/** Where x86 has its interrupts: they pass as they are. */
const MESSAGES = { kind: 'msi', start: 0xfee0_0000n, last: 0xfeef_ffffn } as const;

/** virtio-iommu over virtio-pci; VIOT says whom it translates. */
export const virtio: GuestRecipe = {
  iommu: 'virtio',
  summary: 'virtio-iommu over PCI',
  arch: 'x86_64',
  debianArch: 'amd64',
  suite: 'trixie',
  qemuPackage: 'qemu-system-x86',
  modules: ['virtio-iommu', ...GUEST_MODULES],
  taskModules: { rebind: ['irqbypass', ...USERSPACE_MODULES] },
  variants: [],
  fault: /virtio_iommu .*fault from EP 48 at 0xdead0000/,
  inUse: /virtio_iommu virtio\d+: (input address|page mask)/,
  remapping: null,
  guess: 0n,

  tasks: ['reboot', 'rebind'],
  needsModule: false,
  recordable: false,
  build: (choices) => {
    const memory = new GuestMemory([]);
    const iommu = new VirtioIommu({ memory, interrupt: (source) => transport.interrupt(source) });
    for (const endpoint of ENDPOINTS) iommu.addEndpoint(endpoint, [MESSAGES]);
    const description = { type: VirtioType.IOMMU, queues: QUEUES, configBytes: CONFIG_BYTES, classCode: IOMMU_CLASS, model: iommu };
    const transport = new VirtioPci(description, {
      sendMessage: (address, data) => device.sendMessage(address, data),
      setIntx: (level) => device.setIntx(level),
    });
    const device = new PciVfioDevice(transport.fn, { hideMsix: true });
    return {
      target: iommu,
      functions: [{ name: 'unit', slot: UNIT_SLOT, device, memory }],
      registers: transport.accesses,
      message: () => false,
      base: () => null,
      arguments: (files) => {
        const table = join(files.folder, 'viot.bin');
        const endpoints = [{ kind: 'pci', first: DISK, last: ENGINE, endpoint: DISK }] as const;
        writeFileSync(table, viotTable({ iommu: { kind: 'pci', device: UNIT_SLOT << 3 }, endpoints }));
        return [...x86Arguments(choices, files, []), '-acpitable', `file=${table}`];
      },
    };
  },
};
