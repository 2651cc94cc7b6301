import { expect, test } from 'vitest';
import type { Smmuv3State } from '../../../src/target/smmuv3/index.ts';
import { Guest } from './guest.ts';

/* 6.3 field by field: which bits of which register a guest can write, what guards them, what stands there after a reset and after a load. */

const FEATURES = { VATOS: 1, OAS: 5 };
const PAGE_1 = 0x1_0000;
const VATOS = 0x2_0000 + 0xa00;
const [SMMUEN, PRIQEN, EVENTQEN, CMDQEN] = [0, 1, 2, 3].map((bit) => [0x20, 1 << bit] as const);
const [GERROR_IRQEN, PRIQ_IRQEN, EVENTQ_IRQEN] = [0, 1, 2].map((bit) => [0x50, 1 << bit] as const);

type Guard = readonly [register: number, bit: number];
type Row = readonly [name: string, at: number, bits: number, guard?: Guard | null];
const addresses = (name: string, at: number, low: number, high: number, guard: Guard | null = null): Row[] => [
  [name, at, low, guard],
  [`${name}, upper half`, at + 4, high, guard],
];
/** ADDR up to OAS, and the allocation hint. */
const HIGH = 0x4000_ffff;
const messages = (name: string, at: number, guard: Guard, own = 0): Row[] => [
  ...addresses(`${name}_IRQ_CFG0`, at, 0xffff_fffc, 0xffff, guard),
  [`${name}_IRQ_CFG1`, at + 8, 0xffff_ffff, guard],
  [`${name}_IRQ_CFG2`, at + 12, (own | 0x3f) >>> 0, guard],
];

/** By offset as a guest writes it; IDR2.BA_VATOS is 0. */
const WRITABLE: readonly Row[] = [
  ['CR0', 0x20, 0x1df],
  ['CR2', 0x2c, 0xb, SMMUEN],
  ['IRQ_CTRL', 0x50, 7],
  ['GERRORN', 0x64, 0x1fd],
  ...messages('GERROR', 0x68, GERROR_IRQEN),
  ...addresses('STRTAB_BASE', 0x80, 0xffff_ffc0, HIGH, SMMUEN),
  ['STRTAB_BASE_CFG', 0x88, 0x3_07ff, SMMUEN],
  ...addresses('CMDQ_BASE', 0x90, 0xffff_ffff, HIGH, CMDQEN),
  ['CMDQ_PROD', 0x98, 0xf_ffff],
  ['CMDQ_CONS', 0x9c, 0xf_ffff, CMDQEN],
  ...addresses('EVENTQ_BASE', 0xa0, 0xffff_ffff, HIGH, EVENTQEN),
  ['EVENTQ_PROD', PAGE_1 + 0xa8, 0x800f_ffff, EVENTQEN],
  ['EVENTQ_CONS', PAGE_1 + 0xac, 0x800f_ffff],
  ...messages('EVENTQ', 0xb0, EVENTQ_IRQEN),
  ...addresses('PRIQ_BASE', 0xc0, 0xffff_ffff, HIGH, PRIQEN),
  ['PRIQ_PROD', PAGE_1 + 0xc8, 0x800f_ffff, PRIQEN],
  ['PRIQ_CONS', PAGE_1 + 0xcc, 0x800f_ffff],
  ...messages('PRIQ', 0xd0, PRIQ_IRQEN, 0x8000_0000),
  ...addresses('GATOS_SID', 0x108, 0xffff, 0x1f_ffff),
  ...addresses('GATOS_ADDR', 0x110, 0xffff_ffc0, 0xffff_ffff),
  ['VATOS_SEL', 0x180, 0xffff],
  ...addresses('VATOS_SID', VATOS + 8, 0xffff, 0x1f_ffff),
  ...addresses('VATOS_ADDR', VATOS + 16, 0xffff_ffc0, 0xffff_ffff),
];

