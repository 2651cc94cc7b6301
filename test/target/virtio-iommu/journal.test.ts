import { describe, expect, test } from 'vitest';
import { Domain } from '../../../src/target/virtio-iommu/domain.ts';
import { Journal } from '../../../src/target/virtio-iommu/journal.ts';

const domainOf = (id: number) =>
  new Domain(id, false, id, { granuleLg2: 12, input: { first: 0, last: 2 ** 52 - 1 }, mappingLimit: 10_000 });

function mappingsOf(domain: Domain): number[][] {
  const all: number[][] = [];
  domain.mappings.intervals(0, 2 ** 52 - 1, (first, gpa, pages, permission) => all.push([first, pages, gpa, permission]) > 0);
  return all;
}

describe('mappings that come and go', () => {
  test('are taken back, the latest first, however many and in whichever domain', () => {
    const [one, other] = [domainOf(1), domainOf(2)];
    for (let i = 0; i < 300; i++) one.mappings.insert(10 * i, 3, 7 * i, 1 + (i % 3));
    const before = mappingsOf(one);
    const journal = new Journal();
    for (let i = 0; i < 300; i++) {
      journal.removing(one, one.mappings.lookup(10 * i));
      one.mappings.remove(10 * i, 3);
      // In the place of what went something else comes.
      journal.added(one, one.mappings.insert(10 * i + 1, 5, 0, 3));
      journal.added(other, other.mappings.insert(i, 1, i, 3));
    }
    expect(journal.count).toBe(900);
    const told: [string, number, number, number][] = [];
    journal.undo((domain, first, last, mappings) => void told.push([domain.name, first, last, mappings]));
    expect([mappingsOf(one), mappingsOf(other), journal.count]).toEqual([before, [], 0]);
    expect(told.slice(0, 3)).toEqual([
      ['domain 2', 299, 299, -1],
      ['domain 1', 2991, 2995, -1],
      ['domain 1', 2990, 2992, 1],
    ]);
    expect(told.reduce((sum, [, , , mappings]) => sum + mappings, 0)).toBe(-300);
  });

  test('of what the hardware has agreed to nothing is taken back', () => {
    const domain = domainOf(1);
    const journal = new Journal();
    journal.added(domain, domain.mappings.insert(1, 1, 1, 3));
    journal.clear();
    journal.added(domain, domain.mappings.insert(2, 1, 2, 3));
    journal.undo(() => {});
    expect(mappingsOf(domain)).toEqual([[1, 1, 1, 3]]);
  });
});
