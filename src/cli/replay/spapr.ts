import { READ_WRITE } from '../../memory/access.ts';
import { hiOf, loOf, PAGE_BYTES } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import {
  type DmaWindowCall,
  H_GET_TCE,
  H_PUT_TCE,
  H_PUT_TCE_INDIRECT,
  H_STUFF_TCE,
  HypercallRegisters,
  SpaprIommu,
} from '../../target/spapr/index.ts';
import { HypercallDispatcher } from '../../vmm/hypercalls.ts';
import { hex } from '../../vmm/recording-lines.ts';
import type { RecordedLine } from '../recording.ts';
import { recordedRam } from './ram.ts';
import { guarded, type RecordedTarget, type ReplayContext, recordedAccess } from './replayer.ts';

/** BUID of the first host bridge of QEMU's pseries machine; a machine line may name another as `buid`. */
const DEFAULT_BUID = 0x800000020000000n;
/** Where a window lies on the bus, and who reaches it: all functions of a bridge share its windows, so one endpoint stands for them. */
interface Window {
  readonly start: bigint;
  readonly pageLg2: number;
  readonly endpoint: number;
}

/** Bus addresses that are others than they were: those from `recorded` on. */
interface Move {
  readonly recorded: bigint;
  readonly start: bigint;
}

/** The access that was translated last: a fault of the same address is about it. */
interface Translated {
  readonly liobn: number;
  readonly offset: bigint;
  readonly allowed: number;
}

export function recordedSpapr(machine: RecordedLine, memory: GuestMemory, end: bigint | null): RecordedTarget {
  return new RecordedSpapr(machine, memory, end);
}

class RecordedSpapr implements RecordedTarget {
  readonly target: SpaprIommu;
  peerHostCalls = 0;
  notes?: readonly string[];
  readonly #memory: GuestMemory;
  readonly #hypercalls = new HypercallDispatcher<HypercallRegisters>();
  readonly #registers = new HypercallRegisters();
  /** Windows of the machine at power-on, and all that there ever were since then: a device may still name one that is gone. */
  readonly #powerOn: ReadonlyMap<number, Window>;
  #windows: Map<number, Window>;
  /** Endpoint of each bridge, by its BUID. */
  readonly #bridges = new Map<bigint, number>();
  /** Where the dynamic windows of bridges begin, where that is elsewhere than it was, by BUID. */
  readonly #moved = new Map<bigint, Move>();
  /** The same of windows, by LIOBN. */
  readonly #movedWindows = new Map<number, Move>();
  #translated: Translated | null = null;
  /** A page of RAM for the lists of H_PUT_TCE_INDIRECT, which a recording has without their address. */
  readonly #listPage: bigint;

