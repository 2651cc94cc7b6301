import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { VtdIommu } from '../../../target/vtd/index.ts';
import { type DeviceScope, dmarTable } from '../../../vmm/firmware/acpi/dmar.ts';
import { countedRegisters, type RegisterCounts, vtdFunction, vtdMessage } from '../../../vmm/units/index.ts';
import { PciVfioDevice } from '../../../vmm/vfio-user/index.ts';
import { endpointSlots, GUEST_MODULES, type GuestRecipe, NETWORK_MODULES, USERSPACE_MODULES } from '../recipe.ts';
import { HiddenAfterUse } from './hidden.ts';
import { x86Arguments } from './x86.ts';

const UNIT_SLOT = 4;
/** The I/O APIC's source-id is nobody else's; QEMU's own APIC does not ask the unit, so nothing ever comes from it. */
const IOAPIC: DeviceScope = { kind: 'ioapic', enumerationId: 0, startBus: 0, path: [{ device: 30, function: 0 }] };

const endpoint = (device: number): DeviceScope => ({ kind: 'endpoint', startBus: 0, path: [{ device, function: 0 }] });

/** VT-d: registers in a function that the guest does not see, which the DMAR table points at. */
export const vtd: GuestRecipe = {
  iommu: 'vtd',
  summary: 'Intel VT-d, legacy mode; --variant caching-mode, scalable',
  arch: 'x86_64',
  debianArch: 'amd64',
  suite: 'trixie',
  qemuPackage: 'qemu-system-x86',
  modules: GUEST_MODULES,
  taskModules: { rebind: ['irqbypass', ...USERSPACE_MODULES], network: NETWORK_MODULES },
  fault: /DMAR: \[DMA Write NO_PASID\] Request device \[00:06\.0\] fault addr 0xdead0000/,
  inUse: /DMAR: Intel\(R\) Virtualization Technology for Directed I\/O/,
  remapping: /DMAR-IR: Enabled IRQ remapping/,
  variants: ['caching-mode', 'scalable'],
  guess: 0xfebf_c000n,

  tasks: ['reboot', 'rebind', 'network'],
  needsModule: false,
  recordable: true,
  build: (choices, deliver, witness) => {
    const { memory } = witness;
    const options = {
      cachingMode: choices.variant === 'caching-mode',
      scalableMode: choices.variant === 'scalable',
      interruptRemapping: choices.remap,
      // Destinations beyond 8 bits cannot be told to QEMU's APICs.
      extendedInterruptMode: false,
      postedInterrupts: false,
    };
    const iommu = new VtdIommu(options, { memory, sendInterrupt: witness.sending(deliver) });
    const endpoints = endpointSlots(choices).map((slot) => slot << 3);
    for (const requester of endpoints) iommu.addEndpoint(requester);
    const registers: RegisterCounts = { reads: 0, writes: 0 };
    const fn = vtdFunction(iommu, witness.registers(countedRegisters(iommu, registers)));
    const hidden = new HiddenAfterUse(registers);
    const device = new PciVfioDevice(fn, {
      absent: hidden.absent,
      reset: () => {
        witness.reset(() => iommu.reset());
        hidden.reset();
      },
    });
    const recorded = {
      cachingMode: Number(options.cachingMode),
      scalableMode: Number(options.scalableMode),
      interruptRemapping: Number(options.interruptRemapping),
    };
    witness.machine('vtd', 0n, endpoints, recorded);
    return {
      target: witness.target(iommu),
      functions: [{ name: 'registers', slot: UNIT_SLOT, device, memory }],
      registers,
      message: (source, address, data, to) =>
        witness.message(source, address, data, to, (remapped) => vtdMessage(iommu, source, address, data, remapped)),
      base: () => fn.addressOf(0),
      arguments: (files, base) => {
        const table = join(files.folder, 'dmar.bin');
        const scope = [...endpointSlots(choices).map(endpoint), ...(choices.remap ? [IOAPIC] : [])];
        writeFileSync(table, dmarTable({ hostAddressWidth: 48, interruptRemapping: choices.remap, units: [{ registers: base, scope }] }));
        const mode = `intel_iommu=on${choices.variant === 'scalable' ? ',sm_on' : ''}`;
        return [...x86Arguments(choices, files, [mode, ...(choices.remap ? [] : ['intremap=off'])]), '-acpitable', `file=${table}`];
      },
    };
  },
};
