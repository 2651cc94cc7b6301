import type { DeviceInvalidation, VtdSurroundings } from '../surroundings.ts';

/** ITags of PCIe ATS. */
const TAGS = 32;
const FREE = -1;

/** Invalidation requests that devices have not completed yet (4.3, 6.5.2.5). */
export class DeviceInvalidations {
  /** By tag: the device that is asked, or FREE. */
  readonly #devices = new Int32Array(TAGS).fill(FREE);
  readonly #surroundings: VtdSurroundings;

  constructor(surroundings: VtdSurroundings) {
    this.#surroundings = surroundings;
  }

  /** No request is under way. */
  get isIdle(): boolean {
    return this.#devices.every((device) => device === FREE);
  }

  /** Every tag is in use. */
  get isFull(): boolean {
    return !this.#devices.includes(FREE);
  }

  /** Needs a tag that is free. The device may complete it before this returns. */
  send(request: Omit<DeviceInvalidation, 'tag'>): void {
    const tag = this.#devices.indexOf(FREE);
    this.#devices[tag] = request.device;
    this.#surroundings.invalidateDevice?.({ ...request, tag });
  }

  /** False: nobody waits for it. */
  complete(device: number, tag: number): boolean {
    if (device === FREE || this.#devices[tag] !== device) return false;
    this.#devices[tag] = FREE;
    return true;
  }

  /** Requests to a device are given up. False: there are none. */
  expire(device: number): boolean {
    const found = device !== FREE && this.#devices.includes(device);
    for (let tag = 0; tag < TAGS; tag++) if (this.#devices[tag] === device) this.#devices[tag] = FREE;
    return found;
  }

  reset(): void {
    this.#devices.fill(FREE);
  }

  save(): number[] {
    return Array.from(this.#devices);
  }

  load(devices: readonly number[]): void {
    this.#devices.set(devices);
  }
}

export const SAVED_TAGS = TAGS;
