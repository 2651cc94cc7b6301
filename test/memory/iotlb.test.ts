import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { joinHiLo, PFN_LIMIT } from '../../src/memory/address.ts';
import { Iotlb, NO_CONTEXT } from '../../src/memory/iotlb.ts';
import { reaching } from '../reaching.ts';

/** A translation as its filler meant it: the page [input, input + 2^lg2) goes to output. */
interface Filled {
  space: number;
  context: number;
  lg2: number;
  input: bigint;
  output: bigint;
  permission: number;
  global: boolean;
}

const hi = (address: bigint) => Number(BigInt.asIntN(32, address >> 32n));
const lo = (address: bigint) => Number(BigInt.asIntN(32, address));
const pageOf = (address: bigint, lg2: number) => (address >> BigInt(lg2)) << BigInt(lg2);

function fill(iotlb: Iotlb, entry: Filled, address: bigint): void {
  const output = entry.output | (address - entry.input);
  iotlb.fill(
    entry.space,
    entry.context,
    hi(address),
    lo(address),
    entry.lg2,
    Int32Array.of(lo(output), hi(output), entry.permission),
    entry.global,
  );
}

/** What a lookup found, in the model's terms. */
function found(iotlb: Iotlb, space: number, context: number, address: bigint, wish: number) {
  const lg2 = iotlb.lookup(space, context, hi(address), lo(address), wish);
  if (lg2 < 0) return null;
  const [low, high, permission] = iotlb.out;
  return { lg2, output: joinHiLo(high, low), permission };
}

// Few tags and addresses, so that they meet; sizes of real formats and of none.
const spaces = fc.constantFrom(0, 1, 2, 1024, -1, 0x7fffffff);
const contexts = fc.constantFrom(NO_CONTEXT, 0, 1, 0xfffff);
const lg2s = fc.constantFrom(12, 12, 12, 13, 16, 21, 30, 31, 32, 33, 39, 48, 63);
const addresses = fc.oneof(
  fc.nat(0x3fff).map((page) => BigInt(page) << 11n),
  fc.nat(64).map((n) => BigInt(n) << 21n),
  fc.nat(64).map((n) => 0xffff_ffffn + BigInt(n - 32) * 0x1000n),
  fc.nat(64).map((n) => 0xffff_ffff_ffff_ffffn - BigInt(n) * 0x800n),
  fc.bigInt(0n, 0xffff_ffff_ffff_ffffn),
);
const fills = fc.record({
  kind: fc.constant('fill' as const),
  space: spaces,
  context: contexts,
  lg2: lg2s,
  address: addresses,
  output: fc.bigInt(0n, 0xffff_ffff_ffff_ffffn),
  permission: fc.nat(0xfff),
  global: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
});
const lookups = fc.record({
  kind: fc.constant('lookup' as const),
  space: spaces,
  context: contexts,
  address: addresses,
  wish: fc.constantFrom(0, 1, 2, 3),
});
const ranges = fc.record({
  kind: fc.constant('range' as const),
  space: spaces,
  context: contexts,
  address: addresses,
  pages: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.constantFrom(2 ** 20, 2 ** 40, PFN_LIMIT)),
});
const blocks = fc.record({
  kind: fc.constant('block' as const),
  space: spaces,
  context: contexts,
  address: addresses,
  lg2: fc.oneof(fc.integer({ min: 12, max: 64 }), fc.constantFrom(12, 24, 25, 34)),
});
const spaceKills = fc.record({ kind: fc.constant('space' as const), space: spaces });
const contextKills = fc.record({ kind: fc.constant('context' as const), space: spaces, context: contexts });
const allKills = fc.record({ kind: fc.constant('all' as const) });
const operations = fc.oneof(
  { arbitrary: fills, weight: 12 },
  { arbitrary: lookups, weight: 6 },
  { arbitrary: ranges, weight: 2 },
  { arbitrary: blocks, weight: 2 },
  { arbitrary: spaceKills, weight: 1 },
  { arbitrary: contextKills, weight: 1 },
  { arbitrary: allKills, weight: 1 },
);

