import { HostError } from '../errno.ts';
import type { PortMemory } from '../port.ts';
import { type IommufdContext, KernelObject } from './context.ts';

/** Bytes that one read of a queue can bring. */
const READ_BYTES = 4096;

/** An object of the kernel with a descriptor that events are read from. */
export abstract class DescriptorQueue extends KernelObject {
  /** For whoever waits on many at once. */
  readonly fd: number;
  readonly #memory: PortMemory;
  #open = true;

  constructor(context: IommufdContext, id: number, fd: number) {
    super(context, id);
    this.fd = fd;
    this.#memory = context.port.allocate(READ_BYTES);
  }

  /** Waits until there is something to read, or the time is over. @throws HostError */
  wait(milliseconds: number): boolean {
    const result = this.context.port.poll(this.fd, milliseconds);
    if (result < 0) throw new HostError('poll of an iommufd queue', result);
    return result > 0;
  }

  /** What is there now, at most `bytes`: a view that the next call overwrites. @throws HostError */
  protected readBytes(bytes = READ_BYTES): DataView {
    const result = this.context.port.read(this.fd, this.#memory, bytes);
    if (result < 0) throw new HostError('read of an iommufd queue', result);
    return new DataView(this.#memory.buffer, 0, result);
  }

  /** Writes what `fill` made. @throws HostError */
  protected writeBytes(bytes: number, fill: (view: DataView) => void): void {
    fill(new DataView(this.#memory.buffer, 0, bytes));
    const result = this.context.port.write(this.fd, this.#memory, bytes);
    if (result < 0) throw new HostError('write of an iommufd queue', result);
  }

  /** The kernel destroys a queue only without its descriptor. */
  override close(): void {
    this.#closeDescriptor();
    super.close();
  }

  protected override release(): void {
    this.#closeDescriptor();
    this.#memory.release();
  }

  #closeDescriptor(): void {
    if (this.#open) this.context.port.close(this.fd);
    this.#open = false;
  }
}
