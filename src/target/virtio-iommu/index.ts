export { CONFIG_INTERRUPT, type VirtioDevice } from '../../virtqueue/device.ts';
export type { QueueSetup } from '../../virtqueue/virtqueue.ts';
export type { ReservedRegion } from './endpoint.ts';
export type { BypassMode, VirtioIommuOptions } from './options.ts';
export { FAULT_R_DOMAIN, FAULT_R_MAPPING, FAULT_R_UNKNOWN, statusName } from './protocol.ts';
export type { VirtioIommuState } from './state.ts';
export { VirtioIommu } from './virtio-iommu.ts';
