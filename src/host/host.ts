/// <reference lib="esnext.disposable" preserve="true" />
/** What paths, machines and plain users see of a host: no value in it is specific to an interface or to hardware. */

import type { HostError } from './errno.ts';
import type { SharedMemory } from './shared-memory.ts';

/** Closed range of IOVA page frame numbers (4 KiB pages). */
export interface IovaRange {
  readonly first: number;
  readonly last: number;
}

/** What a user needs of an I/O address space. Whatever is left out is "don't care". */
export interface SpaceRequirements {
  /** These pages must be mappable. */
  readonly apertures?: readonly IovaRange[];
  /** Mappings must be possible at this alignment: lg2 of bytes. */
  readonly granuleLg2?: number;
  /** Its devices ask there for pages that are not mapped, and wait; one that cannot is not attached. */
  readonly pageRequests?: PageRequestQueue;
  /** What its devices write is remembered by 4 KiB pages, where the host can: `HostSpace.dirty`. */
  readonly dirtyTracking?: boolean;
  /**
   * What is mapped for writing only cannot be read: a device whose tables have no such pages comes by other tables, or not at all. Default: on such
   * hardware it can be read.
   */
  readonly writeOnly?: boolean;
}

/** Receives [first, last] of written pages. */
export type DirtyVisitor = (first: number, last: number) => void;

/** What a host remembers of the pages that devices write. */
export interface DirtyTracking {
  /** Why it tells of pages that nobody wrote too; null: it does not, but for what lies in one of the hardware's pages. */
  readonly inexact: string | null;
  /**
   * Visits what was written of [first, first + pages), mapped without a hole, since it was visited last, or since it is remembered. What the host
   * does not say counts as written.
   */
  read(first: number, pages: number, visit: DirtyVisitor): void;
  /** `unmap` of the space, visiting what was written until then. */
  unmap(first: number, pages: number, visit: DirtyVisitor): number;
}

/** A page that a device wants, and waits for (PCIe 10.4, PRI). */
export interface WantedPage {
  /** -1: none. */
  readonly pasid: number;
  readonly group: number;
  /** The last of its group: its cookie answers for all of them. */
  readonly last: boolean;
  /** READ, WRITE, EXECUTE, PRIVILEGED of src/memory/access.ts. */
  readonly access: number;
  readonly address: bigint;
  readonly cookie: number;
}

/** The same, with the device that wants it. */
export interface PageRequest extends WantedPage {
  readonly device: HostDevice;
}

/** Recoverable faults of devices, as they wait for an answer. */
export interface PageRequestQueue {
  /** Those that have come, a bounded number at once. @throws HostError */
  read(): PageRequest[];
  /** Answers a group: its pages are there, or will not be. Of a device that has been attached elsewhere since, the kernel has answered. */
  respond(cookie: number, resolved: boolean): void;
  /** File descriptor that is readable when there is something to read. */
  readonly descriptor: number;
  close(): void;
}

/** How a host tells of recoverable faults. */
export interface HostPageRequests {
  /** Why the device cannot wait for a page; null: it can, as far as the kernel says without attaching it. */
  refuses(device: HostDevice): string | null;
  /** @throws HostError */
  createQueue(): PageRequestQueue;
}

/**
 * How a host attaches single PASIDs of a device (PCIe 6.20): requests that carry one go where it is attached, whatever becomes of those that carry
 * none.
 */
export interface HostPasids {
  /** Why the PASID cannot be attached for itself; null: it can, as far as the kernel says without attaching it. */
  refuses(device: HostDevice, pasid: number): string | null;
  /**
   * The device's requests with this PASID, as something that is attached and detached as a device is; at first they are blocked. Closing it detaches
   * it; where the kernel does not, it closes the device.
   */
  open(device: HostDevice, pasid: number): HostDevice;
}

/** What a host interface can do, asked from the kernel where the kernel can be asked. */
export interface HostCapabilities {
  /** An attached device can be moved to another space with no moment in between without one. */
  readonly replace: boolean;
  /** Mappings of one space can be shared into another without pinning again. */
  readonly copy: boolean;
}

