import { fc, test } from '@fast-check/vitest';
import { expect } from 'vitest';
import { joinHiLo } from '../../src/memory/address.ts';
import { EquivalentGuest, everyHardware } from '../accel/equivalence.ts';
import { reaching } from '../reaching.ts';
import type { TargetFixture, TargetSubject } from './suite.ts';

/*
 * Hostile guests of a target whose devices are passed through: random bytes in registers, queues, entries and tables, tables that lead to themselves,
 * resets, and the devices' own accesses meanwhile. No call throws, no DMA leaves guest RAM, what one access causes is bounded, nothing goes on for ever;
 * and once the unit has forgotten what it had cached, hardware has nothing that the target does not mean.
 */

/** How a hostile guest's stores are heard of: not at all, each by itself, or as its devices ask for pages. */
export type Hearing = 'untold' | 'watched' | 'on demand';

export interface HostileMachines<Step> {
  readonly subject: TargetSubject<Step>;
  /** A driver begins with a unit that was reset, in the RAM that the fixture came with. */
  readonly restart: (fixture: TargetFixture<Step>) => void;
  /** Entries of the driver's tables that lead to tables, themselves among them, and anywhere else; and the invalidation of all. */
  readonly tables: fc.Arbitrary<(fixture: TargetFixture<Step>) => void>;
  readonly machines: readonly { readonly hardware: string; readonly path: string; readonly hearing: Hearing }[];
}

/**
 * What one act may cause at most: entries read (each flush 2^19 of every stage of both endpoints, docs/targets, Bounds), host calls (a slice of 2,048 of
 * both endpoints, to map and to unmap), and continuations of a queue.
 */
const LOADS = 2 ** 22;
const CALLS = 2 ** 13;
const LATER = 2 ** 15;
/** Runs of a space that are looked at. */
const RUNS = 12;

/** Pages of whatever the endpoints reach, as far as few runs say it, and around. */
function reached({ target, endpoints, pasids = [] }: TargetFixture<unknown>): number[] {
  const pages = new Set([0, 1, 0x7ffff, 0xfee00, 2 ** 40, 2 ** 52 - 1]);
  for (const endpoint of endpoints) {
    for (const space of [target.spaceOf(endpoint), ...pasids.map((pasid) => target.spaceOf(endpoint, pasid))]) {
      let runs = 0;
      space?.enumerate(0, 2 ** 52 - 1, (iova, _gpa, count) => {
        for (const pfn of [iova - 1, iova, iova + Math.floor(count / 2), iova + count - 1, iova + count])
          if (pfn >= 0 && pfn < 2 ** 52) pages.add(pfn);
        return ++runs < RUNS;
      });
    }
  }
  return [...pages];
}

/** A guest whose acts' work is counted. */
class HostileGuest<Step> {
  readonly guest: EquivalentGuest<Step>;
  readonly #machines: HostileMachines<Step>;
  readonly #ram: readonly Uint8Array[];
  #loads = 0;
  #calls = 0;
  /** The unit is at work, and not the guest's CPU. */
  #isInside = false;

  constructor(machines: HostileMachines<Step>, hardware: string, path: string, hearing: Hearing) {
    this.#machines = machines;
    this.guest = new EquivalentGuest(machines.subject, everyHardware[hardware], path, hearing === 'on demand' ? hearing : 'announced');
    this.#ram = this.#regions().map((bytes) => bytes.slice());
    this.guest.kernel.hooks.observe({ after: () => void this.#calls++ });
    const { memory } = this.guest.fixture;
    const load64 = memory.load64.bind(memory);
    memory.load64 = (hi, lo) => {
      this.#loads++;
      return load64(hi, lo);
    };
    if (hearing === 'watched') this.#tellStores();
  }

  #regions(): Uint8Array[] {
    return this.guest.fixture.memory.regions.map(({ buffer, offset = 0, bytes }) => new Uint8Array(buffer, offset, bytes));
  }

  /** The guest's own stores, and not those of the unit, are said to whoever watches. */
  #tellStores(): void {
    const { memory, target } = this.guest.fixture;
    const store64 = memory.store64.bind(memory);
    memory.store64 = (hi, lo, valueHi, valueLo) => {
      const result = store64(hi, lo, valueHi, valueLo);
      if (result >= 0 && !this.#isInside) this.guest.watch.stored(joinHiLo(hi, lo), 8);
      return result;
    };
    const unit = target as unknown as Record<'read' | 'write', (offset: number, bytes: number, value?: bigint) => bigint | undefined>;
    for (const name of ['read', 'write'] as const) {
      const access = unit[name].bind(unit);
      unit[name] = (...args) => this.#inside(() => access(...args));
    }
  }

  #inside<Result>(work: () => Result): Result {
    const before = this.#isInside;
    this.#isInside = true;
    const result = work();
    this.#isInside = before;
    return result;
  }

