import { expect, test } from 'vitest';
import { Remainder } from '../../src/target/remainder.ts';

test('work that goes on later does so once, however often it is asked for, and may ask for more', () => {
  const scheduled: (() => void)[] = [];
  let [done, more] = [0, 2];
  const remainder: Remainder = new Remainder(
    () => {
      done++;
      if (more-- > 0) remainder.later();
    },
    (work) => void scheduled.push(work),
  );
  remainder.later();
  remainder.later();
  expect([scheduled.length, done]).toEqual([1, 0]);
  while (scheduled.length > 0) scheduled.shift()!();
  expect(done).toBe(3);
  remainder.later();
  expect(scheduled).toHaveLength(1);
});
