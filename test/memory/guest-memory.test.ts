import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { hiOf, loOf, PAGE_BYTES } from '../../src/memory/address.ts';
import { GuestMemory, type GuestRegion, MEM_FAULT, MEM_OK } from '../../src/memory/guest-memory.ts';

const PAGE = BigInt(PAGE_BYTES);
const FOUR_GIB = 1n << 32n;
/** Four pieces of RAM: at 0, after a hole, across 4 GiB (two chunks), and above. The second follows the first in host memory too. */
const low = new SharedArrayBuffer(6 * PAGE_BYTES);
const across = new ArrayBuffer(4 * PAGE_BYTES);
const regions: GuestRegion[] = [
  { gpa: 0n, buffer: low, bytes: 2 * PAGE_BYTES, hostAddress: 0x7f00_0000_0000n },
  { gpa: 3n * PAGE, buffer: low, offset: 2 * PAGE_BYTES, bytes: 2 * PAGE_BYTES, hostAddress: 0x7f00_0000_2000n },
  { gpa: FOUR_GIB - 2n * PAGE, buffer: across, hostAddress: 0x7e00_0000_0000n },
  { gpa: (5n << 32n) + 5n * PAGE, buffer: low, offset: 4 * PAGE_BYTES, hostAddress: 0x7f00_0000_4000n },
  { gpa: (5n << 32n) + 7n * PAGE, buffer: new ArrayBuffer(PAGE_BYTES) },
];

/** Where a guest-physical byte really is. */
function byteAt(gpa: bigint): { bytes: Uint8Array; at: number } | null {
  for (const { gpa: start, buffer, offset = 0, bytes = buffer.byteLength - offset } of regions) {
    if (gpa >= start && gpa < start + BigInt(bytes)) return { bytes: new Uint8Array(buffer), at: offset + Number(gpa - start) };
  }
  return null;
}
const isRam = (gpa: bigint, bytes: number) =>
  Array.from({ length: bytes }, (_, i) => byteAt(gpa + BigInt(i))).every((place) => place !== null);
const peek = (gpa: bigint, bytes: number) =>
  Array.from({ length: bytes }, (_, i) => {
    const place = byteAt(BigInt.asUintN(64, gpa + BigInt(i)));
    return place ? place.bytes[place.at] : -1;
  });
const valueIn = (bytes: number[], bigEndian = false) =>
  (bigEndian ? bytes : [...bytes].reverse()).reduce((value, byte) => (value << 8n) | BigInt(byte), 0n);

const ends = regions.flatMap(({ gpa, buffer, offset = 0, bytes = buffer.byteLength - offset }) => [gpa, gpa + BigInt(bytes)]);
/** Addresses near the ends of regions, of the 32-bit frames and of the address space; some anywhere. */
const addresses = fc.oneof(
  fc
    .tuple(fc.constantFrom(...ends, FOUR_GIB, 1n << 63n, 1n << 53n, 1n << 64n), fc.integer({ min: -70, max: 70 }))
    .map(([end, by]) => BigInt.asUintN(64, end + BigInt(by))),
  fc.bigInt(0n, 5n * PAGE),
  fc.bigInt(0n, (1n << 64n) - 1n),
);
const memory = new GuestMemory(regions);
/** Ends at 2^64: nothing wraps round to address 0. */
const within64 = (gpa: bigint, bytes: number) => gpa + BigInt(bytes) <= 1n << 64n && isRam(gpa, bytes);

function scramble(seed: number): void {
  for (const { buffer } of regions) {
    const words = new Uint32Array(buffer);
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + seed, 0x9e3779b1);
  }
}

const loads = [
  ['load64', 8, false],
  ['load64BE', 8, true],
  ['load32', 4, false],
  ['load32BE', 4, true],
  ['load16', 2, false],
] as const;
const stores = [
  ['store64', 8, false],
  ['store64BE', 8, true],
  ['store32', 4, false],
  ['store32BE', 4, true],
  ['store16', 2, false],
] as const;

