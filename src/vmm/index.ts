export type { DirtyPages } from './dirty-log.ts';
export { EmulatedDevice } from './dma.ts';
export { faultName, faultNumber, faultSource } from './fault-name.ts';
export {
  type AtsPorts,
  type DeviceScope,
  type DmarDescription,
  dmarTable,
  type IntegratedDevices,
  type NamespaceDevice,
  type RemappingUnit,
  type ReservedMemory,
  type UnitAffinity,
} from './firmware/acpi/dmar.ts';
export {
  type IdRange,
  type IortDescription,
  type ItsGroup,
  iortTable,
  type ReservedMemory as IortReservedMemory,
  type RootComplex,
  type Smmuv3Node,
} from './firmware/acpi/iort.ts';
export { type IvhdDevice, type IvhdUnit, type IvrsDescription, ivrsTable, type UnityMemory } from './firmware/acpi/ivrs.ts';
export type { TableMaker } from './firmware/acpi/table.ts';
export { type ViotDescription, type ViotEndpoints, type ViotIommu, viotTable } from './firmware/acpi/viot.ts';
export { DeviceNode, type PropertyValue, readDeviceTree, writeDeviceTree } from './firmware/device-tree/device-tree.ts';
export { mapStreams, type StreamRange } from './firmware/device-tree/iommu-map.ts';
export { type Smmuv3Description, smmuv3Node } from './firmware/device-tree/smmuv3.ts';
export { HypercallDispatcher, type HypercallHandler } from './hypercalls.ts';
export { Machine, type MachineParts, type MachineTotals, type SavedMachine } from './machine.ts';
export type { EndpointState, MachineState, ProcessState, StateListener } from './machine-state.ts';
export type { DeviceAccess, DeviceFault, GuestOperation, MachineHooks, PathChange } from './observation.ts';
export { recordTo } from './recorder.ts';
export type { RecordingStream } from './recording-lines.ts';
export { TranslatedMemory } from './translated-memory.ts';
