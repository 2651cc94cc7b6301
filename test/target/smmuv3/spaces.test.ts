import { expect, test } from 'vitest';
import { EXECUTE, READ, READ_WRITE } from '../../../src/memory/access.ts';
import { CONFIG } from '../../../src/target/smmuv3/spec/ste.ts';
import type { AddressSpace } from '../../../src/target/target.ts';
import { runsOf } from '../hardware.ts';
import { CONTEXTS, cfgiCd, cfgiSte, contextOf, Guest, stage2Of, sync, tlbiIpa, tlbiVa } from './guest.ts';

/* What the observer is told, and the values that it may ask for (docs/targets/smmuv3.md, "Paths"). */

const STREAM = 8;
const STAGE_1 = { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 };
const LAST = 2 ** 52 - 1;
const UPPER = 2 ** 52 - 2 ** 27;

interface Change {
  readonly space: AddressSpace;
  readonly first: number;
  readonly last: number;
}

function observed() {
  const guest = new Guest().start();
  const changes: Change[] = [];
  const commands: number[][] = [];
  guest.smmu.addEndpoint(STREAM);
  guest.smmu.observe({
    attach: () => 0,
    changed: (space, first, last) => void changes.push({ space, first, last }),
    invalidated: (words) => void commands.push(Array.from(words)),
    flush: () => 0,
  });
  const set = (ste: Record<string, number>) => {
    guest.setStream(STREAM, ste);
    guest.command(cfgiSte(STREAM), sync());
    changes.length = 0;
    commands.length = 0;
  };
  return { guest, changes, commands, set, space: () => guest.smmu.spaceOf(STREAM) };
}

test('a stream that bypasses: requests with a substream are refused (7.3.9), for hardware too; no substream is listed', () => {
  const { guest, set } = observed();
  set({ CONFIG: CONFIG.bypass });
  expect([guest.smmu.stageOf(STREAM), guest.smmu.stageOf(STREAM, 1)]).toEqual([{ kind: 'bypass' }, { kind: 'abort' }]);
  set({ ...STAGE_1 });
  expect(guest.smmu.stageOf(STREAM, 1)).toEqual({ kind: 'abort' });
  expect(guest.smmu.pasidsOf(STREAM)).toEqual([]);
});

test('PAN of a stream whose requests are all privileged: no table alone says what they reach, so there is no space (5.4, PAN)', () => {
  const { guest, set, space } = observed();
  const first = guest.table();
  first.table.map(5, 0x80, 1, READ_WRITE);
  guest.setContext(0, { ...contextOf(1, first), PAN: 1 });
  set({ ...STAGE_1 });
  expect(runsOf(space()!)).not.toEqual([]);
  set({ ...STAGE_1, PRIVCFG: 3 });
  expect(space()).toBeNull();
  guest.setContext(0, contextOf(1, first));
  guest.command(cfgiCd(STREAM), sync());
  expect(space()).not.toBeNull();
});

test('both tables: the upper one ends at the top; E0PD keeps the unprivileged off one, and not the privileged', () => {
  const { guest, set, space } = observed();
  const first = guest.table();
  const upper = guest.table({ upper: true });
  first.table.map(5, 0x80, 2, READ);
  upper.table.map(LAST - 1, 0x90, 2, READ);
  const run = (iova: number, gpa: number) => ({ iova, gpa, pages: 2 });
  guest.setContext(0, contextOf(1, first, upper));
  set({ ...STAGE_1 });
  expect(space()!.apertures).toEqual([
    { first: 0, last: 2 ** 27 - 1 },
    { first: UPPER, last: LAST },
  ]);
  expect(runsOf(space()!)).toMatchObject([run(5, 0x80), run(LAST - 1, 0x90)]);
  guest.setContext(0, { ...contextOf(1, first, upper), E0PD0: 1 });
  set({ ...STAGE_1 });
  expect(runsOf(space()!)).toMatchObject([run(LAST - 1, 0x90)]);
  guest.setContext(0, { ...contextOf(1, first, upper), E0PD1: 1 });
  set({ ...STAGE_1 });
  expect(runsOf(space()!)).toMatchObject([run(5, 0x80)]);
  set({ ...STAGE_1, PRIVCFG: 3 });
  expect(runsOf(space()!)).toMatchObject([run(5, 0x80), run(LAST - 1, 0x90)]);
});

