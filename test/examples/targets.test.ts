import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { FAULT_BASE } from '../../src/target/fault-codes.ts';

const root = join(import.meta.dirname, '../..');
const folder = join(root, 'examples');
/** What is no example of one target. */
const OTHERS = ['generic-user.ts'];

const examples = readdirSync(folder).filter((file) => !OTHERS.includes(file));
const targets = readdirSync(join(root, 'src/target'), { withFileTypes: true }).filter((entry) => entry.isDirectory());

describe('examples, one a target', () => {
  test('every target has one', () => {
    expect(examples.sort()).toEqual(targets.map(({ name }) => `${name}.ts`).sort());
  });

  test.each(examples)('%s: a mapping that both devices reach, and its fault when it is gone', (file) => {
    const source = readFileSync(join(folder, file), 'utf8');
    expect(source.split('\n').length).toBeLessThan(61);
    const printed = execFileSync(process.execPath, ['--import', 'tsx', join(folder, file)], { cwd: root, encoding: 'utf8' });
    const target = file.replace('.ts', '');
    expect(Object.keys(FAULT_BASE)).toContain(target);
    expect(printed).toMatch(/^mapped: {3}emulated 0 passed through 0$/m);
    expect(printed).toMatch(/^arrived: {2}\[ 1, 2, 3 \] \[ 1, 2, 3 \]$/m);
    // The fault has the target's own name.
    expect(printed).toMatch(new RegExp(`^faults: {3}emulated ${target} [A-Za-z][\\w.]+ passed through true$`, 'm'));
  });
});
