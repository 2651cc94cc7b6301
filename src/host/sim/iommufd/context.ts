import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import { ioctl } from '../../iommufd/uapi.ts';
import type { SimDevice } from '../device.ts';
import type { SimFile } from '../files.ts';
import type { SimKernel } from '../kernel.ts';
import type { Frames, Vma } from '../memory.ts';
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

/** Hardware that an object shows to mmap, at an offset of /dev/iommu. */
export interface Shown {
  readonly frames: Frames;
  readonly offset: number;
  readonly bytes: number;
}

export interface Mappable extends KernelObject {
  readonly shown: Shown | null;
}

/** One ioctl of /dev/iommu. */
export interface IoctlHandler {
  readonly number: number;
  readonly run: (context: IommufdContext, address: number) => number;
}

/** Declares an ioctl, by name or number: its struct, the last field that a caller must at least give, and what it does. */
export function handler<F extends Fields>(
  name: keyof typeof ioctl | number,
  struct: Struct<F>,
  lastRequired: keyof F & string,
  run: (context: IommufdContext, command: Command<F>) => number,
): IoctlHandler {
  const minimum = struct.endOf(lastRequired);
  return {
    number: typeof name === 'number' ? name : ioctl[name],
    run: (context, address) => {
      const command = readSized(struct, minimum, context.kernel.process, address);
      return typeof command === 'number' ? command : run(context, command);
    },
  };
}

const names = new Map<number, string>(Object.entries(ioctl).map(([name, number]) => [number, name]));

/** IOMMUFD_CMD_BASE */
const FIRST_IOCTL = 0x80;

/** One open /dev/iommu: the object table, and the ioctls upon it. A bound device keeps it alive after its close. */
export class IommufdContext implements SimFile {
  readonly kernel: SimKernel;
  /** ID of the IOAS of VFIO compatibility; 0: none. */
  vfioIoas = 0;
  /** Pinned memory is the process's and not the user's (IOMMU_OPTION_RLIMIT_MODE). */
  accountsProcess = false;
  readonly #handlers: ReadonlyMap<number, IoctlHandler>;
  /** What is none of its own ioctls. */
  readonly #other: (context: IommufdContext, request: number, address: number) => number;
  readonly #objects = new Map<number, KernelObject>();
  /** IDs of objects that are not whole yet, and of those that are gone without their user's doing: nobody else gets them. */
  readonly #hidden = new Set<number>();
  /** No ID below it is free. */
  #lowest = 1;
  #references = 1;

  constructor(
    kernel: SimKernel,
    handlers: ReadonlyMap<number, IoctlHandler>,
    other: (context: IommufdContext, request: number, address: number) => number,
  ) {
    this.kernel = kernel;
    this.#handlers = handlers;
    this.#other = other;
  }

  ioctlName(request: number): string | undefined {
    return names.get(request);
  }

  /** iommufd_fops_ioctl: an ioctl that is not there is ENOTTY; the size is read first where the number has a place in the table. */
  ioctl(request: number, address: number): number {
    const found = this.#handlers.get(request);
    if (found !== undefined) return found.run(this, address);
    const number = request & 0xff;
    const isOwn = number >= FIRST_IOCTL && [...this.#handlers.keys()].some((known) => (known & 0xff) >= number);
    if (!isOwn) return this.#other(this, request, address);
    return this.kernel.process.view(address, 4) === null ? -errno.EFAULT : -errno.ENOTTY;
  }

  /** Gives the object the lowest free ID, from 1. */
  add<T extends KernelObject>(object: T): T {
    return this.publish(this.reserve(object));
  }

  /** Gives the object its ID before it is whole: nobody finds it until it is published. */
  reserve<T extends KernelObject>(object: T): T {
    while (this.#objects.has(this.#lowest) || this.#hidden.has(this.#lowest)) this.#lowest++;
    object.id = this.#lowest++;
    this.#hidden.add(object.id);
    return object;
  }

  publish<T extends KernelObject>(object: T): T {
    this.#hidden.delete(object.id);
    this.#objects.set(object.id, object);
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

  /** No ID is taken, not even by what is gone. */
  get isEmpty(): boolean {
    return this.#objects.size === 0 && this.#hidden.size === 0;
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

  get #shown(): { readonly object: KernelObject; readonly shown: Shown }[] {
    const all = [...this.#objects.values()].map((object) => ({ object, shown: (object as Partial<Mappable>).shown ?? null }));
    return all.filter((entry): entry is { object: KernelObject; shown: Shown } => entry.shown !== null);
  }

  /** The lowest offset with room for hardware of that size; the first page stays free. */
  placeMmap(bytes: number): number {
    let offset = PAGE_BYTES;
    for (const { shown } of this.#shown.sort((a, b) => a.shown.offset - b.shown.offset)) {
      if (shown.offset - offset >= bytes) break;
      offset = shown.offset + shown.bytes;
    }
    return offset;
  }

  /** iommufd_fops_mmap: the offset and size are those of hardware that an object shows, and the mapping holds the object. */
  mmap(bytes: number, offset: number): Vma | number {
    const found = this.#shown.find(({ shown }) => shown.offset === offset && shown.bytes === bytes);
    if (found === undefined) return -errno.ENXIO;
    found.object.users++;
    return this.kernel.process.map(found.shown.frames, 0, bytes, {
      onFork: () => found.object.users++,
      onUnmap: () => found.object.users--,
    });
  }

  /** Destroys an object that nothing but the table refers to. 0, -ENOENT, or -EBUSY. */
  remove(id: number): number {
    const object = this.#objects.get(id);
    if (object === undefined) return -errno.ENOENT;
    if (object.users !== 1) return -errno.EBUSY;
    this.#objects.delete(id);
    this.discard(id);
    if (this.vfioIoas === id) this.vfioIoas = 0;
    object.destroy();
    return 0;
  }

  /** An object whose user could not be told of it goes again (iommufd_object_abort_and_destroy). `told`: 0 or a negative errno, which it returns. */
  settle(object: KernelObject, told: number): number {
    if (told < 0) this.remove(object.id);
    return told;
  }

  /** Takes back an ID whose object was not made in the end. */
  discard(id: number): void {
    this.#hidden.delete(id);
    this.#lowest = Math.min(this.#lowest, id);
  }

  /** iommufd_object_tombstone_user: destroys an object whose ID its user still has in hand. */
  bury(id: number): void {
    if (this.remove(id) === 0) this.#hidden.add(id);
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
