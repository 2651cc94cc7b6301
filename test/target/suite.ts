import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf, pfnOfHiLo } from '../../src/memory/address.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { type AddressSpace, NO_PASID, type Target } from '../../src/target/target.ts';
import { reaching } from '../reaching.ts';
import { Hardware, type Run, runsOf } from './hardware.ts';

/*
 * What every target keeps, whatever architecture it speaks (src/target/target.ts). A target's own tests say what its specification
 * asks; this body says what paths and machines rely on.
 */

/** A target with a guest: its memory, and whatever of the guest's state lies outside the target. */
export interface TargetFixture<Step> {
  readonly target: Target;
  readonly memory: GuestMemory;
  /** Endpoints that the target knows. */
  readonly endpoints: readonly number[];
  /** PASIDs that the guest's requests carry. Left out: none. */
  readonly pasids?: readonly number[];
  /** Work that the target leaves for between the guest's accesses. Left out: it leaves none. */
  readonly later?: (() => void)[];
  /** Does one whole guest operation, changes of tables with their invalidations. Answers what the guest is told, to compare. */
  run(step: Step): unknown;
}

export interface TargetSubject<Step> {
  readonly name: string;
  /** A machine whose guest has set the target up; `like`: the guest and memory of another fixture with a target at power-on. */
  make(like?: TargetFixture<Step>): TargetFixture<Step>;
  /** Operations that meet each other, mistakes of a guest among them. */
  readonly step: fc.Arbitrary<Step>;
  /** Operations after which the first endpoint reaches at least one page. */
  readonly mapping: readonly Step[];
  /** Takes some of the pages away again that it reaches after `mapping`. */
  readonly unmapping: readonly Step[];
  /** Operations after which, with `mapping`, requests with PASIDs reach something. Left out: none does. */
  readonly processes?: readonly Step[];
  /** Anything a guest can do at all, as text to show: must not throw. */
  readonly hostile: fc.Arbitrary<{ readonly what: string; readonly act: (fixture: TargetFixture<Step>) => void }>;
  /** Runs of each property. Default 40. */
  readonly numRuns?: number;
}

/** Pages around whatever is mapped, and some where nothing ever is. */
function probes(runs: readonly Run[]): number[] {
  const pages = new Set([0, 1, 0x7ffff, 0xfedff, 2 ** 40, 2 ** 52 - 1]);
  for (const { iova, pages: count } of runs) {
    for (const pfn of [iova - 1, iova, iova + Math.floor(count / 2), iova + count - 1, iova + count]) pages.add(pfn);
  }
  return [...pages].filter((pfn) => pfn >= 0 && pfn < 2 ** 52);
}

/** The one of ascending runs that has the page. */
function runAt(runs: readonly Run[], pfn: number): Run | undefined {
  let from = 0;
  let to = runs.length;
  while (from < to) {
    const middle = (from + to) >>> 1;
    if (runs[middle].iova + runs[middle].pages <= pfn) from = middle + 1;
    else to = middle;
  }
  return from < runs.length && runs[from].iova <= pfn ? runs[from] : undefined;
}

function inRam(memory: GuestMemory, pfn: number): boolean {
  return memory.regions.some((region) => {
    const first = pfnOf(region.gpa);
    return pfn >= first && pfn < first + (region.bytes ?? region.buffer.byteLength - (region.offset ?? 0)) / 4096;
  });
}

/** Guest page, or -1 for a fault; also that the answer holds for the block that it names. */
function translate({ target }: TargetFixture<unknown>, endpoint: number, pfn: number, access: number): number {
  const lg2 = target.translate(endpoint, NO_PASID, hiOfPfn(pfn), loOfPfn(pfn) | 0x123, access);
  if (lg2 < 0) return -1;
  const [lo, hi] = target.translated;
  if (lg2 < 12 || (lo & 0xfff) !== 0x123)
    expect.fail(`page 0x${pfn.toString(16)}: a block of 2^${lg2} bytes, offset 0x${(lo & 0xfff).toString(16)}`);
  return pfnOfHiLo(hi, lo);
}