/** A device that is bound to this host interface. */
export interface HostDevice {
  readonly name: string;
  /**
   * The kernel's number of the IOMMU group: the hardware cannot tell the devices of one apart, so they reach one space, or none, together.
   * null where the kernel does not say.
   */
  readonly iommuGroup: string | null;
  /** What its requests go through, by what the kernel answered last: a failed call may have left it anywhere. null: they are blocked. */
  readonly attachment: object | null;
  readonly closed: boolean;
  /** Blocks the device wherever it is attached. Returns 0 or a negative errno. */
  detach(): number;
  /**
   * Gives the device back to the kernel, detached. Idempotent, and closes whatever fails: returns what the kernel did not do, and what may hold
   * the device (a region of it that is still mapped), or null.
   */
  close(): HostError | null;
  [Symbol.dispose](): void;
}

/**
 * One I/O address space of the host kernel. `map`, `unmap`, `copy`, `attach` and `detach` return 0 or a negative errno and
 * leave `error` for whoever wants the operation and the range as well.
 */
export interface HostSpace extends AttachmentPoint {
  /** Where mappings are possible now, reserved ranges taken out; attaching a device can shrink it. */
  apertures(): readonly IovaRange[];
  /**
   * Makes it possible to map in these ranges too, now and for devices that come later: a host with DMA windows creates them. 0, or a
   * negative errno when one begins or ends outside what the host can reach; reserved ranges in between are no reason.
   */
  cover(ranges: readonly IovaRange[]): number;
  /** lg2 of the alignment of iova, host address and length, in bytes: 12 or more. */
  readonly granuleLg2: number;
  /** Mappings that can stand at one time; Infinity when only memory limits them. */
  readonly mappingLimit: number;
  /** Maps `pages` pages at IOVA page `iova` to host virtual page `host`. Overlap with a mapping: -EEXIST, nothing done. */
  map(iova: number, host: number, pages: number, permission: number): number;
  /**
   * Takes away every mapping in the range, the whole space when `pages` is PFN_LIMIT. A mapping that sticks out of it: -ENOENT,
   * and it stands; iommufd goes upwards, so what lay below it in the range may be gone. No mapping at all: -ENOENT.
   */
  unmap(iova: number, pages: number): number;
  /** Shares [iova, iova + pages) of another space of the same host at the same IOVA; that space must map all of it. */
  copy(from: HostSpace, iova: number, pages: number, permission: number): number;
  /**
   * Attaches the device, or replaces what it was attached to (capability `replace`; otherwise detaches first). Where it is after a failure
   * `HostDevice.attachment` says; of a closed one -ENODEV.
   */
  attach(device: HostDevice): number;
  detach(device: HostDevice): number;
  /**
   * From now on what devices write is remembered, or no more. Returns 0 or a negative errno: -EOPNOTSUPP where a space has to be made for it
   * (SpaceRequirements.dirtyTracking), or the host has no such thing.
   */
  trackDirty(on: boolean): number;
  /** null: what is written is not remembered. */
  readonly dirty: DirtyTracking | null;
  /** Of the last call of this space that failed. */
  readonly error: HostError | null;
  /** Destroys the space with all its mappings. @throws HostError EBUSY while a device is attached. */
  close(): void;
  [Symbol.dispose](): void;
}

/** What a device can be attached to. Calls return 0 or a negative errno. */
export interface AttachmentPoint {
  /** Attaches the device, or replaces what it was attached to. */
  attach(device: HostDevice): number;
  detach(device: HostDevice): number;
  /** Of the last call that failed. */
  readonly error: HostError | null;
}

