/** A cell: text to the left, a number to the right with separators. */
type Cell = string | number;

/** Lines of a table of at most `columns` columns; the first column gives way where it is wider. */
export function table(heading: readonly string[], rows: readonly (readonly Cell[])[], columns: number): string[] {
  const cells = [heading, ...rows.map((row) => row.map((cell) => (typeof cell === 'number' ? cell.toLocaleString('en') : cell)))];
  const widths = heading.map((_, column) => Math.max(...cells.map((row) => row[column].length)));
  const over = widths.reduce((sum, width) => sum + width + 2, -2) - columns;
  if (over > 0) widths[0] = Math.max(8, widths[0] - over);
  return cells.map((row) =>
    row
      .map((cell, column) => padded(cell, widths[column], column === 0))
      .join('  ')
      .trimEnd(),
  );
}

function padded(text: string, width: number, left: boolean): string {
  const short = text.length > width ? `${text.slice(0, width - 1)}…` : text;
  return left ? short.padEnd(width) : short.padStart(width);
}
