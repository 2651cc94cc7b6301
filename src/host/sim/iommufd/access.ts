import { READ, WRITE } from '../../../memory/access.ts';
import { errno } from '../../errno.ts';
import type { AccessUser } from './area.ts';
import type { IommufdContext, KernelObject } from './context.ts';
import type { Ioas } from './ioas.ts';
import { IOVA_MAX } from './iova-ranges.ts';

/** Whoever reaches an IOAS's memory without DMA (struct iommufd_access): mediated devices, and hardware that reads by physical address. */

export class Access implements KernelObject {
  readonly kind = 'access';
  id = 0;
  /** The table's, and the user's. */
  users = 2;
  readonly user: AccessUser;
  #ioas: Ioas | null = null;
  readonly #context: IommufdContext;

  constructor(context: IommufdContext, user: AccessUser) {
    this.#context = context;
    this.user = user;
  }

  /** An access that cannot be attached is not kept, so it is until it goes. */
  get #attached(): Ioas {
    return this.#ioas!;
  }

  /** iommufd_access_change_ioas: 0, or -EADDRINUSE where something mapped is not aligned enough. */
  #change(to: Ioas | null): number {
    const from = this.#ioas;
    if (from === to) return 0;
    if (to !== null) {
      const failed = to.table.addAccess(this.user);
      if (failed < 0) return failed;
      to.users++;
    }
    if (from !== null) {
      this.user.unmap?.(0n, IOVA_MAX);
      from.table.removeAccess(this.user);
      from.users--;
    }
    this.#ioas = to;
    return 0;
  }

  /** Also in place of another. */
  attach(to: Ioas | undefined): number {
    return to === undefined ? -errno.ENOENT : this.#change(to);
  }

  /** Pins [first, first + bytes): the pages' physical addresses, or a negative errno. */
  pin(first: bigint, bytes: bigint, write: boolean): number[] | number {
    if (bytes === 0n) return -errno.EINVAL;
    const last = first + bytes - 1n;
    if (last > IOVA_MAX) return -errno.EOVERFLOW;
    return this.#attached.table.accesses.pin(first, last, write ? WRITE : READ, this.user);
  }

  unpin(first: bigint, bytes: bigint): void {
    this.#attached.table.accesses.unpin(first, first + bytes - 1n, this.user);
  }

  /** Copies between memory and the IOAS; what lies before a range that is refused is copied. 0 or a negative errno. */
  copy(first: bigint, bytes: Uint8Array, write: boolean): number {
    if (bytes.length === 0) return -errno.EINVAL;
    const last = first + BigInt(bytes.length) - 1n;
    if (last > IOVA_MAX) return -errno.EOVERFLOW;
    return this.#attached.table.accesses.copy(first, bytes, write ? WRITE : READ);
  }

  /** Its user is done with it. */
  close(): void {
    this.users--;
    this.#context.remove(this.id);
  }

  destroy(): void {
    this.#change(null);
  }

  save(): unknown {
    return { ioas: this.#attached.id };
  }
}