describe('GuestMemory accessors', () => {
  property.prop([fc.constantFrom(...loads), addresses, fc.nat()])(
    'load what the bytes say, or fault',
    ([name, bytes, bigEndian], gpa, seed) => {
      scramble(seed);
      const answer = memory[name](hiOf(gpa), loOf(gpa));
      // An access within two chunks is not one access: only region and 4 GiB boundaries part chunks, and neither lies within an aligned entry.
      const inOneChunk = within64(gpa, bytes) && (gpa % BigInt(bytes) === 0n || sameChunk(gpa, bytes));
      expect(answer).toBe(inOneChunk ? MEM_OK : MEM_FAULT);
      if (inOneChunk) expect(new BigUint64Array(memory.word.buffer)[0]).toBe(valueIn(peek(gpa, bytes), bigEndian));
    },
  );

  property.prop([fc.constantFrom(...stores), addresses, fc.bigInt(0n, (1n << 64n) - 1n)])(
    'store all bytes or none, and no other',
    ([name, bytes, bigEndian], gpa, value) => {
      const around = BigInt.asUintN(64, gpa - 8n);
      const before = peek(around, 24);
      const inOneChunk = within64(gpa, bytes) && sameChunk(gpa, bytes);
      const answer =
        bytes === 8
          ? memory[name as 'store64'](hiOf(gpa), loOf(gpa), hiOf(value), loOf(value))
          : memory[name as 'store32'](hiOf(gpa), loOf(gpa), loOf(value));
      expect(answer).toBe(inOneChunk ? MEM_OK : MEM_FAULT);
      const written = Array.from({ length: bytes }, (_, i) => Number((value >> BigInt(8 * (bigEndian ? bytes - 1 - i : i))) & 0xffn));
      const after = inOneChunk ? [...before.slice(0, 8), ...written, ...before.slice(8 + bytes)] : before;
      expect(peek(around, 24)).toEqual(after);
    },
  );

  test('nothing wraps round the end of the address space', () => {
    for (const gpa of [0xffff_ffff_ffff_fff8n, 0xffff_ffff_ffff_ffffn, 0xffff_ffff_0000_0000n, 1n << 63n]) {
      expect(memory.load64(hiOf(gpa), loOf(gpa))).toBe(MEM_FAULT);
      expect(memory.store16(hiOf(gpa), loOf(gpa), 1)).toBe(MEM_FAULT);
      expect(memory.read(hiOf(gpa), loOf(gpa), new Uint8Array(100), 0, 100)).toBe(MEM_FAULT);
      expect(memory.write(hiOf(gpa), loOf(gpa), new Uint8Array(100), 0, 100)).toBe(MEM_FAULT);
    }
  });

  test('memory without regions faults everywhere', () => {
    const none = new GuestMemory([]);
    expect(none.load16(0, 0)).toBe(MEM_FAULT);
    expect(none.read(0, 0, new Uint8Array(1), 0, 1)).toBe(MEM_FAULT);
    expect(none.read(0, 0, new Uint8Array(1), 0, 0)).toBe(MEM_OK);
    expect(none.hostPfn(0)).toBe(-1);
    expect(none.hostRun(0, 10)).toBe(0);
  });
});

/** Whether the bytes lie in one region and one 4 GiB frame. */
function sameChunk(gpa: bigint, bytes: number): boolean {
  const last = gpa + BigInt(bytes) - 1n;
  const regionOf = (at: bigint) =>
    regions.findIndex(
      ({ gpa: start, buffer, offset = 0, bytes: size = buffer.byteLength - offset }) => at >= start && at < start + BigInt(size),
    );
  return gpa >> 32n === last >> 32n && regionOf(gpa) === regionOf(last);
}

describe('compareExchange64', () => {
  test('replaces the entry only while it is the old one', () => {
    memory.store64(0, 16, 1, 2);
    expect(memory.compareExchange64(0, 16, 1, 3, 9, 9)).toBe(0);
    expect(memory.compareExchange64(0, 16, 1, 2, -1, -2)).toBe(1);
    memory.load64(0, 16);
    expect([...memory.word]).toEqual([-2, -1]);
  });
  test('wants RAM and alignment', () => {
    expect(memory.compareExchange64(0, 4, 0, 0, 0, 0)).toBe(MEM_FAULT);
    expect(memory.compareExchange64(0, 2 * PAGE_BYTES, 0, 0, 0, 0)).toBe(MEM_FAULT);
  });
});