  /** `end`: dynamic windows lie below, wherever the recorded ones were: that is the platform's choice (LoPAR 7.3.27.2). */
  constructor(machine: RecordedLine, memory: GuestMemory, end: bigint | null) {
    this.#memory = memory;
    const described = machine.has('bridges') ? machine.objects('bridges') : [machine];
    if (described.length === 0) machine.fail("'bridges' has no bridge");
    const powerOn = new Map<number, Window>();
    const bridges = described.map((bridge, endpoint) => {
      const windows = bridge.objects('windows').map((window) => ({
        liobn: window.u32('liobn'),
        start: window.u64('start'),
        pageLg2: window.integer('pageShift'),
        pages: window.integer('pages'),
      }));
      for (const { liobn, start, pageLg2 } of windows) powerOn.set(liobn, { start, pageLg2, endpoint });
      const ddw = bridge.has('ddw') ? bridge.object('ddw') : null;
      const buid = bridge.has('buid') ? bridge.u64('buid') : DEFAULT_BUID;
      this.#bridges.set(buid, endpoint);
      if (ddw === null) return { buid, endpoints: [endpoint], windows };
      const limits = dynamicWindows(ddw);
      const recorded = limits.start;
      if (end === null || recorded < end) return { buid, endpoints: [endpoint], windows, ddw: limits };
      const start = end / 2n;
      this.#moved.set(buid, { recorded, start });
      this.notes = [
        `dynamic windows begin at ${hex(start)}, for the hardware's first stages end at ${hex(end)}; recorded was ${hex(recorded)}`,
      ];
      return { buid, endpoints: [endpoint], windows, ddw: { ...limits, start } };
    });
    this.#powerOn = powerOn;
    this.#windows = new Map(powerOn);
    const [ram] = recordedRam(machine);
    this.#listPage = ram.gpa + ram.bytes - BigInt(PAGE_BYTES);
    this.target = guarded(machine, () => new SpaprIommu({ memory, bridges }));
    this.#hypercalls.serve([H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, H_GET_TCE], (opcode, registers) =>
      this.target.hypercall(opcode, registers),
    );
  }

  start({ passThrough }: ReplayContext): void {
    for (const endpoint of this.#bridges.values()) passThrough(endpoint);
  }

  replay(line: RecordedLine, context: ReplayContext): void {
    switch (line.op) {
      case 'put':
        this.peerHostCalls++;
        this.#hypercall(line, context, H_PUT_TCE, [line.u64('liobn'), this.#ioba(line), line.u64('tce')]);
        break;
      case 'indirect':
        this.#indirect(line, context);
        break;
      case 'stuff':
        this.peerHostCalls += line.integer('npages');
        this.#hypercall(line, context, H_STUFF_TCE, [line.u64('liobn'), this.#ioba(line), line.u64('tce'), line.u64('npages')]);
        break;
      case 'get':
        this.#get(line, context);
        break;
      case 'xlate':
        this.#xlate(line, context);
        break;
      case 'fault':
        this.#fault(line, context);
        break;
      case 'reset':
        this.target.reset();
        this.#windows = new Map(this.#powerOn);
        this.#translated = null;
        break;
      case 'ddwQuery':
        this.#query(line, context);
        break;
      case 'ddwCreate':
        this.#create(line, context);
        break;
      case 'ddwRemove':
        this.#rtas(line, context, 'ibm,remove-pe-dma-window', [line.u32('liobn')], 1);
        break;
      case 'ddwReset':
        this.#rtas(line, context, 'ibm,reset-pe-dma-windows', this.#bridgeCells(line), 1);
        break;
      default:
        line.fail('is no operation of a pseries guest');
    }
  }

  /** Puts the arguments in R4 and after, as the guest did, and compares what comes back in R3. */
  #hypercall(line: RecordedLine, { answers }: ReplayContext, opcode: number, parameters: readonly bigint[]): void {
    for (let i = 0; i < parameters.length; i++) this.#registers.u64[4 + i] = parameters[i];
    const ret = this.#hypercalls.call(opcode, this.#registers);
    const expected = line.integer('ret');
    answers.check(ret === expected, () => `line ${line.number}: ${line.op} returns ${ret}, not ${expected}`);
  }

  #indirect(line: RecordedLine, context: ReplayContext): void {
    const tces = line.u64List('tces');
    this.peerHostCalls += tces.length;
    for (let i = 0; i < Math.min(tces.length, PAGE_BYTES / 8); i++) {
      const at = this.#listPage + BigInt(8 * i);
      this.#memory.store64BE(hiOf(at), loOf(at), hiOf(tces[i]), loOf(tces[i]));
    }
    this.#hypercall(line, context, H_PUT_TCE_INDIRECT, [line.u64('liobn'), this.#ioba(line), this.#listPage, BigInt(tces.length)]);
  }

  #get(line: RecordedLine, context: ReplayContext): void {
    this.#hypercall(line, context, H_GET_TCE, [line.u64('liobn'), this.#ioba(line)]);
    if (line.integer('ret') !== 0) return;
    const expected = line.u64('tce');
    const tce = this.#registers.u64[4];
    context.answers.check(tce === expected, () => `line ${line.number}: get finds TCE ${hex(tce)}, not ${hex(expected)}`);
  }

  #xlate(line: RecordedLine, { dma }: ReplayContext): void {
    const window = this.#window(line);
    const offset = line.u64('ioba');
    const mask = line.u64('mask');
    const allowed = line.integer('perm') === 0 ? 0 : recordedAccess(line, 'perm');
    this.#translated = { liobn: line.u32('liobn'), offset, allowed };
    dma.check({
      endpoint: window.endpoint,
      iova: BigInt.asUintN(64, window.start + offset),
      gpa: line.u64('addr') | (offset & mask),
      allowed,
      forbidden: READ_WRITE & ~allowed,
      line: line.number,
    });
  }

  /** A refused access. Behind its translation it is one that the TCE does not allow; on its own the address had no TCE at all. */
  #fault(line: RecordedLine, { dma, answers }: ReplayContext): void {
    const window = this.#window(line);
    const offset = line.u64('ioba');
    const before = this.#translated;
    const allowed = before !== null && before.liobn === line.u32('liobn') && before.offset === offset ? before.allowed : 0;
    answers.check(allowed !== READ_WRITE, () => `line ${line.number}: a fault where reads and writes are allowed`);
    dma.check({
      endpoint: window.endpoint,
      iova: BigInt.asUintN(64, window.start + offset),
      gpa: 0n,
      allowed: 0,
      forbidden: READ_WRITE & ~allowed,
      line: line.number,
    });
  }

  /** A guest that is told another start of its window names bus addresses from there on. */
  #ioba(line: RecordedLine): bigint {
    const ioba = line.u64('ioba');
    const moved = this.#movedWindows.get(line.u32('liobn'));
    return moved !== undefined && ioba >= moved.recorded ? ioba - moved.recorded + moved.start : ioba;
  }

  #window(line: RecordedLine): Window {
    return this.#windows.get(line.u32('liobn')) ?? line.fail(`no window has LIOBN ${hex(line.u32('liobn'))}`);
  }

  /** Makes the call with the bridge's cells in front and compares the status (0 where the recording has no `ret`). */
  #rtas(line: RecordedLine, { answers }: ReplayContext, name: DmaWindowCall, inputs: readonly number[], outputs: number): Uint32Array {
    const cells = new Uint32Array(outputs);
    const status = this.target.rtas(name, Uint32Array.from(inputs), cells);
    const expected = line.has('ret') ? line.integer('ret') : 0;
    answers.check(status === expected, () => `line ${line.number}: ${name} returns ${status}, not ${expected}`);
    return cells;
  }

  #bridgeCells(line: RecordedLine): number[] {
    const buid = line.u64('buid');
    return [line.u32('addr'), Number(buid >> 32n), Number(buid & 0xffff_ffffn)];
  }

  #query(line: RecordedLine, context: ReplayContext): void {
    const cells = this.#rtas(line, context, 'ibm,query-pe-dma-window', this.#bridgeCells(line), 5);
    const found = [cells[1], cells[2], cells[3]];
    const expected = [line.u32('windowsAvailable'), line.u32('largestTceBlock'), line.u32('pageSizeMask')];
    context.answers.check(
      found.join() === expected.join(),
      () => `line ${line.number}: the query finds ${found.map(hex)}, not ${expected.map(hex)}`,
    );
  }

  #create(line: RecordedLine, context: ReplayContext): void {
    const pageLg2 = lg2Of(line, 'pageBytes');
    const windowLg2 = lg2Of(line, 'windowBytes');
    const cells = this.#rtas(line, context, 'ibm,create-pe-dma-window', [...this.#bridgeCells(line), pageLg2, windowLg2], 4);
    if (line.has('ret') && line.integer('ret') !== 0) return;
    const liobn = line.u32('liobn');
    const recorded = line.u64('start');
    const moved = this.#moved.get(line.u64('buid'));
    const start = moved === undefined ? recorded : recorded - moved.recorded + moved.start;
    const found = { liobn: cells[1], start: (BigInt(cells[2]) << 32n) | BigInt(cells[3]) };
    context.answers.check(
      found.liobn === liobn && found.start === start,
      () => `line ${line.number}: the window is LIOBN ${hex(found.liobn)} at ${hex(found.start)}, not ${hex(liobn)} at ${hex(start)}`,
    );
    const endpoint = this.#bridges.get(line.u64('buid')) ?? line.fail(`no bridge has BUID ${hex(line.u64('buid'))}`);
    this.#windows.set(liobn, { start, pageLg2, endpoint });
    if (moved !== undefined) this.#movedWindows.set(liobn, moved);
  }
}

function dynamicWindows(ddw: RecordedLine): { liobns: number[]; pageSizeMask: number; start: bigint } {
  const first = ddw.u32('liobn');
  const windows = ddw.integer('windows');
  if (windows < 0 || windows > 16) ddw.fail(`${windows} windows`);
  return { liobns: Array.from({ length: windows }, (_, i) => first + i), pageSizeMask: ddw.u32('pageSizeMask'), start: ddw.u64('start') };
}

function lg2Of(line: RecordedLine, field: string): number {
  const bytes = line.u64(field);
  const lg2 = bytes.toString(2).length - 1;
  return bytes === 1n << BigInt(lg2) ? lg2 : line.fail(`'${field}' is no power of two`);
}
