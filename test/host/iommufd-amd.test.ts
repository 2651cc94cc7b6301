import { describe, expect, test } from 'vitest';
import { amdGuest } from '../../src/host/iommufd/index.ts';
import { amd, DMA_BLOCKED, DMA_UNMAPPED } from '../../src/host/sim/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { DATA, guest, IOVA } from './guest-tables.ts';

describe('AMD device table entry', () => {
  const V = 1n;
  const GV = 1n << 55n;
  const GIOV = 1n << 54n;

  test('DMA goes through the GCR3 table and the guest’s tables, by PASID', () => {
    const { host, device, memory, allocator, space, byte, sim, ram } = guest({ nesting: amd(), pasidLog2: 16 });
    const root = allocator.allocate(1);
    const table = new X86Table(memory, { levels: 4, root, allocator });
    table.map(IOVA, DATA, 1, READ_WRITE);
    const gcr3 = allocator.allocate(1);
    new DataView(ram.buffer).setBigUint64(gcr3 * 4096, (BigInt(root) << 12n) | 1n, true);
    new DataView(ram.buffer).setBigUint64(gcr3 * 4096 + 24, (BigInt(root) << 12n) | 1n, true);
    const address = BigInt(gcr3) << 12n;
    const dte = [V | GV | GIOV | (((address >> 12n) & 7n) << 58n), ((address >> 15n) & 0xffffn) << 16n, 0n, 0n];
    const parent = host.createPageTable(device, space, { nestParent: true });
    expect(() => host.createStageOne(device, parent, amdGuest(dte))).toThrow(/EOPNOTSUPP/);
    const viommu = host.createViommu(device, parent, 1);
    const stage = host.createStageOne(device, viommu, amdGuest(dte));
    expect(stage.attach(device)).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    expect(sim.dmaRead(BigInt(IOVA) << 12n, new Uint8Array(1), 3)).toBe(0);
    expect(sim.dmaRead(BigInt(IOVA) << 12n, new Uint8Array(1), 4)).toBe(DMA_BLOCKED);
    for (const wrong of [
      [V | (1n << 9n), 0n, 0n, 0n],
      [V | GV, 0n, 0n, 0n],
      [V, 0n, 2n << 54n, 0n],
      [V | (3n << 56n), 0n, 0n, 0n],
    ]) {
      expect(() => host.createStageOne(device, viommu, amdGuest(wrong))).toThrow(/EINVAL/);
    }
    host.close();
  });

  /** A first stage of a device table entry on a vIOMMU, and a table of the guest with GCR3 tables above it. */
  function nested(efr?: bigint) {
    const made = guest({ nesting: amd(efr === undefined ? {} : { efr }), pasidLog2: 16 });
    const { host, device, memory, allocator, space, ram, sim } = made;
    const view = new DataView(ram.buffer);
    const tables = ([4, 5] as const).map((levels) => {
      const root = allocator.allocate(1);
      new X86Table(memory, { levels, root, allocator }).map(IOVA, DATA, 1, READ_WRITE);
      return root;
    });
    /** A GCR3 table whose entry leads to a page. */
    const gcr3 = (index: number, page: number) => {
      const table = allocator.allocate(1);
      view.setBigUint64(table * 4096 + 8 * index, (BigInt(page) << 12n) | 1n, true);
      return table;
    };
    const pointer = (page: number) => [
      (BigInt(page) & 7n) << 58n,
      (((BigInt(page) >> 3n) & 0xffffn) << 16n) | ((BigInt(page) >> 19n) << 43n),
    ];
    const viommu = host.createViommu(device, host.createPageTable(device, space, { nestParent: true }), 1);
    const attach = (dte: readonly bigint[]) => expect(host.createStageOne(device, viommu, amdGuest(dte)).attach(device)).toBe(0);
    const read = (pasid = -1, page = IOVA) => {
      const into = new Uint8Array(1);
      const result = sim.dmaRead(BigInt(page) << 12n, into, pasid);
      return result < 0 ? result : into[0];
    };
    return { ...made, tables, gcr3, pointer, viommu, attach, read };
  }

  test('an entry that is not valid blocks; one without guest tables, or requests that these are not for, pass', () => {
    const { host, tables, gcr3, pointer, attach, read } = nested();
    const [low, high] = pointer(gcr3(0, tables[0]));
    attach([0n, 0n, 0n, 0n]);
    expect(read(-1, DATA)).toBe(DMA_BLOCKED);
    attach([V, 0n, 0n, 0n]);
    expect([read(-1, DATA), read()]).toEqual([0x5a, DMA_UNMAPPED]);
    attach([V | GV | low, high, 0n, 0n]);
    expect([read(-1, DATA), read(0), read(0, IOVA + 1)]).toEqual([0x5a, 0x5a, DMA_UNMAPPED]);
    host.close();
  });

  test('GCR3 tables have as many levels as GLX says, and PASIDs beyond them are blocked', () => {
    const { host, tables, gcr3, pointer, attach, read } = nested();
    const lower = gcr3(3, tables[0]);
    const [low, high] = pointer(gcr3(1, lower));
    attach([V | GV | low | (1n << 56n), high, 0n, 0n]);
    expect([read(512 + 3), read(3), read(512 + 4)]).toEqual([0x5a, DMA_BLOCKED, DMA_BLOCKED]);
    const [low1, high1] = pointer(lower);
    attach([V | GV | low1, high1, 0n, 0n]);
    expect([read(3), read(512 + 3)]).toEqual([0x5a, DMA_BLOCKED]);
    host.close();
  });

  test('tables of five levels where the hardware has them', () => {
    const FIVE = 1n << 54n;
    const { host, tables, gcr3, pointer, attach, read } = nested();
    const [low, high] = pointer(gcr3(0, tables[1]));
    attach([V | GV | low, high, FIVE, 0n]);
    expect(read(0)).toBe(0x5a);
    host.close();
    const four = nested(1n << 4n);
    expect(() => four.host.createStageOne(four.device, four.viommu, amdGuest([V, 0n, FIVE, 0n]))).toThrow(/EOPNOTSUPP/);
    four.host.close();
  });

  test('data of another hardware, or too little of it, is no entry', () => {
    const { host, device, viommu } = nested();
    expect(() => host.createStageOne(device, viommu, { type: 1, bytes: new Uint8Array(32) })).toThrow(/EOPNOTSUPP/);
    expect(() => host.createStageOne(device, viommu, { type: 3, bytes: new Uint8Array(24) })).toThrow(/EINVAL/);
    expect(() => amdGuest([V])).toThrow('amdGuest: a device table entry has 4 words, not 1');
    host.close();
  });
});
