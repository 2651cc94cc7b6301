import { HostError } from '../errno.ts';
import type { HostCalls } from '../host.ts';
import type { Port } from '../port.ts';
import type { SharedMemory } from '../shared-memory.ts';
import { type Command, callOnce } from './command.ts';
import type { IoctlName } from './uapi.ts';

/** Anything with an ID of the kernel's: a bound device, a page table, a vIOMMU. */
export interface Handle {
  readonly id: number;
}

/** What all objects of one open /dev/iommu share. */
export class IommufdContext {
  readonly port: Port;
  readonly fd: number;
  readonly calls: HostCalls;
  /** Memory of which parts are mapped by the file behind it. */
  readonly shared = new Set<SharedMemory>();
  /** What must be freed when the host is closed. */
  readonly owned = new Set<{ dispose(): void }>();

  constructor(port: Port, fd: number, calls: HostCalls) {
    this.port = port;
    this.fd = fd;
    this.calls = calls;
  }

  /** One call that is not a hot one. @throws HostError when the kernel refuses. Returns the struct as the kernel left it. */
  control(name: IoctlName, bytes: number, fill: (command: Command) => void, hint?: string): Int32Array {
    this.calls.control++;
    return callOnce(this.port, this.fd, name, bytes, fill, hint);
  }
}

/** An object of the kernel's table, and what the driver keeps for it. */
export abstract class KernelObject implements Handle {
  readonly id: number;
  protected readonly context: IommufdContext;
  #closed = false;

  constructor(context: IommufdContext, id: number) {
    this.context = context;
    this.id = id;
    context.owned.add(this);
  }

  /** Destroys the object. Idempotent. @throws HostError EBUSY while something refers to it; then it goes on. */
  close(): void {
    if (this.#closed) return;
    this.context.control('IOMMU_DESTROY', 8, (command) => {
      command.words[1] = this.id;
    });
    this.dispose();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Frees what the driver has; the kernel's part is gone already, or goes with the descriptor. */
  dispose(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.context.owned.delete(this);
    this.release();
  }

  protected release(): void {}
}

/** What a call without a range came to, for objects whose calls answer with an errno. */
export class LastError {
  #name = '';
  #errno = 0;
  #hint: string | undefined;

  /** Keeps a failure and answers it. */
  set(name: string, errno: number, hint?: string): number {
    this.#hint = hint;
    this.#name = name;
    this.#errno = errno;
    return errno;
  }

  get error(): HostError | null {
    return this.#errno === 0 ? null : new HostError(this.#name, this.#errno, undefined, this.#hint);
  }
}
