import { targetSuite } from '../suite.ts';
import { riscvSubject } from './subject.ts';

targetSuite(riscvSubject);
