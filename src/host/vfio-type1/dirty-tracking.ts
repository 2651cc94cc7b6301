import { PAGE_LG2 } from '../../memory/address.ts';
import { visitBits } from '../dirty-bits.ts';
import type { DirtyTracking, DirtyVisitor } from '../host.ts';
import type { Port, PortMemory } from '../port.ts';

/** A container whose pages are tracked. */
interface TrackedContainer {
  readonly host: { readonly port: Port };
  readonly granuleLg2: number;
  unmap(iova: number, pages: number): number;
  readDirty(iova: number, pages: number, bitmap: PortMemory): number;
  unmapReadingDirty(iova: number, pages: number, bitmap: PortMemory): number;
}

/** What the kernel remembers of a container. */
export class Type1DirtyTracking implements DirtyTracking {
  /** The kernel does not say which of the two a device is. */
  readonly inexact =
    'type1 knows what was written of devices whose drivers pin what they use; of all others it tells of all that is mapped';
  readonly #space: TrackedContainer;
  #forgot = false;

  constructor(space: TrackedContainer) {
    this.#space = space;
  }

  /** What the kernel knew is gone, or was never known. */
  forgot(): void {
    this.#forgot = true;
  }

  read(first: number, pages: number, visit: DirtyVisitor): void {
    if (this.#read(first, pages, visit, (bitmap) => this.#space.readDirty(first, pages, bitmap)) < 0) visit(first, first + pages - 1);
  }

  unmap(first: number, pages: number, visit: DirtyVisitor): number {
    if (this.#read(first, pages, visit, (bitmap) => this.#space.unmapReadingDirty(first, pages, bitmap)) === 0) return 0;
    visit(first, first + pages - 1);
    return this.#space.unmap(first, pages);
  }

  #read(first: number, pages: number, visit: DirtyVisitor, call: (bitmap: PortMemory) => number): number {
    if (this.#forgot) return -1;
    const { port } = this.#space.host;
    const bitmap = port.allocate(8 * Math.ceil(pages / 64));
    try {
      const result = call(bitmap);
      const granule = 2 ** (this.#space.granuleLg2 - PAGE_LG2);
      if (result === 0)
        visitBits(new Uint8Array(bitmap.buffer), pages / granule, (from, to) =>
          visit(first + from * granule, first + (to + 1) * granule - 1),
        );
      return result;
    } finally {
      bitmap.release();
    }
  }
}
