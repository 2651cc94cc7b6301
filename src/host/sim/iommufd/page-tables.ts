import { errno } from '../../errno.ts';
import type { SimDevice } from '../device.ts';
import type { SimIommu } from '../iommu.ts';
import type { Event, NestedDomain } from '../nesting/model.ts';
import { PagingDomain } from '../paging-domain.ts';
import type { DmaFault, DomainFormat, Translation } from '../translation.ts';
import type { BoundDevice, IommufdContext, KernelObject } from './context.ts';
import type { Ioas } from './ioas.ts';

/** enum iommufd_hwpt_alloc_flags */
export const NEST_PARENT = 1;
export const DIRTY_TRACKING = 2;
export const FAULT_ID_VALID = 4;
export const FOR_PASID = 8;

/** Where page requests go (IOMMU_FAULT_QUEUE_ALLOC). */
export interface FaultSink extends KernelObject {
  report(hwpt: Hwpt, fault: DmaFault): void;
  /** The device leaves the page table: its requests that wait are answered as invalid. */
  leave(hwpt: Hwpt, device: string): void;
}

/** A slice of an IOMMU, as the page tables on it see it (IOMMU_VIOMMU_ALLOC). */
export interface VirtualSlice extends KernelObject {
  /** Without somebody to hear of it, an event is lost. */
  report(event: Event): void;
}

/** A page table that a device can be attached to. */
export interface Hwpt extends KernelObject, Translation {
  /** The IOAS that it is filled from, or that its parent is. */
  readonly ioas: Ioas;
  /** Whose format it has. */
  readonly iommu: SimIommu;
  /** It may be attached beside, or as, a PASID's. */
  readonly forPasid: boolean;
  faults: FaultSink | null;
  /** 0, or a negative errno: the table and the device do not go together. */
  accepts(device: BoundDevice, pasid: number): number;
  /** The device goes through it from now on. */
  enter?(device: BoundDevice): void;
}

/** A device that can do no page requests cannot have a page table that wants to hear of them. */
function acceptsFaults(hwpt: Hwpt, { device }: BoundDevice): number {
  return hwpt.faults !== null && !device.pageRequests ? -errno.ENODEV : 0;
}

/** A page table that the kernel fills from an IOAS. */
export class PagingHwpt implements Hwpt {
  readonly kind = 'hwpt-paging';
  id = 0;
  users = 1;
  readonly ioas: Ioas;
  readonly domain: PagingDomain;
  /** Made by an attach to the IOAS, and gone with its last device. */
  readonly automatic: boolean;
  readonly flags: number;
  faults: FaultSink | null = null;

  constructor(ioas: Ioas, domain: PagingDomain, flags: number, automatic: boolean) {
    this.ioas = ioas;
    this.domain = domain;
    this.flags = flags;
    this.automatic = automatic;
  }

  /** A page table with its ID, which nobody finds and nothing is in yet. */
  static reserve(
    context: IommufdContext,
    ioas: Ioas,
    device: SimDevice,
    options: { automatic: boolean; flags: number; format?: DomainFormat },
  ): PagingHwpt {
    const domain = new PagingDomain(device.iommu, options.format, (options.flags & NEST_PARENT) !== 0);
    ioas.users++;
    return context.reserve(new PagingHwpt(ioas, domain, options.flags, options.automatic));
  }

  /** A filled page table in the object table, or a negative errno and nothing. */
  static create(...arguments_: Parameters<typeof PagingHwpt.reserve>): PagingHwpt | number {
    const [context] = arguments_;
    const made = PagingHwpt.reserve(...arguments_);
    const failed = made.fill();
    if (failed === 0) return context.publish(made);
    made.abandon(context);
    return failed;
  }

  /** iopt_table_add_domain: 0 or a negative errno. */
  fill(): number {
    const failed = this.ioas.table.addDomain(this.domain);
    if (failed === 0) this.ioas.pageTables.push(this);
    return failed;
  }

