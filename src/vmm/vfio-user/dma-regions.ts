import { errno } from '../../host/errno.ts';
import { PAGE_BYTES } from '../../memory/address.ts';
import { GuestMemory, type GuestRegion } from '../../memory/guest-memory.ts';
import type { Descriptors, MappedFile } from './descriptors.ts';
import { DMA_MAP, DMA_UNMAP, DmaMapFlags, DmaUnmapFlags, LIMITS } from './spec.ts';

/** RAM of the guest where the client hands over no descriptors: the file that it maps from, as memory of this process. */
export type SharedRam = ArrayBufferLike;

interface Mapping {
  readonly bytes: number;
  /** What of it stands in guest memory: nothing of what the device may not even read. */
  readonly regions: readonly GuestRegion[];
  readonly files: readonly MappedFile[];
}

/** A file's bytes are seen in pieces: a view of memory ends there. */
const PIECE_BYTES = 2 ** 32;

/** The guest's memory as the client maps and unmaps it. Answers 0 or a positive errno. */
export class DmaRegions {
  readonly memory: GuestMemory;
  /** By address, which is below 2^53. */
  readonly #mappings = new Map<number, Mapping>();
  readonly #descriptors: Descriptors | null;
  readonly #ram: SharedRam | null;

  /** `ram`: where mappings without a descriptor lie; null: the device cannot reach them. */
  constructor(descriptors: Descriptors | null, ram: SharedRam | null, memory = new GuestMemory([])) {
    this.memory = memory;
    this.#descriptors = descriptors;
    this.#ram = ram;
  }

  get count(): number {
    return this.#mappings.size;
  }

  /** Takes the descriptor, whatever comes of it. */
  map(request: DataView, descriptor: number | null): number {
    const answer = this.#map(request, descriptor);
    // A mapping holds its file.
    if (descriptor !== null) this.#descriptors?.close(descriptor);
    return answer;
  }

  #map(request: DataView, descriptor: number | null): number {
    if (request.byteLength < DMA_MAP.BYTES) return errno.EINVAL;
    const flags = request.getUint32(DMA_MAP.FLAGS, true);
    const offset = request.getBigUint64(DMA_MAP.OFFSET, true);
    const address = request.getBigUint64(DMA_MAP.ADDRESS, true);
    const size = request.getBigUint64(DMA_MAP.SIZE, true);
    const page = BigInt(PAGE_BYTES);
    const aligned = address % page === 0n && size % page === 0n && offset % page === 0n;
    if (!aligned || size === 0n || address + size > BigInt(Number.MAX_SAFE_INTEGER) || offset > BigInt(Number.MAX_SAFE_INTEGER))
      return errno.EINVAL;
    if (this.#mappings.size >= LIMITS.mappings) return errno.ENOMEM;
    const bytes = Number(size);
    if (this.#isTaken(Number(address), bytes)) return errno.EEXIST;
    const readOnly = (flags & DmaMapFlags.WRITE) === 0;
    if ((flags & DmaMapFlags.READ) === 0) return this.#keep(address, { bytes, regions: [], files: [] });
    if (descriptor !== null) return this.#mapFile(address, bytes, offset, readOnly, descriptor);
    if (this.#ram === null) return this.#keep(address, { bytes, regions: [], files: [] });
    const at = Number(offset);
    if (at + bytes > this.#ram.byteLength) return errno.EINVAL;
    return this.#keep(address, { bytes, regions: [{ gpa: address, buffer: this.#ram, offset: at, bytes, readOnly }], files: [] });
  }

  /** Whether some of it is mapped, or is memory that the embedder has put there. */
  #isTaken(address: number, size: number): boolean {
    const overlaps = (start: number, bytes: number) => address < start + bytes && start < address + size;
    for (const [start, { bytes }] of this.#mappings) if (overlaps(start, bytes)) return true;
    return this.memory.regions.some(({ gpa, buffer, offset = 0, bytes = buffer.byteLength - offset }) => overlaps(Number(gpa), bytes));
  }

  #mapFile(address: bigint, bytes: number, offset: bigint, readOnly: boolean, descriptor: number): number {
    const descriptors = this.#descriptors!;
    // What lies behind the end of a file is no memory: touching it would end this process.
    const size = descriptors.sizeOf(descriptor);
    if (size < 0) return -size;
    if (Number(offset) + bytes > size) return errno.EINVAL;
    const files: MappedFile[] = [];
    const regions: GuestRegion[] = [];
    for (let done = 0; done < bytes; done += PIECE_BYTES) {
      const piece = Math.min(bytes - done, PIECE_BYTES);
      const file = descriptors.map(descriptor, piece, offset + BigInt(done), readOnly);
      if (typeof file === 'number') {
        for (const one of files) one.release();
        return -file;
      }
      files.push(file);
      regions.push({ gpa: address + BigInt(done), buffer: file.buffer, bytes: piece, hostAddress: file.address, readOnly });
    }
    return this.#keep(address, { bytes, regions, files });
  }

  #keep(address: bigint, mapping: Mapping): number {
    this.#mappings.set(Number(address), mapping);
    for (const region of mapping.regions) this.memory.add(region);
    return 0;
  }

  unmap(request: DataView): number {
    if (request.byteLength < DMA_UNMAP.BYTES) return errno.EINVAL;
    const flags = request.getUint32(DMA_UNMAP.FLAGS, true);
    const address = request.getBigUint64(DMA_UNMAP.ADDRESS, true);
    const size = request.getBigUint64(DMA_UNMAP.SIZE, true);
    // Dirty bitmaps belong to migration, which is not offered.
    if ((flags & ~DmaUnmapFlags.ALL) !== 0) return errno.EINVAL;
    if ((flags & DmaUnmapFlags.ALL) !== 0) {
      if (address !== 0n || size !== 0n) return errno.EINVAL;
      this.clear();
      return 0;
    }
    const from = Number(address);
    const end = from + Number(size);
    const inside = [...this.#mappings].filter(([start, { bytes }]) => start < end && from < start + bytes);
    // Mappings are not cut.
    if (inside.length === 0) return errno.ENOENT;
    if (inside.some(([start, { bytes }]) => start < from || start + bytes > end)) return errno.EINVAL;
    for (const [start] of inside) this.#drop(start);
    return 0;
  }

  /** Nothing is mapped any more. */
  clear(): void {
    for (const address of [...this.#mappings.keys()]) this.#drop(address);
  }

  #drop(address: number): void {
    const mapping = this.#mappings.get(address)!;
    this.#mappings.delete(address);
    for (const { gpa } of mapping.regions) this.memory.remove(gpa);
    for (const file of mapping.files) file.release();
  }
}
