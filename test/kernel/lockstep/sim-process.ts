import { errno } from '../../../src/host/errno.ts';
import type { PortMemory } from '../../../src/host/port.ts';
import type { SimKernel } from '../../../src/host/sim/index.ts';
import type { Area, Outcome, Poke, Step } from './program.ts';

const WORD = 8;
/** What QEMU's iommu-testdev writes. */
const PATTERN = new Uint8Array(Uint32Array.of(0x1234_5678).buffer);

/** Memory that is compared with what it was. */
class Watched {
  readonly area: Area;
  readonly #now: Buffer;
  readonly #before: Buffer;

  constructor(area: Area, buffer: ArrayBufferLike) {
    this.area = area;
    this.#now = Buffer.from(buffer as ArrayBuffer);
    this.#before = Buffer.alloc(area.bytes);
  }

  poke({ address, bytes }: Poke): void {
    const at = Number(address - this.area.address);
    if (at < 0 || at >= this.area.bytes) return;
    this.#now.set(bytes, at);
    this.#before.set(bytes, at);
  }

  /** Whole words that have changed since the last time, neighbours as one. */
  changes(): Poke[] {
    const [now, before] = [this.#now, this.#before];
    if (now.equals(before)) return [];
    const found: Poke[] = [];
    const differs = (at: number) => at < now.length && now.compare(before, at, at + WORD, at, at + WORD) !== 0;
    for (let at = 0; at < now.length; at += WORD) {
      if (!differs(at)) continue;
      const first = at;
      while (differs(at)) at += WORD;
      found.push({ address: this.area.address + BigInt(first), bytes: Buffer.from(now.subarray(first, at)) });
    }
    now.copy(before);
    return found;
  }
}

/** Plays steps on the simulated kernel. */
export class SimProcess {
  readonly kernel: SimKernel;
  readonly areas: readonly Area[];
  readonly #paths: readonly string[];
  readonly #watched: readonly Watched[];
  readonly #memory = new Map<bigint, PortMemory>();
  /** By where they lie. */
  readonly #mappings = new Map<number, PortMemory>();

  /** `sizes`: of its memory; the last piece can only be read. */
  constructor(kernel: SimKernel, paths: readonly string[], sizes: readonly number[]) {
    this.kernel = kernel;
    this.#paths = paths;
    const watched: Watched[] = [];
    for (const [index, bytes] of sizes.entries()) {
      const writable = index < sizes.length - 1;
      const memory = kernel.allocate(bytes, { writable });
      this.#memory.set(memory.address, memory);
      watched.push(new Watched({ address: memory.address, bytes, writable }, memory.buffer));
    }
    this.#watched = watched;
    this.areas = watched.map(({ area }) => area);
  }

  /** A copy of memory. */
  read(address: bigint, bytes: number): Buffer {
    return Buffer.from(this.kernel.process.view(address, bytes) as Uint8Array);
  }

  /** Maps a file: the result, and where it lies then. */
  map(fd: number, bytes: number, offset: bigint): { readonly result: number; readonly address: number } {
    const mapped = this.kernel.mmap(fd, bytes, offset);
    if (typeof mapped === 'number') return { result: mapped, address: 0 };
    const address = Number(mapped.address);
    this.#mappings.set(address, mapped);
    return { result: 0, address };
  }

  play(step: Step): Outcome {
    for (const poke of step.pokes) for (const watched of this.#watched) watched.poke(poke);
    const result = this.#run(step);
    return { result, changes: this.#watched.flatMap((watched) => (watched.area.writable ? watched.changes() : [])) };
  }

  #run({ operation, fd, request, address, bytes }: Step): number {
    const { kernel } = this;
    switch (operation) {
      case 'open':
        return kernel.open(this.#paths[request]);
      case 'close':
        return kernel.close(fd);
      case 'ioctl':
        return kernel.ioctl(fd, request, Number(address));
      case 'read':
      case 'write':
        return kernel[operation](fd, { address, bytes } as PortMemory, bytes);
      case 'poll':
        return kernel.poll(fd, 0);
      case 'eventfd':
        return kernel.eventfd();
      case 'munmap':
        this.#mappings.get(request)?.release();
        this.#mappings.delete(request);
        return 0;
      case 'dma': {
        const file = kernel.file(fd);
        if (file === undefined) return -errno.EBADF;
        return file.device == null ? -errno.EINVAL : file.device.dmaWrite(address, PATTERN) === 0 ? 1 : 0;
      }
      default:
        throw new RangeError(`no step ${operation}`);
    }
  }
}
