import { targetSuite } from '../suite.ts';
import { zpciSubject } from './subject.ts';

targetSuite(zpciSubject);