describe('GuestMemory copies', () => {
  property.prop([addresses, fc.oneof(fc.nat(200), fc.nat(3 * PAGE_BYTES)), fc.nat(20), fc.nat()])(
    'read all of a range, across regions and 4 GiB, or nothing',
    (gpa, bytes, at, seed) => {
      scramble(seed);
      const to = new Uint8Array(at + bytes + 5).fill(0xee);
      const ram = within64(gpa, bytes);
      expect(memory.read(hiOf(gpa), loOf(gpa), to, at, bytes)).toBe(ram ? MEM_OK : MEM_FAULT);
      const expected = new Uint8Array(to.length).fill(0xee);
      if (ram) expected.set(peek(gpa, bytes), at);
      expect(Buffer.compare(to, expected)).toBe(0);
    },
  );

  property.prop([addresses, fc.oneof(fc.nat(200), fc.nat(3 * PAGE_BYTES)), fc.nat(20), fc.nat()])(
    'write all of a range, or nothing',
    (gpa, bytes, at, seed) => {
      scramble(seed);
      const from = new Uint8Array(at + bytes).map((_, i) => i * 7 + seed);
      const outside = [BigInt.asUintN(64, gpa - 4n), BigInt.asUintN(64, gpa + BigInt(bytes))];
      const before = [...outside.map((edge) => peek(edge, 4)), peek(gpa, bytes)];
      const ram = within64(gpa, bytes);
      expect(memory.write(hiOf(gpa), loOf(gpa), from, at, bytes)).toBe(ram ? MEM_OK : MEM_FAULT);
      expect([...outside.map((edge) => peek(edge, 4)), peek(gpa, bytes)]).toEqual([
        before[0],
        before[1],
        ram ? [...from.subarray(at)] : before[2],
      ]);
    },
  );

  test('a copy that goes on above 2^53 does not come round to address 0', () => {
    expect(memory.read(-1, -8, new Uint8Array(16), 0, 16)).toBe(MEM_FAULT);
    expect(memory.write(0x20_0000 - 1, -8, new Uint8Array(16), 0, 16)).toBe(MEM_FAULT);
  });
});

describe('host addresses', () => {
  test('of pages', () => {
    expect(memory.hostPfn(0)).toBe(0x7f0000000);
    expect(memory.hostPfn(2)).toBe(-1);
    expect(memory.hostPfn(4)).toBe(0x7f0000003);
    expect(memory.hostPfn(0x100001)).toBe(0x7e0000003);
    expect(memory.hostPfn(0x500007)).toBe(-1);
    expect(memory.hostPfn(2 ** 52 - 1)).toBe(-1);
  });

  test('the next page that has one', () => {
    expect([0, 1, 2, 5, 0xffffe, 0x100002, 0x500006].map((pfn) => memory.nextHostPage(pfn))).toEqual([
      0, 1, 3, 0xffffe, 0xffffe, 0x500005, 0x500006,
    ]);
    expect(memory.nextHostPage(0x500007)).toBe(-1);
  });

  test('of runs: contiguous in host memory, across 4 GiB, never across a hole', () => {
    expect(memory.hostRun(0, 100)).toBe(2);
    expect(memory.hostRun(3, 100)).toBe(2);
    expect(memory.hostRun(0xffffe, 100)).toBe(4);
    expect(memory.hostRun(0xfffff, 2)).toBe(2);
    expect(memory.hostRun(0xfffff, 1)).toBe(1);
    expect(memory.hostRun(0x500005, 100)).toBe(2);
    expect(memory.hostRun(2, 100)).toBe(0);
    expect(memory.hostRun(2 ** 52 - 1, 100)).toBe(0);
    const neighbours = new GuestMemory([
      { gpa: PAGE, buffer: new ArrayBuffer(PAGE_BYTES), hostAddress: 0x20_0000n },
      { gpa: 0n, buffer: new ArrayBuffer(PAGE_BYTES), hostAddress: 0x1f_f000n },
      { gpa: 2n * PAGE, buffer: new ArrayBuffer(PAGE_BYTES), hostAddress: 0x40_0000n },
    ]);
    expect(neighbours.hostRun(0, 100)).toBe(2);
  });

  test('of runs: never from memory into registers, or from one device’s into another’s', () => {
    const at = (index: number, registersOf?: string): GuestRegion => {
      const place = BigInt(index) * PAGE;
      return { gpa: place, buffer: new ArrayBuffer(PAGE_BYTES), hostAddress: 0x20_0000n + place, ...(registersOf && { registersOf }) };
    };
    const bars = new GuestMemory([at(0), at(1, 'a'), at(2, 'b'), at(3, 'b'), at(4)]);
    expect([0, 1, 2, 3, 4].map((page) => bars.hostRun(page, 100))).toEqual([1, 1, 2, 1, 1]);
  });
});

