import { expect, test } from 'vitest';
import { TR_REQ_CTL } from '../../../src/target/riscv/index.ts';
import { fence, Guest, Reg } from './guest.ts';

/** A started IOMMU's state with some words of its registers others. */
function changed(guest: Guest, words: Readonly<Record<number, number>>) {
  const state = guest.iommu.save();
  return { ...state, registers: state.registers.map((word, i) => words[4 * i] ?? word) };
}

test('a queue of which head or tail lies beyond its end comes to its end ("Command-queue tail")', () => {
  const guest = new Guest();
  guest.start();
  // Every place has a command that is done.
  for (let half = 0; half < 2; half++) guest.command(...Array.from({ length: 128 }, () => fence()));
  expect(guest.iommu.read(Reg.cqcsr, 4)).toBe(0x1_0003n);
  for (const tail of [0x7fff_fff3, -1, 0x1_0000]) {
    guest.iommu.load(changed(guest, { [Reg.cqt]: tail, [Reg.cqh]: 0x4000_0001 }));
    guest.iommu.write(Reg.ipsr, 4, 0n);
    for (let round = 0; round < 100 && guest.later.length > 0; round++) guest.later.shift()!();
    expect(guest.later).toEqual([]);
    expect(guest.iommu.read(Reg.cqh, 4)).toBe(BigInt(tail & 0xff));
  }
});

test.each([
  ['ddtp has no mode above 3LVL', Reg.ddtp, 9, 0n],
  ['ipsr has four bits', Reg.ipsr, -1, 0xfn],
  ['a debug translation is over', TR_REQ_CTL, 3, 2n],
  ['reserved bits of cqcsr', Reg.cqcsr, -4 & ~0x303_0f03, 0n],
])('what is no state of a register is not there after a load: %s', (_, register, word, expected) => {
  const guest = new Guest();
  guest.iommu.load(changed(guest, { [register]: word }));
  expect(guest.iommu.read(register, 4)).toBe(expected);
});

test.each([31, 57, 63])('capabilities.PAS %i is refused by name, and nothing has changed', (pas) => {
  const guest = new Guest();
  const before = guest.iommu.save();
  expect(() => guest.iommu.load(changed(guest, { 4: pas }))).toThrow(
    new TypeError('RiscvIommu: not a saved state: registers: capabilities.PAS'),
  );
  expect(guest.iommu.save()).toEqual(before);
});
