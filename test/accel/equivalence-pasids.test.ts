import { riscvSubject } from '../target/riscv/subject.ts';
import { equivalenceSuite, failureSuite } from './equivalence.ts';

/* The suite of all paths with devices that send requests with PASIDs as well. */

equivalenceSuite(riscvSubject, 'shadow', ['iommufd, PASIDs']);
equivalenceSuite(riscvSubject, 'user-owned', ['iommufd, VT-d, PASIDs']);
equivalenceSuite(riscvSubject, 'shadow', ['iommufd, PASIDs'], 'on demand');
equivalenceSuite(riscvSubject, 'user-owned', ['iommufd, VT-d, PASIDs'], 'on demand');
failureSuite(riscvSubject, 'shadow', 'iommufd, PASIDs');
failureSuite(riscvSubject, 'user-owned', 'iommufd, VT-d, PASIDs');
