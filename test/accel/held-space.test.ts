import { beforeEach, describe, expect, test } from 'vitest';
import { HeldSpace } from '../../src/accel/held-space.ts';
import { LeftOut } from '../../src/accel/left-out.ts';
import { errno, HostError } from '../../src/host/errno.ts';
import type { DirtyTracking, HostSpace } from '../../src/host/host.ts';
import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { IntervalMap } from '../../src/memory/interval-map.ts';

/* What is written down of a host space, call by call: the host here counts, and fails when it is told to. */

const PAGES = 256;
/** Host page of guest page 0. */
const HOST = 0x7000;

class FakeSpace {
  mappingLimit = Number.POSITIVE_INFINITY;
  dirty: DirtyTracking | null = null;
  error: HostError | null = new HostError('host', errno.EIO);
  readonly mapped = new Map<number, [host: number, pages: number, permission: number]>();
  calls: string[] = [];
  fails: (call: string) => number = () => 0;

  map(iova: number, host: number, pages: number, permission: number): number {
    this.calls.push(`map ${iova} ${pages}`);
    const answer = this.fails(`map ${iova} ${pages}`);
    if (answer === 0) this.mapped.set(iova, [host, pages, permission]);
    return answer;
  }

  unmap(iova: number, pages: number): number {
    this.calls.push(`unmap ${iova} ${pages}`);
    const answer = this.fails(`unmap ${iova} ${pages}`);
    if (answer < 0) return answer;
    for (const [at, [, size]] of [...this.mapped]) if (at >= iova && at + size <= iova + pages) this.mapped.delete(at);
    return 0;
  }

  close(): void {
    if (this.fails('close') < 0) throw new HostError('close', errno.EBUSY);
  }
}

