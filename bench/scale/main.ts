import { writeFileSync } from 'node:fs';
import { scalePage } from './page.ts';
import { SCALE_PARTS, SCALE_TARGETS } from './parts.ts';
import { overSize, overSpaces, type Point, pagesName } from './sweeps.ts';

const SPACES = [1, 8, 64, 512, 4096];
const QUICK_MOST = { spaces: 64, mappings: 1e4, bytes: 2 ** 30 };
const FULL_MOST = { spaces: 4096, mappings: 1e7, bytes: 2 ** 40 };

/** lg2 of the pages of which tables are filled, in bytes. */
const PAGES = [12, 16, 21, 30];

/** What is swept, and over what, as `--list` says it. */
export function listScale(): void {
  console.log(`scale spaces (${SPACES.join(', ')}): ${SCALE_TARGETS.join('; ')}`);
  console.log(`scale mappings (10^3 to 10^7): scattered`);
  console.log(`scale size (1 MiB to 1 TiB): ${PAGES.map(pagesName).join('; ')}`);
}

/** `npm run bench -- scale [PART…]`: what operations cost as the machine grows. No part: all of them. */
export function scale(
  parts: readonly string[],
  { quick, json, html }: { readonly quick: boolean; readonly json: string | null; readonly html: string | null },
): void {
  const most = quick ? QUICK_MOST : FULL_MOST;
  const points: Point[] = [];
  const add = (point: Point) => {
    points.push(point);
    console.log(lineOf(point));
  };
  console.log(['sweep', 'variant', 'x', 'µs', 'host calls', 'blocks', 'bytes', 'longest ms'].join('\t'));
  const named = SCALE_TARGETS.filter((target) => parts.includes(target));
  const targets = named.length === 0 ? SCALE_TARGETS : named;
  const sweeps: Readonly<Record<(typeof SCALE_PARTS)[number], () => void>> = {
    spaces() {
      for (const target of targets) for (const n of SPACES) if (n <= most.spaces) add(overSpaces(target, n, quick ? 10 : 200));
    },
    mappings() {
      for (let pages = 1e3; pages <= most.mappings; pages *= 10) add(overSize('mappings', pages * 4096, 12, true));
    },
    size() {
      for (const pageLg2 of PAGES)
        for (let lg2 = Math.max(20, pageLg2); 2 ** lg2 <= most.bytes; lg2 = lg2 < 30 ? 30 : lg2 + 5)
          add(overSize('guest size', 2 ** lg2, pageLg2, false));
    },
  };
  for (const part of SCALE_PARTS) if (parts.length === 0 || parts.includes(part) || (part === 'spaces' && named.length > 0)) sweeps[part]();
  if (json !== null) writeFileSync(json, `${JSON.stringify({ points }, null, 2)}\n`);
  if (html !== null) writeFileSync(html, scalePage(points));
}

function lineOf({ sweep, variant, x, microseconds, hostCalls, blocks, bytes, longestMs }: Point): string {
  return [
    sweep,
    variant,
    x,
    microseconds.toPrecision(3),
    hostCalls.toPrecision(3),
    blocks === null ? '–' : blocks.toPrecision(3),
    bytes === null ? '–' : bytes.toPrecision(3),
    longestMs.toFixed(2),
  ].join('\t');
}
