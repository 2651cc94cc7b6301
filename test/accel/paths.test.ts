import { shadow } from '../../src/accel/shadow.ts';
import { pathSuite } from './suite.ts';

pathSuite(shadow);
