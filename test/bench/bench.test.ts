import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Compiler } from '../../bench/compiler.ts';
import { htmlOf } from '../../bench/html.ts';
import { measure } from '../../bench/measure.ts';
import { parseOptions } from '../../bench/options.ts';
import { registry } from '../../bench/registry.ts';
import { footer, header, lineOf } from '../../bench/report.ts';
import type { ResultRow } from '../../bench/row.ts';
import { lowPercentile, median, middleOf } from '../../bench/sample.ts';

const known = ['a', 'b', 'c'];
const quick = { milliseconds: 5, rounds: 1 };

describe('options', () => {
  test('all rows by default, those named otherwise, in the registry’s order', () => {
    expect(parseOptions([], known)).toEqual({ names: known, json: null, html: null, quick: false, list: false, help: false });
    expect(parseOptions(['c', 'a', '--json', 'j', '--html', 'h', '--quick'], known)).toEqual({
      names: ['a', 'c'],
      json: 'j',
      html: 'h',
      quick: true,
      list: false,
      help: false,
    });
  });
  test('an unknown row or option is refused, with what there is', () => {
    expect(() => parseOptions(['d'], known)).toThrow(/no row is named d; there are: a, b, c/);
    expect(() => parseOptions(['--fast'], known)).toThrow(TypeError);
    expect(() => parseOptions(['--json'], known)).toThrow(TypeError);
  });
});

test('median', () => {
  expect(median([3])).toBe(3);
  expect(median([5, 1, 3])).toBe(3);
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(() => median([])).toThrow(RangeError);
});

test('a process counts by the batch that one in twenty is faster than', () => {
  expect(lowPercentile([7])).toBe(7);
  expect(lowPercentile(Array.from({ length: 100 }, (_, i) => 100 - i))).toBe(6);
  expect(() => lowPercentile([])).toThrow(RangeError);
});

test('the spread leaves the extremes out where there are enough', () => {
  expect(middleOf([3, 1, 2])).toEqual([1, 3]);
  expect(middleOf([9, 4, 1, 3, 2])).toEqual([2, 4]);
  expect(() => middleOf([])).toThrow(RangeError);
});

// The rows that issue 3 names.
test('the registry has every row, under the name that the row has', async () => {
  const names = 'iotlb-hit iotlb-vs-ghash walk4 walk5 walk-nested map-range unmap-range interval-map put-tce put-tce-indirect dma-read';
  expect(Object.keys(registry)).toEqual(expect.arrayContaining(names.split(' ')));
  for (const [name, load] of Object.entries(registry)) {
    const { row } = await load();
    expect(row.name).toBe(name);
    expect(new Set(row.variants.map((variant) => variant.name)).size).toBe(row.variants.length);
  }
});

describe('measuring', () => {
  const compiler = new Compiler();
  const none = new Compiler('no-such-compiler');
  afterAll(() => {
    compiler.close();
    none.close();
  });

  test('without a C compiler there is no ratio, and the report says so', async () => {
    const { row } = await registry['dma-read']();
    const result = measure(row, row.variants[0], none, quick);
    expect(result).toMatchObject({ name: 'dma-read', variant: '64 B', baselineNsPerOp: null, ratio: null, met: null });
    expect(result.nsPerOp).toBeGreaterThan(0);
    expect(header(none.version)).toContain('No C compiler was found');
    expect(footer([result])).toBe('No goal could be judged.');
  });

  test.skipIf(compiler.version === null)('C that computes something else is an error', async () => {
    const { row } = await registry['dma-read']();
    const wrong = { ...row.variants[0], baseline: { program: 'tce', arguments: ['read', '63'] } };
    expect(() => measure(row, wrong, compiler, quick)).toThrow(/dma-read, 64 B: JavaScript computed -?\d+, C -?\d+/);
  });

  test.skipIf(compiler.version === null)('virtio MAP: both sides leave the same behind in either ring', async () => {
    const { row } = await registry['virtio-map']();
    const results = row.variants.map((variant) => measure(row, variant, compiler, quick));
    expect(results.map(({ ratio }) => ratio)).toEqual([expect.any(Number), expect.any(Number)]);
    const crossed = { ...row.variants[0], baseline: row.variants[1].baseline };
    expect(() => measure(row, crossed, compiler, quick)).toThrow(/virtio-map, split ring: JavaScript computed -?\d+, C -?\d+/);
  });

  test.skipIf(compiler.version === null)('C that does not compile, or fails, is an error that says why', async () => {
    const { row } = await registry['dma-read']();
    expect(() => compiler.compile('no-such-program')).toThrow(/no-such-program/);
    const failing = { ...row.variants[0], baseline: { program: 'tce', arguments: [] } };
    expect(() => measure(row, failing, compiler, quick)).toThrow(/exit code 2/);
  });
});

