import { readFileSync } from 'node:fs';
import { relative } from 'node:path';

/** Files of which fewer branches run than the goal says, and why that is as it should be. */
const REASONS: Readonly<Record<string, string>> = {};

const GOAL = 0.9;
const JUDGED = /^src\/(accel|host|target)\//;

/** What v8 counts of a file, as Istanbul writes it: how often each way of each branch was gone, and where it begins; an `else` that is not there begins nowhere. */
interface FileCoverage {
  readonly path: string;
  readonly b: Readonly<Record<string, readonly number[]>>;
  readonly branchMap: Readonly<
    Record<string, { readonly type: string; readonly loc: Place; readonly locations: readonly Partial<Place>[] }>
  >;
}

interface Place {
  readonly start: { readonly line?: number };
}

const root = process.cwd();
const files = Object.values(JSON.parse(readFileSync('coverage/coverage-final.json', 'utf8')) as Record<string, FileCoverage>);
let unexplained = 0;
const seen = new Set<string>();
for (const { path, b, branchMap } of files) {
  const file = relative(root, path);
  const ways = Object.entries(b).flatMap(([id, counts]) => counts.map((count, way) => ({ id, way, count })));
  const missed = ways.filter(({ count }) => count === 0);
  if (!JUDGED.test(file) || ways.length - missed.length >= GOAL * ways.length) continue;
  seen.add(file);
  const reason = REASONS[file];
  if (reason === undefined) unexplained++;
  console.log(`${file}: ${ways.length - missed.length} of ${ways.length}${reason === undefined ? '' : `: ${reason}`}`);
  if (reason !== undefined) continue;
  const text = readFileSync(path, 'utf8').split('\n');
  for (const { id, way } of missed) {
    const { type, loc, locations } = branchMap[id];
    const line = locations[way].start?.line ?? loc.start.line!;
    console.log(`  ${line}: ${type} ${way}: ${text[line - 1].trim()}`);
  }
}
const stale = Object.keys(REASONS).filter((file) => !seen.has(file));
for (const file of stale) console.log(`${file}: has a reason, and needs none`);
console.log(`${unexplained} files below ${100 * GOAL} % of their branches without a reason`);
process.exitCode = unexplained + stale.length > 0 ? 1 : 0;
