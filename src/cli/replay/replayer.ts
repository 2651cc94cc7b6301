import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Target } from '../../target/target.ts';
import type { Machine } from '../../vmm/machine.ts';
import type { RecordedLine } from '../recording.ts';
import type { DmaCheck } from './dma-check.ts';
import type { Tally } from './tally.ts';

/** Guest RAM as the machine line of a recording describes it. */
export interface RecordedRam {
  readonly gpa: bigint;
  readonly bytes: bigint;
}

export function recordedRam(machine: RecordedLine): RecordedRam[] {
  return machine.objects('ram').map((region) => ({ gpa: region.u64('gpa'), bytes: region.u64('bytes') }));
}

/** What a target's replayer is given once the machine stands. */
export interface ReplayContext {
  readonly machine: Machine;
  readonly answers: Tally;
  readonly dma: DmaCheck;
  /** Passes the next of the rig's devices through as an endpoint that the target knows; without one left, its DMA is software only. */
  readonly passThrough: (endpoint: number) => void;
}

/** One kind of recorded guest: how its machine is made, and what each of its lines asks of it. */
export interface RecordedTarget {
  readonly target: Target;
  /** Called once, before the first operation. */
  start?(context: ReplayContext): void;
  /** Does one recorded operation and compares the answer. @throws RecordingError for a line that it does not know. */
  replay(line: RecordedLine, context: ReplayContext): void;
  /** Called at the end of the recording. */
  end?(context: ReplayContext): void;
  /** Host map and unmap calls that QEMU 11.1 makes for the operations so far, by what was counted in the lab. */
  readonly peerHostCalls: number;
}

/** Makes a recorded target from the recording's `machine` line. @throws RecordingError */
export type RecordedTargetFactory = (machine: RecordedLine, memory: GuestMemory) => RecordedTarget;
