import { READ, WRITE } from '../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../memory/address.ts';
import { require64, requireBytes, requireInteger, requireObject } from '../memory/arguments.ts';
import { GuestMemory, MEM_FAULT } from '../memory/guest-memory.ts';
import { NO_PASID, type Target } from '../target/target.ts';
import type { Observation } from './observation.ts';

/** lg2 of the most bytes that are copied at once. */
const PIECE_LG2 = 30;
/** READ, here because the compiler folds a module's own constants only. */
const READS: typeof READ = 1;

/**
 * The DMA of one emulated device: translated in software, as the guest's IOMMU says, page by page.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * const target = new VirtioIommu({ memory });
 * target.addEndpoint(8);
 * const device = new EmulatedDevice(8, target, memory);
 * device.write(0x5000n, Uint8Array.of(7)); // 0: bypass, as after a reset
 * const byte = new Uint8Array(1);
 * device.read(0x5000n, byte);
 * byte[0]; // 7
 */
export class EmulatedDevice {
  readonly endpoint: number = 0;
  readonly #target: Target;
  readonly #memory: GuestMemory;

  #removed = false;

  /** Pages that were translated for it so far, and those that were refused. */
  accesses = 0;
  faults = 0;
  readonly #observation: Observation | null;

  constructor(endpoint: number, target: Target, memory: GuestMemory, observation: Observation | null = null) {
    requireInteger('EmulatedDevice', 'endpoint', endpoint, 0, 0xffff_ffff);
    requireObject('EmulatedDevice', 'target', target, 'Target', ['translate']);
    if (!(memory instanceof GuestMemory)) throw new TypeError('EmulatedDevice: memory is no GuestMemory');
    this.endpoint = endpoint;
    this.#observation = observation;
    this.#target = target;
    this.#memory = memory;
  }

  /**
   * Reads guest memory at an I/O virtual address into `to`. 0, or a fault code of the target's, or MEM_FAULT when a translation
   * leads outside guest RAM (`faultName` says which); bytes before the fault were read.
   * @throws TypeError or RangeError for another type of address, bytes or PASID, and when the machine has removed the device
   */
  read(iova: bigint, to: Uint8Array, pasid = NO_PASID): number {
    this.#check(iova, 'to', to, pasid);
    return this.transfer(hiOf(iova), loOf(iova), to, READ, pasid);
  }

  /** The same for a write. */
  write(iova: bigint, from: Uint8Array, pasid = NO_PASID): number {
    this.#check(iova, 'from', from, pasid);
    return this.transfer(hiOf(iova), loOf(iova), from, WRITE, pasid);
  }

  /** It does no DMA any more: the machine's part of taking it out. */
  end(): void {
    this.#removed = true;
  }

  #refused(code: number, hi: number, lo: number, access: number, pasid: number): number {
    this.faults++;
    if (this.#observation?.active) this.#observation.fault({ endpoint: this.endpoint, pasid, iova: joinHiLo(hi, lo), access, code });
    return code;
  }

  #done(hi: number, lo: number, bytes: number, access: number, pasid: number): void {
    const { translated } = this.#target;
    const gpa = joinHiLo(translated[1], translated[0]);
    this.#observation!.access({ endpoint: this.endpoint, pasid, iova: joinHiLo(hi, lo), access, bytes, gpa });
  }

  #check(iova: bigint, name: string, bytes: Uint8Array, pasid: number): void {
    require64('EmulatedDevice', 'iova', iova);
    requireBytes('EmulatedDevice', name, bytes);
    requireInteger('EmulatedDevice', 'pasid', pasid, NO_PASID, 0xf_ffff);
  }

  /** As `read` (access READ) and `write` (access WRITE), the address in two int32; allocates nothing up to 64 bytes. */
  transfer(hi: number, lo: number, bytes: Uint8Array, access: number, pasid: number): number {
    if (this.#removed) throw new TypeError(`EmulatedDevice: endpoint 0x${this.endpoint.toString(16)} was removed`);
    const target = this.#target;
    const memory = this.#memory;
    const { translated } = target;
    const end = bytes.length;
    for (let done = 0; done < end; ) {
      const lg2 = target.translate(this.endpoint, pasid, hi, lo, access);
      this.accesses++;
      if (lg2 < 0) return this.#refused(lg2, hi, lo, access, pasid);
      // What is left of the page, of its next GiB at most: an int32, as places in the array are in all but huge ones.
      const inPiece = lg2 < PIECE_LG2 ? (1 << lg2) - 1 : (1 << PIECE_LG2) - 1;
      const room = inPiece + 1 - (lo & inPiece);
      const size = end - done < room ? (end - done) | 0 : room;
      const answer =
        access === READS
          ? memory.read(translated[1], translated[0], bytes, done, size)
          : memory.write(translated[1], translated[0], bytes, done, size);
      if (answer < 0) return this.#refused(MEM_FAULT, hi, lo, access, pasid);
      if (this.#observation?.active) this.#done(hi, lo, size, access, pasid);
      done += size;
      if (done === end) break;
      lo = (lo + size) | 0;
      if (lo >>> 0 < size) hi = (hi + 1) | 0;
    }
    return 0;
  }
}
