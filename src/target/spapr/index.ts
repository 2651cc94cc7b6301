export type { DmaWindowGeometry } from './dma-window.ts';
export * from './faults.ts';
export type { DynamicWindowLimits, HostBridgeOptions } from './host-bridge.ts';
export { HypercallRegisters } from './hypercall-registers.ts';
export type { DmaWindowCall } from './rtas.ts';
export * from './spapr-iommu.ts';
export * from './spec/hcalls.ts';
export { IO_PAGE_LG2S, RTAS_HARDWARE_ERROR, RTAS_PARAMETER_ERROR, RTAS_SUCCESS } from './spec/rtas.ts';
export { TCE_PERMISSION } from './spec/tce.ts';
