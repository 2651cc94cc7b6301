import { hostErrorOf } from '../errno.ts';
import type { HostDevice } from '../host.ts';
import { own } from './device.ts';
import type { SmmuSide } from './parent-unit.ts';
import type { Vdevice } from './viommu.ts';

interface StreamPlace {
  readonly side: SmmuSide;
  readonly stream: number;
  /** null: it was taken away, and could not be given back. */
  vdevice: Vdevice | null;
}

/** Who has a device on a vIOMMU of his: the kernel gives it one place. */
const owners = new WeakMap<HostDevice, Streams>();

/** The devices on the vIOMMUs of one nesting parent, by the stream IDs by which commands and events name them. */
export class Streams {
  readonly #places = new Map<HostDevice, StreamPlace>();
  #next = 0;

  /**
   * From now on commands for this IOMMU, and its events, know the device by the ID; -1: by any. 0 or a negative errno (EINVAL: it stands behind another
   * IOMMU), and then it is where it was.
   */
  admit(side: SmmuSide, device: HostDevice, id = -1): number {
    for (const known of this.#places.keys()) if (known.closed) this.#release(known);
    const before = this.#places.get(device);
    const stays = before !== undefined && before.side === side && (id < 0 || before.stream === id);
    if (stays && before.vdevice !== null) return 0;
    const owner = owners.get(device);
    try {
      if (owner !== undefined) owner.#suspend(device);
    } catch (error) {
      return -hostErrorOf(error).errno;
    }
    const stream = id >= 0 ? id : stays ? before.stream : this.#next++;
    const result = this.#enter(side, device, stream, owner);
    if (result < 0 && owner !== undefined) owner.#resume(device);
    return result;
  }

  #enter(side: SmmuSide, device: HostDevice, stream: number, owner: Streams | undefined): number {
    try {
      const vdevice = side.viommu.addDevice(own(device), BigInt(stream));
      side.streams.add(stream);
      const missed = side.commands.catchUp();
      if (missed < 0) {
        // Commands are missed while there is no stream, so it was the first.
        side.streams.delete(stream);
        vdevice.close();
        return missed;
      }
      if (owner !== undefined) owner.#forget(device);
      side.streams.add(stream);
      this.#places.set(device, { side, stream, vdevice });
      owners.set(device, this);
      return 0;
    } catch (error) {
      return -hostErrorOf(error).errno;
    }
  }

  /** Of a device that has one. */
  #placeOf(device: HostDevice): StreamPlace {
    return this.#places.get(device)!;
  }

  /** Its commands are refused from now on, which keeps whoever has it from believing that they were carried out. @throws HostError */
  #suspend(device: HostDevice): void {
    const place = this.#placeOf(device);
    place.vdevice?.close();
    place.vdevice = null;
  }

  #resume(device: HostDevice): void {
    const place = this.#placeOf(device);
    try {
      place.vdevice = place.side.viommu.addDevice(own(device), BigInt(place.stream));
    } catch (error) {
      hostErrorOf(error);
    }
  }

  #forget(device: HostDevice): void {
    const { side, stream } = this.#placeOf(device);
    this.#places.delete(device);
    side.streams.delete(stream);
    owners.delete(device);
  }

  /** The device has its place here no longer; of a closed one the kernel has taken it. @throws HostError */
  #release(device: HostDevice): void {
    this.#suspend(device);
    this.#forget(device);
  }

  /** All devices of an IOMMU, or of every one. @throws HostError */
  releaseAll(side?: SmmuSide): void {
    for (const [device, place] of this.#places) if (side === undefined || place.side === side) this.#release(device);
  }
}