describe('GuestMemory regions', () => {
  const buffer = new ArrayBuffer(4 * PAGE_BYTES);
  const refused: [string, GuestRegion[], RegExp][] = [
    ['an unaligned address', [{ gpa: 1n, buffer }], /not a page/],
    ['a negative address', [{ gpa: -PAGE, buffer }], /not a page/],
    ['an end above 2^53', [{ gpa: 2n ** 53n, buffer }], /2\^53/],
    ['part of a page', [{ gpa: 0n, buffer, bytes: 100 }], /whole pages/],
    ['no bytes', [{ gpa: 0n, buffer, bytes: 0 }], /whole pages/],
    ['more than the buffer', [{ gpa: 0n, buffer, offset: PAGE_BYTES, bytes: 4 * PAGE_BYTES }], /do not fit/],
    ['an offset within a word', [{ gpa: 0n, buffer, offset: 4, bytes: PAGE_BYTES }], /do not fit/],
    ['a host address within a page', [{ gpa: 0n, buffer, hostAddress: 8n }], /not a page/],
    [
      'an overlap',
      [
        { gpa: 0n, buffer },
        { gpa: 3n * PAGE, buffer },
      ],
      /two regions/,
    ],
    [
      'an overlap of the same start',
      [
        { gpa: PAGE, buffer, bytes: PAGE_BYTES },
        { gpa: PAGE, buffer },
      ],
      /two regions/,
    ],
    ['a byte count that is no integer', [{ gpa: 0n, buffer, bytes: Number.NaN }], /whole pages/],
    ['an offset that is no integer', [{ gpa: 0n, buffer, offset: Number.NaN, bytes: PAGE_BYTES }], /do not fit/],
  ];
  test.each(refused)('%s is refused', (_, list, message) => {
    expect(() => new GuestMemory(list)).toThrow(RangeError);
    expect(() => new GuestMemory(list)).toThrow(message);
  });

  test('RAM of one buffer', () => {
    const ram = GuestMemory.ofBytes(2 * PAGE_BYTES, 0x10_0000n);
    expect(ram.hostRun(0, 100)).toBe(2);
    expect(ram.store64BE(0, 8, 0x01020304, 0x05060708)).toBe(MEM_OK);
    expect(ram.load32(0, 8)).toBe(MEM_OK);
    expect(ram.word[0]).toBe(0x04030201);
    expect(GuestMemory.ofBytes(PAGE_BYTES).hostRun(0, 1)).toBe(0);
  });
});