describe('the command', () => {
  let directory = '';
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'viommu-bench-test-'));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const bench = (...args: string[]) => spawnSync(process.execPath, ['--import', 'tsx', 'bench/main.ts', ...args], { encoding: 'utf8' });

  test.each([
    ['nosuch', 'no row is named nosuch; there are: iotlb-hit, '],
    ['--bogus', "Unknown option '--bogus'"],
    ['--json', "Option '--json <value>' argument missing"],
  ])('misuse ends with status 2 and one line: %s', (argument, what) => {
    const { status, stdout, stderr } = bench(argument);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^bench: .*\n$/);
    expect(stderr).toContain(what);
  });

  test('--list names every row with its variants, and measures nothing', () => {
    const { status, stdout, stderr } = bench('--list');
    expect([status, stderr]).toEqual([0, '']);
    expect(
      stdout
        .trimEnd()
        .split('\n')
        .map((line) => line.split(':')[0]),
    ).toEqual(Object.keys(registry));
    expect(bench('--list', 'walk4').stdout).toMatch(/^walk4: \S.*\n$/);
    expect(bench('--list', 'scale').stdout).toMatch(/^(scale (spaces|mappings|size) \(.*: \S.*\n){3}$/);
  });

  test.each(['--help', '-h'])('%s names every option and part, and is no misuse', (flag) => {
    const { status, stdout, stderr } = bench(flag);
    expect([status, stderr]).toEqual([0, '']);
    for (const word of ['rows', 'scale', 'spaces, mappings, size', '--list', '--quick', '--json <file>', '--html <file>', '-h, --help'])
      expect(stdout).toContain(word);
    expect(stdout).not.toMatch(/.{81}/);
  });

  test('a part of scale is swept alone', () => {
    const json = join(directory, 'mappings.json');
    const { status, stderr } = bench('scale', 'mappings', '--quick', '--json', json);
    expect([status, stderr]).toEqual([0, '']);
    const { points } = JSON.parse(readFileSync(json, 'utf8')) as { points: { sweep: string; x: number; blocks: number }[] };
    expect(points.map(({ sweep, x }) => [sweep, x])).toEqual([
      ['mappings', 1e3],
      ['mappings', 1e4],
    ]);
    // A page takes a map of its own: tens of functions, loops and branches, all of which are counted.
    for (const { blocks } of points) expect(blocks).toBeGreaterThan(50);
  }, 60_000);

  test('writes the rows as issue 3 says, and a page that needs nothing else', () => {
    const json = join(directory, 'rows.json');
    const html = join(directory, 'rows.html');
    const { status, stderr } = bench('put-tce', '--quick', '--json', json, '--html', html);
    expect([status, stderr]).toEqual([0, '']);
    const { machine, rows } = JSON.parse(readFileSync(json, 'utf8'));
    expect(machine).toMatchObject({ node: process.versions.node, compiler: new Compiler().version, cores: expect.any(Number) });
    expect(machine.cpu).not.toBe('');
    expect(new Date(machine.date).toISOString()).toBe(machine.date);
    const [least, most] = rows[0].spread;
    expect(least <= rows[0].nsPerOp && rows[0].nsPerOp <= most).toBe(true);
    expect(rows).toHaveLength(1);
    expect(Object.keys(rows[0]).join(' ')).toBe(
      'name variant nsPerOp spread baseline baselineNsPerOp baselineSpread ratio ratioSpread goal met',
    );
    if (rows[0].ratio !== null) expect(rows[0].ratio).toBeCloseTo(rows[0].nsPerOp / rows[0].baselineNsPerOp);
    const page = readFileSync(html, 'utf8');
    expect(page).toContain('put-tce');
    expect(page).not.toMatch(/(src|href)=|@import|url\(/);
  });
});

describe('reports', () => {
  const row: ResultRow = {
    name: '</script>',
    variant: 'v',
    nsPerOp: 3,
    spread: [2, 4],
    baseline: 'C & more',
    baselineNsPerOp: 2,
    baselineSpread: [2, 2],
    ratio: 1.5,
    ratioSpread: [1.4, 1.6],
    goal: 1.3,
    met: false,
  };
  test('a missed goal shows', () => {
    expect(lineOf(row)).toMatch(/1\.50 +1\.40–1\.60 +≤ 1\.3 +missed$/);
  });
  test('the goals stand at the end, by how they stand', () => {
    const met = { ...row, name: 'm', goal: 2, met: true };
    const undecided = { ...row, name: 'u', goal: 1.5, met: null };
    const noGoal = { ...row, name: 'n', goal: null, met: null };
    const lines = footer([undecided, row, noGoal, met]).trim().split('\n');
    expect(lines.map((line) => line.trim().split(/ +/)[0])).toEqual(['1', 'm', '1', '</script>', '1', 'u']);
    expect(lines.filter((line) => line.endsWith(':'))).toEqual(['1 goal met:', '1 goal missed:', '1 goal undecided:']);
    expect(lines[5]).toMatch(/1\.50 +1\.40–1\.60 +≤ 1\.5$/);
  });
  test('names cannot break out of the page', () => {
    const page = htmlOf([row], 'cc 1');
    expect(page.match(/<\/script>/g)).toHaveLength(2);
    expect(page).toContain('&lt;/script&gt;');
    expect(page).toContain('C &amp; more');
    expect(htmlOf([row], null)).toContain('No C compiler was found');
  });
});

test('a sample process says what went wrong', () => {
  expect(() =>
    execFileSync(process.execPath, ['--import', 'tsx', 'bench/worker.ts', 'dma-read', 'nothing', '1'], { stdio: 'pipe' }),
  ).toThrow(/dma-read has no variant nothing/);
});
