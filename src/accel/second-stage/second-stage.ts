import { errno, HostError, hostErrorOf } from '../../host/errno.ts';
import type { DirtyVisitor, Host, HostDevice, NestingHardware, NestingParent } from '../../host/host.ts';
import { READ, READ_WRITE } from '../../memory/access.ts';
import { pfnOf } from '../../memory/address.ts';
import type { GuestMemory, GuestRegion } from '../../memory/guest-memory.ts';
import { LeftOut } from '../left-out.ts';
import type { PathContext } from '../path.ts';
import { Asids } from './asids.ts';
import { TableArena } from './table-arena.ts';

/** Who writes the first stages on it, and whether invalidations go through a queue that the hardware reads. */
export interface SecondStageUse {
  /** The guest's own could reach what lies beside guest RAM, so tables of ours stand on a second stage of their own. */
  readonly tables: 'guest' | 'ours';
  readonly queue: boolean;
}

/** By host and guest: all devices and spaces of a machine stand on one, or on one a use. */
const known = new WeakMap<Host, Map<GuestMemory, Map<string, SecondStage>>>();

/** Pages for queues: IOMMUs that can have one each. */
const QUEUE_PAGES = 8;

/** Guest RAM as the hardware has it, mapped and pinned once; beside it, at the top, pages for queues and an arena for tables. */
export class SecondStage {
  readonly parent: NestingParent;
  readonly arena: TableArena;
  readonly asids: Asids;
  readonly #memory: GuestMemory;
  /** All of this host and guest, with this one. */
  readonly #siblings: Map<string, SecondStage>;
  readonly #key: string;
  readonly #leftOut: LeftOut;
  #followed: readonly GuestRegion[] = [];
  #users = 1;

  private constructor(parent: NestingParent, memory: GuestMemory, siblings: Map<string, SecondStage>, key: string) {
    this.parent = parent;
    this.#memory = memory;
    this.#leftOut = new LeftOut(memory);
    this.#siblings = siblings;
    this.#key = key;
    this.asids = new Asids(parent.hardware.asidBits);
    const top = Math.max(...parent.space.apertures().map(({ last }) => last));
    const { outputBits, liveSplit } = parent.hardware;
    const mapped = liveSplit ? 0 : memory.regions.reduce((pages, region) => pages + pagesOf(region), 0);
    this.arena = new TableArena(parent, Math.min(top + 1, 2 ** (outputBits - 12)) - QUEUE_PAGES, mapped);
  }

  /** The one of this host and guest; `leave` gives it back. @throws HostError */
  static join(host: Host, memory: GuestMemory, device: HostDevice, hardware: NestingHardware, use: SecondStageUse): SecondStage {
    const guests = known.get(host) ?? new Map<GuestMemory, Map<string, SecondStage>>();
    known.set(host, guests);
    const siblings = guests.get(memory) ?? new Map<string, SecondStage>();
    guests.set(memory, siblings);
    const key = `${hardware.kind} ${use.tables} ${use.queue}`;
    const before = siblings.get(key);
    if (before !== undefined) {
      before.#users++;
      return before;
    }
    const parent = host.nesting!.createParent(device, hardware, use.queue);
    const made = new SecondStage(parent, memory, siblings, key);
    try {
      if (memory.isLogged) made.trackDirty(true);
      if (made.follow() < 0) throw parent.space.error ?? new HostError('second stage', errno.EIO);
      if (use.queue) parent.openQueues(made.arena.end, made.arena.end + QUEUE_PAGES - 1);
    } catch (error) {
      made.leave();
      throw error;
    }
    siblings.set(key, made);
    return made;
  }

