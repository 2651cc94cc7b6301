import { fc, test as property } from '@fast-check/vitest';
import { expect, test } from 'vitest';
import { KnownSpaces } from '../../src/target/known-spaces.ts';
import type { Observed } from '../../src/target/observed.ts';
import type { AddressSpace } from '../../src/target/target.ts';

function space(name: string): AddressSpace {
  return { name, owner: 'guest', announced: true, granuleLg2: 12, apertures: [], enumerate: (_first, last) => last + 1 };
}

/** What an observer was told of: `count` endpoints, which reach these spaces. */
function observed(count: number, reached: ReadonlySet<AddressSpace>): Observed {
  return { count, reaches: (one: AddressSpace) => reached.has(one) } as unknown as Observed;
}

const value = fc.oneof(fc.constantFrom(-1, 0, 1, 2, true, false), fc.constantFrom(2 ** 32, 2 ** 52 - 1, -(2 ** 31)), fc.nat(3));
const keys = fc.array(fc.oneof(fc.array(value, { maxLength: 4 }), fc.array(value, { minLength: 31, maxLength: 66 })), { maxLength: 60 });

property.prop([keys])('a space is known by the values of its key, all of them in their order', (all) => {
  const known = new KnownSpaces(observed(1000, new Set()), () => {});
  const model = new Map<string, AddressSpace>();
  for (const values of all) {
    const text = JSON.stringify(values.map(Number));
    const key = known.key().addAll(values.map(Number));
    expect(known.find(key)).toBe(model.get(text));
    if (!model.has(text)) model.set(text, known.add(key, space(text)));
    expect(known.find(key)).toBe(model.get(text));
  }
  for (const [text, one] of model) expect(known.find(known.key().addAll(JSON.parse(text)))).toBe(one);
});

test('those that nobody reaches go when they are many, and are told; a key of theirs is another space then', () => {
  const dropped: string[] = [];
  const reached = new Set<AddressSpace>();
  const known = new KnownSpaces(observed(1, reached), ({ name }) => dropped.push(name));
  const kept = known.add(known.key().add(-1), space('kept'));
  reached.add(kept);
  for (let i = 0; i < 6; i++) known.add(known.key().add(i).add(true), space(`${i}`));
  expect(dropped).toEqual(['0', '1', '2', '3']);
  expect(known.find(known.key().add(0).add(1))).toBeUndefined();
  expect(known.find(known.key().add(5).add(1))?.name).toBe('5');
  expect(known.find(known.key().add(-1))).toBe(kept);
  known.clear();
  expect(known.find(known.key().add(-1))).toBeUndefined();
  // None is counted that is gone.
  dropped.length = 0;
  for (let i = 0; i < 3; i++) known.add(known.key().add(i), space(`${i}`));
  expect(dropped).toEqual([]);
});

test('of spaces whose keys have one hash those go that nobody reaches', () => {
  const reached = new Set<AddressSpace>();
  const dropped: string[] = [];
  const known = new KnownSpaces(observed(1000, reached), ({ name }) => dropped.push(name));
  // Keys of two values until two of them meet.
  const seen = new Map<number, number>();
  let pair: [number, number] | null = null;
  for (let i = 0; pair === null; i++) {
    const { hash } = known.key().add(i).add(-i);
    if (seen.has(hash)) pair = [seen.get(hash)!, i];
    seen.set(hash, i);
  }
  const [stays] = pair.map((value) => known.add(known.key().add(value).add(-value), space(`${value}`)));
  reached.add(stays);
  known.dropUnused();
  expect(dropped).toEqual([`${pair[1]}`]);
  expect(pair.map((value) => known.find(known.key().add(value).add(-value)))).toEqual([stays, undefined]);
});
