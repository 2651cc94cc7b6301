/** The interfaces of the house and the prototype machine; targets, hosts and paths have entries of their own. */
export { errno, errnoName, HostError } from './host/errno.ts';
export type {
  DirtyTracking,
  Host,
  HostCalls,
  HostCapabilities,
  HostDevice,
  HostNesting,
  HostPageRequests,
  HostPasids,
  HostSpace,
  IovaRange,
  NestingHardware,
  NestingParent,
  PageRequest,
  PageRequestQueue,
  SpaceRequirements,
  UserStage,
  WantedPage,
} from './host/host.ts';
export type { Port, PortMemory } from './host/port.ts';
export { hostKinds, openHost } from './host/registry.ts';
export type { SharedMemory } from './host/shared-memory.ts';
export * from './memory/index.ts';
export { FAULT_BASE, type FaultSource, targetFault } from './target/fault-codes.ts';
export type { Schedule } from './target/remainder.ts';
export {
  type AddressSpace,
  type FirstStage,
  type HardwareEvent,
  NO_PASID,
  type PageAnswer,
  type PasidDirectory,
  type PfnRange,
  type RunVisitor,
  type StageFormat,
  type TableReader,
  type Target,
  type TargetObserver,
} from './target/target.ts';
export * from './vmm/index.ts';
