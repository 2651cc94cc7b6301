import { requireObject } from '../../memory/arguments.ts';
import { iommufd } from './iommufd/index.ts';
import { type SimInterface, SimKernel, type SimMachine } from './kernel.ts';
import { vfio } from './vfio/index.ts';

export type { SimDevice, SimGroup } from './device.ts';
export type { CallFailure, CallHooks, CallObserver, SimCall } from './hooks.ts';
export type { IommuConfig, ReservedRange, SimIommu } from './iommu.ts';
export type { SimDeviceConfig, SimKernel, SimMachine } from './kernel.ts';
export type { LockedMemory, Payer } from './locked-memory.ts';
export { type AmdConfig, amd } from './nesting/amd.ts';
export type { NestingModel } from './nesting/model.ts';
export { type SmmuConfig, smmuv3 } from './nesting/smmuv3.ts';
export type { TegraConfig } from './nesting/tegra241.ts';
export { type VtdConfig, vtd } from './nesting/vtd.ts';
export type { SimProcess } from './process.ts';
export type { Span } from './spans.ts';
export { DMA_BLOCKED, DMA_FORBIDDEN, DMA_PENDING, DMA_UNMAPPED } from './translation.ts';
export type { TceConfig } from './vfio/tce-tables.ts';

/** One line a kernel interface. */
const interfaces: readonly SimInterface[] = [(kernel) => iommufd(kernel), vfio];

/** A simulated kernel with simulated IOMMU hardware and devices behind it: a Port for any host driver. */
export function simKernel(machine: SimMachine = {}): SimKernel {
  requireObject('simKernel', 'machine', machine);
  return new SimKernel(machine, interfaces);
}
