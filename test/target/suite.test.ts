import { spaprSubject } from './spapr/subject.ts';
import { targetSuite } from './suite.ts';
import { virtioSubjects } from './virtio-iommu/subject.ts';

targetSuite(spaprSubject);
for (const subject of virtioSubjects) targetSuite(subject);
