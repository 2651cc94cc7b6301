import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Target } from '../../target/target.ts';
import type { RegisterCounts } from '../../vmm/units/index.ts';
import type { PciVfioDevice } from '../../vmm/vfio-user/index.ts';
import type { Deliver, Witness } from './record/witness.ts';

/** What a guest's script does besides: boots again, binds the disk's driver again, uses a network and an entropy device. */
export type GuestTask = 'reboot' | 'rebind' | 'network';

/** How a guest is to be run; each IOMMU takes what applies to it. */
export interface GuestChoices {
  readonly cpus: number;
  /** Interrupts of the devices through the IOMMU's remapping, where the guest must be told to use it. */
  readonly remap: boolean;
  /** What else the guest does. */
  readonly tasks: readonly GuestTask[];
  /** More for the kernel's command line. */
  readonly append: readonly string[];
  /** A variant of the IOMMU's own: `caching-mode`, `v2`, `stage2`. */
  readonly variant: string | null;
}

/** A function on a socket, at a device number of bus 0. */
export interface GuestFunction {
  readonly name: string;
  readonly slot: number;
  readonly device: PciVfioDevice;
  /** What its client maps goes there. */
  readonly memory: GuestMemory;
}

/** Files of one run. */
export interface RunFiles {
  readonly folder: string;
  readonly kernel: string;
  readonly initrd: string;
  /** The program that will run them. */
  readonly qemu: string;
}

/** The IOMMU of a guest, with the functions that its registers are behind. */
export interface GuestUnit {
  readonly target: Target;
  readonly functions: readonly GuestFunction[];
  readonly registers: RegisterCounts;
  /** A message of an endpoint's that the unit remaps. False: it is a write like any other. */
  message(source: number, address: bigint, data: number, deliver: Deliver): boolean;
  /** Where software has put its registers; null: not yet, or it does not matter. */
  base(): bigint | null;
  /** QEMU's arguments but for those that all guests share. `base`: where the registers are expected. */
  arguments(files: RunFiles, base: bigint): readonly string[] | Promise<readonly string[]>;
}

/** One kind of IOMMU, and the guest that drives it. */
export interface GuestRecipe {
  readonly iommu: string;
  readonly summary: string;
  /** Of QEMU and of Debian. */
  readonly arch: string;
  readonly debianArch: string;
  readonly suite: string;
  readonly qemuPackage: string;
  /** Modules of the guest's kernel, in the order of loading. */
  readonly modules: readonly string[];
  /** More of them for a task. */
  readonly taskModules: Readonly<Partial<Record<GuestTask, readonly string[]>>>;
  /** The guest's words on a forbidden DMA of 00:06.0 at 0xdead0000. */
  readonly fault: RegExp;
  /** The guest's words when it uses the IOMMU. */
  readonly inUse: RegExp;
  /** Its words when it has the IOMMU remap interrupts; null: it cannot. */
  readonly remapping: RegExp | null;
  /** What --variant may name. */
  readonly variants: readonly string[];
  /** What --task may name. */
  readonly tasks: readonly GuestTask[];
  /** Whether Linux translates nothing of its own accord, so that a module must put the devices into domains. */
  readonly needsModule: boolean;
  /** Whether all that the guest does goes by the witness. */
  readonly recordable: boolean;
  /** `deliver`: for the unit's own interrupts. */
  build(choices: GuestChoices, deliver: Deliver, witness: Witness): GuestUnit;
  /** Where firmware puts the registers, as far as is known: a wrong guess costs a start. */
  readonly guess: bigint;
}

/** Requester IDs of the devices behind the IOMMU. */
export const DISK_SLOT = 5;
export const ENGINE_SLOT = 6;
export const ENTROPY_SLOT = 7;
export const NETWORK_SLOT = 8;
export const DISK = DISK_SLOT << 3;
export const ENGINE = ENGINE_SLOT << 3;
/** Those of every guest. */
export const ENDPOINTS: readonly number[] = [DISK, ENGINE];

/** Device numbers of those that a guest with these choices has. */
export function endpointSlots({ tasks }: GuestChoices): readonly number[] {
  return [DISK_SLOT, ENGINE_SLOT, ...(tasks.includes('network') ? [ENTROPY_SLOT, NETWORK_SLOT] : [])];
}

/** Modules for a disk with a file system, and a driver that does nothing for the DMA engine. */
export const GUEST_MODULES = ['pci-stub', 'crc16', 'crc32c_generic', 'mbcache', 'jbd2', 'ext4', 'virtio_blk'] as const;

/** A driver for user space, for the task `rebind`. */
export const USERSPACE_MODULES = ['vfio', 'vfio-pci-core', 'vfio-pci'] as const;

/** More modules for the task `network`. */
export const NETWORK_MODULES = ['failover', 'net_failover', 'virtio_net', 'virtio-rng'] as const;

/** A vfio-user function for QEMU. */
export function functionArgument(fn: GuestFunction, socket: string, more: object = {}): readonly string[] {
  const description = {
    driver: 'vfio-user-pci',
    socket: { type: 'unix', path: socket },
    rombar: 0,
    addr: `${fn.slot.toString(16)}.0`,
    ...more,
  };
  return ['-device', JSON.stringify(description)];
}

/** The kernel's command line; `own`: what the machine and its IOMMU want. */
export function kernelCommandLine(console: string, { append, tasks }: GuestChoices, own: readonly string[] = []): string {
  const wanted = tasks.length > 0 ? [`viommu.do=${tasks.join(',')}`] : [];
  return [`console=${console}`, 'panic=-1', 'printk.devkmsg=on', ...own, ...append, ...wanted].join(' ');
}

/** Bytes of RAM of each guest. */
export const RAM_BYTES = 512 << 20;

/** QEMU's machine and processors, with guest RAM that a client of ours can be given. */
export function machineArguments(machine: string, processor: readonly string[]): readonly string[] {
  const megabytes = RAM_BYTES >> 20;
  const ram = `memory-backend-memfd,id=ram0,size=${megabytes}M,share=on`;
  return ['-M', machine, ...processor, '-m', `${megabytes}`, '-object', ram, '-machine', 'memory-backend=ram0'];
}