describe('what a host space holds', () => {
  let host: FakeSpace;
  let memory: GuestMemory;
  let lost: [number, number][];

  beforeEach(() => {
    host = new FakeSpace();
    const region = { gpa: 0n, buffer: new SharedArrayBuffer(PAGES * 4096), hostAddress: BigInt(HOST) << 12n, populate: () => true };
    memory = new GuestMemory([region]);
    lost = [];
  });

  const open = () => {
    const parts = { memory, leftOut: new LeftOut(memory) };
    return new HeldSpace(host as unknown as HostSpace, new IntervalMap(2 ** 20), parts, (first, last) => void lost.push([first, last]));
  };
  const free = (first: number, pages: number) => memory.mayDiscard(BigInt(first) << 12n, pages * 4096);
  const heldBy = (held: HeldSpace) => {
    const all: number[][] = [];
    held.held.intervals(0, 2 ** 40, (iova, gpa, pages) => all.push([iova, gpa, pages]) > 0);
    return all;
  };

  test('pages are reached while they are mapped, and not after a map that failed, an unmap, or the close', () => {
    const held = open();
    expect([held.add(10, 4, 2, READ_WRITE), free(4, 1), free(6, 1)]).toEqual([0, false, true]);
    host.fails = () => -errno.ENOMEM;
    expect([held.add(20, 8, 2, READ_WRITE), free(8, 2), held.error?.operation]).toEqual([-errno.ENOMEM, true, 'host']);
    host.fails = () => 0;
    expect([held.remove(10, 2), free(4, 2), heldBy(held)]).toEqual([0, true, []]);
    held.add(10, 4, 2, READ_WRITE);
    expect([held.close(), free(4, 2)]).toEqual([null, true]);
  });

  test('what the kernel keeps is reached on: a failed unmap, a failed close', () => {
    const held = open();
    held.add(10, 4, 2, READ_WRITE);
    host.fails = () => -errno.EIO;
    expect([held.remove(10, 2), heldBy(held), free(4, 2)]).toEqual([-errno.EIO, [[10, 4, 2]], false]);
    expect([held.close()?.errno, free(4, 2)]).toEqual([errno.EBUSY, false]);
    // What it does not have is gone.
    host.fails = () => -errno.ENOENT;
    expect([held.remove(10, 2), heldBy(held)]).toEqual([0, []]);
  });

  test('a space that takes over mappings reaches their pages too', () => {
    const held = new IntervalMap(10);
    held.insert(10, 2, 4, READ_WRITE);
    const parts = { memory, leftOut: new LeftOut(memory) };
    const taken = new HeldSpace(host as unknown as HostSpace, held, parts, () => {});
    expect(free(4, 2)).toBe(false);
    taken.close();
    expect(free(4, 2)).toBe(true);
  });

  test('some of what goes together may be gone when the call fails; all of it counts as held until each is asked for', () => {
    const held = open();
    for (const iova of [10, 11, 12]) held.add(iova, iova, 1, READ);
    host.fails = () => -errno.EIO;
    expect([held.removeTogether(10, 3), heldBy(held).length]).toEqual([false, 3]);
    host.fails = () => 0;
    expect([held.removeTogether(10, 3), heldBy(held)]).toEqual([true, []]);
    expect(host.calls.slice(-2)).toEqual(['unmap 10 3', 'unmap 10 3']);
  });

  describe('while writes are logged', () => {
    test('without dirty bits all that devices could write is said when it goes, once, and no page more', () => {
      const held = open();
      held.add(10, 4, 4, READ_WRITE);
      held.add(20, 30, 4, READ);
      const [log] = memory.logWrites();
      expect(held.remove(10, 4)).toBe(0);
      expect(held.remove(20, 4)).toBe(0);
      expect(log.since(0)).toEqual([{ first: 4, last: 7 }]);
    });

    test('with them the pages that it tells, where guest memory has them', () => {
      const told: [string, number, number][] = [];
      host.dirty = {
        inexact: null,
        read: (first, pages, visit) => {
          told.push(['read', first, pages]);
          visit(first + 1, first + 1);
        },
        unmap: (first, pages, visit) => {
          told.push(['unmap', first, pages]);
          visit(first, first);
          return host.unmap(first, pages);
        },
      };
      const held = open();
      held.add(10, 4, 4, READ_WRITE);
      held.add(14, 40, 4, READ_WRITE);
      held.add(30, 60, 4, READ_WRITE);
      const [log] = memory.logWrites();
      held.noteWrites();
      // Side by side is one call; a hole ends it.
      expect(told.splice(0)).toEqual([
        ['read', 10, 8],
        ['read', 30, 4],
      ]);
      expect(log.since(0)).toEqual([
        { first: 5, last: 5 },
        { first: 61, last: 61 },
      ]);
      const round = log.endRound();
      expect(held.removeTogether(10, 24)).toBe(true);
      expect(told).toEqual([
        ['unmap', 10, 8],
        ['unmap', 30, 4],
      ]);
      expect(log.since(round)).toEqual([
        { first: 4, last: 4 },
        { first: 60, last: 60 },
      ]);
      expect(host.mapped.size).toBe(0);
    });

    test('a range that it tells across two mappings is cut to each', () => {
      const held = open();
      host.dirty = { inexact: null, read: (first, _pages, visit) => visit(first + 3, first + 4), unmap: () => 0 };
      held.add(10, 4, 4, READ_WRITE);
      held.add(14, 40, 4, READ_WRITE);
      const [log] = memory.logWrites();
      held.noteWrites();
      expect(log.since(0)).toEqual([
        { first: 7, last: 7 },
        { first: 40, last: 40 },
      ]);
    });
  });

  describe('where the host has no mappings left', () => {
    beforeEach(() => {
      host.mappingLimit = 32;
    });

    test('a sixteenth, and no more than unmaps could split, is kept for them', () => {
      const held = open();
      // Taking every second page out of these two leaves two mappings more than they are; single pages cannot be split.
      for (const iova of [0, 8]) expect(held.add(iova, 0, 4, READ_WRITE)).toBe(0);
      let added = 0;
      while (held.add(100 + 2 * added, 0, 1, READ_WRITE) === 0) added++;
      expect(added).toBe(28);
      expect(host.calls.length, 'no host call was made for the one that found no room').toBe(30);
      for (const iova of [1000, 1002]) expect(held.restore(iova, 0, 1, READ_WRITE)).toBe(0);
      expect(held.restore(1004, 0, 1, READ_WRITE)).toBe(-errno.ENOSPC);
    });

    test('what goes makes room, and what it could have split into is kept no longer', () => {
      const held = open();
      for (let i = 0; i < 30; i++) expect(held.add(8 * i, 4, 3, READ_WRITE)).toBe(0);
      expect(held.add(8 * 30, 4, 1, READ_WRITE)).toBe(-errno.ENOSPC);
      for (let i = 0; i < 30; i++) expect(held.remove(8 * i, 3)).toBe(0);
      let added = 0;
      while (held.add(2 * added, 0, 1, READ_WRITE) === 0) added++;
      expect(added).toBe(32);
    });

    /** All mappings that there can be, neighbours of one page. */
    const full = () => {
      const held = open();
      for (let i = 0; i < 32; i++) expect(held.add(i, i, 1, READ_WRITE)).toBe(0);
      return held;
    };

    test('neighbours that continue each other become one mapping', () => {
      const held = full();
      expect(held.add(100, 100, 1, READ_WRITE)).toBe(0);
      expect([held.merges, heldBy(held)]).toEqual([
        1,
        [
          [0, 0, 32],
          [100, 100, 1],
        ],
      ]);
      expect(host.mapped.get(0)).toEqual([HOST, 32, READ_WRITE]);
    });

    test('not those of which one is not there any more, or goes elsewhere', () => {
      const held = full();
      for (let i = 1; i < 32; i += 2) held.remove(i, 1);
      for (let i = 1; i < 32; i += 2) expect(held.add(i, 100 + i, 1, READ_WRITE)).toBe(0);
      expect(held.add(200, 0, 1, READ_WRITE)).toBe(-errno.ENOSPC);
      expect(held.merges).toBe(0);
    });

    test('where the one cannot be made the parts come back, and what cannot is lost', () => {
      const held = full();
      host.fails = (call) => (call === 'map 0 32' || call === 'map 7 1' ? -errno.ENOMEM : 0);
      expect(held.add(100, 100, 1, READ_WRITE)).toBe(-errno.ENOSPC);
      expect([lost, heldBy(held).length, free(7, 1), free(8, 1)]).toEqual([[[7, 7]], 31, true, false]);
    });

    test('where they cannot all be taken away, those that went come back', () => {
      const held = full();
      host.fails = (call) => (call === 'unmap 0 32' || call === 'unmap 3 1' ? -errno.EIO : 0);
      expect(held.add(100, 100, 1, READ_WRITE)).toBe(-errno.ENOSPC);
      expect([lost, heldBy(held).length, host.mapped.size]).toEqual([[], 32, 32]);
    });

    test('half of them free is plenty', () => {
      const held = open();
      for (let i = 0; i < 10; i++) held.add(2 * i, 0, 1, READ_WRITE);
      expect([held.hasPlenty(5), held.hasPlenty(6)]).toEqual([true, false]);
    });
  });
});
