import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { H_PUT_TCE_INDIRECT, HypercallRegisters, SpaprIommu } from '../../src/target/spapr/index.ts';
import { Machine } from '../../src/vmm/index.ts';
import { counted } from './counting.ts';
import { countingHost } from './counting-host.ts';
import { type ScaleTarget, scaleGuest } from './guests.ts';
import { WorkCounter } from './work.ts';

/** One point of a curve: what one operation, or one page of the guest's, costs. */
export interface Point {
  readonly sweep: string;
  readonly variant: string;
  /** What is swept: spaces, mappings, or bytes of the guest. */
  readonly x: number;
  readonly microseconds: number;
  readonly hostCalls: number;
  /** Blocks of code that are entered (work.ts): the same on every machine, however busy. */
  readonly blocks: number;
  /** Of the process, for each space or guest page; null: there is too little to tell from what the process holds besides. */
  readonly bytes: number | null;
  /** Longest time that one guest operation or slice took. */
  readonly longestMs: number;
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** What V8 and its buffers hold after a collection. */
function held(): number {
  collect();
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** Of the processor, collector and compiler included: what else the machine does is not in it. */
const milliseconds = (run: () => void): number => {
  const start = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
};

/** What less than this holds is lost in code that V8 has compiled meanwhile. */
const TELLING_BYTES = 2 ** 20;

const bytesOf = (bytes: number, count: number): number | null => (bytes < TELLING_BYTES ? null : bytes / count);

/** A map and an unmap on random spaces, over the simulated iommufd: the low tenth of short batches. */
export function overSpaces(target: ScaleTarget, spaces: number, rounds: number): Point {
  const before = held();
  const { operate, kernel, machine } = scaleGuest(target, spaces);
  const bytes = bytesOf(held() - before - machine.memory.regions[0].buffer.byteLength, spaces);
  const batch = () => {
    for (let i = 0; i < 16; i++) {
      const space = Math.floor(Math.random() * spaces);
      operate(space, true);
      operate(space, false);
    }
  };
  batch();
  const calls = kernel.hooks.total;
  batch();
  const hostCalls = (kernel.hooks.total - calls) / 32;
  const times = Array.from({ length: rounds }, () => milliseconds(batch)).sort((a, b) => a - b);
  const low = times[Math.floor(rounds / 10)];
  const blocks = counted(new URL('./count-spaces.ts', import.meta.url), target, String(spaces)) as number;
  return {
    sweep: 'spaces',
    variant: target,
    x: spaces,
    microseconds: (low / 32) * 1000,
    hostCalls,
    blocks,
    bytes,
    longestMs: times[rounds - 1] / 32,
  };
}

export const pagesName = (lg2: number) => `${2 ** (lg2 % 10)} ${['', 'KiB', 'MiB', 'GiB'][Math.floor(lg2 / 10)]} pages`;

const LIST = 512;
/** Guests up to this size are counted in blocks, larger ones timed. */
const COUNTED_PAGES = 1e4;
/** No run is longer: so many bytes of RAM the guest's pages lead to, over and over. */
const RAM_BYTES = 2 ** 26;

/**
 * A device comes to a pseries guest whose table has `bytes` of pages: filled in slices over a host that only counts. `scattered`: no page
 * continues the one before it, so that each is a mapping.
 */
export function overSize(sweep: string, bytes: number, pageLg2: number, scattered: boolean): Point {
  const pages = bytes / 2 ** pageLg2;
  const ramBytes = Math.max(RAM_BYTES, 2 * 2 ** pageLg2);
  const list = ramBytes;
  const memory = new GuestMemory([{ gpa: 0n, buffer: new SharedArrayBuffer(ramBytes + 4096), hostAddress: 1n << 40n }]);
  const window = { liobn: 0x8000_0000, start: 0n, pageLg2, pages };
  const target = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [8], windows: [window] }], tableBytes: 2 ** 33 });
  const registers = new HypercallRegisters();
  const r = registers.i32;
  const ramPages = ramBytes / 2 ** pageLg2;
  const step = scattered ? ramPages / 2 + 1 : 1;
  for (let first = 0; first < pages; first += LIST) {
    const count = Math.min(LIST, pages - first);
    for (let i = 0; i < count; i++) {
      const gpa = (((first + i) * step) % ramPages) * 2 ** pageLg2;
      memory.store64BE(Math.floor(list / 2 ** 32), (list + 8 * i) | 0, Math.floor(gpa / 2 ** 32), gpa | 3);
    }
    const ioba = first * 2 ** pageLg2;
    r[8] = window.liobn | 0;
    [r[10], r[11]] = [ioba | 0, Math.floor(ioba / 2 ** 32)];
    [r[12], r[13]] = [list | 0, Math.floor(list / 2 ** 32)];
    r[14] = count;
    if (target.hypercall(H_PUT_TCE_INDIRECT, registers) !== 0) throw new Error(`scale: the table of ${bytes} bytes is refused`);
  }
  const before = held();
  const host = countingHost();
  const slices: (() => void)[] = [];
  const machine = new Machine({ memory, target, host, path: 'shadow', schedule: (slice) => slices.push(slice) });
  const counter = pages <= COUNTED_PAGES ? new WorkCounter() : null;
  let counted = 0;
  const timed = (run: () => void) =>
    milliseconds(() => {
      if (counter === null) run();
      else counted += counter.of(run);
    });
  const times = [timed(() => machine.passThrough(8, 'counted'))];
  for (let slice = slices.pop(); slice !== undefined; slice = slices.pop()) times.push(timed(slice));
  counter?.close();
  const total = times.reduce((sum, time) => sum + time, 0);
  const point = {
    sweep,
    variant: sweep === 'mappings' ? 'scattered' : pagesName(pageLg2),
    x: sweep === 'mappings' ? pages : bytes,
    microseconds: (total / pages) * 1000,
    hostCalls: host.calls.map / pages,
    blocks: counted / pages,
    bytes: bytesOf(held() - before, pages),
    longestMs: Math.max(...times),
  };
  machine.close();
  return point;
}
