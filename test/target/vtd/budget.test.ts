import { describe, expect, test } from 'vitest';
import { READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import type { VtdIommuOptions, VtdSurroundings } from '../../../src/target/vtd/index.ts';
import { Cmd, contextGlobal, EVERYTHING, Guest, iotlbGlobal, Reg, STATUS, wait } from './guest.ts';

/* What one operation of the guest reads at most (docs/targets/vtd.md, "Bounds"), by counting. */

class CountedRam extends GuestMemory {
  loads = 0;
  override load64(hi: number, lo: number): number {
    this.loads++;
    return super.load64(hi, lo);
  }
  override loadRun64(hi: number, lo: number, to: BigUint64Array, count: number): number {
    this.loads += count;
    return super.loadRun64(hi, lo, to, count);
  }
}

const PAGES = 1024;
const DEVICE = 0x28;
const BUDGET = 1 << 19;

function machine(options: VtdIommuOptions = {}, surroundings: Partial<VtdSurroundings> = {}) {
  const memory = new CountedRam([{ gpa: 0n, buffer: new SharedArrayBuffer(PAGES * 4096) }]);
  const guest = new Guest(options, PAGES, surroundings, memory);
  const loadsOf = (operation: () => unknown) => {
    const before = memory.loads;
    operation();
    return memory.loads - before;
  };
  return { guest, memory, loadsOf };
}

describe('translations', () => {
  test('legacy mode: root and context in pieces of 128 bits, 4 levels; then nothing', () => {
    const { guest, loadsOf } = machine();
    const { root, table } = guest.secondStage();
    table.map(5, 600, 1, READ_WRITE);
    guest.setContext(DEVICE, { root, did: 1 });
    guest.start();
    const translate = () => expect(guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, WRITE)).toBe(12);
    expect(loadsOf(translate)).toBe(2 * 3 + 4);
    expect(loadsOf(translate)).toBe(0);
  });

  test('nested, 5 levels over 5: 5 × 6 + 5 entries, and those of the structures', () => {
    const { guest, loadsOf } = machine(EVERYTHING);
    const second = guest.secondStage(5);
    for (let page = 0; page < PAGES; page++) second.table.map(page, page, 1, READ_WRITE);
    const first = guest.firstStage(5);
    first.table.map(5, 600, 1, READ_WRITE);
    guest.setScalableContext(DEVICE);
    guest.setPasid(3, { pgtt: 3, did: 1, first: first.root, second: second.root, levels: 5, flags: 4n });
    guest.start();
    // Half a root entry, a context entry of 32 bytes, a directory entry, a PASID entry of 64 bytes.
    const structures = 1 + 2 * 3 + 1 + 4 * 3;
    const loads = loadsOf(() => expect(guest.iommu.translate(DEVICE, 3, 0, 0x5000, WRITE)).toBe(12));
    // The straight line of a walk is begun, and the loop after it where an accessed bit is to be set.
    expect(loads).toBeLessThanOrEqual(structures + 2 * (5 * 6 + 5) + 5 * 5);
    expect(loads).toBeGreaterThan(structures + 5 * 6);
  });
});

describe('invalidations', () => {
  const [page, every] = [
    [0x32n, 0x5000n],
    [0x11n, 0n],
  ];
  test.each([
    ['pages alone: once', [page], 1.02],
    ['one page, one other', [page, every], 1.5],
    ['two pages, one other', [page, page, every], 7 / 3],
    ['six pages, one other', [...Array(6).fill(page), every], 15 / 7],
    ['no page: thrice', [every], 3],
  ])('how often a descriptor of a full queue is fetched: %s', (_, kinds: bigint[][], times) => {
    const { guest, loadsOf } = machine();
    const base = 512;
    const count = 128 * 256 - 1;
    for (let i = 0; i < count; i++) guest.store(base * 4096 + i * 16, ...kinds[i % kinds.length]);
    guest.iommu.write(Reg.iqa, 8, (BigInt(base) << 12n) | 7n);
    guest.global(Cmd.qie);
    const loads = loadsOf(() => guest.iommu.write(Reg.iqt, 8, BigInt(count) * 16n));
    expect(guest.iommu.read(Reg.iqh, 8)).toBe(BigInt(count) * 16n);
    expect(loads).toBeGreaterThanOrEqual(2 * count);
    expect(loads).toBeLessThanOrEqual(Math.ceil(2 * times * count));
  });

  test('tables that are met over and over, and global invalidations of them: an access ends, and the rest follows by itself', () => {
    const later: (() => void)[] = [];
    const { guest, loadsOf } = machine({}, { schedule: (work) => void later.push(work) });
    const { root } = guest.secondStage();
    // Four tables that are met over and over: 8 × 512 × 512 pages.
    const [upper, middle, lower] = [1, 2, 3].map(() => guest.pool.allocate(1));
    const fill = (page: number, entries: number, to: number) => {
      for (let i = 0; i < entries; i++) guest.store(page * 4096 + i * 8, (BigInt(to) << 12n) | 3n);
    };
    fill(root, 1, upper);
    fill(upper, 8, middle);
    fill(middle, 512, lower);
    fill(lower, 512, 600);
    guest.setContext(DEVICE, { root, did: 1 });
    guest.start();
    guest.iommu.addEndpoint(DEVICE);
    let changes: (() => void)[] = [];
    let reads = true;
    guest.iommu.observe({
      attach: () => 0,
      changed: (space, first, last) => void changes.push(() => void space.enumerate(first, last, () => true)),
      flush: () => {
        if (reads) for (const change of changes) change();
        changes = [];
        return 0;
      },
    });
    const descriptors = Array.from({ length: 100 }, () => [iotlbGlobal, contextGlobal]).flat();
    const loads = loadsOf(() => guest.submit(...descriptors, wait(7)));
    expect(guest.load(STATUS * 4096)).toBe(0n);
    // What was announced before the bound was reached is read to its end.
    expect(loads).toBeGreaterThan(BUDGET);
    expect(loads).toBeLessThanOrEqual(3 * BUDGET + 1000);
    reads = false;
    while (later.length > 0) later.shift()!();
    expect(guest.load(STATUS * 4096)).toBe(7n);
    expect(guest.iommu.read(Reg.iqh, 8)).toBe(BigInt(guest.tail));
  });
});

test('an interrupt: an entry of 128 bits, and nothing of it is kept', () => {
  const { guest, loadsOf } = machine();
  guest.store(8 * 4096, 1n | (0x41n << 16n), 0n);
  guest.iommu.write(Reg.irta, 8, 8n << 12n);
  guest.global(Cmd.sirtp);
  guest.global(Cmd.ire);
  const remap = () => expect(guest.iommu.remap(DEVICE, 0xfee0_0010, 0)).toBe(0);
  expect([loadsOf(remap), loadsOf(remap)]).toEqual([3, 3]);
});
