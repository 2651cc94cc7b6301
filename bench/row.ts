/** What is measured: rows, each with variants that differ in size or order of access. */

/** The work of one variant, set up in a process of its own. */
export interface Work {
  /** Operations in a batch. A batch should take less than a millisecond: one longer than a time slice measures the scheduler. */
  readonly operations: number;
  /**
   * Does one batch and returns an int32 made of what it computed: the compiler cannot leave the work out, and the C program's
   * batches must return the same.
   */
  batch(): number;
  /** Runs before each batch, untimed. */
  before?(): void;
}

/** The C program that does the same work: `bench/baseline/<program>.c`, called with these arguments. */
export interface Baseline {
  readonly program: string;
  readonly arguments: readonly string[];
}

export interface Variant {
  readonly name: string;
  /** The ratio to C that is asked for, if one is. */
  readonly goal: number | null;
  /** null: there is nothing to compare with. */
  readonly baseline: Baseline | null;
  /** Further options of node. */
  readonly nodeOptions?: readonly string[];
  setup(): Work;
}

/** Makes the variants of a file of rows, which bench/baseline/PROGRAM.c does too. */
export function variantsBeside(program: string) {
  return (name: string, goal: number | null, args: readonly (string | number)[], setup: () => Work): Variant => ({
    name,
    goal,
    baseline: { program, arguments: args.map(String) },
    setup,
  });
}

export interface Row {
  readonly name: string;
  /** What the C program is, in a few words; null when no variant has one. */
  readonly baseline: string | null;
  readonly variants: readonly Variant[];
}

/** One line of the result. `--json` writes exactly this. */
export interface ResultRow {
  readonly name: string;
  readonly variant: string;
  readonly nsPerOp: number;
  /** Fastest and slowest of the samples of which `nsPerOp` is the median. */
  readonly spread: readonly [number, number];
  readonly baseline: string | null;
  readonly baselineNsPerOp: number | null;
  readonly baselineSpread: readonly [number, number] | null;
  readonly ratio: number | null;
  /** Of the ratios of each process to the C process after it (`middleOf`). */
  readonly ratioSpread: readonly [number, number] | null;
  readonly goal: number | null;
  /** null: there is no goal or no C, or the goal lies within the spread, which decides nothing. */
  readonly met: boolean | null;
}
