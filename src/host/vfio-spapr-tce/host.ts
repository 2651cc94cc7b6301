import { requireObject } from '../../memory/arguments.ts';
import { errno, HostError } from '../errno.ts';
import type { HostDevice, IovaRange } from '../host.ts';
import type { Port } from '../port.ts';
import { reachThrough } from '../reach.ts';
import type { SharedMemory } from '../shared-memory.ts';
import { VfioHost } from '../vfio/host.ts';
import { VFIO_SPAPR_TCE_IOMMU, VFIO_SPAPR_TCE_v2_IOMMU } from '../vfio/uapi.ts';
import { TceSpace } from './space.ts';
import type { TceRequirements } from './windows.ts';

/** RAM need not be registered to see which windows there are. */
const NOTHING_SHARED: ReadonlySet<SharedMemory> = new Set();

const module = 'vfio_iommu_spapr_tce';
const drivers = {
  1: { kind: 'vfio-spapr-tce', type: VFIO_SPAPR_TCE_IOMMU, typeName: 'VFIO_SPAPR_TCE_IOMMU', module },
  2: { kind: 'vfio-spapr-tce', type: VFIO_SPAPR_TCE_v2_IOMMU, typeName: 'VFIO_SPAPR_TCE_v2_IOMMU', module },
} as const;

/**
 * The VFIO sPAPR TCE IOMMU driver of the kernel behind a port, for POWER hosts.
 *
 * @example
 * const kernel = simKernel({ iommus: [{ tce: {} }] });
 * const ram = kernel.allocate(1 << 16);
 * const host = new TceHost(kernel);
 * const space = host.createSpace();
 * space.attach(host.openDevice(`/dev/vfio/${kernel.device().group.number}#${kernel.device().name}`)); // 0
 * space.map(0x40, Number(ram.address >> 12n), 1, READ_WRITE); // 0
 * kernel.device().dmaWrite(0x40010n, Uint8Array.of(7)); // 0
 * host.close();
 */
export class TceHost extends VfioHost {
  /** 1: the default window alone; 2: dynamic windows, and memory that is registered before it is mapped. */
  readonly version: 1 | 2;
  readonly #shared = new Set<SharedMemory>();
  readonly #tceSpaces = new Set<TceSpace>();

  /** @throws HostError when the kernel lacks it or the user may not open it. */
  constructor(port: Port, version: 1 | 2 = 2) {
    if (!Object.hasOwn(drivers, version)) throw new RangeError(`vfio-spapr-tce: version ${String(version)} is not 1 or 2`);
    super(port, drivers[version]);
    this.version = version;
  }

  override createSpace(requirements: TceRequirements = {}): TceSpace {
    if (this.version === 1 && requirements.windows?.length)
      throw new HostError('VFIO_IOMMU_SPAPR_TCE_CREATE', errno.ENOTTY, undefined, 'version 1 has no dynamic windows');
    const space = this.keep(new TceSpace(this, this.version, requirements, this.#shared));
    this.#tceSpaces.add(space);
    return space;
  }

  /** What the windows reach that such a space would have: those that the wish needs, or the default one and the largest that can be had beside it. */
  override reach(device: HostDevice, wanted: readonly IovaRange[]): readonly IovaRange[] {
    const space = this.keep(new TceSpace(this, this.version, {}, NOTHING_SHARED));
    return reachThrough(space, device, wanted, () => {
      if (space.cover(wanted) < 0 && this.version === 2) space.createWindow();
    });
  }

  override dropSpace(space: TceSpace): void {
    this.#tceSpaces.delete(space);
    super.dropSpace(space);
  }

  /** Spaces that have devices register it now, others with their first device: once, and not with each map of a part (version 2). */
  share(memory: SharedMemory): () => void {
    requireObject('TceHost', 'memory', memory);
    const own = { ...memory };
    this.#shared.add(own);
    for (const space of this.#tceSpaces) space.shared(own);
    return () => {
      this.#shared.delete(own);
      for (const space of this.#tceSpaces) space.unshared(own);
    };
  }
}
