import { tmpdir } from 'node:os';
import { expect, test } from 'vitest';
import { runCli } from './run-cli.ts';

test('--list says the rows and measures nothing', async () => {
  const { status, out, err } = await runCli('bench', '--list', 'put-tce', 'walk4');
  expect({ status, err }).toEqual({ status: 0, err: '' });
  expect(out.split('\n').map((line) => line.split(':')[0])).toEqual(['walk4', 'put-tce']);
});

test('it runs wherever the user stands', async () => {
  const before = process.cwd();
  process.chdir(tmpdir());
  try {
    expect(await runCli('bench', '--list', 'walk4')).toMatchObject({ status: 0, err: '' });
  } finally {
    process.chdir(before);
  }
});

test('a row that there is not is misuse, in one line', async () => {
  const { status, out, err } = await runCli('bench', 'nosuch');
  expect({ status, out }).toEqual({ status: 2, out: '' });
  expect(err).toMatch(/^bench: no row is named nosuch; there are: [^\n]*put-tce[^\n]*$/);
});

test('beside scale there is no row, and what there is is named', async () => {
  const unknown = await runCli('bench', 'scale', 'nosuch');
  expect(unknown).toMatchObject({ status: 2, out: '' });
  expect(unknown.err).toMatch(/^bench: no row is named nosuch; there are: [^\n]*walk4, [^\n]*scale$/);
  expect(await runCli('bench', 'scale', 'walk4')).toEqual({ status: 2, out: '', err: 'bench: scale is measured alone, not with walk4' });
});

test('a page that cannot be written is said before anything is measured', async () => {
  expect(await runCli('bench', 'walk4', '--quick', '--html', '/nosuch/page.html')).toEqual({
    status: 2,
    out: '',
    err: 'bench: --html /nosuch/page.html: there is no folder /nosuch',
  });
});

test('--json is one object: rows, or where there are none the status', async () => {
  const { status, out } = await runCli('bench', 'nosuch', '--json');
  expect(status).toBe(2);
  expect(JSON.parse(out)).toEqual({ status: 2 });
  const measured = await runCli('bench', 'mmio-dispatch', '--quick', '--json');
  expect(measured.status).toBe(0);
  const { machine, rows } = JSON.parse(measured.out);
  expect(machine.node).toBe(process.versions.node);
  expect(rows.map(({ name }: { name: string }) => name)).toEqual(['mmio-dispatch']);
});