  /** Guest RAM is other than it was: what is gone is unmapped, what is new is mapped. Returns 0 or a negative errno. */
  follow(): number {
    const { regions } = this.#memory;
    const { space } = this.parent;
    const gone = this.#followed.filter((region) => !regions.includes(region));
    for (const region of gone) {
      const answer = space.unmap(pfnOf(region.gpa), pagesOf(region));
      if (answer < 0 && answer !== -errno.ENOENT) return answer;
      this.#followed = this.#followed.filter((other) => other !== region);
      this.#memory.unreached(pfnOf(region.gpa), pagesOf(region));
    }
    for (const region of regions) {
      if (region.hostAddress === undefined || this.#followed.includes(region)) continue;
      const [first, pages] = [pfnOf(region.gpa), pagesOf(region)];
      if (!this.#memory.reached(first, pages)) return -errno.ENOMEM;
      const answer = this.#map(region, region.hostAddress);
      if (answer < 0) {
        this.#memory.unreached(first, pages);
        return answer;
      }
      this.#followed = [...this.#followed, region];
    }
    return 0;
  }

  /** What another second stage of the guest has pinned is shared, where the host can. */
  #map(region: GuestRegion, hostAddress: bigint): number {
    const { space } = this.parent;
    const permission = region.readOnly ? READ : READ_WRITE;
    const [first, pages] = [pfnOf(region.gpa), pagesOf(region)];
    for (const sibling of this.#siblings.values()) {
      if (sibling === this || !sibling.#followed.includes(region)) continue;
      if (space.copy(sibling.parent.space, first, pages, permission) === 0) return 0;
    }
    const answer = space.map(first, pfnOf(hostAddress), pages, permission);
    return answer < 0 && this.#leftOut.takes(first, answer) ? 0 : answer;
  }

  get leftOut(): readonly string[] {
    return this.#leftOut.reasons;
  }

  /** The answer when a device was to be attached to what stands on it. */
  attached(device: HostDevice, answer: number): void {
    if (answer === -errno.EADDRINUSE) reserving.set(device, this.#memory.regions);
  }

  trackDirty(on: boolean): void {
    this.parent.space.trackDirty(on);
  }

  /** Without hardware that remembers what was written, all of it was: what first stages allow is not looked at. */
  noteWrites(): void {
    if (!this.#memory.isLogged) return;
    const { dirty } = this.parent.space;
    const written: DirtyVisitor = (first, last) => this.#memory.wrote(first, last - first + 1);
    for (const region of this.#followed) {
      const [first, pages] = [pfnOf(region.gpa), pagesOf(region)];
      if (dirty === null) written(first, first + pages - 1);
      else dirty.read(first, pages, written);
    }
  }

  get inexact(): string | null {
    const { dirty } = this.parent.space;
    return dirty === null ? `the kernel keeps no dirty bits in a second stage of ${this.parent.hardware.kind}` : dirty.inexact;
  }

  /** Returns what could not be freed. */
  leave(): HostError | null {
    this.noteWrites();
    if (--this.#users > 0) return null;
    if (this.#siblings.get(this.#key) === this) this.#siblings.delete(this.#key);
    try {
      this.parent.close();
      for (const region of this.#followed) this.#memory.unreached(pfnOf(region.gpa), pagesOf(region));
      this.arena.release();
      return null;
    } catch (error) {
      return hostErrorOf(error);
    }
  }
}

function pagesOf({ buffer, offset = 0, bytes = buffer.byteLength - offset }: GuestRegion): number {
  return bytes / 4096;
}

/** Why the hardware in front of the device has no queue for a guest's commands; null: it has one. */
export function refuseQueue({ host, device }: PathContext): string | null {
  const hardware = device === undefined ? undefined : host?.nesting?.hardwareOf(device);
  if (typeof hardware === 'object' && hardware.commandQueue) return null;
  return "the hardware has no command queue for guests (NVIDIA's CMDQV)";
}

/** Devices that have ranges of their own where a guest has RAM: the kernel says so when they are attached, and not before. By the regions at that time. */
const reserving = new WeakMap<HostDevice, readonly GuestRegion[]>();

/** Why the hardware cannot have the guest's memory under a first stage; null: it can, as far as is known. */
export function refuseMemory({ memory, device }: PathContext, { readOnlyPages }: NestingHardware): string | null {
  if (device !== undefined && reserving.get(device) === memory.regions)
    return `guest RAM lies where ${device.name} has a reserved range (EADDRINUSE), and a second stage maps all of it where the guest has it`;
  const rom = readOnlyPages ? undefined : memory.regions.find(({ readOnly, hostAddress }) => readOnly && hostAddress !== undefined);
  return rom === undefined
    ? null
    : `VT-d with erratum 772415 has no pages for reading only under a first stage: ROM at 0x${rom.gpa.toString(16)}`;
}

/** Why no single PASID has a first stage of its own on such hardware. */
export function refusePasid({ kind }: NestingHardware): string {
  return kind === 'smmuv3'
    ? 'an SMMUv3 has first stages of whole devices, and none of single PASIDs'
    : 'VT-d without PASIDs (IOMMU_GET_HW_INFO)';
}
