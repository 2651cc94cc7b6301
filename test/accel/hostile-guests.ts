import { fc, test } from '@fast-check/vitest';
import { expect } from 'vitest';
import { NO_PASID, type Target } from '../../src/target/target.ts';
import { reaching } from '../reaching.ts';
import type { TargetFixture, TargetSubject } from '../target/suite.ts';
import { EquivalentGuest, everyHardware, type Landing, type Requests } from './equivalence.ts';

/*
 * A guest that does anything, with devices of different spaces. What it does not invalidate, hardware and software may go on with; what no space of a
 * device's own has meant since the guest last saw everything forgotten, that device never reaches, nor anything outside guest RAM.
 */

/** A guest that can be set up again whatever has become of it. */
export interface HostileSubject<Step> {
  readonly subject: TargetSubject<Step>;
  /** Registers as a driver sets them. */
  readonly start: (fixture: TargetFixture<Step>) => void;
  /** Gives two devices spaces that differ; the last two map something in each. */
  readonly apart: readonly Step[];
  /** The guest has everything forgotten; false: it was not told that it is. Left out: each of its operations completes by itself. */
  readonly forget?: (fixture: TargetFixture<Step>) => boolean;
}

const EVENTS = ['start', 'forget', 'ram', 'load', 'unmap', 'reset'] as const;
type Event = (typeof EVENTS)[number];

const PROCESS = 'a page of a request with a PASID';

const MAPS = 2;

/** Words of tables that are looked for. */
const WORDS = 4096;
/** An address at the end of what hardware of some kind reaches, or a bit that means something in some format. */
const spoil = fc.oneof(
  { weight: 3, arbitrary: fc.constant(0n) },
  { weight: 3, arbitrary: fc.nat(63).map((bit) => 1n << BigInt(bit)) },
  { weight: 1, arbitrary: fc.constantFrom(0x7fff_f000n, 0x0fff_ffff_f000n, 0x7fff_ffff_f000n, 0xffff_ffff_f000n, 0xf_ffff_ffff_f000n) },
);
/** One word of the guest's structures takes the place of another, spoilt or not: a table that is another device's, or its own. */
const copy = fc.record({ do: fc.constant('copy' as const), from: fc.nat(WORDS), to: fc.nat(WORDS), spoil });

/** All of RAM at its lowest addresses. */
function wordsOf({ memory }: TargetFixture<unknown>): Int32Array<ArrayBufferLike> {
  const [{ buffer, offset = 0, bytes = buffer.byteLength - offset }] = memory.regions;
  return new Int32Array(buffer, offset, bytes / 4);
}

function copyWord({ memory }: TargetFixture<unknown>, from: number, to: number, bits: bigint): void {
  const [{ buffer, offset = 0, bytes }] = memory.regions;
  const words = new BigUint64Array(buffer, offset, (bytes ?? buffer.byteLength - offset) / 8);
  const used: number[] = [];
  for (let at = 0; at < words.length && used.length < WORDS; at++) if (words[at] !== 0n) used.push(at);
  if (used.length > 0) words[used[to % used.length]] = words[used[from % used.length]] ^ bits;
}

/** What each device's requests may reach, by all that its space has meant since everything was forgotten. */
class Judge<Step> {
  readonly guest: EquivalentGuest<Step>;
  readonly #subject: TargetSubject<Step>;
  #pages: number[] = [];
  #meant: Set<number>[] = [];

  constructor(subject: TargetSubject<Step>, guest: EquivalentGuest<Step>) {
    this.#subject = subject;
    this.guest = guest;
    this.forgotten();
  }

  /** Software with what it has cached, and with nothing. */
  remember(): void {
    const { fixture, requests } = this.guest;
    const fresh = this.#subject.make(fixture).target;
    fresh.load(fixture.target.save());
    for (const target of [fixture.target, fresh])
      for (const [i, { endpoint, pasid }] of requests.entries())
        for (const [at, landing] of this.#look(() => this.guest.meant(endpoint, pasid, target)).entries())
          for (const access of [0, 1]) this.#meant[i].add(this.#key(at, access, landing[access]));
  }

  /** From now on a device reaches what is meant now. */
  forgotten(): void {
    const { requests, fixture } = this.guest;
    this.#meant = requests.map(() => new Set());
    this.#pages = pagesOf(fixture.target, requests);
    this.remember();
  }

  /** Hardware remembers what it can; the target is told of faults. */
  touch(): void {
    this.#look(() => this.guest.touch());
    this.guest.machine.poll();
  }

  /** What each of the requests reaches. @throws when it must not */
  check(): Landing[][] {
    return this.guest.requests.map((request, i) => {
      const { endpoint, device, pasid } = request;
      const path = this.guest.pathOf(endpoint, pasid);
      const found = this.#look(() => this.guest.found(device, pasid));
      for (const [at, [read, write]] of found.entries()) {
        const may = (access: number, page: number) => page < 0 || this.#meant[i].has(this.#key(at, access, page));
        // First stages of ours have no write-only pages.
        const reads = may(0, read) || (path.startsWith('user-owned') && may(1, read));
        if (!reads || !may(1, write))
          expect.fail(
            `endpoint ${endpoint}, PASID ${pasid} on ${path}: page 0x${this.#pages[at].toString(16)} reaches ${read} and ${write}`,
          );
      }
      return found;
    });
  }

  #look<Seen>(see: () => Seen): Seen {
    this.guest.lookAt(this.#pages);
    return see();
  }

  #key(at: number, access: number, page: number): number {
    return (page + 1) * 4096 + at * 2 + access;
  }
}

