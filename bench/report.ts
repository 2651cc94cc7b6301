import type { ResultRow } from './row.ts';

/** How a goal stands: `undecided` where the spread is wider than its margin. */
export type Verdict = 'met' | 'missed' | 'undecided';
const VERDICTS: readonly Verdict[] = ['met', 'missed', 'undecided'];

/** null: there is no goal, or nothing to compare with. */
export function verdictOf({ goal, ratio, met }: ResultRow): Verdict | null {
  if (goal === null || ratio === null) return null;
  return met === null ? 'undecided' : met ? 'met' : 'missed';
}

/** The spread of the ratio in words; empty: there is no ratio. */
function spreadOf({ ratioSpread }: ResultRow): string {
  return ratioSpread === null ? '' : ratioSpread.map((ratio) => ratio.toFixed(2)).join('–');
}

const columns = (cells: readonly string[]) =>
  `${cells[0].padEnd(22)}${cells[1].padEnd(30)}${cells
    .slice(2)
    .map((cell) => cell.padStart(13))
    .join('')}`;

/** @param compiler its version, null when there is none */
export function header(compiler: string | null): string {
  const against =
    compiler === null
      ? 'No C compiler was found (cc, or what CC names): no ratios.'
      : `C: ${compiler}, -O3. Medians of alternating fresh processes, each by its low percentile of short batches; spread: of the pairs.`;
  return `${against}\n${columns(['row', 'variant', 'ns/op', 'C ns/op', 'ratio', 'spread', 'goal', ''])}`;
}

/** What stands below the titles of a report, in their order; `none`: where there is nothing. */
export function cellsOf(row: ResultRow, none: string): string[] {
  const number = (value: number | null) => (value === null ? none : value.toFixed(2));
  return [
    row.name,
    row.variant,
    number(row.nsPerOp),
    number(row.baselineNsPerOp),
    number(row.ratio),
    spreadOf(row) || none,
    row.goal === null ? none : `≤ ${row.goal}`,
    verdictOf(row) ?? none,
  ];
}

export function lineOf(row: ResultRow): string {
  return columns(cellsOf(row, '-'));
}

/** The goals, by how they stand. */
export function footer(rows: readonly ResultRow[]): string {
  const lines = VERDICTS.flatMap((verdict) => {
    const such = rows.filter((row) => verdictOf(row) === verdict);
    if (such.length === 0) return [];
    return [
      `${such.length} ${such.length === 1 ? 'goal' : 'goals'} ${verdict}:`,
      ...such.map((row) => `  ${columns([row.name, row.variant, row.ratio!.toFixed(2), spreadOf(row), `≤ ${row.goal}`])}`),
    ];
  });
  return lines.length === 0 ? 'No goal could be judged.' : `\n${lines.join('\n')}`;
}
