import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { type DifferenceLists, difference } from '../../src/accel/difference.ts';
import { DirtyRanges } from '../../src/accel/dirty-ranges.ts';
import { RunList } from '../../src/accel/run-list.ts';
import { reaching } from '../reaching.ts';
import { expectSame } from '../same.ts';

interface Run {
  readonly iova: number;
  readonly gpa: number;
  readonly pages: number;
  readonly permission: number;
}

const SPACE = 60;

/** Disjoint ascending runs: gaps and sizes drawn, targets from a few so that runs often agree. */
const runs = fc
  .array(fc.tuple(fc.nat(4), fc.integer({ min: 1, max: 9 }), fc.constantFrom(100, 101, 300), fc.constantFrom(1, 3)), { maxLength: 12 })
  .map((drawn) => {
    const list: Run[] = [];
    let at = 0;
    for (const [gap, pages, offset, permission] of drawn) {
      at += gap;
      if (at + pages > SPACE) break;
      list.push({ iova: at, gpa: at + offset, pages, permission });
      at += pages;
    }
    return list;
  });
const dirtyRanges = fc.array(fc.tuple(fc.nat(SPACE - 1), fc.integer({ min: 1, max: 20 })), { minLength: 1, maxLength: 4 });

function listOf(source: readonly Run[]): RunList {
  const list = new RunList(1 << 10);
  for (const run of source) list.push(run.iova, run.gpa, run.pages, run.permission);
  return list;
}

function runsOf(list: RunList): Run[] {
  return Array.from({ length: list.length }, (_, i) => ({
    iova: list.iova[i],
    gpa: list.gpa[i],
    pages: list.pages[i],
    permission: list.permission[i],
  }));
}

/** What each page maps to, as text; throws when two runs map one page. */
function pagesOf(source: readonly Run[]): Map<number, string> {
  const pages = new Map<number, string>();
  for (const run of source) {
    for (let i = 0; i < run.pages; i++) {
      if (pages.has(run.iova + i)) throw new Error(`page ${run.iova + i} is mapped twice`);
      pages.set(run.iova + i, `${run.gpa + i}/${run.permission}`);
    }
  }
  return pages;
}

function clip(source: readonly Run[], dirty: DirtyRanges): Run[] {
  const clipped: Run[] = [];
  for (const run of source) {
    for (let r = 0; r < dirty.count; r++) {
      const first = Math.max(run.iova, dirty.first(r));
      const end = Math.min(run.iova + run.pages, dirty.last(r) + 1);
      if (first < end) clipped.push({ ...run, iova: first, gpa: run.gpa + first - run.iova, pages: end - first });
    }
  }
  return clipped.sort((a, b) => a.iova - b.iova);
}

function touches(run: Run, dirty: DirtyRanges): boolean {
  return clip([run], dirty).length > 0;
}

describe('difference', () => {
  const reached = reaching('difference', 'a removal', 'an addition', 'a mapping that stays', 'a remnant', 'a split');
  const run = { iova: 8, gpa: 108, pages: 8, permission: 3 };
  const other = { iova: 20, gpa: 120, pages: 2, permission: 3 };
  const last = { iova: 30, gpa: 330, pages: 2, permission: 1 };
  const example = [
    [run, other],
    [other, last],
    [[12, 2] as [number, number], [20, 20] as [number, number]],
  ] as [Run[], Run[], [number, number][]];
  test.prop([runs, runs, dirtyRanges], { numRuns: 500, examples: [example] })(
    'brings the held mappings to what is wanted and changes nothing else',
    (held, meant, drawn) => {
      reached();
      const dirty = new DirtyRanges();
      for (const [first, pages] of drawn) dirty.add(first, first + pages - 1);
      dirty.normalize();
      const wanted = clip(meant, dirty);
      const lists: DifferenceLists = {
        held: listOf(held.filter((run) => touches(run, dirty))),
        wanted: listOf(wanted),
        removals: new RunList(1 << 10),
        remnants: new RunList(1 << 10),
        additions: new RunList(1 << 10),
        kept: new RunList(1 << 10),
      };
      const splits = { count: 0, grain: 0 };
      expect(difference(dirty, lists, splits)).toBe(true);

      const removed = runsOf(lists.removals);
      for (const run of removed) expect(held).toContainEqual(run);
      const left = held.filter((run) => !removed.some((gone) => gone.iova === run.iova));
      // pagesOf throws when an addition overlaps what stays: the host would answer EEXIST.
      const after = pagesOf([...left, ...runsOf(lists.remnants), ...runsOf(lists.additions)]);
      const before = pagesOf(held);
      const want = pagesOf(wanted);
      const inside = (page: number): boolean => drawn.some(([first, pages]) => page >= first && page < first + pages);
      for (let page = 0; page < SPACE; page++) expectSame(after.get(page), inside(page) ? want.get(page) : before.get(page));

      // A mapping that already is as wanted stays, and a split is one that takes pages away that stay mapped as they were.
      for (const run of removed) expect([...pagesOf([run])].some(([page, target]) => after.get(page) !== target)).toBe(true);
      const split = removed.filter((run) => [...pagesOf([run])].some(([page, target]) => after.get(page) === target));
      expect(splits.count).toBe(split.length);
      reached('a removal', removed.length);
      reached('an addition', lists.additions.length);
      reached('a remnant', lists.remnants.length);
      reached('a mapping that stays', left.filter((one) => touches(one, dirty)).length);
      reached('a split', split.length);
    },
  );

  const single = (iova: number, gpa = iova): Run => ({ iova, gpa, pages: 1, permission: 3 });
  const many = Array.from({ length: 65 }, (_, i) => i);
  const everything: [number, number][] = [[0, 1000]];
  // One run of 131 pages; what lies between single pages of it that stay, or change, is 66 runs.
  const long: Run = { iova: 0, gpa: 500, pages: 131, permission: 3 };
  test.each<[keyof DifferenceLists, Run[], Run[], [number, number][]]>([
    ['kept', many.map((i) => single(2 * i)), many.map((i) => single(2 * i)), everything],
    ['removals', many.map((i) => single(2 * i)), [], everything],
    ['additions', [], many.map((i) => single(2 * i)), everything],
    ['additions', many.map((i) => single(2 * i + 1, 501 + 2 * i)), [long], everything],
    ['remnants', [long], [], many.map((i) => [2 * i + 1, 2 * i + 1])],
  ])('says when there is no room in %s', (list, held, wanted, ranges) => {
    const dirty = new DirtyRanges();
    for (const [first, last] of ranges) dirty.add(first, last);
    dirty.normalize();
    const filled = (limit: number) => {
      const room = (name: keyof DifferenceLists) => new RunList(name === list ? limit : 1 << 10);
      const lists = { removals: room('removals'), remnants: room('remnants'), additions: room('additions'), kept: room('kept') };
      return difference(dirty, { held: listOf(held), wanted: listOf(wanted), ...lists }, { count: 0, grain: 0 });
    };
    expect([filled(64), filled(66)]).toEqual([false, true]);
  });
});
