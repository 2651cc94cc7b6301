import { expect } from 'vitest';
import type { AddressSpace, Target, TargetObserver } from '../../src/target/target.ts';

export interface Run {
  readonly iova: number;
  readonly gpa: number;
  readonly pages: number;
  readonly permission: number;
}

export function runsOf(space: AddressSpace, first = 0, last = 2 ** 52 - 1): Run[] {
  const runs: Run[] = [];
  const next = space.enumerate(first, last, (iova, gpa, pages, permission) => runs.push({ iova, gpa, pages, permission }) > 0);
  if (next !== last + 1) expect(next, `${space.name}: enumerated up to`).toBe(last + 1);
  return runs;
}

/** What `toEqual` says, which takes the longer the more there is: it is asked for the message only. */
function equal(a: readonly Run[], b: readonly Run[]): boolean {
  const same = (run: Run, i: number) =>
    run.iova === b[i].iova && run.gpa === b[i].gpa && run.pages === b[i].pages && run.permission === b[i].permission;
  return a.length === b.length && a.every(same);
}

interface Backing {
  runs: Run[];
  changes: { first: number; last: number }[];
}

const ENOMEM = -12;

/**
 * Hardware behind a target, and the path to it, as simple as they can be: at a flush it takes over what the ranges that changed mean
 * now. Any call can be made to fail; what could not be done stays to be done (TargetObserver.flush).
 */
export class Hardware implements TargetObserver {
  readonly #target: Target;
  readonly #endpoints: readonly number[];
  /** What the requests of each endpoint reach; null: blocked. */
  readonly #reaches = new Map<number, AddressSpace | null>();
  readonly #backings = new Map<AddressSpace, Backing>();
  #callsLeft = Number.POSITIVE_INFINITY;
  #failed = false;

  constructor(target: Target, endpoints: readonly number[]) {
    this.#target = target;
    this.#endpoints = endpoints;
    for (const endpoint of endpoints) this.attach(endpoint, target.spaceOf(endpoint));
  }

  /** The nth call from now on fails, once. */
  failIn(nth: number): void {
    this.#callsLeft = nth;
  }

  /** Whether a call has failed. */
  get failed(): boolean {
    return this.#failed;
  }

  /** Hardware without PASIDs: only requests that carry none are compared. */
  attach(endpoint: number, space: AddressSpace | null, pasid?: number): number {
    if (pasid !== undefined) return 0;
    if (this.#fails()) {
      // As the Binder does it: a guest has left its old tables for good, and what cannot be detached from them is closed.
      const chosen = space ?? this.#reaches.get(endpoint);
      if ((chosen?.attachedBy ?? chosen?.owner) === 'guest') this.#reaches.set(endpoint, null);
      return ENOMEM;
    }
    this.#reaches.set(endpoint, space);
    if (space !== null && !this.#backings.has(space)) this.#backings.set(space, { runs: runsOf(space), changes: [] });
    for (const other of this.#backings.keys()) if (![...this.#reaches.values()].includes(other)) this.#backings.delete(other);
    return 0;
  }

  changed(space: AddressSpace, first: number, last: number): void {
    expect(first).toBeGreaterThanOrEqual(0);
    expect(last).toBeGreaterThanOrEqual(first);
    expect(last).toBeLessThan(2 ** 52);
    this.#backings.get(space)?.changes.push({ first, last });
  }

  flush(): number {
    const fails = this.#fails();
    for (const [space, backing] of this.#backings) {
      for (const { first, last } of backing.changes) {
        if (fails && space.owner === 'target') continue;
        const kept = backing.runs.flatMap((run) => outside(run, first, last));
        const added = fails ? [] : runsOf(space, first, last);
        backing.runs = join([...kept, ...added].sort((a, b) => a.iova - b.iova));
      }
      if (!fails) backing.changes = [];
    }
    return fails ? ENOMEM : 0;
  }

  /**
   * Every endpoint reaches on the hardware what the target says that it reaches. After a refusal an endpoint may be blocked or have
   * less where its guest owns the tables (AddressSpace.owner).
   */
  expectAgreement(): void {
    for (const endpoint of this.#endpoints) {
      const space = this.#target.spaceOf(endpoint);
      const reached = this.#reaches.get(endpoint) ?? null;
      if (this.#failed && (space?.owner === 'guest' || reached === null)) continue;
      expect(reached, `endpoint ${endpoint} reaches ${reached?.name}, should reach ${space?.name}`).toBe(space);
      if (space === null) continue;
      const backing = this.#backings.get(space)!;
      expect(this.#failed ? [] : backing.changes, 'changes without a flush').toEqual([]);
      const runs = runsOf(space);
      if (!equal(backing.runs, runs)) expect(backing.runs).toEqual(runs);
    }
    this.expectNothingStale();
  }

  /** The hardware has nothing that the target does not mean, at least where the target was not told otherwise. */
  expectNothingStale(): void {
    for (const [space, { runs }] of this.#backings) {
      if (space.owner === 'guest' && !this.#failed) continue;
      for (const run of runs)
        if (!covered(run, runsOf(space, run.iova, run.iova + run.pages - 1))) expect.fail(`${space.name}: stale is ${JSON.stringify(run)}`);
    }
  }

  #fails(): boolean {
    const fails = --this.#callsLeft === 0;
    this.#failed ||= fails;
    return fails;
  }
}

function covered(run: Run, by: readonly Run[]): boolean {
  const pages = by.filter((other) => other.gpa - other.iova === run.gpa - run.iova && other.permission === run.permission);
  return pages.reduce((sum, other) => sum + other.pages, 0) === run.pages;
}

function outside(run: Run, first: number, last: number): Run[] {
  const end = run.iova + run.pages;
  const below = { ...run, pages: Math.min(end, first) - run.iova };
  const start = Math.max(run.iova, last + 1);
  const above = { ...run, iova: start, gpa: run.gpa + start - run.iova, pages: end - start };
  return [below, above].filter(({ pages }) => pages > 0);
}

function join(runs: readonly Run[]): Run[] {
  const joined: Run[] = [];
  for (const run of runs) {
    const before = joined.at(-1);
    const continues =
      before !== undefined &&
      before.iova + before.pages === run.iova &&
      before.gpa + before.pages === run.gpa &&
      before.permission === run.permission;
    if (continues) joined[joined.length - 1] = { ...before, pages: before.pages + run.pages };
    else joined.push(run);
  }
  return joined;
}
