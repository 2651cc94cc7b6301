import { targetSuite } from '../suite.ts';
import { virtioSubjects } from './subject.ts';

for (const subject of virtioSubjects) targetSuite(subject);
