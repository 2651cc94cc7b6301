export type { IrqType, VfioUserClient, VfioUserDevice } from './device.ts';
export type { SharedRam } from './dma-regions.ts';
export { type PciDeviceOptions, PciVfioDevice } from './pci-device.ts';
export { type VfioUserOptions, VfioUserServer } from './server.ts';