/** The model forgets exactly what the operation names. */
function forget(
  model: Filled[],
  operation: Exclude<typeof operations extends fc.Arbitrary<infer T> ? T : never, { kind: 'fill' | 'lookup' }>,
) {
  if (operation.kind === 'all') return [];
  if (operation.kind === 'space') return model.filter((entry) => entry.space !== operation.space);
  if (operation.kind === 'context')
    return model.filter((entry) => entry.space !== operation.space || entry.context !== operation.context || entry.global);
  const [first, last] =
    operation.kind === 'range'
      ? [operation.address >> 12n, (operation.address >> 12n) + BigInt(operation.pages) - 1n]
      : [
          pageOf(operation.address, operation.lg2) >> 12n,
          ((pageOf(operation.address, operation.lg2) + (1n << BigInt(operation.lg2))) >> 12n) - 1n,
        ];
  return model.filter((entry) => {
    const tagged = entry.space === operation.space && (entry.context === operation.context || entry.global);
    return !tagged || entry.input >> 12n > last || (entry.input + (1n << BigInt(entry.lg2)) - 1n) >> 12n < first;
  });
}

describe('Iotlb against a list of what was filled', () => {
  const reached = reaching(
    'the IOTLB',
    'a hit',
    'a hit of who is served',
    'an eviction',
    'a hit of another fill after an invalidation',
    'a range above 2^44',
    'a block of more pages than are looked at',
  );
  property.prop([fc.array(operations, { maxLength: 120 }), fc.constantFrom(16, 64, 4096)], { numRuns: 300 })(
    'answers what was filled and not invalidated since, never for more than the page filled',
    (program, capacity) => {
      reached();
      const iotlb = new Iotlb(capacity);
      let model: Filled[] = [];
      const check = (space: number, context: number, address: bigint, wish: number) => {
        const allowed = model
          .filter((e) => e.space === space && e.context === context && pageOf(address, e.lg2) === e.input && (e.permission & wish) === wish)
          .map((e) => ({ lg2: e.lg2, output: e.output | (address - e.input), permission: e.permission }));
        // Space and context stand for a device and a process that have them.
        const lg2 = iotlb.lookupFor(space, context, hi(address), lo(address), wish);
        if (lg2 >= 0) {
          expect(allowed.map((one) => [one.lg2, one.output])).toContainEqual([lg2, joinHiLo(iotlb.out[1], iotlb.out[0])]);
          reached('a hit of who is served');
        }
        const hit = found(iotlb, space, context, address, wish);
        iotlb.serve(space, context);
        if (hit === null) return;
        expect(allowed).toContainEqual(hit);
        reached('a hit');
      };
      for (const operation of program) {
        if (operation.kind === 'fill') {
          const { address, lg2 } = operation;
          const entry = { ...operation, input: pageOf(address, lg2), output: pageOf(operation.output, lg2) };
          fill(iotlb, entry, address);
          const same = (e: Filled) => e.space === entry.space && e.context === entry.context && e.input === entry.input && e.lg2 === lg2;
          model = model.filter((e) => !same(e));
          model.push(entry);
          expect(found(iotlb, entry.space, entry.context, address, entry.permission & 3)).not.toBeNull();
          check(entry.space, entry.context, address, entry.permission & 3);
        } else if (operation.kind === 'lookup') {
          const { space, context, address, wish } = operation;
          const filled = model.some(
            (e) => e.space === space && e.context === context && pageOf(address, e.lg2) === e.input && (e.permission & wish) === wish,
          );
          if (filled && found(iotlb, space, context, address, wish) === null) reached('an eviction');
          check(space, context, address, wish);
        } else {
          if (operation.kind === 'all') iotlb.invalidateAll();
          else if (operation.kind === 'space') iotlb.invalidateSpace(operation.space);
          else if (operation.kind === 'context') iotlb.invalidateContext(operation.space, operation.context);
          else if (operation.kind === 'block') {
            const { address } = operation;
            iotlb.invalidateBlock(operation.space, operation.context, hi(address), lo(address), operation.lg2);
            if (operation.lg2 >= 34) reached('a block of more pages than are looked at');
          } else {
            const first = Number(operation.address >> 12n);
            const last = Math.min(first + operation.pages, PFN_LIMIT) - 1;
            iotlb.invalidateRange(operation.space, operation.context, first, last);
            if (first >= 2 ** 44) reached('a range above 2^44');
          }
          model = forget(model, operation);
          const gone = program.filter((other) => other.kind === 'fill');
          for (const { space, context, address } of gone) {
            if (found(iotlb, space, context, address, 0) !== null) reached('a hit of another fill after an invalidation');
            check(space, context, address, 0);
          }
        }
      }
    },
  );
});

