import { expect, test } from 'vitest';
import { hostHardwares } from '../../src/cli/replay/rig-sim.ts';
import { hostKinds } from '../../src/host/registry.ts';
import { amdSubject } from '../target/amd/subject.ts';
import { riscvSubject } from '../target/riscv/subject.ts';
import { smmuSubject } from '../target/smmuv3/subject.ts';
import { spaprSubject } from '../target/spapr/subject.ts';
import type { TargetSubject } from '../target/suite.ts';
import { virtioSubjects } from '../target/virtio-iommu/subject.ts';
import { legacySubject, scalableSubject } from '../target/vtd/subject.ts';
import { zpciSubject } from '../target/zpci/subject.ts';
import { equivalenceSuite, failureSuite, hardwares } from './equivalence.ts';

const PLAIN = ['type1, plain hardware', 'iommufd, plain hardware', 'iommufd, AMD', 'sPAPR TCE'];
const NESTING = Object.keys(hardwares).filter((name) => !PLAIN.includes(name));
const QUEUE = 'iommufd, SMMUv3 with a command queue';

function everyPath<Step>(subject: TargetSubject<Step>): void {
  equivalenceSuite(subject, 'shadow', PLAIN);
  equivalenceSuite(subject, 'user-owned', NESTING);
  equivalenceSuite(subject, 'user-owned-queue', [QUEUE]);
}

test('every kind of hardware of `viommu matrix` is run', () => {
  expect(Object.keys(hardwares)).toHaveLength(hostKinds().length - 1 + hostHardwares().length);
});

everyPath(amdSubject);
everyPath(riscvSubject);
everyPath(smmuSubject);
everyPath(spaprSubject);
everyPath(legacySubject);
everyPath(scalableSubject);
everyPath(virtioSubjects[0]);
everyPath(zpciSubject);
// What hardware does not take over of these guests is user-owned or shadowed.
equivalenceSuite(scalableSubject, 'auto', ['iommufd, VT-d', 'iommufd, two VT-d']);
equivalenceSuite(smmuSubject, 'auto', ['iommufd, SMMUv3', 'iommufd, two SMMUv3', QUEUE]);

// Devices ask for the pages of those that need not announce them.
equivalenceSuite(riscvSubject, 'user-owned', ['iommufd, VT-d'], 'on demand');
equivalenceSuite(riscvSubject, 'user-owned-queue', [QUEUE], 'on demand');
equivalenceSuite(smmuSubject, 'user-owned', ['iommufd, SMMUv3'], 'on demand');
equivalenceSuite(smmuSubject, 'shadow', ['iommufd, VT-d'], 'on demand');

failureSuite(spaprSubject, 'shadow', 'type1, plain hardware');
failureSuite(legacySubject, 'shadow', 'iommufd, plain hardware');
failureSuite(riscvSubject, 'user-owned', 'iommufd, VT-d');
failureSuite(amdSubject, 'user-owned', 'iommufd, SMMUv3');
failureSuite(smmuSubject, 'user-owned-queue', QUEUE);
failureSuite(scalableSubject, 'auto', 'iommufd, VT-d');
failureSuite(scalableSubject, 'auto', 'iommufd, two VT-d');
failureSuite(smmuSubject, 'auto', 'iommufd, two SMMUv3');
failureSuite(riscvSubject, 'user-owned', 'iommufd, SMMUv3', 'on demand');
failureSuite(smmuSubject, 'shadow', 'iommufd, VT-d', 'on demand');
