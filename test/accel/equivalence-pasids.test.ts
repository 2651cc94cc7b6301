import { riscvSubject } from '../target/riscv/subject.ts';
import { scalableSubject } from '../target/vtd/subject.ts';
import { equivalenceSuite, failureSuite } from './equivalence.ts';

/* The suite of all paths with devices that send requests with PASIDs as well. */

equivalenceSuite(riscvSubject, 'shadow', ['iommufd, PASIDs']);
equivalenceSuite(riscvSubject, 'user-owned', ['iommufd, VT-d, PASIDs']);
equivalenceSuite(riscvSubject, 'shadow', ['iommufd, PASIDs'], 'on demand');
equivalenceSuite(riscvSubject, 'user-owned', ['iommufd, VT-d, PASIDs'], 'on demand');
equivalenceSuite(scalableSubject, 'shadow', ['iommufd, PASIDs']);
equivalenceSuite(scalableSubject, 'auto', ['iommufd, VT-d, PASIDs']);
failureSuite(riscvSubject, 'shadow', 'iommufd, PASIDs');
failureSuite(riscvSubject, 'user-owned', 'iommufd, VT-d, PASIDs');
failureSuite(scalableSubject, 'auto', 'iommufd, VT-d, PASIDs');
