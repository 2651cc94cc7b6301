export { VIRTIO_MMIO_BYTES, VirtioMmio } from './mmio-transport.ts';
export type { VirtioDescription, VirtioModel } from './model.ts';
export { VirtioPci } from './pci-transport.ts';
export { F_ACCESS_PLATFORM, VirtioType } from './spec.ts';
