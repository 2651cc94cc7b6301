import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../memory/access.ts';
import type { WantedPage } from '../host.ts';
import type { IommufdContext } from './context.ts';
import { DescriptorQueue } from './event-queue.ts';

/** struct iommu_fault_alloc */
const ALLOC = { bytes: 16, id: 2, fd: 3 } as const;
/** struct iommu_hwpt_pgfault, and its flags and permissions. */
const FAULT_BYTES = 40;
const PASID_VALID = 1;
const LAST_PAGE = 2;
const permissionBits = [READ, WRITE, EXECUTE, PRIVILEGED];
/** struct iommu_hwpt_page_response */
const RESPONSE_BYTES = 8;

/** A page that a device asks for. */
export interface PageFault extends WantedPage {
  /** The kernel's handle of the device. */
  readonly device: number;
}

/** Page requests of the devices behind page tables that name this queue. */
export class FaultQueue extends DescriptorQueue {
  constructor(context: IommufdContext) {
    const words = context.control('IOMMU_FAULT_QUEUE_ALLOC', ALLOC.bytes, () => {});
    super(context, words[ALLOC.id], words[ALLOC.fd]);
  }

  /** Those that wait now; none is an empty list. @throws HostError */
  read(): PageFault[] {
    // The kernel wants room for whole records.
    const view = this.readBytes(4096 - (4096 % FAULT_BYTES));
    const faults: PageFault[] = [];
    for (let at = 0; at + FAULT_BYTES <= view.byteLength; at += FAULT_BYTES) {
      const flags = view.getUint32(at, true);
      const permission = view.getUint32(at + 16, true);
      faults.push({
        device: view.getUint32(at + 4, true),
        pasid: (flags & PASID_VALID) === 0 ? -1 : view.getUint32(at + 8, true),
        group: view.getUint32(at + 12, true),
        last: (flags & LAST_PAGE) !== 0,
        access: permissionBits.reduce((sum, bit, index) => sum | ((permission >> index) & 1 ? bit : 0), 0),
        address: view.getBigUint64(at + 24, true),
        cookie: view.getUint32(at + 36, true),
      });
    }
    return faults;
  }

  /** Answers a group: the pages are there now, or they will not be. @throws HostError EINVAL for a cookie that is not waited for. */
  respond(cookie: number, resolved: boolean): void {
    this.writeBytes(RESPONSE_BYTES, (view) => {
      view.setUint32(0, cookie, true);
      view.setUint32(4, resolved ? 0 : 1, true);
    });
  }
}
