import { HostError } from '../../host/errno.ts';
import type { HostCalls } from '../../host/host.ts';
import { Machine } from '../../vmm/machine.ts';
import { hex } from '../../vmm/recording-lines.ts';
import { ConditionError } from '../command.ts';
import { type ReadProgress, type RecordedLine, RecordingError, recordedLines } from '../recording.ts';
import { DmaCheck } from './dma-check.ts';
import { allocateRam, changeRam, recordedRam } from './ram.ts';
import { guarded, type RecordedTarget, type ReplayContext } from './replayer.ts';
import { type DmaEngine, firstStageEnd, type Rig, requireReach } from './rig.ts';
import { Tally } from './tally.ts';
import { recordedTarget } from './targets.ts';

/** The devices that a recorded guest can have. */
export const RIG_DEVICES = 8;

/** Host calls that followed the guest's operations: those of setting up and tearing down are in `setup`. */
export interface CallCounts {
  readonly map: number;
  readonly unmap: number;
  readonly copy: number;
  readonly attach: number;
  readonly total: number;
}

export interface ReplayResult {
  readonly file: string;
  readonly target: string;
  readonly host: string;
  readonly port: string;
  /** All that served; `blocked` where none had to, `emulated` where nothing is passed through. */
  readonly path: string;
  /** Recorded operations by kind. */
  readonly ops: Readonly<Record<string, number>>;
  readonly answers: Tally;
  readonly dma: Tally;
  readonly hardwareDma: Tally;
  readonly hostCalls: CallCounts;
  /** Invalidations, allocations and queries that followed the guest's operations. */
  readonly otherCalls: number;
  /** Host calls made before the first recorded operation, and the allocations and queries of the whole run. */
  readonly setup: { readonly calls: number };
  readonly splits: { readonly withGap: number; readonly withoutGap: number };
  /** What QEMU 11.1 calls for the same operations (docs/peers.md). */
  readonly peerHostCalls: number;
  readonly seconds: number;
  /** In what the machine was other than the recorded one; left out: in nothing. */
  readonly notes?: readonly string[];
}

export interface ReplayWish {
  readonly file: string;
  readonly path: string;
  readonly progress?: (read: ReadProgress, lines: number) => void;
}

/**
 * Runs a recorded guest on a rig and compares every recorded answer and DMA.
 * @throws RecordingError for a malformed recording; ConditionError when the host refuses what a line needs.
 */
export async function replay(wish: ReplayWish, rig: Rig): Promise<ReplayResult> {
  const [result] = await replayOn(wish, [rig]);
  return result;
}

/** `replay` on several rigs, operation by operation, so that the recording is read once. Results stand in the order of the rigs. */
export async function replayOn(wish: ReplayWish, rigs: readonly Rig[]): Promise<readonly ReplayResult[]> {
  const start = performance.now();
  let runs: readonly Run[] | null = null;
  let count = 0;
  for await (const line of recordedLines(wish.file, (read) => wish.progress?.(read, count))) {
    count++;
    if (runs === null) runs = located(line, () => rigs.map((rig) => new Run(line, wish, rig)));
    else for (const run of runs) located(line, () => run.line(line));
  }
  if (runs === null) throw new RecordingError(wish.file, 1, 'is empty');
  if (count === 1) throw new RecordingError(wish.file, 1, 'holds no operation');
  const seconds = (performance.now() - start) / 1000;
  return runs.map((run) => run.end(seconds));
}

/** What the host refuses, and what the target does not know, with the line that asks for it. */
function located<T>(line: RecordedLine, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof HostError) throw new ConditionError(`${line.file}:${line.number}: ${line.op}: ${error.message}`);
    if (error instanceof RangeError) line.fail(error.message);
    throw error;
  }
}

/** One recording while it is replayed. */
class Run {
  readonly #wish: ReplayWish;
  readonly #rig: Rig;
  readonly #recorded: RecordedTarget;
  readonly #machine: Machine;
  readonly #context: ReplayContext;
  readonly #ops: Record<string, number> = {};
  readonly #before: HostCalls;
  readonly #paths = new Set<string>();
  #refusal: string | null = null;

