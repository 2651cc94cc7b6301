import { paths } from '../../src/accel/registry.ts';
import { pathSuite } from './suite.ts';

for (const kind of paths) pathSuite(kind);
