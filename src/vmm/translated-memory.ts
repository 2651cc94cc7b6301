import { READ, WRITE } from '../memory/access.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { NO_PASID, type Target } from '../target/target.ts';
import type { QueueMemory } from '../virtqueue/index.ts';
import { EmulatedDevice } from './dma.ts';

/**
 * Memory as an endpoint reaches it: addresses are I/O virtual ones. What the rings of an emulated virtio device lie in.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * const target = new VirtioIommu({ memory });
 * target.addEndpoint(8);
 * const translated = new TranslatedMemory(8, target, memory);
 * memory.store32(0, 0x5000, 7);
 * translated.load64(0, 0x5000); // 0: bypass, as after a reset
 * translated.word[0]; // 7
 */
export class TranslatedMemory implements QueueMemory {
  readonly word: Int32Array;
  readonly #endpoint: number;
  readonly #target: Target;
  readonly #memory: GuestMemory;
  readonly #dma: EmulatedDevice;
  readonly #mayAccess: () => boolean;
  /** Accesses, and how many of them the IOMMU refused; for reports. */
  readonly counts = { reads: 0, writes: 0, bytes: 0, faults: 0 };

  /** `mayAccess`: bus master enable of the function. */
  constructor(endpoint: number, target: Target, memory: GuestMemory, mayAccess: () => boolean = () => true) {
    this.#endpoint = endpoint;
    this.#target = target;
    this.#memory = memory;
    this.#mayAccess = mayAccess;
    this.#dma = new EmulatedDevice(endpoint, target, memory);
    this.word = memory.word;
  }

  load64(hi: number, lo: number): number {
    const answer = this.#translate(hi, lo, READ, 8);
    return answer < 0 ? answer : this.#memory.load64(this.#target.translated[1]!, this.#target.translated[0]!);
  }

  load16(hi: number, lo: number): number {
    const answer = this.#translate(hi, lo, READ, 2);
    return answer < 0 ? answer : this.#memory.load16(this.#target.translated[1]!, this.#target.translated[0]!);
  }

  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    const answer = this.#translate(hi, lo, WRITE, 8);
    return answer < 0 ? answer : this.#memory.store64(this.#target.translated[1]!, this.#target.translated[0]!, valueHi, valueLo);
  }

  store32(hi: number, lo: number, value: number): number {
    const answer = this.#translate(hi, lo, WRITE, 4);
    return answer < 0 ? answer : this.#memory.store32(this.#target.translated[1]!, this.#target.translated[0]!, value);
  }

  store16(hi: number, lo: number, value: number): number {
    const answer = this.#translate(hi, lo, WRITE, 2);
    return answer < 0 ? answer : this.#memory.store16(this.#target.translated[1]!, this.#target.translated[0]!, value);
  }

  read(hi: number, lo: number, to: Uint8Array, at: number, bytes: number): number {
    return this.#transfer(hi, lo, to.subarray(at, at + bytes), READ);
  }

  write(hi: number, lo: number, from: Uint8Array, at: number, bytes: number): number {
    return this.#transfer(hi, lo, from.subarray(at, at + bytes), WRITE);
  }

  #transfer(hi: number, lo: number, bytes: Uint8Array, access: number): number {
    this.#count(access, bytes.length);
    const answer = this.#mayAccess() ? this.#dma.transfer(hi, lo, bytes, access, NO_PASID) : REFUSED;
    if (answer < 0) this.counts.faults++;
    return answer;
  }

  /** Aligned pieces of rings never lie in two pages. */
  #translate(hi: number, lo: number, access: number, bytes: number): number {
    this.#count(access, bytes);
    const answer = this.#mayAccess() ? this.#target.translate(this.#endpoint, NO_PASID, hi, lo, access) : REFUSED;
    if (answer < 0) this.counts.faults++;
    return answer;
  }

  #count(access: number, bytes: number): void {
    if (access === READ) this.counts.reads++;
    else this.counts.writes++;
    this.counts.bytes += bytes;
  }
}

/** Software has not let the function do DMA: EACCES. */
const REFUSED = -13;
