import { smmuv3, vtd } from '../../src/host/sim/index.ts';
import type { PathSubject } from './suite.ts';

const BBML_2 = 2 << 11;
/** Large pages become tables while they are in use (IHI 0070, 6.3.4). */
const splitsLive = () => smmuv3({ idr: [0x0000_1aca | (1 << 19) | 3, (19 << 21) | (20 << 6) | 16, 0, (1 << 10) | BBML_2, 0, 0x55] });

const INVALIDATE = 'IOMMU_HWPT_INVALIDATE';
const NESTING = {
  'iommufd, VT-d': { make: () => ({ nesting: vtd() }), forgets: INVALIDATE },
  'iommufd, SMMUv3': { make: () => ({ nesting: smmuv3() }), forgets: INVALIDATE },
} as const;
const LIVE = { 'iommufd, SMMUv3 that splits large pages live': { make: () => ({ nesting: splitsLive() }), forgets: INVALIDATE } } as const;
const SEVERAL = {
  'iommufd, two VT-d': { make: () => ({ nesting: vtd(), second: vtd() }), forgets: INVALIDATE },
  'iommufd, two SMMUv3': { make: () => ({ nesting: smmuv3(), second: smmuv3() }), forgets: INVALIDATE },
} as const;
const queued = () => smmuv3({ tegra241: {} });
/** Invalidations are stores. */
const QUEUE = {
  'iommufd, SMMUv3 with a command queue': { make: () => ({ nesting: queued() }), forgets: null },
  'iommufd, two SMMUv3 with a command queue each': { make: () => ({ nesting: queued(), second: queued() }), forgets: null },
} as const;

/** What each path of the registry is tried on. */
export const subjects: Readonly<Record<string, PathSubject>> = {
  shadow: {
    places: {
      iommufd: { make: () => ({ host: 'iommufd' }), forgets: 'IOMMU_IOAS_UNMAP' },
      'vfio-type1': { make: () => ({ host: 'vfio-type1' }), forgets: 'VFIO_IOMMU_UNMAP_DMA' },
      'vfio-spapr-tce': { make: () => ({ host: 'vfio-spapr-tce' }), forgets: 'VFIO_IOMMU_UNMAP_DMA' },
    },
    runs: 15,
  },
  'user-owned': { places: { ...NESTING, ...LIVE }, runs: 6 },
  'user-owned-queue': { places: QUEUE, runs: 6 },
  nested: { places: { ...NESTING, ...SEVERAL }, runs: 6 },
  'nested-queue': { places: QUEUE, runs: 6 },
};
