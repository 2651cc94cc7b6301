import { targetSuite } from '../suite.ts';
import { legacySubject, scalableSubject } from './subject.ts';

targetSuite(legacySubject);
targetSuite(scalableSubject);
