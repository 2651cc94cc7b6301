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
import type { RecordedLine } from '../recording.ts';
import { guarded, type RecordedTarget, type ReplayContext, recordedAccess, recordedRam } from './replayer.ts';
import { hex } from './tally.ts';

/** BUID of the first host bridge of QEMU's pseries machine; a machine line may name another as `buid`. */
const DEFAULT_BUID = 0x800000020000000n;
/** All functions of the bridge share its windows, so one endpoint stands for them. */
const ENDPOINT = 0;

/** Where a window lies on the bus. */
interface Window {
  readonly start: bigint;
  readonly pageLg2: number;
}

export function recordedSpapr(machine: RecordedLine, memory: GuestMemory): RecordedTarget {
  return new RecordedSpapr(machine, memory);
}

class RecordedSpapr implements RecordedTarget {
  readonly target: SpaprIommu;
  peerHostCalls = 0;
  readonly #memory: GuestMemory;
  readonly #hypercalls = new HypercallDispatcher<HypercallRegisters>();
  readonly #registers = new HypercallRegisters();
  readonly #windows = new Map<number, Window>();
  /** A page of RAM for the lists of H_PUT_TCE_INDIRECT, which a recording has without their address. */
  readonly #listPage: bigint;

  constructor(machine: RecordedLine, memory: GuestMemory) {
    this.#memory = memory;
    const windows = machine.objects('windows').map((window) => ({
      liobn: window.u32('liobn'),
      start: window.u64('start'),
      pageLg2: window.integer('pageShift'),
      pages: window.integer('pages'),
    }));
    for (const window of windows) this.#windows.set(window.liobn, window);
    const ddw = machine.has('ddw') ? machine.object('ddw') : null;
    const buid = machine.has('buid') ? machine.u64('buid') : DEFAULT_BUID;
    const [ram] = recordedRam(machine);
    this.#listPage = ram.gpa + ram.bytes - BigInt(PAGE_BYTES);
    const bridges = [{ buid, endpoints: [ENDPOINT], windows, ...(ddw && { ddw: dynamicWindows(ddw) }) }];
    this.target = guarded(machine, () => new SpaprIommu({ memory, bridges }));
    this.#hypercalls.serve([H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, H_GET_TCE], (opcode, registers) =>
      this.target.hypercall(opcode, registers),
    );
  }

  start({ passThrough }: ReplayContext): void {
    passThrough(ENDPOINT);
  }

  replay(line: RecordedLine, context: ReplayContext): void {
    switch (line.op) {
      case 'put':
        this.peerHostCalls++;
        this.#hypercall(line, context, H_PUT_TCE, [line.u64('liobn'), line.u64('ioba'), line.u64('tce')]);
        break;
      case 'indirect':
        this.#indirect(line, context);
        break;
      case 'stuff':
        this.peerHostCalls += line.integer('npages');
        this.#hypercall(line, context, H_STUFF_TCE, [line.u64('liobn'), line.u64('ioba'), line.u64('tce'), line.u64('npages')]);
        break;
      case 'get':
        this.#get(line, context);
        break;
      case 'xlate':
        this.#xlate(line, context);
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
    this.#hypercall(line, context, H_PUT_TCE_INDIRECT, [line.u64('liobn'), line.u64('ioba'), this.#listPage, BigInt(tces.length)]);
  }

  #get(line: RecordedLine, context: ReplayContext): void {
    this.#hypercall(line, context, H_GET_TCE, [line.u64('liobn'), line.u64('ioba')]);
    if (line.integer('ret') !== 0) return;
    const expected = line.u64('tce');
    const tce = this.#registers.u64[4];
    context.answers.check(tce === expected, () => `line ${line.number}: get finds TCE ${hex(tce)}, not ${hex(expected)}`);
  }

  #xlate(line: RecordedLine, { dma }: ReplayContext): void {
    const window = this.#windows.get(line.u32('liobn')) ?? line.fail(`no window has LIOBN ${hex(line.u32('liobn'))}`);
    const offset = line.u64('ioba');
    const mask = line.u64('mask');
    const allowed = recordedAccess(line, 'perm');
    dma.check({
      endpoint: ENDPOINT,
      iova: BigInt.asUintN(64, window.start + offset),
      gpa: line.u64('addr') | (offset & mask),
      allowed,
      forbidden: READ_WRITE & ~allowed,
      line: line.number,
    });
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
    const start = line.u64('start');
    const found = { liobn: cells[1], start: (BigInt(cells[2]) << 32n) | BigInt(cells[3]) };
    context.answers.check(
      found.liobn === liobn && found.start === start,
      () => `line ${line.number}: the window is LIOBN ${hex(found.liobn)} at ${hex(found.start)}, not ${hex(liobn)} at ${hex(start)}`,
    );
    this.#windows.set(liobn, { start, pageLg2 });
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
