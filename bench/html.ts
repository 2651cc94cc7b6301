import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { cellsOf, verdictOf } from './report.ts';
import type { ResultRow } from './row.ts';

const require = createRequire(import.meta.url);
/** Text of a file of the uPlot package (MIT): the page carries it along, and needs nothing else. */
const uplot = (file: string) => readFileSync(require.resolve(`uplot/dist/${file}`), 'utf8');

const escaped = (text: string) => text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);

/**
 * One self-contained page: a plot of the ratios to C beside their goals, a plot of the times, and the table of both.
 * @param compiler its version, null when there is none
 */
export function htmlOf(rows: readonly ResultRow[], compiler: string | null): string {
  const table = rows.map((row) => {
    const cells = [...cellsOf(row, '–'), row.baseline ?? '–'].map((cell) => `<td>${escaped(cell)}</td>`);
    return `<tr class="${verdictOf(row) ?? ''}">${cells.join('')}</tr>`;
  });
  // "</script>" within a name must not end the script.
  const data = JSON.stringify(rows).replaceAll('<', '\\u003c');
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>viommu benchmarks</title>
<style>${uplot('uPlot.min.css')}
body { font: 14px system-ui, sans-serif; margin: 2em auto; max-width: 72em; }
table { border-collapse: collapse; margin-top: 2em } td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd }
td:nth-child(-n + 2), th:nth-child(-n + 2), td:last-child, th:last-child { text-align: left }
.met td:nth-child(8) { color: #080 } .missed td:nth-child(8) { color: #b00 }
</style>
<h1>viommu benchmarks</h1>
<p>${compiler === null ? 'No C compiler was found: no ratios.' : `Baseline: ${escaped(compiler)}, -O3.`} Medians of alternating fresh processes, each by its low percentile of short batches, Node ${process.versions.node}.</p>
<div id="ratios"></div><div id="times"></div>
<table><tr><th>row<th>variant<th>ns/op<th>C ns/op<th>ratio<th>spread<th>goal<th><th>C does</tr>
${table.join('\n')}
</table>
<script>${uplot('uPlot.iife.min.js')}</script>
<script>
const rows = ${data};
${plots}
</script>
</html>
`;
}

/** Runs in the page, with `rows` and `uPlot` defined. Text, because what tsx makes of a function needs helpers that the page lacks. */
const plots = `
const label = (row) => row ? row.name + ': ' + row.variant : '';
const bars = (align) => uPlot.paths.bars({ size: [0.38, 40], align });
function plot(id, title, shown, y, series, columns) {
  if (shown.length === 0) return;
  new uPlot({
    title, width: 1100, height: 460,
    scales: { x: { time: false, range: [-1, shown.length] }, y },
    axes: [
      { rotate: -60, size: 220, splits: () => shown.map((_, i) => i), values: (_, splits) => splits.map((i) => label(shown[i])) },
      { size: 70 },
    ],
    series: [{ label: 'row', value: (_, i) => label(shown[i]) }, ...series],
  }, [shown.map((_, i) => i), ...columns], document.getElementById(id));
}
const judged = rows.filter((row) => row.ratio !== null);
plot('ratios', 'Time as a multiple of C', judged, { range: (_, min, max) => [0, max * 1.1] }, [
  { label: 'ratio', stroke: '#1668b8', fill: '#1668b8', paths: bars(0), points: { show: false } },
  { label: 'goal', stroke: '#c60', paths: () => null, points: { show: true, size: 9, fill: '#c60' } },
], [judged.map((row) => row.ratio), judged.map((row) => row.goal)]);
plot('times', 'ns per operation (logarithmic)', rows, { distr: 3 }, [
  { label: 'viommu', stroke: '#1668b8', fill: '#1668b8', paths: bars(-1), points: { show: false } },
  { label: 'C', stroke: '#888', fill: '#888', paths: bars(1), points: { show: false } },
], [rows.map((row) => row.nsPerOp), rows.map((row) => row.baselineNsPerOp)]);
`;
