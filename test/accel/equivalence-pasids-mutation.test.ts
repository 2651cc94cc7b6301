import { riscvSubject } from '../target/riscv/subject.ts';
import { scalableSubject } from '../target/vtd/subject.ts';
import { ATTACH_PASID, DETACH_PASID, mutations, TABLE_STORE } from './mutations.ts';

/* Whether the suite with PASIDs notices what is left out of one, by the requests that carry it. */

const INVALIDATE = 'IOMMU_HWPT_INVALIDATE';
const OF_PASID = /PASID \d/;

mutations(
  riscvSubject,
  'shadow',
  'iommufd, PASIDs',
  [ATTACH_PASID, DETACH_PASID, 'IOMMU_IOAS_MAP', 'IOMMU_IOAS_UNMAP'],
  'announced',
  OF_PASID,
);
mutations(
  riscvSubject,
  'user-owned',
  'iommufd, VT-d, PASIDs',
  [ATTACH_PASID, DETACH_PASID, TABLE_STORE, INVALIDATE],
  'announced',
  OF_PASID,
);
mutations(scalableSubject, 'auto', 'iommufd, VT-d, PASIDs', [ATTACH_PASID, DETACH_PASID, INVALIDATE], 'announced', OF_PASID);