test('runs: no further ones for who has enough, of either table; pages that may be executed alone are none of reads', () => {
  const { guest, set, space } = observed();
  const first = guest.table();
  const upper = guest.table({ upper: true });
  first.table.map(5, 0x80, 1, READ);
  first.table.map(9, 0x90, 1, READ);
  upper.table.map(LAST, 0xa0, 1, READ | EXECUTE);
  guest.setContext(0, contextOf(1, first, upper));
  set({ ...STAGE_1 });
  const upTo = (count: number) => {
    const pages: number[] = [];
    space()!.enumerate(0, LAST, (iova) => pages.push(iova) < count);
    return pages;
  };
  expect([1, 2, 3].map(upTo)).toEqual([[5], [5, 9], [5, 9, LAST]]);
  // INSTCFG: all that is read is fetched (13.1.2).
  set({ ...STAGE_1, INSTCFG: 3 });
  expect(runsOf(space()!).map(({ iova, permission }) => [iova, permission & READ])).toEqual([[LAST, READ]]);
});

test('an address of another ASID is said to spaces that have global pages (4.4.2), an IPA to all behind stage 1 (4.4.3)', () => {
  const { guest, changes, set, space } = observed();
  const first = guest.table();
  const second = guest.table({ stage: 2, inputBits: 39, startLevel: 1 });
  second.table.map(0, 0, 512, 7);
  first.table.map(5, 0x80, 1, READ_WRITE);
  guest.setContext(0, contextOf(1, first));
  set({ ...STAGE_1, ...stage2Of(0, second), CONFIG: CONFIG.nested });
  expect(runsOf(space()!)).toHaveLength(1);
  guest.command(tlbiVa(2, 5), sync());
  expect(changes).toEqual([]);
  guest.command(tlbiIpa(0, 0x80), sync());
  expect(changes).toEqual([{ space: space(), first: 0, last: LAST }]);
  // nG, bit 11 of the descriptor, away: whoever has met the page hears of every ASID's.
  const pages = Array.from({ length: 240 * 512 }, (_, i) => 0x1_0000 + 8 * i);
  const at = pages.find((entry) => (guest.load(entry) & 0xffff_f003n) === 0x8_0003n) as number;
  guest.store(at, guest.load(at) & ~(1n << 11n));
  expect(runsOf(space()!)).toHaveLength(1);
  changes.length = 0;
  guest.command(tlbiVa(2, 5), sync());
  expect(changes).toEqual([{ space: space(), first: 5, last: 5 }]);
});

test('another stage 2 under the same VMID is another space', () => {
  const { guest, set, space } = observed();
  const tables = [0x80, 0x90].map((to) => {
    const made = guest.table({ stage: 2, inputBits: 39, startLevel: 1 });
    made.table.map(5, to, 1, READ_WRITE);
    return made;
  });
  const spaces = tables.map((table) => {
    set({ CONFIG: CONFIG.stage2, ...stage2Of(3, table) });
    return space()!;
  });
  expect(spaces[0]).not.toBe(spaces[1]);
  expect(spaces.map((one) => runsOf(one)[0].gpa)).toEqual([0x80, 0x90]);
});

test('what the SMMU forgets by itself hardware hears as commands: all streams, all translations, all of the device’s', () => {
  const { guest, changes, commands, set, space } = observed();
  const first = guest.table();
  first.table.map(5, 0x80, 1, READ_WRITE);
  guest.setContext(0, contextOf(1, first));
  set({ ...STAGE_1 });
  const before = space();
  guest.smmu.load(JSON.parse(JSON.stringify(guest.smmu.save())));
  expect(space()).toBe(before);
  expect(changes).toEqual([{ space: before, first: 0, last: LAST }]);
  // 4.3.6, 4.4.2 and 4.5.1.
  expect(commands).toEqual([
    [0x04, 0, 31, 0],
    [0x30, 0, 0, 0],
    [0x40, STREAM, 52, 0],
  ]);
});
