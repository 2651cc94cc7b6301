import { expect, test } from 'vitest';
import { READ } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { IommuMemory } from '../../../src/target/riscv/index.ts';
import { RiscvIommu } from '../../../src/target/riscv/index.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { EVERYTHING, FENCE, fence, Guest } from './guest.ts';

const DEVICE = 8;

/** Memory of a VMM that comes, and is replaced, after its IOMMU was made. */
class LateMemory implements IommuMemory {
  behind = new GuestMemory([]);
  get word(): Int32Array {
    return this.behind.word;
  }
  load64(hi: number, lo: number): number {
    return this.behind.load64(hi, lo);
  }
  load64BE(hi: number, lo: number): number {
    return this.behind.load64BE(hi, lo);
  }
  load32(hi: number, lo: number): number {
    return this.behind.load32(hi, lo);
  }
  load32BE(hi: number, lo: number): number {
    return this.behind.load32BE(hi, lo);
  }
  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.behind.store64(hi, lo, valueHi, valueLo);
  }
  store64BE(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.behind.store64BE(hi, lo, valueHi, valueLo);
  }
  store32(hi: number, lo: number, value: number): number {
    return this.behind.store32(hi, lo, value);
  }
  store32BE(hi: number, lo: number, value: number): number {
    return this.behind.store32BE(hi, lo, value);
  }
  compareExchange64(hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number): number {
    return this.behind.compareExchange64(hi, lo, oldHi, oldLo, newHi, newLo);
  }
}

test('guest memory that is there, or another, after the IOMMU was made: commands, contexts and tables are read from it', () => {
  const memory = new LateMemory();
  const iommu = new RiscvIommu({ capabilities: EVERYTHING }, { memory });
  iommu.addEndpoint(DEVICE);
  for (const output of [0x77, 0x78]) {
    const guest = new Guest({}, 256, {}, GuestMemory.ofBytes(256 * 4096));
    const first = guest.table('sv39');
    const second = guest.table('sv39', true);
    second.table.map(0, 0, 256, READ);
    first.table.map(0x10, output, 1, READ);
    guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: 1 }, second: { mode: 8, root: second.root, gscid: 2 } });
    memory.behind = guest.memory;
    const driver = Object.assign(guest, { iommu });
    if (output === 0x77) driver.start();
    driver.command([3n, 0n], [1n | (1n << 7n), 0n], fence(output));
    expect(iommu.read(72, 4) & 0xf00n).toBe(0n);
    guest.memory.load64(0, FENCE * 4096);
    expect(guest.memory.word[0]).toBe(output);
    expect(iommu.translate(DEVICE, NO_PASID, 0, 0x10123, READ)).toBe(12);
    expect(iommu.translated[0]).toBe((output << 12) | 0x123);
    const runs: number[][] = [];
    iommu.spaceOf(DEVICE)?.enumerate(0, 0xff, (...run) => runs.push(run) > 0);
    expect(runs).toEqual([[0x10, output, 1, READ]]);
  }
});