  constructor(machineLine: RecordedLine, wish: ReplayWish, rig: Rig) {
    if (machineLine.op !== 'machine') machineLine.fail("is not the 'machine' line that a recording begins with");
    this.#wish = wish;
    this.#rig = rig;
    const memory = guarded(machineLine, () => allocateRam(rig.port, recordedRam(machineLine)));
    this.#recorded = recordedTarget(machineLine, memory, firstStageEnd(rig, wish.path));
    const { target, watch } = this.#recorded;
    this.#machine = new Machine({ memory, target, host: rig.host, path: wish.path, ...(watch && { watch }) });
    this.#machine.onChange(() => this.#notePaths());
    const engines = new Map<number, DmaEngine>();
    this.#context = {
      machine: this.#machine,
      path: wish.path,
      answers: new Tally(),
      dma: new DmaCheck(target, memory, engines, rig.stride, (endpoint) => this.#pathOf(endpoint).startsWith('user-owned')),
      passThrough: (endpoint) => {
        const device = rig.devices[engines.size];
        if (device === undefined) return;
        if (this.#recorded.promised !== undefined) requireReach(rig, device, this.#recorded.promised);
        this.#machine.passThrough(endpoint, device.path);
        engines.set(endpoint, device.engine);
      },
      changeRam: (line) => guarded(line, () => changeRam(memory, rig.port, recordedRam(line))),
    };
    this.#recorded.start?.(this.#context);
    this.#before = { ...rig.host.calls };
  }

  line(line: RecordedLine): void {
    this.#ops[line.op] = (this.#ops[line.op] ?? 0) + 1;
    this.#recorded.replay(line, this.#context);
    if (this.#refusal !== null) throw new ConditionError(`${line.file}:${line.number}: ${line.op}: ${this.#refusal}`);
  }

  /** Which paths served, and whether none takes what the guest wants of a device, by the wish of this run: its DMA would be told as wrong. */
  #notePaths(): void {
    for (const [endpoint, { path, refused }] of Object.entries(this.#machine.state.endpoints)) {
      if (path !== 'blocked') this.#paths.add(path);
      else if (refused.length > 0)
        this.#refusal = `endpoint ${hex(BigInt(endpoint))} is blocked: ${refused.map(({ path: name, reason }) => `${name}: ${reason}`).join('; ')}`;
    }
  }

  #pathOf(endpoint: number): string {
    return this.#machine.state.endpoints[endpoint]?.path ?? 'emulated';
  }

  /** In what the machine, or the hardware, was other than the recorded one. */
  #notes(): readonly string[] {
    const { readsOfWriteOnly } = this.#context.dma;
    const recorded = this.#recorded.notes ?? [];
    if (readsOfWriteOnly === 0) return recorded;
    return [...recorded, `${readsOfWriteOnly} reads of write-only pages went through: first stages have no such pages (docs/paths.md)`];
  }

  end(seconds: number): ReplayResult {
    this.#recorded.end?.(this.#context);
    const { calls } = this.#rig.host;
    const since = (kind: keyof HostCalls): number => calls[kind] - this.#before[kind];
    const counts = { map: since('map'), unmap: since('unmap'), copy: since('copy'), attach: since('attach') };
    const all = Object.values(calls).reduce((sum, value) => sum + value, 0);
    const total = counts.map + counts.unmap + counts.copy + counts.attach;
    const counters = this.#machine.counters();
    const notes = this.#notes();
    const result: ReplayResult = {
      file: this.#wish.file,
      target: this.#recorded.target.name,
      host: this.#rig.host.kind,
      port: this.#rig.port.name,
      path: [...this.#paths].join('; ') || (Object.keys(this.#machine.state.endpoints).length > 0 ? 'blocked' : 'emulated'),
      ops: this.#ops,
      answers: this.#context.answers,
      dma: this.#context.dma.software,
      hardwareDma: this.#context.dma.hardware,
      hostCalls: { ...counts, total },
      otherCalls: since('control'),
      setup: { calls: all - total },
      splits: {
        withGap: counters.reduce((sum, { counters: { splits } }) => sum + splits, 0),
        withoutGap: counters.reduce((sum, { counters: { splitsWithoutGap } }) => sum + splitsWithoutGap, 0),
      },
      peerHostCalls: this.#recorded.peerHostCalls,
      seconds,
      ...(notes.length > 0 && { notes }),
    };
    this.#machine.close();
    return result;
  }
}
