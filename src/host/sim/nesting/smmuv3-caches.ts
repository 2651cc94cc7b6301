import { FAULT_NOT_PRESENT, type FaultKind } from '../../../pagetable/page-table.ts';
import { errno } from '../../errno.ts';
import { DMA_UNMAPPED } from '../translation.ts';
import { StageOneCache, type StreamLookup } from './model.ts';
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

const IDR0_ATS = 1 << 10;
const IDR3_RIL = 1 << 10;

/** Fields of commands that a guest may set beside the number. The VMID is taken, and replaced by the guest's own. */
const VMID = 0xffffn << 32n;
const ASID = 0xffffn << 48n;
const STREAM = 0xffff_ffffn << 32n;
/** SSV and SSID */
const SUBSTREAM = (1n << 11n) | (0xf_ffffn << 12n);
/** NUM and SCALE of a range; Leaf, TTL, TG and the address. */
const RANGE = (31n << 12n) | (31n << 20n);
const VA = 1n | (3n << 8n) | (3n << 10n) | (~0xfffn & 0xffff_ffff_ffff_ffffn);

interface CommandFields {
  readonly word0: bigint;
  readonly word1: bigint;
  readonly range?: true;
  readonly stream?: true;
  readonly substream?: true;
}

const commandFields = new Map<number, CommandFields>([
  [CFGI_CD, { word0: STREAM | SUBSTREAM, word1: 1n, stream: true, substream: true }],
  [CFGI_CD_ALL, { word0: STREAM, word1: 0n, stream: true }],
  [TLBI_NH_ALL, { word0: VMID, word1: 0n }],
  [TLBI_NH_ASID, { word0: VMID | ASID, word1: 0n }],
  [TLBI_NH_VA, { word0: VMID | ASID | RANGE, word1: VA, range: true }],
  [TLBI_NH_VAA, { word0: VMID | RANGE, word1: VA, range: true }],
  [TLBI_NSNH_ALL, { word0: 0n, word1: 0n }],
  // SSV, Global and SSID; Size and the address.
  [ATC_INV, { word0: STREAM | SUBSTREAM | (1n << 9n), word1: 0x3fn | (~0xfffn & 0xffff_ffff_ffff_ffffn), stream: true, substream: true }],
]);

/** Without TG there is no range; with it (and IDR3.RIL) not the reserved ones of 4.4.1.1: nothing at all, 16 KiB granules at level 1. */
function rangeIsValid(word0: bigint, word1: bigint, ranges: boolean): boolean {
  const granule = (word1 >> 10n) & 3n;
  const level = (word1 >> 8n) & 3n;
  if (granule === 0n) return (word0 & RANGE) === 0n && level === 0n;
  return ranges && ((word0 & RANGE) !== 0n || level !== 0n) && !(granule === 2n && level === 1n);
}

export class SmmuCaches {
  readonly #descriptors = new Map<object, Map<number, ContextDescriptor>>();
  readonly #translations = new Map<number, StageOneCache>();

  readonly idr: readonly number[];
  /** Why the last translation was refused. */
  fault: FaultKind = FAULT_NOT_PRESENT;

  /** `idr`: IDR0 to IDR5 of the hardware (6.3.1 to 6.3.6). */
  constructor(idr: readonly number[]) {
    this.idr = idr;
  }

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
    if (tables === null) {
      this.fault = FAULT_NOT_PRESENT;
      return DMA_UNMAPPED;
    }
    let cache = this.#translations.get(descriptor.asid);
    if (cache === undefined) {
      cache = new StageOneCache();
      this.#translations.set(descriptor.asid, cache);
    }
    const page = cache.translate(tables, pfn, access, commit);
    this.fault = cache.fault;
    return page;
  }

  /** What Linux 7.3 takes from a vIOMMU: 0, or -EIO. `device`: whether the vIOMMU has a stream of that ID. */
  check(word0: bigint, word1: bigint, device: StreamLookup): number {
    const fields = commandFields.get(Number(word0 & 0xffn));
    if (fields === undefined) return -errno.EIO;
    if ((word0 & ~0xffn & ~fields.word0) !== 0n || (word1 & ~fields.word1) !== 0n) return -errno.EIO;
    if (fields.range === true && !rangeIsValid(word0, word1, (this.idr[3] & IDR3_RIL) !== 0)) return -errno.EIO;
    const substreams = ((this.idr[1] >> 6) & 31) > 0;
    if (fields.substream === true && !substreams && (word0 & SUBSTREAM) !== 0n) return -errno.EIO;
    if (fields.stream !== true) return 0;
    if (Number(word0 & 0xffn) === ATC_INV && (this.idr[0] & IDR0_ATS) === 0) return -errno.EIO;
    return device(word0 >> 32n) ? 0 : -errno.EIO;
  }

  /** Carries out a command that `check` takes: 0, or -EIO. */
  command(word0: bigint, word1: bigint, device: StreamLookup): number {
    if (this.check(word0, word1, device) < 0) return -errno.EIO;
    const asid = Number(word0 >> 48n);
    switch (Number(word0 & 0xffn)) {
      case TLBI_NSNH_ALL:
      case TLBI_NH_ALL:
        this.#translations.clear();
        break;
      case TLBI_NH_ASID:
        this.#translations.delete(asid);
        break;
      case TLBI_NH_VA:
        this.#range(this.#translations.get(asid), word0, word1);
        break;
      case TLBI_NH_VAA:
        for (const cache of this.#translations.values()) this.#range(cache, word0, word1);
        break;
      case CFGI_CD:
      case CFGI_CD_ALL:
        // A hardware that forgets more than it is told to is right too; streams are not told apart here.
        this.#descriptors.clear();
        break;
      default:
    }
    return 0;
  }

  /** Commands that a queue of the guest's own may hold: the same but for configuration, and CMD_SYNC. */
  queued(word0: bigint, word1: bigint, device: StreamLookup): number {
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
