/** The interfaces of the house and the prototype machine; targets, hosts and paths have entries of their own. */
export { errno, errnoName, HostError } from './host/errno.ts';
export type { Host, HostCalls, HostCapabilities, HostDevice, HostSpace, IovaRange, SpaceRequirements } from './host/host.ts';
export type { Port, PortMemory } from './host/port.ts';
export { hostKinds, openHost } from './host/registry.ts';
export * from './memory/index.ts';
export { type FaultSource, targetFault } from './target/fault-codes.ts';
export { type AddressSpace, NO_PASID, type PfnRange, type RunVisitor, type Target, type TargetObserver } from './target/target.ts';
export * from './vmm/index.ts';
