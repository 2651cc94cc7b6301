import { targetSuite } from '../suite.ts';
import { spaprSubject } from './subject.ts';

targetSuite(spaprSubject);