/**
 * Software translation means what the space enumerates. Outside RAM it may know more: doorbells of interrupts, registers of devices
 * that an endpoint without a domain reaches.
 */
function expectTranslateAgrees<Step>(fixture: TargetFixture<Step>): void {
  for (const endpoint of fixture.endpoints) {
    if (fixture.target.knows?.(endpoint) === false) continue;
    const space = fixture.target.spaceOf(endpoint);
    const runs = space === null ? [] : runsOf(space);
    for (const pfn of probes(runs)) {
      const run = runAt(runs, pfn);
      for (const access of [READ, WRITE, READ_WRITE]) {
        const gpa = translate(fixture, endpoint, pfn, access);
        const expected = run !== undefined && (access & ~run.permission) === 0 ? run.gpa + pfn - run.iova : -1;
        if (gpa !== expected && (run !== undefined || inRam(fixture.memory, gpa)))
          expect.fail(`endpoint ${endpoint}, page 0x${pfn.toString(16)}, access ${access}: translated to ${gpa}, enumerated ${expected}`);
      }
    }
  }
}

function expectWellFormed(space: AddressSpace): void {
  let before: Run | undefined;
  for (const run of runsOf(space)) {
    const isWithin = space.apertures.some(({ first, last }) => run.iova >= first && run.iova + run.pages - 1 <= last);
    if (run.pages <= 0 || (run.permission & READ_WRITE) === 0 || !isWithin)
      expect(run).toBe('a run of pages that can be accessed, in an aperture');
    if (before !== undefined) {
      const end = before.iova + before.pages;
      const continues = run.iova === end && run.gpa === before.gpa + before.pages && run.permission === before.permission;
      if (run.iova < end || continues) expect([before, run]).toBe('ascending runs, each as long as it goes');
    }
    before = run;
  }
}

function observed<Step>(subject: TargetSubject<Step>, like?: TargetFixture<Step>): { fixture: TargetFixture<Step>; hardware: Hardware } {
  const fixture = subject.make(like);
  const hardware = new Hardware(fixture.target, fixture.endpoints);
  fixture.target.observe(hardware);
  return { fixture, hardware };
}

/** A saved state, each time with one of its fields gone or of another kind; of arrays the first two elements. */
function* spoilt(state: unknown): Generator<{ readonly where: string; readonly state: unknown }> {
  for (const path of pathsOf(state)) {
    for (const wrong of [undefined, typeof at(state, path) === 'string' ? 7 : 'text']) {
      const copy = structuredClone(state);
      const owner = at(copy, path.slice(0, -1)) as Record<string, unknown>;
      owner[path[path.length - 1]] = wrong;
      yield { where: `${path.join('.')} := ${wrong}`, state: copy };
    }
  }
}

function pathsOf(value: unknown, path: readonly string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [];
  const names = Object.keys(value).slice(0, Array.isArray(value) ? 2 : undefined);
  return names.flatMap((name) => [[...path, name], ...pathsOf((value as Record<string, unknown>)[name], [...path, name])]);
}

function at(value: unknown, path: readonly string[]): unknown {
  return path.reduce((inner, name) => (inner as Record<string, unknown>)[name], value);
}