describe('misuse by the embedder', () => {
  test('a copy that leaves its array is a RangeError, and nothing is copied', () => {
    const ram = GuestMemory.ofBytes(PAGE_BYTES);
    const array = new Uint8Array(8).fill(7);
    const wrong: [number, number][] = [
      [0, 40],
      [-1, 4],
      [0, -4],
      [0, Number.NaN],
      [Number.NaN, 4],
      [8, 1],
      [0.5, 4],
      [0, 4.5],
    ];
    for (const [at, bytes] of wrong) {
      expect(() => ram.read(0, 0, array, at, bytes), `read ${at} ${bytes}`).toThrow(/are not within an array of 8/);
      expect(() => ram.write(0, 0, array, at, bytes), `write ${at} ${bytes}`).toThrow(RangeError);
    }
    expect([ram.load64(0, 0), ram.word[0], array]).toEqual([MEM_OK, 0, new Uint8Array(8).fill(7)]);
    expect([ram.read(0, 0, array, 8, 0), ram.write(0, 0, array, 0, 8), ram.read(0, PAGE_BYTES, array, 0, 8)]).toEqual([
      MEM_OK,
      MEM_OK,
      MEM_FAULT,
    ]);
  });

  const buffer = new SharedArrayBuffer(PAGE_BYTES);
  test.each<[string, unknown, typeof RangeError, RegExp]>([
    ['no regions', undefined, TypeError, /regions are no array/],
    ['gpa as a number', [{ gpa: 0, buffer }], TypeError, /gpa 0 is no bigint/],
    ['hostAddress as a number', [{ gpa: 0n, buffer, hostAddress: 4096 }], TypeError, /hostAddress 4096 is no bigint/],
    ['no buffer', [{ gpa: 0n }], TypeError, /buffer is no ArrayBuffer/],
    ['a view as buffer', [{ gpa: 0n, buffer: new Uint8Array(PAGE_BYTES) }], TypeError, /buffer is no ArrayBuffer/],
    ['a negative hostAddress', [{ gpa: 0n, buffer, hostAddress: -4096n }], RangeError, /hostAddress -4096/],
    ['a hostAddress above 2^64', [{ gpa: 0n, buffer, hostAddress: 1n << 64n }], RangeError, /hostAddress/],
    ['bytes that are no number', [{ gpa: 0n, buffer, bytes: Number.NaN }], RangeError, /NaN bytes/],
    ['an offset that is no number', [{ gpa: 0n, buffer, offset: Number.NaN, bytes: PAGE_BYTES }], RangeError, /offset NaN/],
  ])('%s', (_, parts, error, message) => {
    const make = () => new GuestMemory(parts as GuestRegion[]);
    expect(make).toThrow(error);
    expect(make).toThrow(message);
  });
});

