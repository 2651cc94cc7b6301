import { paths } from '../../src/accel/registry.ts';
import { subjects } from './subjects.ts';
import { pathSuite } from './suite.ts';

// A path without a subject fails here: nothing of the registry goes untried.
for (const kind of paths) pathSuite(kind, subjects[kind.name]);
