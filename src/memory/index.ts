export * from './access.ts';
export * from './address.ts';
export * from './guest-memory.ts';
export * from './interval-map.ts';
export * from './iotlb.ts';
export * from './write-log.ts';
