import { READ, WRITE } from '../memory/access.ts';
import { hiOf, loOf } from '../memory/address.ts';
import { type GuestMemory, MEM_FAULT } from '../memory/guest-memory.ts';
import { NO_PASID, type Target } from '../target/target.ts';

/** The DMA of one emulated device: translated in software, as the guest's IOMMU says, page by page. */
export class EmulatedDevice {
  readonly endpoint: number;
  readonly #target: Target;
  readonly #memory: GuestMemory;

  constructor(endpoint: number, target: Target, memory: GuestMemory) {
    this.endpoint = endpoint;
    this.#target = target;
    this.#memory = memory;
  }

  /**
   * Reads guest memory at an I/O virtual address into `to`. 0, or a fault code of the target's, or MEM_FAULT when a translation
   * leads outside guest RAM (`faultName` says which); bytes before the fault were read.
   */
  read(iova: bigint, to: Uint8Array, pasid = NO_PASID): number {
    return this.transfer(hiOf(iova), loOf(iova), to, READ, pasid);
  }

  /** The same for a write. */
  write(iova: bigint, from: Uint8Array, pasid = NO_PASID): number {
    return this.transfer(hiOf(iova), loOf(iova), from, WRITE, pasid);
  }

  /** As `read` (access READ) and `write` (access WRITE), the address in two int32; allocates nothing up to 64 bytes. */
  transfer(hi: number, lo: number, bytes: Uint8Array, access: number, pasid: number): number {
    const translated = this.#target.translated;
    for (let done = 0; done < bytes.length; ) {
      const lg2 = this.#target.translate(this.endpoint, pasid, hi, lo, access);
      if (lg2 < 0) return lg2;
      const left = bytes.length - done;
      const size = lg2 >= 31 ? Math.min(left, 0x8000_0000 - (lo & 0x7fff_ffff)) : Math.min(left, (1 << lg2) - (lo & ((1 << lg2) - 1)));
      const answer =
        access === READ
          ? this.#memory.read(translated[1], translated[0], bytes, done, size)
          : this.#memory.write(translated[1], translated[0], bytes, done, size);
      if (answer < 0) return MEM_FAULT;
      done += size;
      const next = (lo >>> 0) + size;
      if (next > 0xffff_ffff) hi = (hi + 1) | 0;
      lo = next | 0;
    }
    return 0;
  }
}
