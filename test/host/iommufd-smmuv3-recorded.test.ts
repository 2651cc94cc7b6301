import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { expect, test } from 'vitest';
import { simulatedOperations, unexplained } from '../kernel/arm64/compare.ts';

test('the simulated SMMUv3 does what Linux 7.3.4 on QEMU’s was recorded to do, operation by operation', () => {
  const file = resolve(import.meta.dirname, '../recordings/smmuv3-linux-7.3.4-operations.txt');
  const recorded = readFileSync(file, 'utf8').trimEnd().split('\n');
  expect(recorded.length).toBeGreaterThan(130);
  expect(unexplained(recorded, simulatedOperations())).toEqual([]);
});
