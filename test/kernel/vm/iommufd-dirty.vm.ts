import { openKernelPort } from '../../../src/host/kernel/index.ts';
import { dirtyOnMock } from '../../host/mock-dirty.ts';

const port = await openKernelPort();

dirtyOnMock('the real kernel', () => port);
