import { targetSuite } from '../suite.ts';
import { amdSubject } from './subject.ts';

targetSuite(amdSubject);
