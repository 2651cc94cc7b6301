export { CONFIG_INTERRUPT, type VirtioDevice } from '../../virtqueue/device.ts';
export type { QueueSetup } from '../../virtqueue/virtqueue.ts';
export type { BypassMode, VirtioIommuOptions } from './options.ts';
export type { ReservedRegion } from './reserved-regions.ts';
export { FAULT_R_DOMAIN, FAULT_R_MAPPING, FAULT_R_UNKNOWN } from './spec/fault.ts';
export type { VirtioIommuState } from './state.ts';
export { statusName } from './status.ts';
export { VirtioIommu } from './virtio-iommu.ts';
