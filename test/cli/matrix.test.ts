import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { pathNames } from '../../src/accel/choose.ts';
import { cellOf } from '../../src/cli/matrix/cell.ts';
import { ENDPOINT, guests } from '../../src/cli/matrix/guests.ts';
import { hostHardwares } from '../../src/cli/replay/rig-sim.ts';
import { wrapped } from '../../src/cli/wrap.ts';
import { hostKinds } from '../../src/host/registry.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { runCli } from './run-cli.ts';

const targets = readdirSync(join(import.meta.dirname, '../../src/target'), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

describe('viommu matrix', () => {
  test('every target is in it', () => {
    expect(Object.keys(guests)).toEqual(expect.arrayContaining(targets));
  });

  test.each(Object.keys(guests))('%s: its guest has an address space of its own, with nothing in it', (name) => {
    const memory = GuestMemory.ofBytes(1 << 20);
    const space = guests[name].start(memory).spaceOf(ENDPOINT);
    expect(space).not.toBeNull();
    expect(space?.name).not.toBe('identity');
    let runs = 0;
    for (const { first, last } of space?.apertures ?? []) space?.enumerate(first, last, () => ++runs > 0);
    expect(runs).toBe(0);
  });

  test('every combination has a path, and a reason for every faster one', () => {
    for (const target of Object.keys(guests))
      for (const host of hostKinds()) {
        const { path, refused } = cellOf(target, host, 'none');
        const names = pathNames().slice(1);
        const [name, hearing] = path?.split(', ') ?? [];
        expect(names).toContain(name);
        // Of a path that watches, the plain one is refused as well.
        expect(refused.map((entry) => entry.path)).toEqual(names.slice(0, names.indexOf(name) + (hearing === 'watched' ? 1 : 0)));
        for (const { reason } of refused) expect(reason).toMatch(/\w+ \w+/);
      }
  });

  test('--json has every cell', async () => {
    const { status, out } = await runCli('matrix', '--json');
    expect(status).toBe(0);
    expect(JSON.parse(out).combinations).toHaveLength(Object.keys(guests).length * (hostKinds().length - 1 + hostHardwares().length));
  });
});

test('wrapped: a word that does not fit begins a line; a longer one stands alone', () => {
  expect(wrapped('a: ', 'bb cc dd', 8)).toEqual(['a: bb cc', '   dd']);
  expect(wrapped('a: ', 'bbbbbbbbbb cc', 8)).toEqual(['a: bbbbbbbbbb', '   cc']);
  expect(wrapped('a: ', '', 8)).toEqual(['a: ']);
});
