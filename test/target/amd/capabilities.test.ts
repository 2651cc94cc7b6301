import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { EFR, EFR2 } from '../../../src/target/amd/index.ts';

test('the table of features in docs/targets/amd.md is the one that the registers are made of', () => {
  const text = readFileSync(join(import.meta.dirname, '../../../docs/targets/amd.md'), 'utf8');
  const rows = text
    .slice(text.indexOf('## Features'), text.indexOf('## What a request meets'))
    .split('\n')
    .filter((line) => /^\| [A-Z]\w+ \| \d/.test(line));
  expect(rows).toEqual([...EFR, ...EFR2].map(({ name, value, reason }) => `| ${name} | ${value} | ${reason} |`));
});

test('every bit of a register is one feature’s at most', () => {
  for (const table of [EFR, EFR2]) {
    let taken = 0n;
    for (const { low, width, value } of table) {
      const mask = ((1n << BigInt(width)) - 1n) << BigInt(low);
      expect(taken & mask).toBe(0n);
      expect(BigInt(value as number) < 1n << BigInt(width)).toBe(true);
      taken |= mask;
    }
  }
});
