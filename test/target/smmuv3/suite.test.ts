import { targetSuite } from '../suite.ts';
import { smmuSubject } from './subject.ts';

targetSuite(smmuSubject);