/** Of a saved state what stands at an offset; page 1 and the VATOS page are kept with page 0's. */
const placeOf = (at: number) => (at >= VATOS ? 0x198 + at - VATOS : at % PAGE_1);
const saved = (guest: Guest) => guest.smmu.save().registers;
const held = (guest: Guest, at: number) => (new Map(saved(guest)).get(placeOf(at)) ?? 0) >>> 0;

test('after a reset nothing stands but what the SMMU is known by, and GBPA', () => {
  const guest = new Guest({ features: FEATURES });
  expect(saved(guest).map(([at]) => at)).toEqual([0x00, 0x04, 0x0c, 0x14, 0x1c, 0x44]);
  expect([guest.read(0x1c), guest.read(0x44)]).toEqual([2, 0x1000]);
});

test.each(WRITABLE.map((row) => [row[0], row] as const))('%s: its bits, while nothing guards them', (_, [, at, bits, guard = null]) => {
  const guest = new Guest({ features: FEATURES });
  guest.write(at, -1);
  expect(held(guest, at)).toBe(bits);
  if (guard !== null) {
    // No commands are there to be read: both indices of the queue are the same.
    if (guard === CMDQEN) guest.write(0x98, at === 0x9c ? -1 : 0);
    guest.write(...guard);
    guest.write(at, 0);
    expect(held(guest, at)).toBe(bits);
    guest.write(guard[0], 0);
  }
  guest.write(at, 0);
  expect(held(guest, at)).toBe(0);
});

test('no other register keeps anything but CR1 and GBPA, which have rules of their own (6.3.11, 6.3.14); indices are at their places of page 0 too (6.2)', () => {
  const guest = new Guest({ features: FEATURES });
  const before = guest.smmu.save();
  const known = new Set([...WRITABLE.map(([, at]) => at), 0x28, 0x44, 0xa8, 0xac, 0xc8, 0xcc]);
  for (let at = 0; at < 0x3_0000; at += 4) if (!known.has(at)) guest.write(at, -1);
  expect(guest.smmu.save()).toEqual(before);
});

test('of a saved state with all bits set stays what a guest or the SMMU can have set', () => {
  const guest = new Guest({ features: FEATURES });
  const state = guest.smmu.save();
  const rest = Array.from({ length: 0x1b8 / 4 }, (_, i) => [4 * i, -1] as const).filter(([at]) => ![0, 4, 0xc, 0x14].includes(at));
  const forged: Smmuv3State = { ...state, registers: [...state.registers.filter(([at]) => at <= 0x14), ...rest] };
  guest.smmu.load(forged);
  const own: (readonly [number, number])[] = [
    [0x1c, 2],
    [0x24, 0x1df],
    [0x28, 0xfff],
    [0x44, 0x1f_3f1f],
    [0x54, 7],
    [0x60, 0xfd],
    [0x9c, 0x7f0f_ffff],
    ...[0x118, 0x11c, 0x1b0, 0x1b4].map((at) => [at, 0xffff_ffff] as const),
  ];
  const expected = new Map([
    ...state.registers.filter(([at]) => at <= 0x14),
    ...WRITABLE.map(([, at, bits]) => [placeOf(at), bits] as const),
    ...own,
  ]);
  expect(new Map(saved(guest).map(([at, word]) => [at, word >>> 0]))).toEqual(new Map([...expected].map(([at, word]) => [at, word >>> 0])));
});

test.each([
  ['a tag beyond STALL_MAX', { rows: [[64, 8, 'why']], next: 0, waits: false }],
  [
    'a tag twice',
    {
      rows: [
        [1, 8, 'why'],
        [1, 9, 'why'],
      ],
      next: 2,
      waits: false,
    },
  ],
  ['a next tag beyond STALL_MAX', { rows: [], next: 64, waits: false }],
])('saved stalls: %s is refused by name', (_, stalls) => {
  const guest = new Guest();
  const before = guest.smmu.save();
  expect(() => guest.smmu.load({ ...before, stalls })).toThrow(new TypeError('Smmuv3: not a saved state: stalls'));
  expect(guest.smmu.save()).toEqual(before);
});
