import { expect, test } from 'vitest';
import { NO_PROCESS, type Tagged, TaggedSpaces } from '../../src/target/tagged-spaces.ts';
import type { AddressSpace } from '../../src/target/target.ts';

const space = (name: string, domain?: number, process?: number) => ({ name, domain, process }) as unknown as Tagged;
const isTagged = (one: AddressSpace): one is Tagged => (one as Partial<Tagged>).domain !== undefined;
const names = (spaces: Iterable<Tagged>) => [...spaces].map(({ name }) => name).sort();

test('spaces are found by domain and process, as long as they are reached', () => {
  const tagged = new TaggedSpaces<Tagged>(isTagged);
  const a = space('a', 1, NO_PROCESS);
  const b = space('b', 1, 5);
  const c = space('c', 1, 5);
  const d = space('d', 2, 5);
  for (const one of [a, b, c, d, space('identity')]) tagged.entered(one);
  expect(names(tagged.all)).toEqual(['a', 'b', 'c', 'd']);
  expect(names(tagged.ofDomain(1))).toEqual(['a', 'b', 'c']);
  expect(names(tagged.of(1, 5))).toEqual(['b', 'c']);
  expect(names(tagged.of(1, NO_PROCESS))).toEqual(['a']);
  expect(names(tagged.of(1, 6))).toEqual([]);
  expect(names(tagged.of(3, 5))).toEqual([]);
  expect(names(tagged.ofDomain(3))).toEqual([]);
  tagged.left(b);
  tagged.left(b);
  tagged.left(space('identity'));
  expect(names(tagged.of(1, 5))).toEqual(['c']);
  expect(names(tagged.ofDomain(1))).toEqual(['a', 'c']);
  tagged.left(c);
  tagged.left(a);
  expect(names(tagged.ofDomain(1))).toEqual([]);
  expect(names(tagged.all)).toEqual(['d']);
});