  act(act: () => void): void {
    const { guest } = this;
    guest.does(
      () => this.#bounded(act),
      () => reached(guest.fixture),
    );
    this.#bounded(() => guest.machine.poll());
    const { later } = guest.fixture;
    for (let i = 0; later !== undefined && later.length > 0; i++) {
      expect(i).toBeLessThan(LATER);
      const work = later.shift()!;
      this.#inside(() => this.#bounded(work));
    }
  }

  #bounded(act: () => void): void {
    this.#loads = 0;
    this.#calls = 0;
    act();
    expect(this.#loads).toBeLessThan(LOADS);
    expect(this.#calls).toBeLessThan(CALLS);
  }

  /** A unit that forgets whatever it had cached: hardware has what its tables say now, or less. */
  forget(): void {
    const { target } = this.guest.fixture;
    this.act(() => target.load(JSON.parse(JSON.stringify(target.save()))));
    this.check();
  }

  reset(): void {
    this.act(() => this.guest.fixture.target.reset());
    this.check();
  }

  check(): void {
    this.guest.checkNothingStale();
    this.guest.checkBlocked();
  }

  /** Reset, RAM as at first, and a driver that behaves. Answers on how many pages hardware and software agree. */
  restart(): number {
    const { guest } = this;
    const { fixture } = guest;
    this.act(() => {
      fixture.target.reset();
      this.#regions().forEach((bytes, i) => {
        bytes.set(this.#ram[i]);
      });
      this.#machines.restart(fixture);
    });
    for (const step of this.#machines.subject.mapping) guest.run(step);
    return guest.check();
  }

  /** DMA that leaves guest RAM fails here. */
  get hasPages(): boolean {
    return this.guest.kernel.devices.some((device) => this.guest.hardware(device).some((page) => page !== null));
  }
}

export function hostileMachines<Step>(machines: HostileMachines<Step>): void {
  const { subject } = machines;
  const act = fc.oneof({ weight: 3, arbitrary: subject.hostile.map((one) => one.act) }, { weight: 2, arbitrary: machines.tables });
  const turn = fc.oneof(
    { weight: 8, arbitrary: act.map((run) => (guest: HostileGuest<Step>) => guest.act(() => run(guest.guest.fixture))) },
    {
      weight: 2,
      arbitrary: subject.step.map((step) => (guest: HostileGuest<Step>) => guest.act(() => void guest.guest.fixture.run(step))),
    },
    { weight: 2, arbitrary: fc.constant((guest: HostileGuest<Step>) => guest.forget()) },
    { weight: 1, arbitrary: fc.constant((guest: HostileGuest<Step>) => guest.reset()) },
    { weight: 2, arbitrary: fc.constant((guest: HostileGuest<Step>) => void guest.restart()) },
  );
  for (const { hardware, path, hearing } of machines.machines) {
    const name = `${subject.name}, passed through on ${path}, ${hardware}, ${hearing}`;
    const done = reaching(name, 'a page that hardware has');
    test.prop([fc.array(turn, { minLength: 8, maxLength: 24 })], { numRuns: 4 })(`${name}: a hostile guest`, (turns) => {
      done();
      const guest = new HostileGuest(machines, hardware, path, hearing);
      for (const step of subject.mapping) guest.guest.run(step);
      for (const run of turns) {
        run(guest);
        if (guest.hasPages) done('a page that hardware has');
      }
      // Whatever was done to it, it serves the next driver.
      expect(guest.restart()).toBeGreaterThan(0);
      guest.guest.close();
      expect(guest.guest.reachesNothing).toBe(true);
    });
  }
}
