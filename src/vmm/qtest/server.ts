import { connect, type Socket } from 'node:net';
import { requireObject, requireString } from '../../memory/arguments.ts';
import type { TestMachine } from './machine.ts';
import { QmpProtocol } from './qmp-protocol.ts';
import { LINE_LIMIT, QtestProtocol } from './qtest-protocol.ts';

/** Sockets on which a client waits for its QEMU. */
export interface QtestSockets {
  readonly qtest: string;
  readonly qmp: string | null;
}

/** Serves a machine to a qtest client that listens; resolves when the client is gone, or says so. @throws Node's error when nobody listens. */
export async function serveQtest(machine: TestMachine, sockets: QtestSockets): Promise<void> {
  requireObject('serveQtest', 'sockets', sockets);
  const { qtest, qmp } = sockets;
  requireString('serveQtest', 'qtest', qtest);
  const protocol = new QtestProtocol(machine);
  const opened: Socket[] = [];
  const ended: Promise<void>[] = [];
  const open = async (path: string, line: (text: string, socket: Socket) => void): Promise<Socket> => {
    const socket = connect(path);
    opened.push(socket);
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    ended.push(new Promise((resolve) => socket.once('close', () => resolve())));
    socket.on('error', () => {});
    lines(socket, (text) => line(text, socket));
    return socket;
  };
  try {
    await open(qtest, (text, socket) => {
      const answer = protocol.answer(text);
      if (answer !== null) socket.write(`${answer}\n`);
    });
    if (qmp !== null) {
      const control = new QmpProtocol(machine);
      const socket = await open(qmp, (text, from) => {
        const { lines: answers, quit } = control.answer(text);
        for (const one of answers) from.write(`${JSON.stringify(one)}\r\n`);
        if (quit) for (const each of opened) each.end();
      });
      socket.write(`${JSON.stringify(control.greeting)}\r\n`);
    }
    await Promise.race(ended);
  } finally {
    for (const socket of opened) socket.destroy();
  }
}

/** A client that sends a line without an end is none. */
function lines(socket: Socket, take: (text: string) => void): void {
  let rest = '';
  socket.setEncoding('latin1').on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop()!;
    if (rest.length > LINE_LIMIT) socket.destroy();
    for (const one of parts) if (one.trim() !== '') take(one);
  });
}
