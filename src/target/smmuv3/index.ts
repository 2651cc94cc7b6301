export { CAPABILITIES, type FeatureName, type Features, type SmmuCapability } from './capabilities.ts';
export type { Smmuv3State } from './saved-state.ts';
export { Smmuv3 } from './smmuv3.ts';
export { EVENT, PRG_RESPONSE } from './spec/events.ts';
export { FAULT_ABORT, FAULT_RAZ_WI, FAULT_STALLED } from './spec/faults.ts';
export type {
  AtcInvalidation,
  EndedStall,
  InterruptSource,
  PageRequest,
  PageResponse,
  Smmuv3Options,
  StallTaker,
  TranslationCompletion,
} from './surroundings.ts';
