export type { DmaWindowGeometry } from './dma-window.ts';
export * from './faults.ts';
export type { DynamicWindowLimits, HostBridgeOptions } from './host-bridge.ts';
export { HypercallRegisters } from './hypercall-registers.ts';
export * from './papr.ts';
export type { DmaWindowCall } from './rtas.ts';
export * from './spapr-iommu.ts';
