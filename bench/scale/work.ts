import { Session } from 'node:inspector';

/** The simulated kernel's search in ordered lists: it grows with the logarithm. For `WorkCounter.of`. */
export const SEARCH = '/spans.ts';

/**
 * How often code is run, as V8 counts it: functions and the bodies of loops and branches. Not time, so the same wherever it is measured; exact in
 * a process of its own only (counting.ts).
 */
export class WorkCounter {
  readonly #session = new Session();

  constructor() {
    this.#session.connect();
    this.#post('Profiler.enable');
    this.#post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
  }

  /** Blocks of this project that were entered while `run` ran; `except` names a file that does not count. */
  of(run: () => void, except = ' '): number {
    return this.least(1, run, except);
  }

  /** The same, of that of several runs that entered the fewest: what is done once in many of them does not count. */
  least(runs: number, run: () => void, except = ' '): number {
    // Counters begin anew as they are taken, which takes longer than most of what is counted.
    this.#take();
    const counts = Array.from({ length: runs }, () => {
      run();
      return blocksOf(this.#take(), except);
    });
    return Math.min(...counts);
  }

  close(): void {
    this.#session.disconnect();
  }

  #take(): Coverage[] {
    return (this.#post('Profiler.takePreciseCoverage') as { result: Coverage[] }).result;
  }

  /** Calls of a session with its own thread are answered at once. */
  #post(method: string, parameters?: object): unknown {
    let answer: unknown;
    this.#session.post(method, parameters, (error, result) => {
      if (error !== null) throw new Error(`${method}: ${error.message}`);
      answer = result;
    });
    return answer;
  }
}

function blocksOf(coverage: readonly Coverage[], except: string): number {
  let blocks = 0;
  for (const { url, functions } of coverage) {
    if (!url.includes('/src/') || url.includes(except)) continue;
    for (const { ranges } of functions) for (const { count } of ranges) blocks += count;
  }
  return blocks;
}

interface Coverage {
  readonly url: string;
  readonly functions: readonly { readonly ranges: readonly { readonly count: number }[] }[];
}