export function targetSuite<Step>(subject: TargetSubject<Step>): void {
  const numRuns = subject.numRuns ?? 40;
  // Every other program begins with something mapped: by chance alone, a guest whose mappings take many steps has nothing to lose.
  const program = fc
    .tuple(fc.boolean(), fc.array(subject.step, { minLength: 1, maxLength: 30 }))
    .map(([mapped, steps]) => (mapped ? [...subject.mapping, ...steps] : steps));

  describe(`${subject.name}: what every target keeps`, () => {
    test('the mapping operations map something', () => {
      const fixture = subject.make();
      for (const step of subject.mapping) fixture.run(step);
      const space = fixture.target.spaceOf(fixture.endpoints[0]);
      expect(space && runsOf(space)).not.toEqual([]);
      expectTranslateAgrees(fixture);
    });

    test('the first access of a page is a miss of the IOTLB, each later one a hit', () => {
      const fixture = subject.make();
      const { target, endpoints } = fixture;
      for (const step of subject.mapping) fixture.run(step);
      const [{ iova }] = runsOf(target.spaceOf(endpoints[0])!);
      const before = [target.iotlbHits, target.iotlbMisses];
      const counts = ['first', 'second', 'third'].map(() => {
        translate(fixture, endpoints[0], iova, READ);
        return [target.iotlbHits, target.iotlbMisses].map((count, i) => count! - before[i]!);
      });
      // sPAPR has none: its tables are the hypervisor's own, and one look at them answers.
      if (subject.name === 'sPAPR') expect(before).toEqual([undefined, undefined]);
      else
        expect(counts).toEqual([
          [0, 1],
          [1, 1],
          [2, 1],
        ]);
    });

    const agreed = reaching(`${subject.name}: agreement`, 'a program of more than twenty operations', 'a mapped space');
    // Half of them are long: of twelve programs of any length none may be.
    const long = fc.array(subject.step, { minLength: 21, maxLength: 30 });
    property.prop([fc.oneof(program, long)], { numRuns })(
      'after every operation translation agrees with the space, and the observer was told of every difference',
      (steps) => {
        agreed();
        if (steps.length > 20) agreed('a program of more than twenty operations');
        const { fixture, hardware } = observed(subject);
        for (const step of steps) {
          fixture.run(step);
          for (const endpoint of fixture.endpoints) {
            const space = fixture.target.spaceOf(endpoint);
            if (space === null) continue;
            expectWellFormed(space);
            if (runsOf(space).length > 0) agreed('a mapped space');
          }
          expectTranslateAgrees(fixture);
          hardware.expectAgreement();
        }
      },
    );

    const refused = reaching(`${subject.name}: refusals`, 'a refused call', 'an operation after it');
    property.prop([program, fc.integer({ min: 1, max: 8 })], { numRuns })(
      'whichever call the host refuses: the hardware never has what the guest has not',
      (steps, nth) => {
        refused();
        const { fixture, hardware } = observed(subject);
        hardware.failIn(nth);
        for (const step of steps) {
          if (hardware.failed) refused('an operation after it');
          fixture.run(step);
          expectTranslateAgrees(fixture);
          hardware.expectAgreement();
        }
        if (hardware.failed) refused('a refused call');
      },
    );

    const saved = reaching(`${subject.name}: save and load`, 'a save point', 'an operation after it', 'a mapped space at it');
    // A draw without a seed may never save while something is mapped.
    const whileMapped: [Step[], number] = [[...subject.mapping, ...subject.mapping], subject.mapping.length];
    property.prop([program, fc.nat(29)], { numRuns, examples: [whileMapped] })(
      'saved and loaded at any point: the rest is as if nothing had happened',
      (steps, point) => {
        saved();
        const straight = subject.make();
        let { fixture, hardware } = observed(subject);
        steps.forEach((step, i) => {
          if (i > point) saved('an operation after it');
          if (i === point) {
            saved('a save point');
            const spaces = fixture.endpoints.map((endpoint) => fixture.target.spaceOf(endpoint));
            if (spaces.some((space) => space !== null && runsOf(space).length > 0)) saved('a mapped space at it');
            const state = JSON.parse(JSON.stringify(structuredClone(fixture.target.save())));
            ({ fixture, hardware } = observed(subject, fixture));
            fixture.target.load(state);
            expect(fixture.target.save()).toEqual(state);
            hardware.expectAgreement();
          }
          expect(fixture.run(step)).toEqual(straight.run(step));
          hardware.expectAgreement();
        });
        expect(fixture.target.save()).toEqual(straight.target.save());
        expectTranslateAgrees(fixture);
      },
    );

    test('loaded with RAM in which other tables stand: the observer is told of every difference', () => {
      const { fixture, hardware } = observed(subject);
      const { memory, target } = fixture;
      const snapshot = () => ({
        state: JSON.parse(JSON.stringify(target.save())),
        ram: memory.regions.map(({ buffer, offset = 0, bytes }) => new Uint8Array(buffer, offset, bytes).slice()),
        runs: fixture.endpoints.map((endpoint) => {
          const space = target.spaceOf(endpoint);
          return space && runsOf(space);
        }),
      });
      for (const step of subject.mapping) fixture.run(step);
      const mapped = snapshot();
      for (const step of subject.unmapping) fixture.run(step);
      const unmapped = snapshot();
      expect(mapped.runs).not.toEqual(unmapped.runs);
      for (const { state, ram, runs } of [mapped, unmapped]) {
        memory.regions.forEach(({ buffer, offset = 0, bytes }, i) => {
          new Uint8Array(buffer, offset, bytes).set(ram[i]);
        });
        target.load(state);
        expect(snapshot().runs).toEqual(runs);
        hardware.expectAgreement();
      }
    });

    property.prop([program], { numRuns })('reset is power-on, on both sides', (steps) => {
      const { fixture, hardware } = observed(subject);
      for (const step of steps) fixture.run(step);
      fixture.target.reset();
      expect(fixture.target.save()).toEqual(subject.make(fixture).target.save());
      hardware.expectAgreement();
      expectTranslateAgrees(fixture);
    });

    property.prop([program, fc.array(subject.hostile, { minLength: 1, maxLength: 20 })], { numRuns })(
      'a hostile guest: no exception, and nothing of the above is broken',
      (steps, acts) => {
        const { fixture, hardware } = observed(subject);
        for (const step of steps.slice(0, 5)) fixture.run(step);
        for (const { act } of acts) {
          act(fixture);
          hardware.expectNothingStale();
        }
        fixture.target.load(JSON.parse(JSON.stringify(fixture.target.save())));
      },
    );

    property.prop([fc.array(fc.tuple(fc.integer(), fc.integer(), fc.integer(), fc.integer(), fc.integer()), { maxLength: 50 })], {
      numRuns,
    })('any access of any device: an answer', (accesses) => {
      const fixture = subject.make();
      for (const step of subject.mapping) fixture.run(step);
      for (const [endpoint, pasid, hi, lo, access] of accesses) {
        for (const id of [endpoint, fixture.endpoints[0]]) {
          for (const process of [pasid, NO_PASID])
            expect(fixture.target.translate(id, process, hi, lo, access & 15)).toBeLessThanOrEqual(64);
        }
      }
    });

    test.each([undefined, null, 7, 'state', [], {}, { domains: 1 }].map((state) => [state]))(
      'load(%j): TypeError, and nothing has changed',
      (state) => {
        const { fixture, hardware } = observed(subject);
        for (const step of subject.mapping) fixture.run(step);
        const before = fixture.target.save();
        expect(() => fixture.target.load(state)).toThrow(TypeError);
        expect(fixture.target.save()).toEqual(before);
        hardware.expectAgreement();
      },
    );

    test('a saved state of which one field is missing, or is of another kind, is refused by name, and nothing has changed', () => {
      const { fixture, hardware } = observed(subject);
      for (const step of subject.mapping) fixture.run(step);
      const before = JSON.parse(JSON.stringify(fixture.target.save()));
      const accepted: string[] = [];
      for (const { where, state } of spoilt(before)) {
        try {
          fixture.target.load(state);
          accepted.push(where);
        } catch (error) {
          if (!(error instanceof TypeError) || !error.message.includes('saved state')) accepted.push(`${where}: ${error}`);
        }
      }
      expect(accepted).toEqual([]);
      expect(fixture.target.save()).toEqual(before);
      hardware.expectAgreement();
    });

    test('one observer at a time; an endpoint that is not known has no space', () => {
      const { fixture, hardware } = observed(subject);
      expect(() => fixture.target.observe(hardware)).toThrow(TypeError);
      expect(fixture.target.spaceOf(0x7fff_fff1)).toBeNull();
      const { target } = subject.make();
      const observer = { attach: () => 0, changed: () => undefined, flush: () => 0 };
      const dispose = target.observe(observer);
      dispose();
      const disposeAgain = target.observe(observer);
      dispose();
      expect(() => target.observe(hardware)).toThrow(TypeError);
      disposeAgain();
      target.observe(hardware);
    });
  });
}
