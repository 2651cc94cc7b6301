import { type SimMachine, vtd } from '../../../src/host/sim/index.ts';

/** What is in the VM beside the mock: QEMU's VT-d, and two iommu-testdevs behind it, in a group each. */

/** By PCI address, which is their name to VFIO's groups. */
const functions = ['0000:00:06.0', '0000:00:07.0'] as const;
export const deviceNames: readonly string[] = functions;

/** The VM has the first one as it is. */
export const QEMU_ARGUMENTS = '-device iommu-testdev,addr=07.0';

/** What QEMU's VT-d says of itself: CAP_REG and ECAP_REG (the VM's /sys/class/iommu/dmar0). */
const nesting = vtd({ cap: 0x80d2_008c_222f_0686n, ecap: 0xf0_0f4an, erratum772415: true });

export const vtdMachine: SimMachine = {
  iommus: [{ nesting }],
  devices: functions.map((name) => ({ name })),
};

/** What steps open, by number: in the simulated kernel's words. */
export const PATHS = [
  '/dev/iommu',
  '/dev/vfio/vfio',
  ...functions.map((name) => `/dev/vfio/devices/${name}`),
  ...functions.map((_, index) => `/dev/vfio/${1000 + index}`),
] as const;
export const IOMMUFD = 0;
export const CONTAINER = 1;
export const CDEVS = [2, 3] as const;
export const GROUPS = [4, 5] as const;

/** Gives the devices to vfio-pci in the VM, and says in $paths what the paths are there. */
export const SETUP = [
  'cdevs= groups=',
  `for address in ${functions.join(' ')}; do`,
  '  device=/sys/bus/pci/devices/$address',
  '  echo vfio-pci >$device/driver_override',
  '  echo $address >/sys/bus/pci/drivers_probe',
  '  cdevs="$cdevs /dev/vfio/devices/$(ls $device/vfio-dev)"',
  '  groups="$groups /dev/vfio/$(basename $(readlink $device/iommu_group))"',
  'done',
  'paths="/dev/iommu /dev/vfio/vfio $cdevs $groups"',
];
