import { smmuSubject } from '../target/smmuv3/subject.ts';
import { spaprSubject } from '../target/spapr/subject.ts';
import { virtioSubjects } from '../target/virtio-iommu/subject.ts';
import { legacySubject, scalableSubject } from '../target/vtd/subject.ts';
import { mutations, QUEUED, TABLE_STORE } from './mutations.ts';

const ATTACH = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';
const DETACH = 'VFIO_DEVICE_DETACH_IOMMUFD_PT';
const INVALIDATE = 'IOMMU_HWPT_INVALIDATE';
const QUEUE = 'iommufd, SMMUv3 with a command queue';

mutations(spaprSubject, 'shadow', 'type1, plain hardware', ['VFIO_IOMMU_MAP_DMA', 'VFIO_IOMMU_UNMAP_DMA']);
mutations(virtioSubjects[0], 'shadow', 'type1, plain hardware', [
  'VFIO_GROUP_SET_CONTAINER',
  'VFIO_SET_IOMMU',
  'VFIO_GROUP_UNSET_CONTAINER',
]);
mutations(legacySubject, 'shadow', 'iommufd, plain hardware', ['IOMMU_IOAS_MAP', 'IOMMU_IOAS_UNMAP', 'IOMMU_IOAS_COPY', ATTACH]);
mutations(virtioSubjects[0], 'user-owned', 'iommufd, VT-d', [TABLE_STORE, INVALIDATE, ATTACH]);
mutations(smmuSubject, 'user-owned', 'iommufd, SMMUv3', [TABLE_STORE, INVALIDATE, ATTACH, DETACH]);
mutations(scalableSubject, 'auto', 'iommufd, VT-d', [INVALIDATE, ATTACH]);
mutations(smmuSubject, 'user-owned-queue', QUEUE, [QUEUED, TABLE_STORE, ATTACH, DETACH]);
mutations(smmuSubject, 'nested', 'iommufd, SMMUv3', [INVALIDATE, ATTACH]);
mutations(smmuSubject, 'nested-queue', QUEUE, [QUEUED, ATTACH]);
mutations(smmuSubject, 'user-owned', 'iommufd, SMMUv3', [TABLE_STORE, INVALIDATE, ATTACH], 'on demand');
mutations(smmuSubject, 'shadow', 'iommufd, VT-d', ['IOMMU_IOAS_MAP', 'IOMMU_IOAS_UNMAP', 'read', 'write'], 'on demand');
