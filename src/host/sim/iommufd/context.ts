import { errno } from '../../errno.ts';
import { ioctl } from '../../iommufd/uapi.ts';
import type { SimDevice } from '../device.ts';
import type { SimFile } from '../files.ts';
import type { SimKernel } from '../kernel.ts';
import type { Vma } from '../memory.ts';
import { type Command, type Fields, readSized, type Struct } from '../structs.ts';

/** An object of one iommufd, with the kernel's reference count: the table holds one, each user one more. */
export interface KernelObject {
  readonly kind: string;
  id: number;
  users: number;
  /** Takes it out of everything that it refers to. */
  destroy(): void;
  /** Its state as plain data. */
  save(): unknown;
}

/** A device as other objects see it. */
export interface BoundDevice extends KernelObject {
  readonly device: SimDevice;
  /** Its ID on a vIOMMU, while it has a vDEVICE there. */
  virtualId: bigint | undefined;
  /** That vIOMMU. */
  slice: KernelObject | null;
}

/** An object that shows pages of hardware to mmap. */
export interface Mappable extends KernelObject {
  /** 0 or a negative errno: -ENXIO when the offset is none of its pages. */
  mmap(bytes: number, offset: number): Vma | number;
}

/** One ioctl of /dev/iommu. */
export interface IoctlHandler {
  readonly name: keyof typeof ioctl;
  readonly run: (context: IommufdContext, address: number) => number;
}

/** Declares an ioctl: its struct, the last field that a caller must at least give, and what it does. */
export function handler<F extends Fields>(
  name: keyof typeof ioctl,
  struct: Struct<F>,
  lastRequired: keyof F & string,
  run: (context: IommufdContext, command: Command<F>) => number,
): IoctlHandler {
  const minimum = struct.endOf(lastRequired);
  return {
    name,
    run: (context, address) => {
      const command = readSized(struct, minimum, context.kernel.process, address);
      return typeof command === 'number' ? command : run(context, command);
    },
  };
}

const names = new Map<number, string>(Object.entries(ioctl).map(([name, number]) => [number, name]));

/** One open /dev/iommu: the object table, and the ioctls upon it. A bound device keeps it alive after its close. */
export class IommufdContext implements SimFile {
  readonly kernel: SimKernel;
  /** ID of the IOAS of VFIO compatibility; 0: none. */
  vfioIoas = 0;
  readonly #handlers: ReadonlyMap<number, IoctlHandler>;
  readonly #objects = new Map<number, KernelObject>();
  /** IDs of objects that are gone without their user's doing: nobody else gets them. */
  readonly #tombstones = new Set<number>();
  #references = 1;

  constructor(kernel: SimKernel, handlers: ReadonlyMap<number, IoctlHandler>) {
    this.kernel = kernel;
    this.#handlers = handlers;
  }

  ioctlName(request: number): string | undefined {
    return names.get(request);
  }

  /** iommufd_fops_ioctl: an ioctl that is not there is ENOTTY; its struct is looked at before it is done. */
  ioctl(request: number, address: number): number {
    const found = this.#handlers.get(request);
    return found === undefined ? -errno.ENOTTY : found.run(this, address);
  }

  /** Gives the object the lowest free ID, from 1. */
  add<T extends KernelObject>(object: T): T {
    let id = 1;
    while (this.#objects.has(id) || this.#tombstones.has(id)) id++;
    object.id = id;
    this.#objects.set(id, object);
    return object;
  }

  /** The object, or undefined (ENOENT) when there is none of that ID and class. */
  get<T extends KernelObject>(id: number, type: abstract new (...parameters: never[]) => T): T | undefined {
    const object = this.#objects.get(id);
    return object instanceof type ? object : undefined;
  }

  any(id: number): KernelObject | undefined {
    return this.#objects.get(id);
  }

  /** All objects of a class. */
  list<T extends KernelObject>(type: abstract new (...parameters: never[]) => T): T[] {
    return [...this.#objects.values()].filter((object): object is T => object instanceof type);
  }

  /** The bound device of a name. */
  bound(name: string): BoundDevice | undefined {
    for (const object of this.#objects.values())
      if (object.kind === 'device' && (object as BoundDevice).device.name === name) return object as BoundDevice;
    return undefined;
  }

  /** iommufd_fops_mmap: the offset names a page of hardware that an object shows. */
  mmap(bytes: number, offset: number): Vma | number {
    for (const object of this.#objects.values()) {
      const mapped = 'mmap' in object ? (object as Mappable).mmap(bytes, offset) : -errno.ENXIO;
      if (mapped !== -errno.ENXIO) return mapped;
    }
    return -errno.ENXIO;
  }

  /** Destroys an object that nothing but the table refers to. 0, -ENOENT, or -EBUSY. */
  remove(id: number): number {
    const object = this.#objects.get(id);
    if (object === undefined) return -errno.ENOENT;
    if (object.users !== 1) return -errno.EBUSY;
    this.#objects.delete(id);
    if (this.vfioIoas === id) this.vfioIoas = 0;
    object.destroy();
    return 0;
  }

  /** iommufd_object_tombstone_user: destroys an object whose ID its user still has in hand. */
  bury(id: number): void {
    if (this.remove(id) === 0) this.#tombstones.add(id);
  }

  hold(): void {
    this.#references++;
  }

  /** Closes the context when nobody refers to it any more: leaves first, until all objects are gone. */
  close(): void {
    if (--this.#references > 0) return;
    while (this.#objects.size > 0) {
      const before = this.#objects.size;
      for (const object of [...this.#objects.values()]) this.remove(object.id);
      if (this.#objects.size === before)
        throw new Error(`simulated iommufd: reference counts of ${JSON.stringify(this.save())} never fall`);
    }
  }

  objects(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const object of this.#objects.values()) counts[object.kind] = (counts[object.kind] ?? 0) + 1;
    return counts;
  }

  save(): unknown {
    return [...this.#objects.values()].map((object) => ({ kind: object.kind, id: object.id, users: object.users, state: object.save() }));
  }
}
