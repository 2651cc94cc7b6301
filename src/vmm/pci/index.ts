export type { WindowFields } from './bar-window.ts';
export { type BarHit, PciBus } from './bus.ts';
export {
  ats,
  type Capability,
  type ExtendedCapability,
  type InBar,
  integratedEndpoint,
  msi,
  msix,
  pasid,
  powerManagement,
  pri,
  vendor,
} from './capabilities.ts';
export type { ConfigField } from './config-space.ts';
export type { Bar, PciDescription } from './description.ts';
export { FunctionDma, NOT_BUS_MASTER } from './dma.ts';
export { PciFunction, type PciState, type PciSurroundings } from './function.ts';
export { CONFIG_ADDRESS_PORT, ecamBytes, PciHost, requesterId } from './host.ts';
export type { SavedMsix } from './msix.ts';
export type { RegisterBlock } from './registers.ts';
