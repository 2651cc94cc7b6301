export { CHAIN_LIMIT, Chain } from './chain.ts';
export { CONFIG_INTERRUPT, VirtioDevice, type VirtioDeviceEvents, type VirtioDeviceState } from './device.ts';
export type { QueueMemory } from './queue-memory.ts';
export { BROKEN, EMPTY, type QueueSetup, type RingFeatures, TAKEN, type Virtqueue } from './virtqueue.ts';
