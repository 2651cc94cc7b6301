import { expect } from 'vitest';
import { errnoName, HostError } from '../../src/host/errno.ts';
import type { Host } from '../../src/host/host.ts';
import { type IommuConfig, type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { pfnOf } from '../../src/memory/address.ts';

/**
 * A driver's calls made to fail, the nth for every n: nothing of the kernel's is lost, what was asked for has not happened, and
 * the error says what.
 */

/** What a step that can answer with an errno answered, and the error that tells of it. */
export interface Answer {
  readonly result: number;
  readonly error: HostError | null;
}

/** A machine's kernel, the first page of its RAM, and who hears of the host as soon as there is one. */
export interface Start {
  readonly kernel: SimKernel;
  readonly pfn: number;
  readonly opened: (host: Host) => void;
}

/** Steps, each up to a `yield`. */
export type Scenario = (start: Start) => Generator<Answer | undefined>;

/** Pages of a machine's RAM. */
export const RAM_PAGES = 16;

/** Calls about a range of IOVA. */
const RANGED = /^IOMMU_IOAS_(MAP|COPY|UNMAP)$|^VFIO_IOMMU_(MAP|UNMAP)_DMA$/;

/** Runs the steps up to the first that fails, and sees that it failed as the call did, and changed nothing. Returns the calls by kind. */
export function run(scenario: Scenario, config: IommuConfig, failing: { readonly nth: number; readonly errno: number } | null): string[] {
  const kernel = simKernel({ iommus: [config], devices: ['vfio0', 'vfio1'].map((name) => ({ name, pageRequests: true })) });
  const kinds: string[] = [];
  let injected: string | null = null;
  kernel.hooks.observe({
    before: ({ kind }) => kinds.push(kind),
    after: ({ kind, number }) => {
      if (number === failing?.nth) injected = kind;
    },
  });
  if (failing !== null) kernel.hooks.fail(failing);
  let host: Host | undefined;
  const opened = (made: Host) => {
    host = made;
  };
  const steps = scenario({ kernel, pfn: pfnOf(kernel.allocate(RAM_PAGES * 4096).address), opened });
  for (let done = false; !done; ) {
    const before = JSON.stringify(kernel.save());
    const outcome = attempt(steps);
    done = outcome === true;
    if (typeof outcome === 'boolean' && injected === null) continue;
    expect(outcome, `the failed ${injected} went unnoticed`).toBeInstanceOf(HostError);
    see(outcome as HostError, injected ?? 'no call', failing?.errno ?? 0);
    expect(JSON.stringify(kernel.save()), `${injected} failed, and something has changed`).toBe(before);
    break;
  }
  steps.return(undefined);
  host?.close();
  // The RAM is all that is left.
  const { mappings, frames, ...left } = kernel.live();
  expect([mappings, frames], `memory after ${injected} failed`).toEqual([1, 1]);
  expect(
    Object.entries(left).filter(([, count]) => count !== 0),
    `left after ${injected} failed`,
  ).toEqual([]);
  return kinds;
}

/** The error is the call's: its name, its errno, and the range where it has one. */
function see(error: HostError, kind: string, code: number): void {
  expect(error.errno, error.message).toBe(code);
  expect(error.message).toContain(errnoName(code));
  expect(error.operation.toLowerCase()).toContain(kind.toLowerCase());
  if (RANGED.test(kind)) expect(error.range).toBeDefined();
}

/** One step: its error, or whether it was the last. */
function attempt(steps: Generator<Answer | undefined>): HostError | boolean {
  try {
    const { value, done } = steps.next();
    if (value !== undefined && value !== null && (value as Answer).result < 0) return (value as Answer).error as HostError;
    return done === true;
  } catch (error) {
    if (error instanceof HostError) return error;
    throw error;
  }
}
