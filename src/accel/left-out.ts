import { errno, errnoName } from '../host/errno.ts';
import type { GuestMemory, GuestRegion } from '../memory/guest-memory.ts';

/** How hosts say that they can map no such memory, whatever they have room for. */
const CANNOT: ReadonlySet<number> = new Set([-errno.EFAULT, -errno.EINVAL, -errno.EOPNOTSUPP, -errno.EPERM]);

const NONE: readonly string[] = [];

/**
 * Registers of devices that a host does not map for other devices: what reaches them is blocked, as between devices that the hardware keeps apart, and no
 * operation of the guest fails for it.
 */
export class LeftOut {
  readonly #memory: GuestMemory;
  /** null: none is, as of most spaces. */
  #regions: Map<GuestRegion, number> | null = null;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Whether a failure to map the guest page is of this kind; then it is kept. */
  takes(gpa: number, answer: number): boolean {
    const region = CANNOT.has(answer) ? this.#memory.registersAt(gpa) : null;
    if (region !== null) {
      this.#regions ??= new Map();
      this.#regions.set(region, answer);
    }
    return region !== null;
  }

  /** One for each such region that is there. */
  get reasons(): readonly string[] {
    if (this.#regions === null) return NONE;
    return [...this.#regions]
      .filter(([region]) => this.#memory.regions.includes(region))
      .map(
        ([{ gpa, registersOf }, answer]) =>
          `registers of ${registersOf} at 0x${gpa.toString(16)}: the host does not map them for other devices (${errnoName(-answer)})`,
      );
  }
}

/** What is said where pages for writing only are not kept from readers. */
export function readableToo(reason: string): string {
  return `pages for writing only can be read as well: ${reason}`;
}
