import { connect, type Socket } from 'node:net';
import { requireObject, requireString } from '../../memory/arguments.ts';
import { linesOf } from './lines.ts';
import type { TestMachine } from './machine.ts';
import { COMMAND_LIMIT, QmpProtocol } from './qmp-protocol.ts';
import { LINE_LIMIT, QtestProtocol } from './qtest-protocol.ts';

/** Sockets on which a client waits for its QEMU. */
export interface QtestSockets {
  readonly qtest: string;
  readonly qmp: string | null;
}

/** What is said to a line, and whether it was the last. */
interface Reply {
  readonly text: string;
  readonly quit: boolean;
}

/** Serves a machine to a qtest client that listens; resolves when the client is gone, or says so. @throws Node's error when nobody listens. */
export async function serveQtest(machine: TestMachine, sockets: QtestSockets): Promise<void> {
  requireObject('serveQtest', 'sockets', sockets);
  const { qtest, qmp } = sockets;
  requireString('serveQtest', 'qtest', qtest);
  const opened: Socket[] = [];
  const open = async (path: string): Promise<Socket> => {
    const socket = connect(path);
    opened.push(socket);
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    // Its lines end then.
    return socket.on('error', () => {});
  };
  try {
    const protocol = new QtestProtocol(machine);
    const data = await open(qtest);
    const control = qmp === null ? null : await open(qmp);
    const ended = [
      converse(data, LINE_LIMIT, (line) => {
        const answer = protocol.answer(line);
        return { text: answer === null ? '' : `${answer}\n`, quit: false };
      }),
    ];
    if (control !== null) {
      const commands = new QmpProtocol(machine);
      const said = (objects: readonly object[]) => objects.map((one) => `${JSON.stringify(one)}\r\n`).join('');
      control.write(said([commands.greeting]));
      ended.push(
        converse(control, COMMAND_LIMIT, (line) => {
          const { lines, quit } = commands.answer(line);
          return { text: said(lines), quit };
        }),
      );
    }
    await Promise.race(ended);
  } finally {
    for (const socket of opened) socket.destroy();
  }
}

/**
 * Answers lines until the client has said all, or is gone, or told to quit. A client that does not read its answers is not read further, so that
 * one answer at most waits for it.
 */
async function converse(socket: Socket, limit: number, answer: (line: string) => Reply): Promise<void> {
  for await (const line of linesOf(textOf(socket), limit)) {
    if (line.trim() === '') continue;
    const { text, quit } = answer(line);
    if (text !== '' && !socket.write(text, 'latin1')) await drained(socket);
    // Nobody waits for what else it asked for.
    if (quit || socket.destroyed) break;
  }
  if (!socket.destroyed) await new Promise<void>((resolve) => socket.end(() => resolve()));
}

/** What comes, until the client is gone, in whichever way. */
async function* textOf(socket: Socket): AsyncGenerator<string> {
  try {
    // Not destroyed where nobody reads on: answers may be under way.
    yield* socket.setEncoding('latin1').iterator({ destroyOnReturn: false }) as AsyncIterable<string>;
  } catch {
    // A connection that breaks is one that ends.
  }
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done).off('close', done);
      resolve();
    };
    socket.on('drain', done).on('close', done);
    if (socket.destroyed) done();
  });
}
