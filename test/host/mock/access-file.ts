import { errno } from '../../../src/host/errno.ts';
import type { SimFile } from '../../../src/host/sim/files.ts';
import { Access } from '../../../src/host/sim/iommufd/access.ts';
import type { IommufdContext } from '../../../src/host/sim/iommufd/context.ts';
import { PAGE_BYTES } from '../../../src/memory/address.ts';

/** The descriptor of an access that the selftests make (CREATE_ACCESS): it pins pages, and copies to and from them. */

const PAGE = BigInt(PAGE_BYTES);
/** Of two pages that are not the same one; it has no place among the errnos of hosts. */
const EBADE = 52;

interface Item {
  readonly id: number;
  readonly first: bigint;
  readonly bytes: bigint;
}

export class AccessFile implements SimFile {
  readonly access: Access;
  readonly #context: IommufdContext;
  readonly #items = new Set<Item>();
  #next = 0;

  constructor(context: IommufdContext, pins: boolean) {
    this.#context = context;
    this.access = context.add(new Access(context, { pins, unmap: (first, last) => this.#unmap(first, last) }));
    context.hold();
  }

  #unmap(first: bigint, last: bigint): void {
    for (const item of this.#items) {
      if (item.first > last || item.first + item.bytes - 1n < first) continue;
      this.#items.delete(item);
      this.access.unpin(item.first, item.bytes);
    }
  }

  /** ACCESS_PAGES: pins pages, which must be those at an address of the process, if one is given. The item's ID or a negative errno. */
  pin(first: bigint, bytes: bigint, write: boolean, address: bigint): number {
    if (!this.access.user.pins) return -errno.EOPNOTSUPP;
    const pages = this.access.pin(first, bytes, write);
    if (typeof pages === 'number') return pages;
    const failed = address === 0n ? 0 : this.#compare(pages, address - (first % PAGE));
    if (failed < 0) {
      this.access.unpin(first, bytes);
      return failed;
    }
    const item = { id: this.#next++, first, bytes };
    this.#items.add(item);
    return item.id;
  }

  #compare(pages: readonly number[], address: bigint): number {
    const { process } = this.#context.kernel;
    for (const [index, page] of pages.entries()) {
      const here = address + BigInt(index) * PAGE;
      const vma = process.pagesAt(here, 1n);
      if (typeof vma === 'number') return vma;
      const at = Number(here) - vma.first + vma.offset;
      if (vma.frames.first + at - (at % PAGE_BYTES) !== page - (page % PAGE_BYTES)) return -EBADE;
    }
    return 0;
  }

  /** DESTROY_ACCESS_PAGES */
  release(id: number): number {
    for (const item of this.#items) {
      if (item.id !== id) continue;
      this.#items.delete(item);
      this.access.unpin(item.first, item.bytes);
      return 0;
    }
    return -errno.ENOENT;
  }

  /** It was not made in the end. */
  abandon(): void {
    this.access.users--;
    this.#context.remove(this.access.id);
    this.#context.close();
  }

  ioctlName(): undefined {
    return undefined;
  }

  ioctl(): number {
    return -errno.ENOTTY;
  }

  close(): void {
    this.#unmap(0n, (1n << 64n) - 1n);
    this.access.close();
    this.#context.close();
  }
}
