import { beforeEach, expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { DirtyLog } from '../../src/vmm/dirty-log.ts';
import { TranslatedMemory } from '../../src/vmm/translated-memory.ts';

/* Memory as an endpoint reaches it: page 4 is page 9, page 5 is page 2, and page 6, which can be read only, page 7. */

let memory: GuestMemory;
let translated: TranslatedMemory;
let mayAccess: boolean;

beforeEach(() => {
  memory = GuestMemory.ofBytes(16 * 4096);
  const target = new VirtioIommu({ memory, bootBypass: false });
  target.addEndpoint(8);
  target.negotiate();
  target.attach(1, 8);
  for (const [page, to, permission] of [
    [4n, 9n, 3],
    [5n, 2n, 3],
    [6n, 7n, 1],
  ] as const)
    target.map(1, page << 12n, (page << 12n) | 0xfffn, to << 12n, permission);
  mayAccess = true;
  translated = new TranslatedMemory(8, target, memory, () => mayAccess);
});

test('loads and stores of each width, where the translation leads, and how many there were', () => {
  expect(translated.store64(0, 0x4008, 0x0102_0304, 0x0506_0708)).toBe(0);
  expect(translated.store32(0, 0x4010, 7)).toBe(0);
  expect(translated.store16(0, 0x4014, 0x1234)).toBe(0);
  memory.load64(0, 0x9008);
  expect([...memory.word]).toEqual([0x0506_0708, 0x0102_0304]);
  memory.load64(0, 0x9010);
  expect([...memory.word]).toEqual([7, 0x1234]);
  expect(translated.load64(0, 0x4008)).toBe(0);
  expect([...translated.word]).toEqual([0x0506_0708, 0x0102_0304]);
  expect(translated.load16(0, 0x4014)).toBe(0);
  expect(translated.word[0]).toBe(0x1234);
  expect(translated.counts).toEqual({ reads: 2, writes: 3, bytes: 8 + 4 + 2 + 8 + 2, faults: 0 });
});

test('bytes over the end of a page go on where the next one leads', () => {
  const bytes = Uint8Array.from({ length: 10 }, (_, i) => i);
  expect(translated.write(0, 0x4ffe, bytes, 2, 6)).toBe(0);
  const there = new Uint8Array(4);
  memory.read(0, 0x9ffe, there, 0, 2);
  memory.read(0, 0x2000, there, 2, 2);
  expect([...there]).toEqual([2, 3, 4, 5]);
  const back = new Uint8Array(8);
  expect(translated.read(0, 0x4ffe, back, 1, 6)).toBe(0);
  expect([...back]).toEqual([0, 2, 3, 4, 5, 6, 7, 0]);
  expect(translated.counts).toEqual({ reads: 1, writes: 1, bytes: 12, faults: 0 });
});

test('what the IOMMU refuses, or software has not let the function do, is a fault and changes nothing', () => {
  const refused = [translated.store32(0, 0x6000, 1), translated.load64(0, 0x8000), translated.write(0, 0x6000, new Uint8Array(4), 0, 4)];
  mayAccess = false;
  refused.push(translated.load16(0, 0x4000), translated.read(0, 0x4000, new Uint8Array(4), 0, 4), translated.store64(0, 0x4000, 0, 1));
  expect(refused.every((answer) => answer < 0)).toBe(true);
  expect(translated.counts).toMatchObject({ reads: 3, writes: 3, faults: 6 });
  memory.load64(0, 0x9000);
  expect([...memory.word]).toEqual([0, 0]);
});

test('a log of writes that was ended twice does not end the next one', () => {
  const log = new DirtyLog(memory);
  const end = log.start();
  expect(() => log.start()).toThrow(TypeError);
  end();
  expect(() => log.collect(0, () => [])).toThrow(/collectDirty without logDirty/);
  log.start();
  end();
  translated.store32(0, 0x4000, 1);
  expect(log.collect(0, () => ['why'])).toEqual({ round: 1, pages: [{ first: 9, last: 9 }], inexact: ['why'] });
  expect(() => log.collect(2, () => [])).toThrow(RangeError);
  log.end();
  expect(memory.isLogged).toBe(false);
});
