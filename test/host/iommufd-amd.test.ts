import { describe, expect, test } from 'vitest';
import { amdGuest } from '../../src/host/iommufd/index.ts';
import { amd, DMA_BLOCKED } from '../../src/host/sim/index.ts';
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
});