describe('Iotlb', () => {
  const entry = (input: bigint, lg2 = 12, space = 1, context = 2): Filled => {
    return { space, context, lg2, input, output: input + (1n << 40n), permission: 3, global: false };
  };

  test('holds as many pages in a row as it has places, wherever they begin', () => {
    for (const start of [0n, 0x12345000n, 0xffff_f000n]) {
      const iotlb = new Iotlb(1024);
      let hits = 0;
      for (let i = 0n; i < 1024n; i++) fill(iotlb, entry(start + i * 4096n), start + i * 4096n);
      for (let i = 0n; i < 1024n; i++) if (found(iotlb, 1, 2, start + i * 4096n, 3)) hits++;
      expect(hits).toBeGreaterThan(1000);
    }
  });

  test.each([9n, 18n])('pages 2^%i apart do not push each other out', (shift) => {
    const iotlb = new Iotlb(1024);
    for (let i = 0n; i < 256n; i++) fill(iotlb, entry((i << shift) * 4096n), (i << shift) * 4096n);
    let hits = 0;
    for (let i = 0n; i < 256n; i++) if (found(iotlb, 1, 2, (i << shift) * 4096n, 3)) hits++;
    expect(hits).toBeGreaterThan(200);
  });

  test('an invalidated range leaves the rest of the context', () => {
    const iotlb = new Iotlb(1024);
    for (let i = 0n; i < 100n; i++) fill(iotlb, entry(i * 4096n), i * 4096n);
    iotlb.invalidateRange(1, 2, 10, 19);
    const hits = Array.from({ length: 100 }, (_, i) => found(iotlb, 1, 2, BigInt(i) * 4096n, 1)).map((hit) => hit !== null);
    expect(hits.map((hit, i) => (hit ? -1 : i)).filter((i) => i >= 0)).toEqual([10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
  });

  test('tags that differ are invalidated apart', () => {
    const iotlb = new Iotlb(1024);
    for (const space of [1, 2]) for (const context of [NO_CONTEXT, 2, 3]) fill(iotlb, entry(0x5000n, 12, space, context), 0x5000n);
    iotlb.invalidateContext(1, 2);
    expect(found(iotlb, 1, 2, 0x5000n, 0)).toBeNull();
    expect(found(iotlb, 1, 3, 0x5000n, 0)).not.toBeNull();
    iotlb.invalidateSpace(1);
    expect(found(iotlb, 1, NO_CONTEXT, 0x5000n, 0)).toBeNull();
    expect(found(iotlb, 2, 3, 0x5000n, 0)).not.toBeNull();
    iotlb.invalidateAll();
    expect(found(iotlb, 2, 3, 0x5000n, 0)).toBeNull();
  });

  // SMMUv3 (IHI 0070) 4.4.2, CMD_TLBI_NH_VA: what it invalidates matches the ASID or is global; CMD_TLBI_NH_ASID: non-global only.
  test('a global translation is invalidated by its address in any context', () => {
    const iotlb = new Iotlb(64);
    fill(iotlb, { ...entry(0x5000n), global: true }, 0x5000n);
    iotlb.invalidateRange(1, 7, 5, 5);
    expect(found(iotlb, 1, 2, 0x5000n, 0)).toBeNull();
  });

  test.each(['invalidateAll', 'invalidateSpace'] as const)(
    'what %s has forgotten is global no more: a page that goes later takes no others with it',
    (forget) => {
      const iotlb = new Iotlb(64);
      const page = (input: bigint, global: boolean): Filled => ({
        space: 1,
        context: 2,
        lg2: 12,
        input,
        output: input,
        permission: 3,
        global,
      });
      fill(iotlb, page(0x1000n, true), 0x1000n);
      iotlb[forget](1);
      for (const input of [0x2000n, 0x3000n]) fill(iotlb, page(input, false), input);
      iotlb.invalidateRange(1, 2, 2, 2);
      expect([found(iotlb, 1, 2, 0x2000n, 1), found(iotlb, 1, 2, 0x3000n, 1)?.output]).toEqual([null, 0x3000n]);
    },
  );

  test('a read-only entry does not answer a write, nor hide a page that does', () => {
    const iotlb = new Iotlb(64);
    fill(iotlb, { ...entry(0x200000n), permission: 1 }, 0x200000n);
    expect(found(iotlb, 1, 2, 0x200000n, 2)).toBeNull();
    fill(iotlb, { ...entry(0x200000n, 21), permission: 3 }, 0x200000n);
    expect(found(iotlb, 1, 2, 0x200000n, 2)).toMatchObject({ lg2: 21, permission: 3 });
  });

  test('serves a device and process in one context, until another is looked up, the context is forgotten, or it serves nobody', () => {
    const iotlb = new Iotlb(64);
    const isServed = (device = 8, process = 3) => iotlb.lookupFor(device, process, 0, 0x5123, 1) === 12;
    const ends: [string, () => void][] = [
      ['another lookup', () => iotlb.lookup(1, 3, 0, 0x5000, 1)],
      ['another fill', () => fill(iotlb, entry(0x5000n, 12, 1, 4), 0x5000n)],
      ['its space', () => iotlb.invalidateSpace(1)],
      ['its context', () => iotlb.invalidateContext(1, 2)],
      ['its page', () => iotlb.invalidateRange(1, 2, 5, 5)],
      ['its block', () => iotlb.invalidateBlock(1, 2, 0, 0x5000, 12)],
      ['everything', () => iotlb.invalidateAll()],
      ['nobody', () => iotlb.serveNobody()],
    ];
    expect(isServed()).toBe(false);
    for (const [name, end] of ends) {
      fill(iotlb, entry(0x5000n), 0x5000n);
      iotlb.serve(8, 3);
      expect([isServed(), isServed(9), isServed(8, 4)], name).toEqual([true, false, false]);
      expect([iotlb.out[0], iotlb.out[1]]).toEqual([0x5123, 256]);
      expect(iotlb.lookupFor(8, 3, 0, 0x5123, 4)).toBe(-1);
      end();
      expect(isServed(), name).toBe(false);
    }
  });

  test('serves small pages alone: where a large one is hit first, `lookup` finds it at once', () => {
    const iotlb = new Iotlb(64);
    fill(iotlb, entry(0x5000n), 0x5000n);
    fill(iotlb, entry(0x200000n, 21), 0x200000n);
    iotlb.serve(8, 3);
    expect(found(iotlb, 1, 2, 0x200000n, 1)).toMatchObject({ lg2: 21 });
    iotlb.serve(8, 3);
    expect(iotlb.lookupFor(8, 3, 0, 0x5000, 1)).toBe(-1);
  });

  test('an empty one knows nothing, not even of address 0', () => {
    expect(found(new Iotlb(16), 0, 0, 0n, 0)).toBeNull();
    const iotlb = new Iotlb(16);
    iotlb.invalidateAll();
    iotlb.invalidateRange(0, 0, 0, PFN_LIMIT - 1);
    expect(found(iotlb, 0, 0, 0n, 0)).toBeNull();
  });

  // Contexts 1024 apart of one space share a set of four: the fifth takes the place of one, and not its translations.
  test('five contexts that share four places: each has its own translations or none', () => {
    const iotlb = new Iotlb(1024);
    const contexts = [0, 1024, 2048, 3072, 4096];
    const filled = (context: number): Filled => ({ ...entry(0x5000n, 12, 7, context), output: BigInt(context + 1) << 20n });
    for (const round of [1, 2, 3]) {
      for (const context of contexts) {
        fill(iotlb, filled(context), 0x5000n);
        expect(found(iotlb, 7, context, 0x5000n, 3), `round ${round}`).toMatchObject({ output: filled(context).output });
      }
      const hits = contexts.map((context) => found(iotlb, 7, context, 0x5000n, 3)?.output ?? null);
      hits.forEach((output, i) => {
        expect([null, filled(contexts[i]).output]).toContain(output);
      });
      expect(hits.filter((output) => output === null).length).toBeGreaterThan(0);
    }
    iotlb.invalidateContext(7, 4096);
    expect(found(iotlb, 7, 4096, 0x5000n, 0)).toBeNull();
  });

  test('an invalidation of a context that has nothing takes no place from one that has', () => {
    const iotlb = new Iotlb(1024);
    const four = [0, 1024, 2048, 3072];
    for (const context of four) fill(iotlb, entry(0x5000n, 12, 1, context), 0x5000n);
    for (let i = 0; i < 4; i++) {
      iotlb.invalidateContext(1, 4096);
      iotlb.invalidateRange(1, 8192, 5, 5);
      iotlb.invalidateBlock(1, 12288, 0, 0x5000, 12);
    }
    expect(four.map((context) => found(iotlb, 1, context, 0x5000n, 0) !== null)).toEqual([true, true, true, true]);
    for (const context of four) iotlb.invalidateRange(1, context, 5, 5);
    expect(four.map((context) => found(iotlb, 1, context, 0x5000n, 0) !== null)).toEqual([false, false, false, false]);
  });

  test('an invalidation finds a context whose places begin with that of one that was forgotten', () => {
    const iotlb = new Iotlb(1024);
    for (const context of [0, 1024]) fill(iotlb, entry(0x5000n, 12, 1, context), 0x5000n);
    iotlb.invalidateContext(1, 0);
    iotlb.invalidateBlock(1, 1024, 0, 0x5000, 12);
    expect(found(iotlb, 1, 1024, 0x5000n, 0)).toBeNull();
  });

  test('an invalidation finds a context that got its place as the tags were used up', () => {
    // The first tag is that of the context that is current from the beginning.
    const iotlb = new Iotlb(1024, 3);
    for (const context of [0, 1024, 2048]) fill(iotlb, entry(0x5000n, 12, 1, context), 0x5000n);
    iotlb.invalidateBlock(1, 2048, 0, 0x5000, 12);
    expect(found(iotlb, 1, 2048, 0x5000n, 0)).toBeNull();
  });

  test('a context that lost its place has forgotten everything, and what it fills then goes with an invalidation', () => {
    const iotlb = new Iotlb(1024);
    const contexts = [0, 1024, 2048, 3072, 4096];
    for (const context of contexts) fill(iotlb, entry(BigInt(context + 1) << 12n, 12, 7, context), BigInt(context + 1) << 12n);
    for (const context of contexts) {
      const page = BigInt(context + 1) << 12n;
      fill(iotlb, entry(page, 12, 7, context), page);
      iotlb.invalidateRange(7, context, context + 1, context + 1);
      expect(found(iotlb, 7, context, page, 0)).toBeNull();
    }
  });

  test('when the tags are used up everything is forgotten, and nothing of before is found again', () => {
    const iotlb = new Iotlb(64, 6);
    for (let round = 0; round < 40; round++) {
      const page = BigInt(round % 8) << 12n;
      const context = round % 3;
      const mine = { ...entry(page, 12, 1, context), output: BigInt(round + 1) << 20n };
      fill(iotlb, mine, page);
      expect(found(iotlb, 1, context, page, 3)).toMatchObject({ output: mine.output });
      if (round % 4 === 3) iotlb.invalidateAll();
      else iotlb.invalidateContext(1, context);
      for (let at = 0n; at < 8n; at++) for (let other = 0; other < 3; other++) expect(found(iotlb, 1, other, at << 12n, 0)).toBeNull();
    }
  });

  test('a range above 2^44 drops its pages and leaves their neighbours, of every size', () => {
    const iotlb = new Iotlb(1024);
    const far = 2 ** 45;
    const pages = [far - 1, far, far + 1, far + 511, far + 512];
    for (const page of pages) fill(iotlb, entry(BigInt(page) << 12n), BigInt(page) << 12n);
    fill(iotlb, entry(BigInt(far + 1024) << 12n, 21), BigInt(far + 1024) << 12n);
    iotlb.invalidateRange(1, 2, far, far + 511);
    expect(pages.map((page) => found(iotlb, 1, 2, BigInt(page) << 12n, 0) !== null)).toEqual([true, false, false, false, true]);
    expect(found(iotlb, 1, 2, BigInt(far + 1024) << 12n, 0)).not.toBeNull();
    iotlb.invalidateRange(1, 2, far + 1500, far + 1500);
    expect(found(iotlb, 1, 2, BigInt(far + 1024) << 12n, 0)).toBeNull();
  });

  test('a block drops its pages and leaves their neighbours, of every size', () => {
    const iotlb = new Iotlb(1024);
    const start = 0x7fff_fe00_0000n;
    const at = [-1n, 0n, 1n, 511n, 512n].map((page) => start + page * 4096n);
    for (const address of at) fill(iotlb, entry(address), address);
    fill(iotlb, entry(start + (4n << 20n), 21), start + (4n << 20n));
    const kept = () => at.map((address) => found(iotlb, 1, 2, address, 0) !== null);
    // An address inside names the block that is aligned around it.
    iotlb.invalidateBlock(1, 2, hi(start), lo(start + 0x1f_fabcn), 21);
    expect(kept()).toEqual([true, false, false, false, true]);
    expect(found(iotlb, 1, 2, start + (5n << 20n), 0)).not.toBeNull();
    iotlb.invalidateBlock(1, 2, hi(start), lo(start + (5n << 20n)), 12);
    expect(found(iotlb, 1, 2, start + (4n << 20n), 0)).toBeNull();
    expect(kept()).toEqual([true, false, false, false, true]);
    iotlb.invalidateBlock(1, 2, 0, 0, 64);
    expect(kept()).toEqual([false, false, false, false, false]);
  });

  test.each([
    [0, 1, 2, 3],
    [3, 2, 1, 0],
    [1, 3, 0, 2],
  ])('of pages that share their places each is found until it is dropped, whichever goes first (%i, %i, %i, %i)', (...order) => {
    const iotlb = new Iotlb(16);
    const hasPage = (page: number) => iotlb.lookup(7, NO_CONTEXT, 0, (16 * page) << 12, 1) === 12;
    for (let page = 0; page < 4; page++) iotlb.fill(7, NO_CONTEXT, 0, (16 * page) << 12, 12, Int32Array.of(0, 0, 1, 0));
    order.forEach((page, dropped) => {
      expect([0, 1, 2, 3].filter(hasPage)).toEqual(order.slice(dropped).sort());
      iotlb.invalidateBlock(7, NO_CONTEXT, 0, (16 * page) << 12, 12);
    });
    expect([0, 1, 2, 3].filter(hasPage)).toEqual([]);
  });

  test('every lookup that finds a translation is a hit, in the first place looked at and behind it, and no other is', () => {
    const iotlb = new Iotlb(64);
    const entry = { space: 1, context: 2, output: 1n << 32n, permission: 1, global: false };
    fill(iotlb, { ...entry, lg2: 12, input: 0x5000n }, 0x5000n);
    fill(iotlb, { ...entry, lg2: 21, input: 0x20_0000n }, 0x20_0000n);
    const counts = [0x5000n, 0x20_0000n, 0x20_0000n, 0x5000n, 0x6000n].map((address) => {
      found(iotlb, 1, 2, address, 1);
      return iotlb.hits;
    });
    found(iotlb, 1, 2, 0x5000n, 3);
    expect([...counts, iotlb.hits]).toEqual([1, 2, 3, 4, 4, 4]);
  });

  test('misuse throws', () => {
    for (const capacity of [0, 8, 100, 2 ** 25, 16.5, Number.NaN]) expect(() => new Iotlb(capacity)).toThrow(RangeError);
    const iotlb = new Iotlb(16);
    expect(() => iotlb.invalidateRange(0, 0, 2, 1)).toThrow(RangeError);
    expect(() => iotlb.invalidateRange(0, 0, -1, 1)).toThrow(RangeError);
    expect(() => iotlb.invalidateRange(0, 0, 0, PFN_LIMIT)).toThrow(RangeError);
    for (const lg2 of [11, 65, Number.NaN]) expect(() => iotlb.invalidateBlock(0, 0, 0, 0, lg2)).toThrow(RangeError);
  });
});
