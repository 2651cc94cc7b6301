import type { AttachmentPoint, HostDevice } from '../host/host.ts';
import { sealAll } from './seal.ts';

/**
 * The devices whose requests reach one address space. Which of them its host space has is not remembered here: the driver says
 * (`HostDevice.attachment`), by what the kernel answered.
 */
export class Attachments {
  readonly #devices = new Set<HostDevice>();
  #space: AttachmentPoint;
  #behind = false;

  constructor(space: AttachmentPoint) {
    this.#space = space;
  }

  get devices(): ReadonlySet<HostDevice> {
    return this.#devices;
  }

  /** Some device waits to be let in. */
  get behind(): boolean {
    return this.#behind;
  }

  get empty(): boolean {
    for (const device of this.#devices) if (this.#has(device)) return false;
    return true;
  }

  #has(device: HostDevice): boolean {
    return device.attachment === this.#space;
  }

  /** Attaches a device. Returns 0, or a negative errno, and then it is none of these. */
  admit(device: HostDevice): number {
    const answer = this.#has(device) ? 0 : this.#space.attach(device);
    if (answer === 0) this.#devices.add(device);
    return answer;
  }

  /** As `admit`, but the device waits until `admitAll`, and reaches nothing meanwhile: its guest has left where it is. */
  await(device: HostDevice): void {
    this.#devices.add(device);
    this.#behind = true;
    this.#sealGroupOf(device);
  }

  /** Detaches a device. Returns 0 or a negative errno, and then it is where it was. */
  expel(device: HostDevice): number {
    const answer = this.#has(device) ? this.#space.detach(device) : 0;
    if (answer === 0) this.#devices.delete(device);
    return answer;
  }

  /** The device is somebody else's now. */
  forget(device: HostDevice): void {
    this.#devices.delete(device);
  }

  /** Lets in whoever waits and can come. A closed device waits no more. */
  admitAll(): void {
    this.#behind = false;
    for (const device of this.#devices) {
      if (!device.closed && !this.#has(device) && this.#space.attach(device) < 0) this.#behind = true;
    }
  }

  /** No device reaches the space until `admitAll`; one that cannot be detached is closed. */
  expelAll(): void {
    for (const device of this.#devices) {
      if (this.#has(device) && this.#space.detach(device) < 0) this.#sealGroupOf(device);
    }
    this.#behind = true;
  }

  /** Moves every attached device to another host space, or none: one that can neither move nor go back is blocked, with its group. */
  moveTo(space: AttachmentPoint): boolean {
    const before = this.#space;
    const moving = [...this.#devices].filter((device) => this.#has(device));
    let result = 0;
    for (const device of moving) if (result === 0) result = space.attach(device);
    if (result === 0) {
      this.#space = space;
      return true;
    }
    for (const device of moving) {
      if (device.attachment === before || before.attach(device) === 0) continue;
      this.#behind = true;
      this.#sealGroupOf(device);
    }
    return false;
  }

  #sealGroupOf(device: HostDevice): void {
    const { iommuGroup } = device;
    sealAll([...this.#devices].filter((other) => other === device || (iommuGroup !== null && other.iommuGroup === iommuGroup)));
  }
}
