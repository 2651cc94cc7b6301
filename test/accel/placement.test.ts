import { beforeEach, describe, expect, test } from 'vitest';
import { Binder } from '../../src/accel/binder.ts';
import { StoreWatch } from '../../src/accel/store-watch.ts';
import { errno } from '../../src/host/errno.ts';
import { openHost } from '../../src/host/registry.ts';
import { type SimKernel, simKernel, vtd } from '../../src/host/sim/index.ts';
import { WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { TableSpace, TOY_PAGES, ToySpace } from './toy-space.ts';

describe.each(['iommufd', 'vfio-type1'])('spaces whose tables cannot all be watched, over %s', (hostKind) => {
  let kernel: SimKernel;
  let binder: Binder;
  let watch: StoreWatch;
  let first: number;

  const spaceAt = (gpa: number, table: number, owner: 'target' | 'guest' = 'guest'): TableSpace => {
    const space = new TableSpace(owner);
    space.set(0, 4, gpa, 3);
    space.at = table;
    return space;
  };
  /** The guest page that the first page of a toy space reaches, or null. */
  const reaches = () => {
    const page = kernel.devices[0].hostPfn(0x1000, WRITE);
    return page < 0 ? null : page - first;
  };
  const add = (space: TableSpace): number => {
    const { path, group, name } = kernel.devices[0];
    const host = openHost(hostKind, kernel);
    const ram = kernel.allocate(64 * 4096);
    first = Number(ram.address >> 12n);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    // Of one table there is room.
    watch = new StoreWatch(1);
    binder = new Binder(host, memory, { watch });
    return binder.add(1, host.openDevice(hostKind === 'iommufd' ? path : `/dev/vfio/${group.number}#${name}`), space);
  };

  beforeEach(() => {
    kernel = simKernel({ devices: [{ name: 'vfio0' }] });
  });

  test('a device that comes is refused with the reason, and nothing of it is left', () => {
    class TwoTables extends TableSpace {
      override enumerate(...[from, last, visit, told]: Parameters<TableSpace['enumerate']>): number {
        told?.(0x6000, 32, 4, this.base, this.base + 63);
        return super.enumerate(from, last, visit, told);
      }
    }
    expect(add(new TwoTables('guest'))).toBe(-errno.ENOSPC);
    expect(binder.error?.message).toMatch(/not all of its tables can be watched/);
    expect(binder.counters()).toEqual([]);
  });

  test('a device of a target that can take its operation back stays where it was, and its space stays watched', () => {
    const [one, other] = [spaceAt(0, 0x5000, 'target'), spaceAt(16, 0x9000, 'target')];
    expect(add(one)).toBe(0);
    expect(binder.attach(1, other)).toBe(-errno.ENOSPC);
    expect([reaches(), binder.error?.message]).toEqual([0, expect.stringMatching(/not all of its tables can be watched/)]);
    expect(binder.choiceOf(1)).toMatchObject({ path: 'shadow, watched' });
    one.set(0, 4, 32, 3);
    watch.stored(0x5000n, 8);
    expect(reaches()).toBe(32);
  });

  test('a device whose guest has left the old place for good reaches nothing, with the reason', () => {
    const [one, other] = [spaceAt(0, 0x5000), spaceAt(16, 0x9000)];
    expect(add(one)).toBe(0);
    expect(binder.attach(1, other)).toBe(-errno.ENOSPC);
    expect(reaches()).toBe(null);
    const reason = expect.stringMatching(/not all of its tables can be watched/);
    expect(binder.choiceOf(1)).toEqual({ path: 'blocked', refused: expect.arrayContaining([{ path: 'shadow, watched', reason }]) });
    // What was watched for it is watched no more, so the next space has room.
    expect([watch.size, binder.attach(1, spaceAt(16, 0xa000)), reaches()]).toEqual([0, 0, 16]);
  });
});

test('a path that is exchanged has all of a space that takes many slices, before any device comes', () => {
  const kernel = simKernel({ iommus: [{ nesting: vtd() }], devices: [{ name: 'vfio0' }] });
  const host = openHost('iommufd', kernel);
  const ram = kernel.allocate(128 * 4096);
  const slices: (() => void)[] = [];
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const binder = new Binder(host, memory, { schedule: (slice) => void slices.push(slice) });
  const space = new ToySpace('target');
  for (let page = 0; page < TOY_PAGES; page++) space.set(page, 1, TOY_PAGES - page, 3);
  space.reach = 8;
  const [device] = kernel.devices;
  const reached = () => space.pages.filter((_, page) => device.hostPfn(space.base + page, WRITE) >= 0).length;
  expect(binder.add(1, host.openDevice(device.path), space)).toBe(0);
  // The first device of a space has what one slice maps; the rest follows.
  expect([binder.choiceOf(1)?.path, reached()]).toEqual(['user-owned', 8]);
  while (slices.length > 0) slices.shift()!();
  expect(reached()).toBe(TOY_PAGES);
  for (const path of ['shadow', 'user-owned']) {
    const seen = new Set<number>();
    const dispose = kernel.hooks.observe({ after: () => void seen.add(reached()) });
    expect([binder.changePath(path), binder.choiceOf(1)?.path]).toEqual([0, path]);
    dispose();
    expect([...seen]).toEqual([TOY_PAGES]);
  }
});
