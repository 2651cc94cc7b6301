import { simKernelWithMock } from './mock/index.ts';
import { dirtyOnMock } from './mock-dirty.ts';

dirtyOnMock('the simulated kernel', () => simKernelWithMock());
