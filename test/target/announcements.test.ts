import { beforeEach, describe, expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { CountedMemory } from '../../src/pagetable/two-stage.ts';
import { Announcements, type TabledSpace } from '../../src/target/announcements.ts';
import { LargeLeaves } from '../../src/target/large-leaves.ts';
import type { Observed } from '../../src/target/observed.ts';

/* In which pieces an observer hears of what a guest invalidated, and when the guest's wait is over. */

const BUDGET = 100;
const LARGE = 1 << 13;

describe('announcements', () => {
  let told: string[];
  let tables: CountedMemory;
  let announcements: Announcements<TabledSpace>;
  let space: TabledSpace;
  /** Pages that one enumeration comes to, by reading as many entries. */
  let reach: number;
  const read = (entries: number) => {
    for (let i = 0; i < entries; i++) tables.load64(0, 0);
  };

  beforeEach(() => {
    told = [];
    reach = 1 << 20;
    tables = new CountedMemory(GuestMemory.ofBytes(4096));
    const observed = {
      changed: (_: TabledSpace, first: number, last: number) => void told.push(`${first}-${last}`),
      retry: () => void told.push('retry'),
      flush: () => void told.push('flush'),
    };
    announcements = new Announcements<TabledSpace>(observed as unknown as Observed, tables, BUDGET);
    const enumerate = (first: number, last: number) => {
      read(10);
      return Math.min(first + reach, last + 1);
    };
    space = { name: 'large', isLarge: true, leaves: new LargeLeaves(), enumerate } as unknown as TabledSpace;
  });

  test('a budget begins with each access; what was read elsewhere counts', () => {
    read(BUDGET);
    announcements.begin();
    expect(announcements.isSpent).toBe(false);
    read(BUDGET - 1);
    expect(announcements.isSpent).toBe(false);
    announcements.spend(1);
    expect(announcements.isSpent).toBe(true);
    announcements.beginCommands();
    expect(announcements.isSpent).toBe(false);
  });

  test('the leaves that covered a range are announced with it, at once; how many pages, is answered', () => {
    space.leaves.add(0x200, 21);
    expect(announcements.say(space, 0x205, 0x207)).toBe(512);
    announcements.beginCommands();
    expect([announcements.say(space, 1, LARGE), told]).toEqual([LARGE, ['512-1023', `1-${LARGE}`]]);
  });

  test('a large range of a large space waits for the flush of the commands, which asks first for what was refused', () => {
    announcements.beginCommands();
    expect([announcements.say(space, 0, LARGE), told]).toEqual([0, []]);
    expect([announcements.endCommands(), told]).toEqual([true, ['retry', `0-${LARGE}`, 'flush']]);
    // Outside commands nobody waits, and a small space is told of at once.
    expect(announcements.say(space, 0, LARGE)).toBe(LARGE + 1);
    announcements.beginCommands();
    expect(announcements.say({ ...space, isLarge: false }, 0, LARGE)).toBe(LARGE + 1);
  });

  test('it comes in parts of what one enumeration reads, until the access has read enough', () => {
    reach = 1000;
    announcements.beginCommands();
    announcements.say(space, 0, LARGE);
    expect([announcements.endCommands(), told]).toEqual([false, ['retry', '0-999', 'flush']]);
    announcements.beginCommands();
    read(BUDGET);
    told.length = 0;
    expect([announcements.flush(), told]).toEqual([false, ['retry', 'flush']]);
    expect(announcements.endCommands(false)).toBe(false);
    announcements.forget(space);
    expect(announcements.endCommands(false)).toBe(true);
  });

  test('behind 32 parts all the rest is announced at once: tables that lead to themselves never end', () => {
    reach = 1;
    announcements.beginCommands();
    announcements.say(space, 0, LARGE);
    let rounds = 1;
    for (; !announcements.endCommands(); rounds++) announcements.beginCommands();
    const parts = told.filter((what) => what.includes('-'));
    expect([rounds, parts[31], parts[32], parts.length]).toEqual([33, '31-31', `32-${LARGE}`, 33]);
  });
});
