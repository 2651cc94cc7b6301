import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { BPlusTree } from '../../src/memory/b-plus-tree.ts';
import { reaching } from '../reaching.ts';

/** All entries from the first on. */
function entriesOf(tree: BPlusTree): [key: number, ref: number][] {
  const all: [number, number][] = [];
  for (let entry = tree.after(-1); entry >= 0; entry = tree.after(entry)) all.push([tree.keys[entry], tree.refs[entry]]);
  return all;
}

/** Removes the keys of [first, end) as the tree can: by pieces of leaves. */
function removeAll(tree: BPlusTree, first: number, end: number): void {
  for (;;) {
    let entry = tree.descend(first);
    if (entry < 0 || tree.keys[entry] < first) entry = tree.after(entry);
    if (entry < 0 || tree.keys[entry] >= end) return;
    tree.descend(tree.keys[entry]);
    let stop = entry;
    while (stop < tree.leafEnd(entry) && tree.keys[stop] < end) stop++;
    tree.remove(stop - entry);
  }
}

// 300 keys make five leaves at least, of 64 entries at most; shrinking them joins and fills leaves.
const KEYS = 1000;
const operation = fc.tuple(fc.constantFrom('fill', 'fill', 'remove', 'empty', 'rekey'), fc.nat(KEYS - 1), fc.integer({ min: 1, max: 300 }));

describe('a B+tree against a sorted array', () => {
  const reach = reaching('the B+tree', 'several leaves', 'several leaves that go at once', 'a first entry with another key');

  test.prop([fc.array(operation, { maxLength: 20 })], { numRuns: 60 })('finds, adds, moves and removes alike', (program) => {
    reach();
    const tree = new BPlusTree();
    const model = new Map<number, number>();
    for (const [what, first, count] of program) {
      if (what === 'fill') {
        // Multiples of two, so that a key can move by one.
        for (let key = 2 * first; key < 2 * (first + count); key += 2) {
          const at = tree.descend(key + 1);
          if (at >= 0 && tree.keys[at] >= key) continue;
          tree.insert(key, key * 3);
          model.set(key, key * 3);
        }
      } else if (what === 'remove' || what === 'empty') {
        const [from, end] = what === 'remove' ? [2 * first, 2 * (first + count)] : [0, 4 * KEYS];
        if (what === 'empty' && model.size > 128) reach('several leaves that go at once');
        removeAll(tree, from, end);
        for (const key of [...model.keys()]) if (key >= from && key < end) model.delete(key);
      } else {
        const least = tree.after(-1);
        const entry = tree.descend(least >= 0 && count % 3 === 0 ? tree.keys[least] : 2 * first);
        if (entry >= 0 && tree.keys[entry] % 2 === 0) {
          const key = tree.keys[entry];
          if (entry === least) reach('a first entry with another key');
          tree.rekey(entry, key + 1);
          model.set(key + 1, model.get(key)!);
          model.delete(key);
        }
      }
      const sorted = [...model].sort(([a], [b]) => a - b);
      if (sorted.length > 128) reach('several leaves');
      expect(entriesOf(tree)).toEqual(sorted);
      for (const key of [0, 2 * first - 1, 2 * first, 2 * first + 1, 2 * (first + count)]) {
        const below = sorted.filter(([other]) => other <= key).at(-1);
        const entry = tree.floor(key);
        expect(entry < 0 ? undefined : tree.keys[entry]).toBe(below?.[0]);
        expect(tree.descend(key)).toBe(entry);
      }
    }
    tree.clear();
    expect([tree.floor(2 * KEYS), tree.after(-1)]).toEqual([-1, -1]);
  });
});
