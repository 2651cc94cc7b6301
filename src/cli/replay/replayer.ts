import type { TableWatch } from '../../accel/table-watch.ts';
import { HostError } from '../../host/errno.ts';
import type { IovaRange } from '../../host/host.ts';
import { READ, READ_WRITE } from '../../memory/access.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { NO_PASID, type Target } from '../../target/target.ts';
import type { Machine } from '../../vmm/machine.ts';
import { type RecordedLine, RecordingError } from '../recording.ts';
import type { DmaCheck, ExpectedDma } from './dma-check.ts';
import type { Tally } from './tally.ts';

/** READ, WRITE or both, as recordings write them too. */
export function recordedAccess(line: RecordedLine, field: string): number {
  const access = line.integer(field);
  return access >= READ && access <= READ_WRITE ? access : line.fail(`'${field}' is ${access}: 1 reads, 2 writes, 3 does both`);
}

/** The process that a line is about. */
export function recordedPasid(line: RecordedLine): number {
  return line.has('pasid') ? line.u32('pasid') : NO_PASID;
}

/** An access as `dmaLine` writes it: where it went, or the fault code with which it ended. */
export function recordedDma(line: RecordedLine): ExpectedDma {
  const place = { endpoint: line.u32('endpoint'), pasid: recordedPasid(line), iova: line.u64('iova'), line: line.number };
  const access = recordedAccess(line, 'access');
  return line.has('fault')
    ? { ...place, gpa: 0n, allowed: 0, forbidden: access, fault: line.integer('fault') }
    : { ...place, gpa: line.u64('addr'), allowed: access, forbidden: 0 };
}

/** Makes what a line asks for, which can be more than there is, or contradict itself: then the line is to blame. */
export function guarded<T>(line: RecordedLine, make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (error instanceof HostError || error instanceof RecordingError) throw error;
    return line.fail((error as Error).message);
  }
}

/** What a target's replayer is given once the machine stands. */
export interface ReplayContext {
  readonly machine: Machine;
  /** The path that was asked for; `auto`: none by name. */
  readonly path: string;
  readonly answers: Tally;
  readonly dma: DmaCheck;
  /** Passes the next of the rig's devices through as an endpoint that the target knows; without one left, its DMA is software only. */
  readonly passThrough: (endpoint: number) => void;
  /** Guest RAM is what this line's `ram` says from now on. */
  readonly changeRam: (line: RecordedLine) => void;
}

/** One kind of recorded guest: how its machine is made, and what each of its lines asks of it. */
export interface RecordedTarget {
  readonly target: Target;
  /** Pages that its platform promises the guest, ascending: it cannot be told what of them a host does not reach. Left out: none. */
  readonly promised?: readonly IovaRange[];
  /** For guests that do not announce what becomes valid. */
  readonly watch?: TableWatch;
  /** Called once, before the first operation. */
  start?(context: ReplayContext): void;
  /** Does one recorded operation and compares the answer. @throws RecordingError for a line that it does not know. */
  replay(line: RecordedLine, context: ReplayContext): void;
  /** Called at the end of the recording. */
  end?(context: ReplayContext): void;
  /** Host map and unmap calls that QEMU 11.1 makes for the operations so far, by what was counted in the lab. */
  readonly peerHostCalls: number;
  /** In what the machine is other than the recorded one. */
  readonly notes?: readonly string[];
}

/**
 * Makes a recorded target from the recording's `machine` line. `end`: the bus address that devices do not reach any more; null: they reach all.
 * @throws RecordingError
 */
export type RecordedTargetFactory = (machine: RecordedLine, memory: GuestMemory, end: bigint | null) => RecordedTarget;
