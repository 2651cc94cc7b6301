import { readdirSync, writeFileSync } from 'node:fs';
import { openKernelPort } from '../../../src/host/kernel/index.ts';
import { iommufdAbi } from '../../host/iommufd-abi.ts';
import { bindToVfio } from './pci.ts';

const port = await openKernelPort();
const { cdev } = bindToVfio('0000:00:07.0');
// /tmp of the VM is a tmpfs, whose files are shared memory.
const file = '/tmp/abi';
writeFileSync(file, new Uint8Array(0x1_0000));

const drivers = readdirSync('/sys/class/iommu').join(' ');
const iommu = { describes: /dmar|ivhd/.test(drivers), virtual: drivers.includes('ivhd') };

iommufdAbi('the real kernel', () => ({ port, device: cdev, file, iommu, close: () => {} }));
