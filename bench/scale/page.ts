import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Point } from './sweeps.ts';

const require = createRequire(import.meta.url);
const uplot = (file: string) => readFileSync(require.resolve(`uplot/dist/${file}`), 'utf8');

/** One self-contained page: for each sweep the time, the host calls and the bytes of one operation or guest page, as curves. */
export function scalePage(points: readonly Point[]): string {
  const data = JSON.stringify(points).replaceAll('<', '\\u003c');
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>viommu: how costs grow</title>
<style>${uplot('uPlot.min.css')} body { font: 14px system-ui, sans-serif; margin: 2em auto; max-width: 72em; }</style>
<h1>How costs grow</h1><div id="plots"></div>
<script>${uplot('uPlot.iife.min.js')}</script>
<script>
const points = ${data};
${plots}
</script>
</html>
`;
}

/** Runs in the page. */
const plots = `
const colours = ['#1668b8', '#c60', '#080', '#808'];
for (const sweep of new Set(points.map((point) => point.sweep))) {
  const shown = points.filter((point) => point.sweep === sweep);
  const variants = [...new Set(shown.map((point) => point.variant))];
  const xs = [...new Set(shown.map((point) => point.x))].sort((a, b) => a - b);
  for (const [key, title] of [['microseconds', 'µs'], ['hostCalls', 'host calls'], ['blocks', 'blocks of code'], ['bytes', 'bytes']]) {
    const column = (variant) => xs.map((x) => shown.find((point) => point.variant === variant && point.x === x)?.[key] ?? null);
    new uPlot({
      title: title + ' by ' + sweep, width: 1100, height: 320,
      scales: { x: { time: false, distr: 3 }, y: { range: (_, __, max) => [0, max * 1.1] } },
      series: [{ label: sweep }, ...variants.map((variant, i) => ({ label: variant, stroke: colours[i % 4], spanGaps: true, points: { show: true } }))],
    }, [xs, ...variants.map(column)], document.getElementById('plots'));
  }
}
`;
