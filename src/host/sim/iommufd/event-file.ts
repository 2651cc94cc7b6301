import { errno } from '../../errno.ts';
import type { SimFile } from '../files.ts';
import type { UserBuffer } from '../structs.ts';
import type { IommufdContext, KernelObject } from './context.ts';

/** What a queue of events answers to its descriptor. */
export interface EventSource extends KernelObject {
  read(user: UserBuffer): number;
  write?(user: UserBuffer): number;
  readonly waiting: boolean;
}

/** The descriptor of a queue: it keeps the queue and its iommufd alive (the kernel's eventq.c). */
export class EventQueueFile implements SimFile {
  readonly #context: IommufdContext;
  readonly #source: EventSource;

  /** Gives a queue its descriptor; both are gone again when the user cannot be told (0, or a negative errno, which is returned). */
  static open(context: IommufdContext, source: EventSource, tell: (fd: number) => number): number {
    const fd = context.kernel.install(new EventQueueFile(context, source));
    const told = tell(fd);
    if (told < 0) context.kernel.uninstall(fd);
    return context.settle(source, told);
  }

  private constructor(context: IommufdContext, source: EventSource) {
    this.#context = context;
    this.#source = source;
    source.users++;
    context.hold();
  }

  ioctlName(): undefined {
    return undefined;
  }

  ioctl(): number {
    return -errno.ENOTTY;
  }

  read(user: UserBuffer): number {
    return this.#source.read(user);
  }

  write(user: UserBuffer): number {
    return this.#source.write?.(user) ?? -errno.EINVAL;
  }

  readable(): boolean {
    return this.#source.waiting;
  }

  close(): void {
    this.#source.users--;
    this.#context.close();
  }
}