  /** It was not published in the end. */
  abandon(context: IommufdContext): void {
    context.discard(this.id);
    this.destroy();
  }

  get forPasid(): boolean {
    return (this.flags & FOR_PASID) !== 0;
  }

  get iommu(): SimIommu {
    return this.domain.iommu;
  }

  accepts(bound: BoundDevice): number {
    if (bound.device.iommu !== this.iommu) return -errno.EINVAL;
    // What tracks is nothing for a device whose IOMMU does not.
    if ((this.flags & DIRTY_TRACKING) !== 0 && !bound.device.dirtyTracking) return -errno.EINVAL;
    return acceptsFaults(this, bound);
  }

  translate(pfn: number, access: number, pasid: number, commit: boolean): number {
    return this.domain.translate(pfn, access, pasid, commit);
  }

  fault(fault: DmaFault): boolean {
    this.faults?.report(this, fault);
    return this.faults !== null;
  }

  destroy(): void {
    const at = this.ioas.pageTables.indexOf(this);
    if (at >= 0) {
      this.ioas.pageTables.splice(at, 1);
      this.ioas.table.removeDomain(this.domain);
    }
    this.domain.free();
    this.ioas.users--;
    if (this.faults !== null) this.faults.users--;
  }

  save(): unknown {
    return { ioas: this.ioas.id, automatic: this.automatic, flags: this.flags, tracking: this.domain.tracking };
  }
}

/** A page table of the user's on one of the kernel's, or on a vIOMMU. */
export class NestedHwpt implements Hwpt {
  readonly kind = 'hwpt-nested';
  id = 0;
  users = 1;
  readonly domain: NestedDomain;
  readonly pasids: boolean;
  readonly ioas: Ioas;
  readonly forPasid: boolean;
  readonly slice: VirtualSlice | null;
  readonly #parent: PagingHwpt;
  faults: FaultSink | null = null;
  /** Virtual IDs of devices as they were when they were attached: what events name, even when the vDEVICE is gone. */
  readonly #virtualIds = new Map<string, bigint>();

  constructor(domain: NestedDomain, parent: PagingHwpt, slice: VirtualSlice | null, flags: number) {
    this.domain = domain;
    this.pasids = domain.pasids ?? false;
    this.ioas = parent.ioas;
    this.forPasid = (flags & FOR_PASID) !== 0;
    this.slice = slice;
    this.#parent = parent;
    (slice ?? parent).users++;
  }

  get iommu(): SimIommu {
    return this.#parent.iommu;
  }

  accepts(bound: BoundDevice, pasid: number): number {
    if (bound.device.iommu !== this.iommu) return -errno.EINVAL;
    // A PASID's table says nothing of the stream.
    if (pasid >= 0) return 0;
    return this.domain.accepts(bound.slice === this.slice ? bound.virtualId : undefined) || acceptsFaults(this, bound);
  }

  enter(bound: BoundDevice): void {
    if (bound.slice === this.slice && bound.virtualId !== undefined) this.#virtualIds.set(bound.device.name, bound.virtualId);
    else this.#virtualIds.delete(bound.device.name);
  }

  translate(pfn: number, access: number, pasid: number, commit: boolean): number {
    return this.domain.translate(pfn, access, pasid, commit);
  }

  /** A fault becomes a page request where one can be made, and else an event of the guest's IOMMU. */
  fault(fault: DmaFault): boolean {
    if (this.faults !== null) {
      this.faults.report(this, fault);
      return true;
    }
    const virtualId = this.#virtualIds.get(fault.device);
    const event = virtualId === undefined ? null : (this.domain.event?.(fault, virtualId) ?? null);
    if (event !== null) this.slice?.report(event);
    return false;
  }

  destroy(): void {
    this.domain.free();
    (this.slice ?? this.#parent).users--;
    if (this.faults !== null) this.faults.users--;
  }

  save(): unknown {
    return { parent: this.#parent.id, slice: this.slice?.id ?? null };
  }
}
