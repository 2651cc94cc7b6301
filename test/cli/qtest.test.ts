import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, describe, expect, test } from 'vitest';
import { runCli } from './run-cli.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-qtest-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function listener(name: string): Promise<{ server: Server; path: string; connection: Promise<Socket> }> {
  const path = join(folder, name);
  const server = createServer();
  const connection = once(server, 'connection').then(([socket]) => socket as Socket);
  server.listen(path);
  await once(server, 'listening');
  return { server, path, connection };
}

test('connects to its client’s sockets as QEMU does, serves them, and ends with them', async () => {
  const [qtest, qmp] = await Promise.all([listener('qtest'), listener('qmp')]);
  const arguments_ = [
    '-qtest',
    `unix:${qtest.path}`,
    '-chardev',
    `socket,path=${qmp.path},id=char0`,
    '-device',
    'iommu-testdev,addr=10.0',
    '-m',
    '64M',
  ];
  const run = runCli('qtest', '--machine', 'q35', '--', ...arguments_);
  const [data, control] = await Promise.all([qtest.connection, qmp.connection]);
  const dataLines = createInterface(data)[Symbol.asyncIterator]();
  const controlLines = createInterface(control)[Symbol.asyncIterator]();
  expect(JSON.parse((await controlLines.next()).value)).toHaveProperty('QMP');
  data.write('readl 0xb0080000\nreadl 0xfed90000\n');
  expect([(await dataLines.next()).value, (await dataLines.next()).value]).toEqual(['OK 0x0000000000051b36', 'OK 0x0000000000000010']);
  control.write('{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n');
  expect(JSON.parse((await controlLines.next()).value)).toEqual({ return: {} });
  expect((await run).status).toBe(0);
  qtest.server.close();
  qmp.server.close();
});

describe('misuse', () => {
  test.each([
    [['--machine', 'pc'], /--machine pc is none of riscv-virt, q35, arm-virt/],
    [['--machine', 'q35'], /-qtest unix:PATH says where/],
    [['--machine', 'q35', '--', '-qtest', 'unix:/nowhere/socket'], /nobody listens on \/nowhere\/socket: ENOENT/],
    [['--machine', 'arm-virt', '--', '-qtest', 'unix:x', '-device', 'amd-iommu'], /unit amd is none of arm-virt's: smmuv3/],
    [['--machine', 'q35', '--', '-qtest', 'unix:x', '-m', 'much'], /-m much is no size/],
    [['--machine', 'q35', '--', '-qtest', 'unix:x', '-m', '5G'], /-m 5G is no size up to 4 GiB/],
    [['--machine', 'q35', '--', '-qtest', 'unix:x', '-m', '4097'], /-m 4097 is no size up to 4 GiB/],
  ])('%j', async (given, message) => {
    const { status, err } = await runCli('qtest', ...given);
    expect([status, err]).toEqual([2, expect.stringMatching(message)]);
  });
});

test.each([[['-qtest']], [['-qtest', '']], [['-qtest', '-m', '64M']], [['-qtest', 'unix:']], [['-qtest', 'unix:x', '-m']]])(
  '%j: an argument without a value is misuse, in one line',
  async (given) => {
    const { status, out, err } = await runCli('qtest', '--machine', 'q35', '--', ...given);
    expect({ status, out }).toEqual({ status: 2, out: '' });
    expect(err).toMatch(/^viommu qtest: (-qtest|-m) (needs a value|unix: names no socket)$/);
  },
);
