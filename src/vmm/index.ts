export { EmulatedDevice } from './dma.ts';
export { HypercallDispatcher, type HypercallHandler } from './hypercalls.ts';
export { Machine, type MachineParts } from './machine.ts';
export type { EndpointState, MachineState, StateListener } from './machine-state.ts';
