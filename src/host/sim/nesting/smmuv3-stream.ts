import { READ, WRITE } from '../../../memory/access.ts';
import {
  FAULT_ACCESS_FLAG,
  FAULT_OUTPUT_SIZE,
  FAULT_PERMISSION,
  FAULT_TABLE_ACCESS,
  type FaultKind,
} from '../../../pagetable/page-table.ts';
import { errno } from '../../errno.ts';
import type { PhysicalMemory } from '../memory.ts';
import { DMA_BLOCKED, DMA_FORBIDDEN, DMA_UNMAPPED, type ParentStage } from '../translation.ts';
import type { Event, NestedDomain, StageFault } from './model.ts';
import type { SmmuCaches } from './smmuv3-caches.ts';
import { BAD_DESCRIPTOR, BAD_SUBSTREAM, type ContextDescriptor, contextDescriptor } from './smmuv3-cd.ts';

/** A stream behind an SMMUv3 (IHI 0070, 5.2 and chapter 7): what its entry makes of a transaction, and which event that is. */

const VEVENTQ_SMMUV3 = 1;

export const CONFIG_ABORT = 0n;
export const CONFIG_BYPASS = 4n;
export const CONFIG_S1 = 5n;

/** Event numbers (7.3). */
const C_BAD_STE = 0x04n;
const F_STREAM_DISABLED = 0x06n;
const C_BAD_SUBSTREAMID = 0x08n;
const C_BAD_CD = 0x0an;
const F_TRANSLATION = 0x10n;
const F_ADDR_SIZE = 0x11n;
const F_ACCESS = 0x12n;
const F_PERMISSION = 0x13n;
/** The guest is not told. */
const NONE = 0n;

/** CLASS of an event: the input address (7.3.13). */
const CLASS_IN = 2n << 40n;

/** STE.S1DSS: what a transaction without a substream is when there are substreams. */
const DSS_BYPASS = 1;
const DSS_SUBSTREAM_0 = 2;

/** IDR0 (6.3.1): stalls, two-level tables of descriptors; IDR1 (6.3.2): bits of substream IDs. */
const stallModel = (idr0: number) => (idr0 >>> 24) & 3;
const IDR0_CD2L = 1 << 19;
const substreamBits = (idr1: number) => (idr1 >>> 6) & 31;

/** Whether the entry is one that hardware of these ID registers takes (5.2.2). */
function isLegal([idr0, idr1]: readonly number[], ste0: bigint, ste1: bigint): boolean {
  const max = Number(ste0 >> 59n);
  const format = Number((ste0 >> 4n) & 3n);
  const stallDisabled = ((ste1 >> 27n) & 1n) !== 0n;
  if (max > substreamBits(idr1)) return false;
  if (max > 0 && (format === 3 || (format > 0 && (idr0 & IDR0_CD2L) === 0))) return false;
  return !(stallDisabled && stallModel(idr0) !== 0);
}

/** The event of a first-stage fault (7.3.13 to 7.3.16). What the second stage refused is the host's. */
function eventOf(kind: FaultKind): bigint {
  if (kind === FAULT_TABLE_ACCESS) return NONE;
  if (kind === FAULT_OUTPUT_SIZE) return F_ADDR_SIZE;
  if (kind === FAULT_ACCESS_FLAG) return F_ACCESS;
  return kind === FAULT_PERMISSION ? F_PERMISSION : F_TRANSLATION;
}

/** A stream table entry of the guest: aborts, passes through, or names a table of context descriptors. */
export class SmmuStream implements NestedDomain {
  readonly parent: ParentStage;
  readonly pasids: boolean;
  readonly #physical: PhysicalMemory;
  readonly #caches: SmmuCaches;
  readonly #config: bigint;
  readonly #ste0: bigint;
  readonly #dss: number;
  readonly #legal: boolean;
  /** Event number of the last transaction that was refused. */
  #event = NONE;

