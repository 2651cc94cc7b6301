import { describe, expect, test } from 'vitest';
import { countingHost } from '../../bench/scale/counting-host.ts';
import { shadow } from '../../src/accel/shadow.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { IntervalMap } from '../../src/memory/interval-map.ts';
import type { AddressSpace } from '../../src/target/target.ts';
import { REQUESTER } from './path-fixture.ts';

/* How often a place in a run is split that its guest takes away page by page (docs/architecture.md, "Splits"). */

const FRAME_PAGES = 2 ** 20;
/** Of 4 GiB at the most, for all frames of RAM: nobody looks into it. */
const bufferFor = (pages: number) => new SharedArrayBuffer(Math.min(pages, FRAME_PAGES) * 4096);

/** One run of pages that a device reaches, and how a guest takes a page out of it. */
function runOf(pages: number) {
  const buffer = bufferFor(pages);
  const frames = Array.from({ length: Math.ceil(pages / FRAME_PAGES) }, (_, i) => BigInt(i) << 32n);
  const memory = new GuestMemory(frames.map((gpa) => ({ gpa, buffer, hostAddress: (1n << 44n) + gpa })));
  const holes = new IntervalMap(1 << 12);
  const space: AddressSpace = {
    name: 'one run',
    owner: 'target',
    announced: true,
    granuleLg2: 12,
    apertures: [{ first: 0, last: pages - 1 }],
    enumerate(first, last, visit) {
      let at = first;
      holes.intervals(first, last, (hole) => {
        if (hole > at && !visit(at, at, hole - at, 3)) return false;
        at = hole + 1;
        return true;
      });
      if (at <= last) visit(at, at, last - at + 1, 3);
      return last + 1;
    },
  };
  const host = countingHost();
  const path = shadow.create({ space, memory, host });
  expect(path.attach(host.openDevice('counted'), REQUESTER)).toBe(0);
  expect(host.calls.map).toBe(1);
  /** Mappings that it makes; and whether it was a split. */
  const unmap = (page: number): { readonly made: number; readonly split: boolean } => {
    const [made, splits] = [host.calls.map, path.counters.splits];
    holes.insert(page, 1, 0, 0);
    path.changed(page, page);
    expect(path.flush()).toBe(0);
    return { made: host.calls.map - made, split: path.counters.splits > splits };
  };
  return { unmap };
}

describe.each([
  [2 ** 9, 2],
  [2 ** 18, 3],
  [2 ** 28, 5],
])('a run of %i grains', (pages, splits) => {
  test(`a place is split ${splits} times, then never again; each split makes 512 mappings for either side of it at most`, () => {
    const { unmap } = runOf(pages);
    const seen: boolean[] = [];
    for (let page = pages / 4; page < pages / 4 + 64; page++) {
      const { made, split } = unmap(page);
      expect(made).toBeLessThanOrEqual(2 * 512);
      seen.push(split);
    }
    expect(seen).toEqual(seen.map((_, i) => i < splits));
  });

  test('a guest that goes through a run finds a split once in 512 pages', () => {
    const { unmap } = runOf(pages);
    const walked = Math.min(pages / 2, 4096);
    let found = 0;
    for (let page = pages / 4; page < pages / 4 + walked; page++) if (unmap(page).split) found++;
    expect(found).toBe(splits + Math.max(walked / 512 - 1, 0));
  });

  test('wherever the guest comes next, the rest of the run is split no more often than that', () => {
    const { unmap } = runOf(pages);
    let most = 0;
    for (let place = 1; place < 8; place++) {
      const at = Math.floor((pages / 8) * place);
      let here = 0;
      for (let i = 0; i < 12; i++) if (unmap(at + i).split) here++;
      most = Math.max(most, here);
    }
    expect(most).toBeLessThanOrEqual(splits);
  });
});
