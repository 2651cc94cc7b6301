import { errno } from '../../errno.ts';
import { DMA_UNMAPPED } from '../translation.ts';
import { StageOneCache } from './model.ts';
import type { ContextDescriptor } from './smmuv3-cd.ts';

/**
 * What an SMMUv3 remembers for one VMID: context descriptors and first-stage translations by ASID. Forgets only what a command
 * (IHI 0070, chapter 4) tells it to.
 */

const CFGI_CD = 0x05;
const CFGI_CD_ALL = 0x06;
const TLBI_NH_ALL = 0x10;
const TLBI_NH_ASID = 0x11;
const TLBI_NH_VA = 0x12;
const TLBI_NH_VAA = 0x13;
const TLBI_NSNH_ALL = 0x30;
const ATC_INV = 0x40;
const CMD_SYNC = 0x46;

export class SmmuCaches {
  readonly #descriptors = new Map<object, Map<number, ContextDescriptor>>();
  readonly #translations = new Map<number, StageOneCache>();

  descriptor(stream: object, substream: number): ContextDescriptor | undefined {
    return this.#descriptors.get(stream)?.get(substream);
  }

  keep(stream: object, substream: number, descriptor: ContextDescriptor): void {
    const known = this.#descriptors.get(stream) ?? new Map<number, ContextDescriptor>();
    known.set(substream, descriptor);
    this.#descriptors.set(stream, known);
  }

  /** The stream's entry is replaced: the kernel invalidates its configuration itself. */
  forget(stream: object): void {
    this.#descriptors.delete(stream);
  }

  translate(descriptor: ContextDescriptor, pfn: number, access: number, commit: boolean): number {
    const tables = pfn >= 2 ** 51 ? descriptor.upper : descriptor.lower;
    if (tables === null) return DMA_UNMAPPED;
    let cache = this.#translations.get(descriptor.asid);
    if (cache === undefined) {
      cache = new StageOneCache();
      this.#translations.set(descriptor.asid, cache);
    }
    return cache.translate(tables, pfn, access, commit);
  }

  /** Commands that the kernel takes from a vIOMMU: 0, or -EIO. `device`: whether the vIOMMU has a stream of that ID. */
  command(word0: bigint, word1: bigint, device: (virtualId: bigint) => boolean): number {
    const operation = Number(word0 & 0xffn);
    const asid = Number(word0 >> 48n);
    switch (operation) {
      case TLBI_NSNH_ALL:
      case TLBI_NH_ALL:
        this.#translations.clear();
        return 0;
      case TLBI_NH_ASID:
        this.#translations.delete(asid);
        return 0;
      case TLBI_NH_VA:
        this.#range(this.#translations.get(asid), word0, word1);
        return 0;
      case TLBI_NH_VAA:
        for (const cache of this.#translations.values()) this.#range(cache, word0, word1);
        return 0;
      case CFGI_CD:
      case CFGI_CD_ALL:
        if (!device(word0 >> 32n)) return -errno.EIO;
        // A hardware that forgets more than it is told to is right too; streams are not told apart here.
        this.#descriptors.clear();
        return 0;
      case ATC_INV:
        return device(word0 >> 32n) ? 0 : -errno.EIO;
      default:
        return -errno.EIO;
    }
  }

  /** Commands that a queue of the guest's own may hold: the same but for configuration, and CMD_SYNC. */
  queued(word0: bigint, word1: bigint, device: (virtualId: bigint) => boolean): number {
    const operation = Number(word0 & 0xffn);
    if (operation === CMD_SYNC) return 0;
    return operation === CFGI_CD || operation === CFGI_CD_ALL || operation === TLBI_NSNH_ALL
      ? -errno.EIO
      : this.command(word0, word1, device);
  }

  /** CMD_TLBI_NH_VA (4.4.2): an address, or with TG a range of (NUM + 1) × 2^SCALE granules. */
  #range(cache: StageOneCache | undefined, word0: bigint, word1: bigint): void {
    const first = Number(word1 >> 12n);
    const granule = Number((word1 >> 10n) & 3n);
    const pages = granule === 0 ? 1 : (Number((word0 >> 12n) & 31n) + 1) * 2 ** Number((word0 >> 20n) & 31n) * 4 ** (granule - 1);
    cache?.invalidate(first, first + pages - 1);
  }
}
