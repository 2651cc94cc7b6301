import { errno } from '../../../src/host/errno.ts';
import type { PortMemory } from '../../../src/host/port.ts';
import { SharedFile, type SimFile } from '../../../src/host/sim/files.ts';
import type { SimProcess as KernelProcess, SimKernel } from '../../../src/host/sim/index.ts';
import type { Area, Outcome, Poke, Step } from './program.ts';

const WORD = 8;
/** What poll(2) says of no descriptor. */
const POLLNVAL = 0x20;
/** What QEMU's iommu-testdev writes. */
const PATTERN = new Uint8Array(Uint32Array.of(0x1234_5678).buffer);

/** Memory that is compared with what it was. */
class Watched {
  readonly area: Area;
  readonly #now: Buffer;
  readonly #before: Buffer;

  /** `before`: what it was compared with last. */
  constructor(area: Area, buffer: ArrayBufferLike, before = Buffer.alloc(area.bytes)) {
    this.area = area;
    this.#now = Buffer.from(buffer as ArrayBuffer);
    this.#before = before;
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

/** A process of the simulated kernel, and its memory that is compared. */
interface Player {
  readonly process: KernelProcess;
  readonly watched: readonly Watched[];
}

function changesOf({ watched }: Player): Poke[] {
  return watched.flatMap((memory) => (memory.area.writable ? memory.changes() : []));
}

/** Plays steps on the simulated kernel, in a process and in its child. */
export class SimProcess {
  readonly kernel: SimKernel;
  readonly areas: readonly Area[];
  readonly #paths: readonly string[];
  readonly #parent: Player;
  #child: Player | null = null;
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
    this.#parent = { process: kernel.current, watched };
    this.areas = watched.map(({ area }) => area);
  }

  /** What a descriptor is to the process or its child. */
  file(fd: number, byChild: boolean): SimFile | undefined {
    return this.#player(byChild).process.files.get(fd);
  }

  #player(byChild: boolean): Player {
    const player = byChild ? this.#child : this.#parent;
    if (player === null) throw new RangeError('SimProcess: there is no child');
    return player;
  }

  /** A copy of memory, of the process or of its child. */
  read(address: bigint, bytes: number, byChild: boolean): Buffer {
    return Buffer.from(this.#player(byChild).process.memory.view(address, bytes) as Uint8Array);
  }

  /** Maps a file: the result, and where it lies then. */
  map(fd: number, bytes: number, offset: bigint): { readonly outcome: Outcome; readonly address: number } {
    const mapped = this.kernel.mmap(fd, bytes, offset);
    const changes = changesOf(this.#parent);
    if (typeof mapped === 'number') return { outcome: { result: mapped, changes }, address: 0 };
    const address = Number(mapped.address);
    this.#mappings.set(address, mapped);
    return { outcome: { result: 0, changes }, address };
  }

  /** There is a child now. */
  get hasChild(): boolean {
    return this.#child !== null;
  }

  play(step: Step): Outcome {
    const player = this.#player(step.byChild);
    return this.kernel.as(player.process, () => {
      for (const poke of step.pokes) for (const watched of player.watched) watched.poke(poke);
      const result = this.#run(step);
      return { result, changes: changesOf(player) };
    });
  }

  #fork(): number {
    const process = this.kernel.fork();
    const watched = this.#parent.watched.map(({ area }) => {
      const bytes = process.memory.view(area.address, area.bytes) as Uint8Array;
      return new Watched(area, bytes.buffer, Buffer.from(bytes));
    });
    this.#child = { process, watched };
    return 0;
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
        return kernel.file(fd) === undefined ? POLLNVAL : kernel.poll(fd, 0);
      case 'eventfd':
        return kernel.eventfd();
      case 'munmap':
        this.#mappings.get(request)?.release();
        this.#mappings.delete(request);
        return 0;
      case 'limit':
        kernel.current.lockLimit = request;
        return 0;
      case 'memfd':
        return kernel.install(new SharedFile(kernel, bytes));
      case 'fork':
        return this.#fork();
      case 'exit':
        kernel.exit(kernel.current);
        this.#child = null;
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
