import assert from 'node:assert/strict';

/*
 * As much of vitest as the host contract asks for, for a machine that vitest's own binaries are not made for. The contract is
 * compiled once and finds this under vitest's name.
 */

type Hook = () => void | Promise<void>;

interface Case {
  readonly title: string;
  readonly run: Hook | null;
  readonly scope: Scope;
}

interface Scope {
  readonly title: string;
  readonly before: Hook[];
  readonly after: Hook[];
}

const cases: Case[] = [];
let scope: Scope = { title: '', before: [], after: [] };

export function describe(title: string, body: () => void): void {
  const outer = scope;
  scope = { title, before: [...outer.before], after: [...outer.after] };
  body();
  scope = outer;
}

export const beforeEach = (hook: Hook): number => scope.before.push(hook);
export const afterEach = (hook: Hook): number => scope.after.push(hook);
export const test = (title: string, run: Hook): number => cases.push({ title, run, scope });
test.skip = (title: string): number => cases.push({ title, run: null, scope });

/** One finished case, a line of JSON each. */
export interface CaseResult {
  readonly title: string;
  readonly status: 'passed' | 'failed' | 'skipped';
  readonly message: string;
}

/** Runs all cases in order. */
export async function runCases(report: (result: CaseResult) => void): Promise<void> {
  for (const { title, run, scope } of cases) {
    const name = `${scope.title} ${title}`;
    if (run === null) {
      report({ title: name, status: 'skipped', message: '' });
      continue;
    }
    const failures: string[] = [];
    const attempt = async (step: Hook) => {
      try {
        await step();
      } catch (error) {
        failures.push((error as Error).stack ?? String(error));
      }
    };
    for (const hook of scope.before) await attempt(hook);
    if (failures.length === 0) await attempt(run);
    for (const hook of scope.after) await attempt(hook);
    report({ title: name, status: failures.length === 0 ? 'passed' : 'failed', message: failures.join('\n') });
  }
}

/** The matchers that the contract uses. */
class Expectation {
  readonly #value: unknown;
  readonly #message: string | undefined;

  constructor(value: unknown, message?: string) {
    this.#value = value;
    this.#message = message;
  }

  #that(condition: boolean, expected: string): void {
    assert.ok(condition, `${this.#message ?? ''} expected ${String(this.#value)} ${expected}`);
  }

  toBe(expected: unknown): void {
    assert.ok(Object.is(this.#value, expected), `${this.#message ?? ''} expected ${String(this.#value)} to be ${String(expected)}`);
  }
  toEqual(expected: unknown): void {
    assert.deepEqual(this.#value, expected, this.#message);
  }
  toMatchObject(expected: object): void {
    for (const [key, value] of Object.entries(expected)) assert.deepEqual((this.#value as Record<string, unknown>)[key], value, key);
  }
  toBeNull(): void {
    this.toBe(null);
  }
  toBeGreaterThan(limit: number): void {
    this.#that((this.#value as number) > limit, `> ${limit}`);
  }
  toBeGreaterThanOrEqual(limit: number): void {
    this.#that((this.#value as number) >= limit, `>= ${limit}`);
  }
  toBeLessThan(limit: number): void {
    this.#that((this.#value as number) < limit, `< ${limit}`);
  }
  toBeInstanceOf(type: abstract new (...parameters: never[]) => unknown): void {
    this.#that(this.#value instanceof type, `to be a ${type.name}`);
  }
  toContain(part: string): void {
    this.#that((this.#value as string).includes(part), `to contain ${part}`);
  }
  toMatch(pattern: RegExp): void {
    this.#that(pattern.test(this.#value as string), `to match ${pattern}`);
  }
  toThrow(pattern: RegExp): void {
    assert.throws(this.#value as () => void, pattern, this.#message);
  }
}

export const expect = (value: unknown, message?: string): Expectation => new Expectation(value, message);