/** What the IOMMU in front of a device can walk before the kernel's tables, as far as who writes such tables must know. */
export interface NestingHardware {
  readonly kind: 'vtd' | 'smmuv3';
  /** Widths of addresses that go in, and that come out: guest-physical ones. */
  readonly inputBits: number;
  readonly outputBits: number;
  readonly gigabytePages: boolean;
  /** A large page can become a table while it is in use (SMMUv3: IDR3.BBML 2). Without it only the smallest pages can be mapped. */
  readonly liveSplit: boolean;
  /** Width of the ASIDs by which it tells cached entries apart (SMMUv3: IDR0.ASID16); 0: the kernel gives each first stage a number of its own. */
  readonly asidBits: 0 | 8 | 16;
  /** Guest-physical pages can be for reading only (VT-d with erratum 772415: they cannot). */
  readonly readOnlyPages: boolean;
  /** One PASID of a device can have a first stage of its own (SMMUv3: a whole stream has one, which answers for its PASIDs). */
  readonly pasidStages: boolean;
  /** A guest can have a queue of commands that the hardware reads by itself (NVIDIA's CMDQV). */
  readonly commandQueue: boolean;
}

/** A first stage of the user's, in the hardware's terms; addresses are guest-physical. */
export type UserStage =
  /** VT-d 4.1, 9.6: the root of a first-stage table, and what the PASID entry says beside. */
  | {
      readonly kind: 'vtd';
      readonly root: bigint;
      readonly addressWidth: 48 | 57;
      readonly supervisor?: boolean;
      readonly extendedAccess?: boolean;
      readonly writeProtect?: boolean;
    }
  /** IHI 0070, 5.2: double words 0 and 1 of a stream table entry. `asid`: of the only context descriptor that it names; left out: a guest's. */
  | { readonly kind: 'smmuv3'; readonly ste: readonly [bigint, bigint]; readonly asid?: number };

/** What an installed first stage is to have beside its tables. */
export interface StageOptions {
  /** Ranges to be forgotten that one call names at most; of more, everything is forgotten. Default 32. */
  readonly ranges?: number;
  /** Its devices can ask for pages: in a queue, or (true) by NestingParent.events. Default false. */
  readonly pageRequests?: boolean | PageRequestQueue;
}

/** A first stage that the hardware has. It remembers what it has read until it is told to forget. */
export interface InstalledStage extends AttachmentPoint {
  /** [first, first + pages) has changed, tables above it too; remembered until `sync`. */
  invalidate(first: number, pages: number): void;
  invalidateAll(): void;
  /** The hardware has forgotten what was invalidated: one call at most. 0 or a negative errno, and then it may have forgotten nothing. */
  sync(): number;
  /** @throws HostError EBUSY while a device is attached. */
  close(): void;
  [Symbol.dispose](): void;
}

/** Commands of a guest for its own SMMUv3, which go to the hardware as they stand but for what that does not take; to every IOMMU that its devices stand behind. */
export interface GuestCommands {
  /** Four words, lowest first (IHI 0070, chapter 4); remembered until `sync`. Whatever is no invalidation costs nothing. */
  add(words: Int32Array): void;
  readonly pending: boolean;
  /** The hardware has carried out what was added, in order. 0 or a negative errno: then everything is added again. */
  sync(): number;
  /** Of the last `sync` that failed. */
  readonly error: HostError | null;
}

/** What the hardware says of the devices behind first stages of one guest. `id`: see NestingParent.name. */
export type StageEvent =
  /** A record in the hardware's own format, 32-bit words; the device is named by its ID. */
  | { readonly kind: 'record'; readonly words: Int32Array }
  | { readonly kind: 'lost' }
  | ({ readonly kind: 'page-request'; readonly id: number } & WantedPage);

/** Memory of this process for tables, page-aligned and zeroed. */
export interface TablePages {
  readonly buffer: ArrayBufferLike;
  /** Host virtual address of the first byte. */
  readonly address: bigint;
  release(): void;
}

