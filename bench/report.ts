import type { ResultRow } from './row.ts';

const columns = (cells: readonly string[]) =>
  `${cells[0].padEnd(22)}${cells[1].padEnd(30)}${cells
    .slice(2)
    .map((cell) => cell.padStart(9))
    .join('')}`;

/** @param compiler its version, null when there is none */
export function header(compiler: string | null): string {
  const against =
    compiler === null
      ? 'No C compiler was found (cc, or what CC names): no ratios.'
      : `C: ${compiler}, -O3. Medians of alternating fresh processes.`;
  return `${against}\n${columns(['row', 'variant', 'ns/op', 'C ns/op', 'ratio', 'goal', 'met'])}`;
}

export function lineOf(row: ResultRow): string {
  const number = (value: number | null, digits: number) => (value === null ? '-' : value.toFixed(digits));
  const met = row.met === null ? '-' : row.met ? 'yes' : 'NO';
  return columns([
    row.name,
    row.variant,
    number(row.nsPerOp, 2),
    number(row.baselineNsPerOp, 2),
    number(row.ratio, 2),
    row.goal === null ? '-' : `≤ ${row.goal}`,
    met,
  ]);
}

export function footer(rows: readonly ResultRow[]): string {
  const missed = rows.filter((row) => row.met === false);
  const judged = rows.filter((row) => row.met !== null).length;
  if (judged === 0) return 'No goal could be judged.';
  return missed.length === 0 ? `All ${judged} goals met.` : `${missed.length} of ${judged} goals missed.`;
}
