import { describe, expect, test } from 'vitest';
import { openHost } from '../../src/host/registry.ts';
import { simKernel, vtd } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { S_NOMEM, S_OK } from '../../src/target/virtio-iommu/spec/requests.ts';
import { Machine } from '../../src/vmm/machine.ts';

/** Pages that a balloon or virtio-mem has discarded, and devices that want to reach them. */

const RAM = 64 * 4096;
const page = (at: number) => BigInt(at) << 12n;

/** 64 pages of RAM of which the embedder has discarded all but the first 16; `refuses`: there is no memory for the rest. */
function machineOf(path = 'shadow') {
  const kernel = simKernel({ iommus: [path === 'user-owned' ? { nesting: vtd() } : {}], devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
  const ram = kernel.allocate(RAM);
  const discarded = new Set(Array.from({ length: 48 }, (_, i) => 16 + i));
  const populated: [first: number, pages: number][] = [];
  const state = { refuses: false };
  const populate = (gpa: bigint, bytes: number) => {
    const [first, pages] = [Number(gpa >> 12n), bytes / 4096];
    populated.push([first, pages]);
    if (state.refuses) return false;
    for (let i = 0; i < pages; i++) discarded.delete(first + i);
    return true;
  };
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address, populate }]);
  const target = new VirtioIommu({ memory, bootBypass: false });
  for (const endpoint of [0, 1]) target.addEndpoint(endpoint);
  const host = openHost('iommufd', kernel);
  const machine = new Machine({ memory, target, host, path });
  for (const endpoint of [0, 1]) machine.passThrough(endpoint, kernel.device(`vfio${endpoint}`).path);
  target.negotiate();
  for (const endpoint of [0, 1]) expect(target.attach(1 + endpoint, endpoint)).toBe(S_OK);
  const map = (domain: number, iova: number, gpa: number, pages: number) =>
    target.map(domain, page(iova), page(iova + pages) - 1n, page(gpa), 3);
  const unmap = (domain: number, iova: number, pages: number) => target.unmap(domain, page(iova), page(iova + pages) - 1n);
  const free = (first: number, pages: number) => memory.mayDiscard(page(first), pages * 4096);
  return { kernel, memory, target, host, machine, map, unmap, free, discarded, populated, state };
}

describe('discarded pages', () => {
  test('are populated before a device can reach them, and cannot be discarded while one does', () => {
    const { kernel, map, unmap, free, discarded, populated } = machineOf();
    expect(free(0, 64)).toBe(true);
    let populatedFirst = false;
    kernel.hooks.observe({
      before: ({ kind }) => {
        if (kind === 'IOMMU_IOAS_MAP') populatedFirst = populated.length > 0;
      },
    });
    expect(map(1, 4, 20, 8)).toBe(S_OK);
    expect(populatedFirst).toBe(true);
    expect(populated).toEqual([[20, 8]]);
    expect([...discarded].some((at) => at >= 20 && at < 28)).toBe(false);
    expect([free(20, 1), free(27, 1), free(0, 64), free(28, 36), free(0, 20)]).toEqual([false, false, false, true, true]);
    expect(unmap(1, 4, 8)).toBe(S_OK);
    expect(free(0, 64)).toBe(true);
  });

  test('of what two domains reach both have to let go; only what nothing reaches is populated', () => {
    const { map, unmap, free, populated } = machineOf();
    map(1, 0, 20, 4);
    map(2, 8, 18, 8);
    expect(populated).toEqual([
      [20, 4],
      [18, 2],
      [24, 2],
    ]);
    unmap(1, 0, 4);
    expect(free(20, 4)).toBe(false);
    unmap(2, 8, 8);
    expect(free(18, 8)).toBe(true);
  });

  test('where there is no memory for them the MAP is NOMEM, with the reason, and nothing is forbidden; it can be tried again', () => {
    const { machine, map, free, state } = machineOf();
    state.refuses = true;
    expect(map(1, 0, 20, 4)).toBe(S_NOMEM);
    expect(machine.hostError?.message).toBe('populate [0x14000, 0x17fff]: ENOMEM (discarded guest RAM cannot be populated)');
    expect(free(0, 64)).toBe(true);
    state.refuses = false;
    expect(map(1, 0, 20, 4)).toBe(S_OK);
    expect(free(20, 1)).toBe(false);
  });

  test('a host call that fails, a split with a copy, another path, a device that goes: what is reached is what is mapped', () => {
    const { kernel, target, machine, host, map, unmap, free, memory } = machineOf();
    kernel.hooks.fail({ kind: 'IOMMU_IOAS_MAP', nth: 1, errno: 12 });
    expect(map(1, 0, 20, 4)).toBe(S_NOMEM);
    expect(free(0, 64)).toBe(true);
    for (const [at, gpa] of [
      [0, 20],
      [1, 21],
      [2, 22],
    ])
      expect(map(1, at, gpa, 1)).toBe(S_OK);
    expect(target.detach(1, 0)).toBe(S_OK);
    expect(free(0, 64)).toBe(true);
    // Mapped while no hardware is in the domain, the three are one host mapping, of which the middle goes.
    target.addEndpoint(8);
    expect(target.attach(1, 8)).toBe(S_OK);
    for (let at = 0; at < 3; at++) map(1, at, 20 + at, 1);
    expect(free(0, 64)).toBe(true);
    expect(target.attach(1, 0)).toBe(S_OK);
    expect([free(20, 1), free(21, 1), free(22, 1), free(23, 41)]).toEqual([false, false, false, true]);
    unmap(1, 1, 1);
    expect([free(20, 1), free(21, 1), free(22, 1)]).toEqual([false, true, false]);
    expect(machine.counters().reduce((sum, { counters }) => sum + counters.splitsWithoutGap, 0)).toBe(1);
    machine.close();
    expect(free(0, 64)).toBe(true);
    expect(memory.regions).toHaveLength(1);
    host.close();
  });

  test('a path whose devices can reach all of RAM populates all of it, and lets go of it with the last device', () => {
    const { machine, map, free, populated, discarded } = machineOf('user-owned');
    expect(populated).toEqual([[0, 64]]);
    expect(discarded.size).toBe(0);
    expect(map(1, 0, 20, 4)).toBe(S_OK);
    expect(free(0, 1)).toBe(false);
    machine.close();
    expect(free(0, 64)).toBe(true);
  });

  test('a region without `populate` is never discardable; misuse is told', () => {
    const memory = GuestMemory.ofBytes(RAM);
    expect(memory.mayDiscard(0n, 4096)).toBe(false);
    expect(() => memory.mayDiscard(1n, 4096)).toThrow('GuestMemory: 4096 bytes at 0x1 are not whole pages');
    expect(() => memory.mayDiscard(0n, 0)).toThrow(RangeError);
    const region = { gpa: 0n, buffer: new SharedArrayBuffer(4096), populate: 1 as unknown as () => boolean };
    expect(() => new GuestMemory([region])).toThrow(TypeError);
  });

  test('of a region that is replaced nothing is remembered', () => {
    const { kernel, memory, map, free } = machineOf();
    map(1, 0, 20, 4);
    const other = kernel.allocate(RAM);
    memory.replace({ gpa: 0n, buffer: other.buffer, hostAddress: other.address, populate: () => true });
    expect([free(20, 4), free(0, 20)]).toEqual([false, true]);
    memory.remove(0n);
    memory.add({ gpa: 0n, buffer: other.buffer, populate: () => true });
    expect(free(0, 64)).toBe(true);
  });
});