/** One guest's guest-physical memory as the hardware's second stage, and what stands on it. */
export interface NestingParent {
  readonly hardware: NestingHardware;
  /** Guest-physical pages to host pages: one mapping, and one pin, for all devices and first stages. */
  readonly space: HostSpace;
  allocate(pages: number): TablePages;
  /** @throws HostError */
  install(device: HostDevice, stage: UserStage, options?: StageOptions): InstalledStage;
  /** No first stage: every request is refused, or reaches the guest-physical address that it names. @throws HostError */
  fixed(device: HostDevice, kind: 'abort' | 'bypass'): AttachmentPoint;
  /**
   * The number by which commands and events name the device; it must have one before it is attached to a guest's own stage. 0 or a negative
   * errno.
   */
  name(device: HostDevice, id: number): number;
  /** Where the hardware takes a guest's own commands (SMMUv3). */
  readonly commands: GuestCommands | null;
  /**
   * From now on invalidations are stores into a ring and a doorbell: no host call. Each IOMMU has a ring of its own in one of these guest-physical pages,
   * from the last one down, which devices can only read. What a ring does not take goes by calls, and so does what an IOMMU is told that has none (there
   * is no page left, or it can have no queue). @throws HostError when the first one can have none.
   */
  openQueues(first: number, last: number): void;
  /** What has come since the last time. @throws HostError */
  events(): StageEvent[];
  /** Answers the group of page requests whose last one had the cookie. One that is waited for no more is let go. */
  respond(cookie: number, resolved: boolean): void;
  /** Descriptors that are readable when there are events. */
  readonly eventDescriptors: readonly number[];
  /** @throws HostError EBUSY while a first stage stands on it. */
  close(): void;
  [Symbol.dispose](): void;
}

/** How a host puts first stages of the user's on its hardware. */
export interface HostNesting {
  /** What the device stands behind, or the reason why no first stage of the user's can be put there. */
  hardwareOf(device: HostDevice): NestingHardware | string;
  /** Why the device's hardware cannot take the stage; null: it can, as far as it says. */
  refuses(device: HostDevice, stage: UserStage): string | null;
  /** Whether the device may be able to ask for pages (PCIe PRI): it has ATS, without which none can. */
  requestsPages(device: HostDevice): boolean;
  /** `queue`: for a guest with a command queue (NestingParent.openQueues). @throws HostError */
  createParent(device: HostDevice, hardware: NestingHardware, queue?: boolean): NestingParent;
}

/** Host calls made, by kind, since the driver was opened. */
export interface HostCalls {
  map: number;
  unmap: number;
  copy: number;
  attach: number;
  /** Everything else: allocation, queries, destruction. */
  control: number;
}

/** One open kernel interface. */
export interface Host {
  /** `iommufd`, `vfio-type1`, `vfio-spapr-tce`. */
  readonly kind: string;
  readonly capabilities: HostCapabilities;
  readonly calls: HostCalls;
  /** Absent: the interface has no first stages. */
  readonly nesting?: HostNesting;
  /** Absent: a fault is lost, or the host's. */
  readonly pageRequests?: HostPageRequests;
  /** Absent: requests with a PASID are blocked. */
  readonly pasids?: HostPasids;
  /** `path`: the device's VFIO node, as this interface wants it. @throws HostError */
  openDevice(path: string): HostDevice;
  /**
   * What of `wanted` (ascending) a space with this device could map, reserved ranges and what no window reaches taken out. The device is attached
   * to nothing, before and after. @throws HostError
   */
  reach(device: HostDevice, wanted: readonly IovaRange[]): readonly IovaRange[];
  /** Why a space cannot be made that remembers what the device writes (SpaceRequirements.dirtyTracking); null: one can. */
  refusesDirtyTracking(device: HostDevice): string | null;
  /** Why the device reads what a space maps for writing only, unless that is made otherwise (SpaceRequirements.writeOnly); null: it does not, as far as is known. */
  lacksWriteOnly(device: HostDevice): string | null;
  /** @throws HostError, with the reason when the interface cannot meet a requirement. */
  createSpace(requirements?: SpaceRequirements): HostSpace;
  /** Tells of memory that will be mapped again and again; the disposer says that it will no more. Absent: it makes no difference to the host. */
  share?(memory: SharedMemory): () => void;
  /** Closes everything that was opened through it. Idempotent. */
  close(): void;
  [Symbol.dispose](): void;
}
