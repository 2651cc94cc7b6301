import type { SpaceRequirements } from '../host.ts';
import type { Port } from '../port.ts';
import { VfioHost } from '../vfio/host.ts';
import { VFIO_TYPE1v2_IOMMU } from '../vfio/uapi.ts';
import { Type1Space } from './space.ts';

/**
 * The VFIO type1 IOMMU driver, version 2, of the kernel behind a port: /dev/vfio/vfio and /dev/vfio/GROUP.
 *
 * @example
 * const kernel = simKernel();
 * const ram = kernel.allocate(1 << 16);
 * const host = new Type1Host(kernel);
 * const space = host.createSpace();
 * space.attach(host.openDevice(`/dev/vfio/${kernel.device().group.number}#${kernel.device().name}`)); // 0
 * space.map(0x40, Number(ram.address >> 12n), 1, READ_WRITE); // 0
 * kernel.device().dmaWrite(0x40010n, Uint8Array.of(7)); // 0
 * host.close();
 */
export class Type1Host extends VfioHost {
  /** @throws HostError when the kernel lacks it or the user may not open it. */
  constructor(port: Port) {
    super(port, { kind: 'vfio-type1', type: VFIO_TYPE1v2_IOMMU, typeName: 'VFIO_TYPE1v2_IOMMU', module: 'vfio_iommu_type1' });
  }

  override createSpace(requirements: SpaceRequirements = {}): Type1Space {
    return this.keep(new Type1Space(this, requirements));
  }
}
