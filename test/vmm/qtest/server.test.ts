import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fc, test as property } from '@fast-check/vitest';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { serveQtest, testMachine } from '../../../src/vmm/qtest/index.ts';
import { linesOf } from '../../../src/vmm/qtest/lines.ts';
import { COMMAND_LIMIT } from '../../../src/vmm/qtest/qmp-protocol.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-qtest-server-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function* pieces(...texts: string[]): AsyncGenerator<string> {
  yield* texts;
}

async function all(lines: AsyncIterable<string>): Promise<string[]> {
  const found: string[] = [];
  for await (const line of lines) found.push(line);
  return found;
}

describe('lines', () => {
  property.prop([fc.array(fc.stringMatching(/^[a-z]{0,6}$/)), fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 })])(
    'cut anywhere are the same lines; what has no end is none',
    async (lines, cuts) => {
      const text = `${lines.map((line) => `${line}\n`).join('')}rest`;
      const parts: string[] = [];
      for (let at = 0; at < text.length; at += parts.at(-1)!.length) parts.push(text.slice(at, at + cuts[parts.length % cuts.length]!));
      expect(await all(linesOf(pieces(...parts), 8))).toEqual(lines);
    },
  );

  test('a long one in a hundred thousand pieces costs no more than its length', async () => {
    const count = 1 << 17;
    async function* long() {
      for (let i = 0; i < count; i++) yield 'x'.repeat(128);
      yield '\n';
    }
    const [line] = await all(linesOf(long(), 128 * count));
    expect(line!.length).toBe(128 * count);
  });

  test('one that is too long ends them, whether it has an end or not', async () => {
    expect(await all(linesOf(pieces('12345678\n', '123456', '789\nmore\n'), 8))).toEqual(['12345678']);
    let asked = 0;
    async function* endless() {
      for (;;) {
        asked++;
        yield 'xxxx';
      }
    }
    expect(await all(linesOf(endless(), 8))).toEqual([]);
    expect(asked).toBe(3);
  });
});

describe('served over sockets', () => {
  let servers: Server[] = [];
  let served: Promise<void>;
  let data: Socket;
  let control: Socket;
  let count = 0;

  beforeEach(async () => {
    const paths = ['qtest', 'qmp'].map((name) => join(folder, `${name}${count++}`)) as [string, string];
    servers = paths.map((path) => createServer().listen(path));
    const connected = servers.map((server) => once(server, 'connection').then(([socket]) => socket as Socket));
    await Promise.all(servers.map((server) => once(server, 'listening')));
    served = serveQtest(testMachine('q35', { ramBytes: 1 << 20 }), { qtest: paths[0], qmp: paths[1] });
    [data, control] = (await Promise.all(connected)) as [Socket, Socket];
    for (const socket of [data, control]) socket.on('error', () => {}).setEncoding('latin1');
  });
  afterEach(async () => {
    for (const socket of [data, control]) socket.destroy();
    for (const server of servers) server.close();
    await served;
  });

  async function line(socket: Socket): Promise<string> {
    let text = '';
    while (!text.includes('\n')) {
      text += socket.read() ?? '';
      if (!text.includes('\n')) await once(socket, 'readable');
    }
    return text;
  }

  test('a client that reads no answers is read no further: what waits for it is bounded', async () => {
    // 2 MiB of answer for a command of 20 bytes.
    const command = 'read 0x0 0x100000\n';
    data.pause();
    data.write(command.repeat(4000));
    control.write('{"execute":"qmp_capabilities"}\n');
    expect(await line(control)).toContain('QMP');
    // Had it been read to the end, 8 GB would wait. It goes on where it was when they are read.
    let read = 0;
    data.on('data', (text) => {
      read += text.length;
    });
    data.resume();
    await expect.poll(() => read > 5 << 20, { timeout: 20_000 }).toBe(true);
  });

  test('a line without an end, of either socket, ends it', async () => {
    control.write('x'.repeat(COMMAND_LIMIT + 1));
    await served;
  });

  test('what was asked before the client said its last is answered', async () => {
    data.end('readl 0xfed90000\nreadl 0xfed90000');
    let text = '';
    for await (const part of data) text += part;
    expect(text).toBe('OK 0x0000000000000010\n');
    await served;
  });

  test('quit is answered, told, and ends it though its client does not close', async () => {
    control.write('{"execute":"qmp_capabilities"}\n{"execute":"quit","id":"ä"}\n', 'latin1');
    let text = '';
    for await (const part of control) text += part;
    const said = text
      .trim()
      .split('\r\n')
      .map((one) => JSON.parse(one));
    expect(said.slice(1)).toMatchObject([{ return: {} }, { return: {}, id: 'ä' }, { event: 'SHUTDOWN' }]);
    await served;
  });

  test.each(['data', 'control'])('a client that breaks its %s off in the middle of a line ends it', async (which) => {
    const socket = which === 'data' ? data : control;
    socket.write('readl 0xfed90000\n{"exe');
    await line(socket);
    socket.destroy();
    await served;
  });
});