describe('regions that change', () => {
  const region = (gpa: bigint, readOnly = false) => ({ gpa, buffer: new SharedArrayBuffer(4096), readOnly });

  test('added and removed regions are there and gone, and observers hear of each', () => {
    const memory = new GuestMemory([region(0n)]);
    const seen: number[] = [];
    const dispose = memory.observe(() => seen.push(memory.regions.length));
    expect(memory.store32(1, 0, 7)).toBe(MEM_FAULT);
    memory.add(region(0x1_0000_0000n));
    expect(memory.store32(1, 0, 7)).toBe(0);
    memory.remove(0n);
    expect(memory.load32(0, 0)).toBe(MEM_FAULT);
    expect(memory.load32(1, 0)).toBe(0);
    memory.replace(region(0x1_0000_0000n));
    expect([memory.load32(1, 0), memory.word[0]]).toEqual([0, 0]);
    dispose();
    memory.remove(0x1_0000_0000n);
    expect(memory.load32(1, 0)).toBe(MEM_FAULT);
    expect(seen).toEqual([2, 1, 0, 1]);
  });

  test('what overlaps, or is not there, is refused and changes nothing', () => {
    const memory = new GuestMemory([region(0n)]);
    expect(() => memory.add(region(0n))).toThrow(RangeError);
    expect(() => memory.remove(0x1000n)).toThrow('no region begins at');
    expect(() => memory.replace({ ...region(0n), readOnly: 1 as never })).toThrow(TypeError);
    expect(memory.regions).toHaveLength(1);
    expect(memory.load32(0, 0)).toBe(0);
  });

  test('what stays is not made again: a region among thousands costs what one does', () => {
    const [rest, buffer] = [new SharedArrayBuffer(PAGE_BYTES), new SharedArrayBuffer(PAGE_BYTES)];
    let looks = 0;
    const watched = {
      gpa: 0x10_0000n,
      bytes: PAGE_BYTES,
      get buffer() {
        looks++;
        return buffer;
      },
    };
    const memory = new GuestMemory([watched]);
    const once = looks;
    for (let i = 0; i < 64; i++) memory.add({ gpa: BigInt(i * 2 * PAGE_BYTES), buffer: rest });
    for (let i = 0; i < 64; i += 2) memory.remove(BigInt(i * 2 * PAGE_BYTES));
    memory.replace({ gpa: BigInt(2 * PAGE_BYTES), buffer: rest });
    expect(looks).toBe(once);
    expect([memory.store32(0, 0x10_0000, 7), memory.store32(0, 2 * PAGE_BYTES, 8), memory.store32(0, 0, 9) < 0]).toEqual([0, 0, true]);
  });

  test('a region that reaches over 4 GiB comes and goes whole, between its neighbours', () => {
    const memory = new GuestMemory([]);
    const add = (gpa: bigint, bytes: number) => memory.add({ gpa, buffer: new SharedArrayBuffer(bytes) });
    add(0x1_0000_2000n, PAGE_BYTES);
    add(0xffff_c000n, PAGE_BYTES);
    add(0xffff_e000n, 4 * PAGE_BYTES);
    expect(() => add(0xffff_d000n, 2 * PAGE_BYTES)).toThrow('two regions hold 0xffffe000');
    expect(() => add(0x1_0000_1000n, PAGE_BYTES)).toThrow('two regions hold 0x100001000');
    expect(() => add(0xffff_b000n, 16 * PAGE_BYTES)).toThrow(RangeError);
    expect([memory.store32(0, 0xffff_f000 | 0, 1), memory.store32(1, 0x1000, 2)]).toEqual([0, 0]);
    memory.remove(0xffff_e000n);
    expect([memory.store32(0, 0xffff_f000 | 0, 1) < 0, memory.store32(1, 0x1000, 2) < 0]).toEqual([true, true]);
    expect([memory.store32(0, 0xffff_c000 | 0, 1), memory.store32(1, 0x2000, 2)]).toEqual([0, 0]);
    expect(() => add(0xffff_d000n, 6 * PAGE_BYTES), 'its second part meets what is there').toThrow('two regions hold 0x100002000');
    add(0xffff_d000n, 5 * PAGE_BYTES);
  });

  test('no store reaches a read-only region, however wide, and a copy over its border copies nothing', () => {
    const memory = new GuestMemory([region(0n), region(0x1000n, true)]);
    for (const store of [
      () => memory.store64(0, 0x1000, 1, 1),
      () => memory.store64(0, 0x1001, 1, 1),
      () => memory.store64BE(0, 0x1000, 1, 1),
      () => memory.store32(0, 0x1000, 1),
      () => memory.store32(0, 0x1001, 1),
      () => memory.store32BE(0, 0x1000, 1),
      () => memory.store16(0, 0x1000, 1),
      () => memory.compareExchange64(0, 0x1000, 0, 0, 1, 1),
      () => memory.write(0, 0x1000, Uint8Array.of(1), 0, 1),
      () => memory.write(0, 0xfff, Uint8Array.of(1, 1), 0, 2),
    ])
      expect(store()).toBe(MEM_FAULT);
    const bytes = new Uint8Array(0x1001);
    expect(memory.read(0, 0xfff, bytes, 0, 0x1001)).toBe(0);
    expect(bytes.every((value) => value === 0)).toBe(true);
    expect([memory.isReadOnly(0), memory.isReadOnly(1), memory.isReadOnly(2)]).toEqual([false, true, false]);
  });

  test('a host run ends where ROM begins', () => {
    const at = (gpa: bigint, readOnly: boolean) => ({ ...region(gpa, readOnly), hostAddress: 0x10_0000n + gpa });
    const memory = new GuestMemory([at(0n, false), at(0x1000n, true), at(0x2000n, true)]);
    expect([memory.hostRun(0, 9), memory.hostRun(1, 9)]).toEqual([1, 2]);
  });
});

test('a run of words is loaded and stored whole within one region, or not at all', () => {
  const memory = new GuestMemory([
    { gpa: 0n, buffer: new SharedArrayBuffer(4096) },
    { gpa: 4096n, buffer: new SharedArrayBuffer(4096), readOnly: true },
  ]);
  const words = BigUint64Array.of(1n, 2n ** 63n, 3n);
  expect(memory.storeRun64(0, 0x10, words, 2)).toBe(MEM_OK);
  expect([memory.load64(0, 0x18), ...memory.word]).toEqual([MEM_OK, 0, -(2 ** 31)]);
  expect([memory.load64(0, 0x20), ...memory.word]).toEqual([MEM_OK, 0, 0]);
  const back = new BigUint64Array(3);
  expect(memory.loadRun64(0, 0x10, back, 3)).toBe(MEM_OK);
  expect([...back]).toEqual([1n, 2n ** 63n, 0n]);
  expect(memory.storeRun64(0, 0xff0, words, 3)).toBe(MEM_FAULT);
  expect(memory.load64(0, 0xff0) + memory.word[0]).toBe(0);
  expect(memory.loadRun64(0, 0xff8, back, 2)).toBe(MEM_FAULT);
  expect(memory.storeRun64(0, 0x1000, words, 1)).toBe(MEM_FAULT);
  expect(memory.loadRun64(0, 4, back, 1)).toBe(MEM_FAULT);
});

