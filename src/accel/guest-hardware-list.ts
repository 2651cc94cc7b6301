import type { PageAnswer } from '../target/target.ts';
import type { Backing } from './device-group.ts';
import type { GuestHardware } from './path.ts';

/** Hardware that walks the guest's own tables, each with one backing by whose flush it carries out what it has heard. */
export class GuestHardwareList {
  readonly #backings = new Map<GuestHardware, Backing>();

  add(backing: Backing): void {
    const { guestHardware } = backing.path;
    if (guestHardware !== undefined && !this.#backings.has(guestHardware)) this.#backings.set(guestHardware, backing);
  }

  /** The backing goes; of `others` one takes its place, which is returned, or null where nothing changes. */
  remove(backing: Backing, others: Iterable<Backing>): Backing | null {
    const { guestHardware } = backing.path;
    if (guestHardware === undefined || this.#backings.get(guestHardware) !== backing) return null;
    this.#backings.delete(guestHardware);
    for (const other of others) {
      if (other === backing || other.path.guestHardware !== guestHardware) continue;
      this.#backings.set(guestHardware, other);
      return other;
    }
    return null;
  }

  /** See TargetObserver. Returns the backings whose flush has something to do then. */
  invalidated(words: Int32Array): Iterable<Backing> {
    for (const hardware of this.#backings.keys()) hardware.invalidated(words);
    return this.#backings.values();
  }

  answered(endpoint: number, pasid: number, group: number, answer: PageAnswer): void {
    for (const hardware of this.#backings.keys()) hardware.answered(endpoint, pasid, group, answer);
  }

  poll(): void {
    for (const hardware of [...this.#backings.keys()]) hardware.poll();
  }

  get eventDescriptors(): readonly number[] {
    return [...this.#backings.keys()].flatMap(({ eventDescriptors }) => eventDescriptors);
  }
}