  constructor(parent: ParentStage, physical: PhysicalMemory, caches: SmmuCaches, ste0: bigint, ste1: bigint) {
    this.parent = parent;
    this.#physical = physical;
    this.#caches = caches;
    this.#config = (ste0 & 1n) === 0n ? CONFIG_ABORT : (ste0 >> 1n) & 7n;
    this.#ste0 = ste0;
    // 3 is reserved, and as 0.
    this.#dss = Number(ste1 & 3n) % 3;
    this.#legal = this.#config !== CONFIG_S1 || isLegal(caches.idr, ste0, ste1);
    this.pasids = this.#config === CONFIG_S1;
    parent.nested++;
  }

  /** Invalidations and events name the stream by its virtual ID, so a table wants a vDEVICE first. */
  accepts(virtualId: bigint | undefined): number {
    return this.#config === CONFIG_S1 && virtualId === undefined ? -errno.ENOENT : 0;
  }

  translate(pfn: number, access: number, pasid: number, commit: boolean): number {
    if (this.#config === CONFIG_ABORT) return this.#refuse(DMA_BLOCKED, NONE, commit);
    if (this.#config === CONFIG_BYPASS) return pasid < 0 ? this.#second(pfn, access, commit) : this.#refuse(DMA_BLOCKED, NONE, commit);
    if (!this.#legal) return this.#refuse(DMA_BLOCKED, C_BAD_STE, commit);
    const substreams = this.#ste0 >> 59n !== 0n;
    if (pasid >= 0 && !substreams) return this.#refuse(DMA_BLOCKED, C_BAD_SUBSTREAMID, commit);
    if (pasid < 0 && substreams && this.#dss === DSS_BYPASS) return this.#second(pfn, access, commit);
    if (pasid < 0 && substreams && this.#dss !== DSS_SUBSTREAM_0) return this.#refuse(DMA_BLOCKED, F_STREAM_DISABLED, commit);
    const descriptor = this.#descriptor(Math.max(pasid, 0), commit);
    if (typeof descriptor === 'string') {
      const event = descriptor === BAD_SUBSTREAM ? C_BAD_SUBSTREAMID : descriptor === BAD_DESCRIPTOR ? C_BAD_CD : NONE;
      return this.#refuse(DMA_BLOCKED, event, commit);
    }
    const gpa = this.#caches.translate(descriptor, pfn, access & (READ | WRITE), commit);
    if (gpa >= 0) return this.#second(gpa, access, commit);
    const event = eventOf(this.#caches.fault);
    return this.#refuse(event === F_PERMISSION ? DMA_FORBIDDEN : DMA_UNMAPPED, descriptor.records ? event : NONE, commit);
  }

  #refuse(code: number, event: bigint, commit: boolean): number {
    if (commit) this.#event = event;
    return code;
  }

  /** A fault of the second stage stays with the host. */
  #second(pfn: number, access: number, commit: boolean): number {
    const page = this.parent.translate(pfn, access, -1, commit);
    return page < 0 ? this.#refuse(page, NONE, commit) : page;
  }

  #descriptor(substream: number, commit: boolean): ContextDescriptor | string {
    const known = this.#caches.descriptor(this, substream);
    if (known !== undefined) return known;
    const found = contextDescriptor(this.parent, this.#physical, this.#caches.idr, this.#ste0, substream);
    if (typeof found !== 'string' && commit) this.#caches.keep(this, substream, found);
    return found;
  }

  /** Number, substream, stream; for a fault of the translation also what was wanted, and the input address. */
  event({ pfn, access, pasid }: StageFault, virtualId: bigint): Event | null {
    if (this.#event === NONE) return null;
    const data = new Uint8Array(32);
    const view = new DataView(data.buffer);
    const substream = pasid < 0 ? 0n : (1n << 11n) | (BigInt(pasid) << 12n);
    view.setBigUint64(0, this.#event | substream | (virtualId << 32n), true);
    if (this.#event >= F_TRANSLATION) {
      view.setBigUint64(8, CLASS_IN | ((access & WRITE) !== 0 ? 0n : 1n << 35n), true);
      view.setBigUint64(16, BigInt(pfn) << 12n, true);
    }
    return { type: VEVENTQ_SMMUV3, data };
  }

  free(): void {
    this.#caches.forget(this);
    this.parent.nested--;
  }
}
