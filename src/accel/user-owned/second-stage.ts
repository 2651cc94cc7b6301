import { errno, HostError } from '../../host/errno.ts';
import type { Host, HostDevice, NestingHardware, NestingParent } from '../../host/host.ts';
import { READ, READ_WRITE } from '../../memory/access.ts';
import { pfnOf } from '../../memory/address.ts';
import type { GuestMemory, GuestRegion } from '../../memory/guest-memory.ts';
import { TableArena } from './table-arena.ts';

/** By host and guest: all devices and spaces of a machine stand on one. */
const known = new WeakMap<Host, Map<GuestMemory, SecondStage>>();

/** Guest RAM as the hardware has it, mapped and pinned once, and the arena for tables beside it. */
export class SecondStage {
  readonly parent: NestingParent;
  readonly arena: TableArena;
  readonly #memory: GuestMemory;
  readonly #release: () => void;
  #followed: readonly GuestRegion[] = [];
  #users = 1;
  #nextAsid = 1;

  private constructor(parent: NestingParent, memory: GuestMemory, release: () => void) {
    this.parent = parent;
    this.#memory = memory;
    this.#release = release;
    this.arena = new TableArena(parent);
  }

  /** The one of this host and guest; `leave` gives it back. @throws HostError */
  static join(host: Host, memory: GuestMemory, device: HostDevice, hardware: NestingHardware): SecondStage {
    const guests = known.get(host) ?? new Map<GuestMemory, SecondStage>();
    known.set(host, guests);
    const before = guests.get(memory);
    if (before !== undefined) {
      before.#users++;
      return before;
    }
    const parent = host.nesting!.createParent(device, hardware);
    const made = new SecondStage(parent, memory, () => guests.delete(memory));
    if (made.follow() < 0) {
      const { error } = parent.space;
      made.leave();
      throw error ?? new HostError('second stage', errno.EIO);
    }
    guests.set(memory, made);
    return made;
  }

  /** Tells the caches' entries of this guest's first stages apart (SMMUv3: 16 bits). */
  takeAsid(): number {
    const asid = this.#nextAsid;
    this.#nextAsid = (this.#nextAsid % 0xffff) + 1;
    return asid;
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
    }
    for (const region of regions) {
      if (region.hostAddress === undefined || this.#followed.includes(region)) continue;
      const permission = region.readOnly ? READ : READ_WRITE;
      const answer = space.map(pfnOf(region.gpa), pfnOf(region.hostAddress), pagesOf(region), permission);
      if (answer < 0) return answer;
      this.#followed = [...this.#followed, region];
    }
    return 0;
  }

  /** Returns what could not be freed. */
  leave(): HostError | null {
    if (--this.#users > 0) return null;
    this.#release();
    try {
      this.parent.close();
      this.arena.release();
      return null;
    } catch (error) {
      if (error instanceof HostError) return error;
      throw error;
    }
  }
}

function pagesOf({ buffer, offset = 0, bytes = buffer.byteLength - offset }: GuestRegion): number {
  return bytes / 4096;
}
