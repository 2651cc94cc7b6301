import { READ } from '../../memory/access.ts';
import { PAGE_BYTES, pfnOf } from '../../memory/address.ts';
import type { HostSpace } from '../host.ts';
import type { Port, PortMemory } from '../port.ts';
import { CommandQueue, type Vintf } from './tegra241.ts';

/** The command queue of one guest: its ring is a page of memory of ours, which devices of the space can only read. */
export class GuestRing {
  readonly queue: CommandQueue;
  readonly #space: HostSpace;
  readonly #page: number;
  readonly #memory: PortMemory;

  /** `page`: where the space is to have it. @throws HostError */
  constructor(port: Port, space: HostSpace, vintf: Vintf, page: number) {
    this.#space = space;
    this.#page = page;
    this.#memory = port.allocate(PAGE_BYTES);
    const mapped = space.map(page, pfnOf(this.#memory.address), 1, READ);
    try {
      if (mapped < 0) throw space.error!;
      this.queue = new CommandQueue(vintf, 0, BigInt(page) << 12n, new Uint8Array(this.#memory.buffer, 0, PAGE_BYTES));
      this.queue.enable();
    } catch (error) {
      this.#release(mapped === 0);
      throw error;
    }
  }

  /** @throws HostError */
  close(): void {
    this.queue.hardware.close();
    this.#release(true);
  }

  #release(isMapped: boolean): void {
    if (isMapped) this.#space.unmap(this.#page, 1);
    this.#memory.release();
  }
}
