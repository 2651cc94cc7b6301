import { expect, test } from 'vitest';
import { Guest } from './guest.ts';

/** A state whose registers have all bits set, but for those that the IOMMU is known by. */
function full(guest: Guest, control: number) {
  const state = guest.iommu.save();
  const known = state.registers.filter(([at]) => [0x30, 0x34, 0x1a0, 0x1a4].includes(at));
  const others = Array.from({ length: 0x4000 / 4 }, (_, i) => [4 * i, i === 6 ? control : -1] as const).filter(
    ([at]) => ![0x30, 0x34, 0x1a0, 0x1a4].includes(at),
  );
  return { ...state, registers: [...known, ...others] };
}

test('of a saved state with all bits set stays what a guest or the IOMMU can have set (3.4)', () => {
  const guest = new Guest();
  const known = new Map(guest.iommu.save().registers.filter(([at]) => [0x30, 0x34, 0x1a0].includes(at)));
  guest.iommu.load(full(guest, -1));
  const pair = (at: number, low: number, high: number) =>
    [
      [at, low],
      [at + 4, high],
    ] as const;
  const expected = new Map<number, number>([
    ...pair(0x00, 0xffff_f1ff, 0xf_ffff),
    ...[0x08, 0x10, 0x38].flatMap((ring) => pair(ring, 0xffff_f000, 0x0f0f_ffff)),
    ...pair(0x18, 0x3_ffff, 0x40c_e01c),
    ...pair(0x20, 0xffff_f003, 0xf_ffff),
    ...pair(0x28, 0xffff_f000, 0xf_ffff),
    ...known,
    ...pair(0x40, 0xffff_ffff, 0xffff_ffff),
    ...pair(0x48, 0xffff_ffff, 0xffff_ffff),
    [0x50, 3],
    ...Array.from({ length: 7 }, (_, i) => pair(0x100 + 8 * i, 0xffff_f0ff, 0xf_ffff)).flat(),
    ...[0x170, 0x178].flatMap((xt) => pair(xt, 0xffff_ff04, 0xff00_01ff)),
    ...[0x2000, 0x2008, 0x2010, 0x2018, 0x2030, 0x2038].map((pointer) => [pointer, 0x7_fff0] as const),
    [0x2020, 0xff],
  ]);
  const found = guest.iommu.save().registers.map(([at, word]) => [at, word >>> 0] as const);
  expect(new Map(found)).toEqual(new Map([...expected].map(([at, word]) => [at, word >>> 0])));
});

test('what is not enabled does not run, whatever was saved (3.4.14)', () => {
  const guest = new Guest();
  guest.iommu.load(full(guest, 1));
  expect(guest.read(0x2020)).toBe(0x67n);
});

test('a state of other features is refused by name, and nothing has changed', () => {
  const guest = new Guest();
  const before = guest.iommu.save();
  const registers = before.registers.map(([at, word]) => [at, at === 0x30 ? word ^ 1 : word] as const);
  expect(() => guest.iommu.load({ ...before, registers })).toThrow(new TypeError('AmdIommu: the saved state is of other features'));
  expect(guest.iommu.save()).toEqual(before);
});

test('a register that a guest has set to 0 is not saved, and comes back as 0 and not as after a reset (3.4)', () => {
  const guest = new Guest();
  const length = { offset: 0xc, afterReset: guest.iommu.read(0xc, 4) };
  expect(length.afterReset).not.toBe(0n);
  guest.iommu.write(length.offset, 4, 0n);
  const saved = guest.iommu.save();
  guest.iommu.load(saved);
  expect([guest.iommu.read(length.offset, 4), guest.iommu.save()]).toEqual([0n, saved]);
});
