import { openKernelPort } from '../../../src/host/kernel/index.ts';
import { vfioAbi } from '../../host/vfio-abi.ts';
import { bindToVfio } from './pci.ts';

const port = await openKernelPort();
const { group, address } = bindToVfio('0000:00:06.0');

vfioAbi('the real kernel', () => ({ port, group: group.slice(0, group.indexOf('#')), device: address, close() {} }));
