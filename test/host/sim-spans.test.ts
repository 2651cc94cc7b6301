import { expect, test, vi } from 'vitest';
import { type Span, SpanList } from '../../src/host/sim/spans.ts';

/** Spans in more chunks than one, against a plain array. */

function touching(model: readonly Span<number>[], first: number, last: number): Span<number>[] {
  return model.filter((span) => span.last >= first && span.first <= last);
}

test('insertions and removals anywhere keep the spans ascending and found', () => {
  const list = new SpanList<number, Span<number>>();
  let model: Span<number>[] = [];
  let random = 12345;
  const next = (below: number) => {
    random = (Math.imul(random, 1103515245) + 12345) >>> 0;
    return Math.floor((random / 2 ** 32) * below);
  };
  for (let round = 0; round < 12_000; round++) {
    const first = next(40_000) * 4;
    const span = { first, last: first + next(4) };
    const there = touching(model, span.first, span.last);
    expect(list.firstIn(span.first, span.last)).toBe(there[0]);
    if (there.length > 0 && (round % 3 === 0 || round > 8_000)) {
      list.remove(there[0]);
      model = model.filter((other) => other !== there[0]);
    } else if (there.length > 0) expect(() => list.insert(span)).toThrow(RangeError);
    else {
      list.insert(span);
      model.push(span);
    }
    if (round % 1000 !== 0) continue;
    model.sort((a, b) => a.first - b.first);
    expect([...list]).toEqual(model);
    const from = next(160_000);
    expect(list.allIn(from, from + 40_000)).toEqual(touching(model, from, from + 40_000));
    expect(() => list.remove({ first: from, last: from })).toThrow(/is not in it/);
  }
  expect(list.size).toBe(model.length);
  expect(model.length).toBeGreaterThan(5_000);
  for (const span of model) list.remove(span);
  expect([list.size, [...list], list.at(0)]).toEqual([0, [], undefined]);
});

test('what insertions and removals move does not grow with the square of the number of spans', () => {
  const list = new SpanList<number, Span<number>>();
  const count = 50_000;
  let moved = 0;
  const { splice } = Array.prototype;
  const counting = vi.spyOn(Array.prototype, 'splice').mockImplementation(function (this: unknown[], ...args) {
    moved += this.length - args[0];
    return splice.apply(this, args);
  });
  for (let at = count - 1; at >= 0; at--) list.insert({ first: at, last: at });
  for (let at = 0; at < count; at++) list.remove(list.firstIn(at, count) as Span<number>);
  counting.mockRestore();
  expect(list.size).toBe(0);
  // Part of a chunk of 512 each time, and seldom the list of chunks; in one array it is 2 * 10^9 and more.
  expect(moved).toBeGreaterThan(count);
  expect(moved / count).toBeLessThan(1024);
});