describe('words like the first are replaced', () => {
  /** Words that all are of the low half but for the fourth, and ROM behind them. */
  function words(): [memory: GuestMemory, look: () => bigint[]] {
    const memory = new GuestMemory([
      { gpa: 0n, buffer: new SharedArrayBuffer(4096) },
      { gpa: 4096n, buffer: new SharedArrayBuffer(4096), readOnly: true },
    ]);
    memory.storeRun64(0, 8, BigUint64Array.of(0x1001n, 0x2001n, 0x3001n, 0x1_0000_4001n, 0x5001n), 5);
    const seen = new BigUint64Array(7);
    return [memory, () => [...(memory.loadRun64(0, 0, seen, 7) === MEM_OK ? seen : [])]];
  }

  test.each([
    ['until the high half differs', 0xfff, 5, 3, [0n, 7n, 7n, 7n, 0x1_0000_4001n, 0x5001n, 0n]],
    ['until a bit that counts differs', 0x1fff, 5, 1, [0n, 7n, 0x2001n, 0x3001n, 0x1_0000_4001n, 0x5001n, 0n]],
    ['as many as asked at most', 0xfff, 2, 2, [0n, 7n, 7n, 0x3001n, 0x1_0000_4001n, 0x5001n, 0n]],
  ])('%s', (_name, bits, most, done, after) => {
    const [memory, look] = words();
    expect(memory.replaceAlike64(0, 8, bits, most, 7)).toBe(done);
    expect(look()).toEqual(after);
  });

  test.each([
    ['unaligned', 4, 1],
    ['not all RAM that can be written', 0xff8, 2],
    ['ROM', 0x1000, 1],
    ['no RAM', 0x2000, 1],
  ])('and none, a fault: %s', (_name, lo, most) => {
    const [memory, look] = words();
    const before = look();
    expect(memory.replaceAlike64(0, lo, 0, most, 7)).toBe(MEM_FAULT);
    expect(look()).toEqual(before);
    expect(memory.load64(0, 0xff8) + memory.word[0]).toBe(0);
  });
});

test('every place of a word, aligned or not, is loaded from where it is, and from nowhere else', () => {
  const empty = new GuestMemory([]);
  for (let lo = 0; lo < 16; lo++) expect([lo, empty.load64(0, lo)]).toEqual([lo, MEM_FAULT]);
  const bytes = new Uint8Array(new SharedArrayBuffer(4096));
  const view = new DataView(bytes.buffer);
  bytes.forEach((_, i) => {
    bytes[i] = i * 11 + (i >> 8);
  });
  const memory = new GuestMemory([
    { gpa: 0x2000n, buffer: bytes.buffer },
    { gpa: 0x1_0000_2000n, buffer: new SharedArrayBuffer(4096) },
  ]);
  for (const offset of [...Array(17).keys(), 4080, 4084, 4088]) {
    for (const hi of [0, 1]) {
      expect(memory.load64(hi, 0x2000 + offset)).toBe(MEM_OK);
      expect([...memory.word]).toEqual(hi === 0 ? [view.getInt32(offset, true), view.getInt32(offset + 4, true)] : [0, 0]);
    }
  }
  for (const lo of [0x1ff8, 0x1ffc, 0x1fff, 0x2ff9, 0x2ffc, 0x3000, 0x3001, 0x1000_2000, -0x8000_0000, -8, -1])
    for (const hi of [0, 1, 2, -1]) expect([hi, lo, memory.load64(hi, lo)]).toEqual([hi, lo, MEM_FAULT]);
});
