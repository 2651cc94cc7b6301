import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { counted } from './counting.ts';
import { type ScaleTarget, scaleGuest } from './guests.ts';
import { filledGuest } from './size-guest.ts';

/** One point of a curve: what one operation, or one page of the guest's, costs. */
export interface Point {
  readonly sweep: string;
  readonly variant: string;
  /** What is swept: spaces, mappings, or bytes of the guest. */
  readonly x: number;
  readonly microseconds: number;
  readonly hostCalls: number;
  /** Blocks of code that are entered (work.ts): the same on every machine, however busy; null: it is too much to be counted. */
  readonly blocks: number | null;
  /** Of the process, for each space or guest page; null: there is too little to tell from what the process holds besides. */
  readonly bytes: number | null;
  /** Longest time that one guest operation or slice took. */
  readonly longestMs: number;
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** What V8 and its buffers hold after a collection, memory that can be shared (guest RAM) apart. */
function held(): number {
  collect();
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
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
  const { operate, kernel } = scaleGuest(target, spaces);
  const bytes = bytesOf(held() - before, spaces);
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

/** Guests up to this size are counted in blocks as well. */
const COUNTED_PAGES = 1e4;

/** A device comes to a pseries guest whose table has `bytes` of pages (size-guest.ts): filled in slices over a host that only counts. */
export function overSize(sweep: string, bytes: number, pageLg2: number, scattered: boolean): Point {
  const pages = bytes / 2 ** pageLg2;
  const guest = filledGuest(bytes, pageLg2, scattered);
  const before = held();
  const times: number[] = [];
  for (const slice of guest.slices()) times.push(milliseconds(slice));
  const total = times.reduce((sum, time) => sum + time, 0);
  const isCounted = pages <= COUNTED_PAGES;
  const point = {
    sweep,
    variant: sweep === 'mappings' ? 'scattered' : pagesName(pageLg2),
    x: sweep === 'mappings' ? pages : bytes,
    microseconds: (total / pages) * 1000,
    hostCalls: guest.calls.map / pages,
    blocks: isCounted
      ? (counted(new URL('./count-size.ts', import.meta.url), ...[bytes, pageLg2, scattered].map(String)) as number) / pages
      : null,
    bytes: bytesOf(held() - before, pages),
    longestMs: Math.max(...times),
  };
  guest.close();
  return point;
}
