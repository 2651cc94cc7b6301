import { errno } from '../../errno.ts';
import type { SimDevice } from '../device.ts';
import { PagingDomain } from '../paging-domain.ts';
import type { Translation } from '../translation.ts';
import type { IommufdContext, KernelObject } from './context.ts';
import type { Ioas } from './ioas.ts';

/** A page table that a device can be attached to. */
export interface Hwpt extends KernelObject, Translation {
  /** The IOAS that it is filled from; null for a table that the user owns. */
  readonly ioas: Ioas | null;
  /** 0 or -EINVAL: the table and the device do not go together. */
  accepts(device: SimDevice): number;
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

  private constructor(ioas: Ioas, domain: PagingDomain, automatic: boolean) {
    this.ioas = ioas;
    this.domain = domain;
    this.automatic = automatic;
  }

  /** A filled page table in the object table, or a negative errno and nothing. */
  static create(context: IommufdContext, ioas: Ioas, device: SimDevice, options: { readonly automatic: boolean }): PagingHwpt | number {
    const domain = new PagingDomain(device.iommu);
    const failed = ioas.table.addDomain(domain);
    if (failed < 0) {
      domain.free();
      return failed;
    }
    const hwpt = context.add(new PagingHwpt(ioas, domain, options.automatic));
    ioas.users++;
    ioas.pageTables.push(hwpt);
    return hwpt;
  }

  accepts(device: SimDevice): number {
    return device.iommu === this.domain.iommu ? 0 : -errno.EINVAL;
  }

  translate(pfn: number, access: number, pasid: number, commit: boolean): number {
    return this.domain.translate(pfn, access, pasid, commit);
  }

  destroy(): void {
    this.ioas.pageTables.splice(this.ioas.pageTables.indexOf(this), 1);
    this.ioas.table.removeDomain(this.domain);
    this.domain.free();
    this.ioas.users--;
  }

  save(): unknown {
    return { ioas: this.ioas.id, automatic: this.automatic };
  }
}