/** Pages around the ends of what any of the requests reaches, and some that are guest pages as well. */
function pagesOf(target: Target, requests: readonly Requests[]): number[] {
  const pages = new Set([0, 5, 7, 9, 32, 0x105, 0x107, 0x7ffff, 0x80000, 2 ** 40]);
  for (const { endpoint, pasid } of requests) {
    const space = target.knows?.(endpoint) === false ? null : target.spaceOf(endpoint, ...(pasid < 0 ? [] : [pasid]));
    let runs = 0;
    space?.enumerate(0, 2 ** 52 - 1, (iova, _gpa, count) => {
      for (const pfn of [iova - 1, iova, iova + count - 1, iova + count]) pages.add(pfn);
      return ++runs < 8;
    });
  }
  return [...pages].filter((pfn) => pfn >= 0 && pfn < 2 ** 52);
}

/** Programs of a hostile guest on a path over hardware of a name. */
export function hostileGuest<Step>(hostile: HostileSubject<Step>, path: string, hardware: string): void {
  const { subject, start, apart, forget } = hostile;
  const name = `${subject.name} on ${path}, ${hardware}`;
  const reached = reaching(
    name,
    ...EVENTS,
    'seen to be forgotten',
    'pages of two devices apart',
    'a page after a hostile act',
    'a page that the other reaches',
    ...(everyHardware[hardware].pasidLog2 === undefined ? [] : [PROCESS]),
  );
  const act = subject.hostile.map((hostile) => ({ do: 'act' as const, hostile }));
  const step = subject.step.map((step) => ({ do: 'step' as const, step }));
  const event = fc.record({ do: fc.constantFrom(...EVENTS) });
  const program = fc.array(
    fc.oneof(
      { weight: 4, arbitrary: act },
      { weight: 3, arbitrary: step },
      { weight: 4, arbitrary: copy },
      { weight: 2, arbitrary: event },
    ),
    { minLength: 10, maxLength: 24 },
  );

  test.prop([program], { numRuns: 2 })(`${name}: no device reaches what its own space has not meant`, (steps) => {
    reached();
    const guest = new EquivalentGuest(subject, everyHardware[hardware], path);
    const { fixture, machine } = guest;
    const finish = () => {
      for (let round = 0; round < 100 && fixture.later?.length; round++) fixture.later.shift()!();
    };
    /** Where the last steps of `apart` store, and what stood there at first. */
    const leaves = new Map<number, number>();
    const setUp = () => {
      start(fixture);
      for (const step of apart.slice(0, -MAPS)) guest.run(step);
      const before = wordsOf(fixture).slice();
      for (const step of apart.slice(-MAPS)) guest.run(step);
      const after = wordsOf(fixture);
      // Where the target keeps the mappings, nothing of them is in tables of the guest's.
      if (forget !== undefined) before.forEach((word, at) => void (word !== after[at] && !leaves.has(at) && leaves.set(at, word)));
    };
    setUp();
    const judge = new Judge(subject, guest);
    const events: Record<Event, () => boolean> = {
      forget: () => forget?.(fixture) ?? true,
      ram: () => {
        guest.moveRam();
        return false;
      },
      load: () => {
        machine.load(machine.save());
        return true;
      },
      reset: () => {
        fixture.target.reset();
        return true;
      },
      unmap: () => {
        const words = wordsOf(fixture);
        for (const [at, before] of leaves) words[at] = before;
        return false;
      },
      start: () => {
        setUp();
        return forget === undefined;
      },
    };
    /** Answers whether everything is forgotten with it. */
    const run = (one: (typeof steps)[number]): boolean => {
      if (one.do === 'act') one.hostile.act(fixture);
      else if (one.do === 'step') fixture.run(one.step);
      else if (one.do === 'copy') copyWord(fixture, one.from, one.to, one.spoil);
      else {
        reached(one.do);
        return events[one.do]();
      }
      return forget === undefined && one.do !== 'copy';
    };
    // Each event at least once, and what follows when nothing is in its tables any more.
    const all = [...EVENTS, 'start', 'unmap', 'forget', 'start', 'unmap', 'load'].map((name) => ({ do: name as Event }));
    for (const one of [...steps, ...all]) {
      const isForgotten = run(one);
      finish();
      if (isForgotten) judge.forgotten();
      else judge.remember();
      if (isForgotten) reached('seen to be forgotten');
      judge.check();
      judge.touch();
      finish();
      judge.remember();
      const found = judge.check();
      const [first, second] = [found[0], found[guest.requests.findLastIndex(({ pasid }) => pasid === NO_PASID)]];
      const reaches = (landings: readonly Landing[]) => landings.some((landing) => Math.max(...landing) >= 0);
      if ((one.do === 'act' || one.do === 'copy') && reaches(first)) reached('a page after a hostile act');
      if (reaches(first) && reaches(second)) reached('pages of two devices apart');
      if (guest.requests.some(({ pasid }, i) => pasid !== NO_PASID && reaches(found[i]))) reached(PROCESS);
      if (first.some((landing, i) => Math.max(...landing) < 0 && second[i][0] >= 0)) reached('a page that the other reaches');
    }
    guest.close();
    expect(guest.reachesNothing).toBe(true);
  });
}
