import { WRITE } from '../../../memory/access.ts';
import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import type { SpanList } from '../spans.ts';
import type { AccessUser, Area } from './area.ts';

const PAGE = BigInt(PAGE_BYTES);

/** Who reaches an IOAS's memory without DMA, and what they have pinned of it. */
export class AreaAccesses {
  readonly #areas: SpanList<bigint, Area>;
  readonly #users = new Set<AccessUser>();

  constructor(areas: SpanList<bigint, Area>) {
    this.#areas = areas;
  }

  add(user: AccessUser): void {
    this.#users.add(user);
  }

  delete(user: AccessUser): void {
    this.#users.delete(user);
  }

  /** Whether any of them pins: addresses are aligned to pages then. */
  get pins(): boolean {
    return [...this.#users].some(({ pins }) => pins);
  }

  /** An area is about to go: whoever has pinned it is told to let go. Whether all have. */
  release(area: Area): boolean {
    if (area.accesses === 0) return true;
    area.leaving = true;
    for (const user of this.#users) user.unmap?.(area.first, area.last);
    return area.accesses === 0;
  }

  /** The areas of [first, last] in order, as far as they follow on each other. */
  *#contiguous(first: bigint, last: bigint): Generator<Area> {
    for (let at = first; at <= last; ) {
      const area = this.#areas.at(at);
      if (area === undefined) return;
      yield area;
      at = area.last + 1n;
    }
  }

  /** iommufd_access_pin_pages: physical addresses of the pages, or the negative errno of what cannot be pinned. While anybody pins, areas end with pages. */
  pin(first: bigint, last: bigint, permission: number, user: AccessUser): number[] | number {
    const pages: number[] = [];
    let at = first;
    const refused = (error: number) => {
      if (at > first) this.unpin(first, at - 1n, user);
      return error;
    };
    for (const area of this.#contiguous(first, last)) {
      const end = area.last < last ? area.last : last;
      const start = area.pages.start + area.offset + (at - area.first);
      if (area.leaving || start % PAGE !== 0n) return refused(-errno.EINVAL);
      if ((area.permission & permission) === 0) return refused(-errno.EPERM);
      const bytes = ((end - at) / PAGE + 1n) * PAGE;
      const offset = area.offset + (at - area.first);
      const found = area.pages.locate(offset, bytes);
      if (typeof found === 'number') return refused(found);
      const short = area.pages.pin(offset, end - at + 1n, found);
      if (short < 0) return refused(short);
      for (let page = 0n; page < bytes; page += PAGE) pages.push(found.frames.first + found.offset + Number(page));
      area.accesses++;
      if (user.unmap === undefined) area.locks++;
      at = end + 1n;
    }
    return at > last ? pages : refused(-errno.ENOENT);
  }

  unpin(first: bigint, last: bigint, user: AccessUser): void {
    for (const area of this.#contiguous(first, last)) {
      const start = area.first > first ? area.first : first;
      const end = area.last < last ? area.last : last;
      area.pages.unpin(area.offset + (start - area.first), end - start + 1n);
      area.accesses--;
      if (user.unmap === undefined) area.locks--;
    }
  }

  /** iommufd_access_rw */
  copy(first: bigint, bytes: Uint8Array, permission: number): number {
    const last = first + BigInt(bytes.length) - 1n;
    let at = first;
    for (const area of this.#contiguous(first, last)) {
      if (area.leaving) return -errno.EINVAL;
      if ((area.permission & permission) === 0) return -errno.EPERM;
      const end = area.last < last ? area.last : last;
      const size = end - at + 1n;
      const found = area.pages.locate(area.offset + (at - area.first), size, { write: permission === WRITE, pins: false });
      if (typeof found === 'number') return found;
      const memory = new Uint8Array(found.frames.buffer, found.offset, Number(size));
      const part = bytes.subarray(Number(at - first), Number(end - first) + 1);
      if (permission === WRITE) memory.set(part);
      else part.set(memory);
      at = end + 1n;
    }
    return at > last ? 0 : -errno.ENOENT;
  }
}
