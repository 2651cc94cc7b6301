import { spawn } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openLibc } from '../../src/vmm/vfio-user/native/libc.ts';
import { POLLIN } from '../../src/vmm/vfio-user/native/poller.ts';
import { Command, HEADER, REGION_ACCESS, VERSION_BYTES } from '../../src/vmm/vfio-user/spec.ts';
import type { Row, Work } from '../row.ts';

/** Of a module that one process alone loads, to measure this. */
const libc = await openLibc();
const PATIENCE_MILLISECONDS = 30_000;

/** A client that waits, as a processor does that reads a register; the server is a process of its own. */
class Client {
  readonly #socket: number;
  readonly #fds = libc.port.allocate(4096);

  constructor(path: string) {
    const pause = new Int32Array(new SharedArrayBuffer(4));
    let socket = -1;
    for (let waited = 0; socket < 0 && waited < PATIENCE_MILLISECONDS; waited += 10) {
      Atomics.wait(pause, 0, 0, 10);
      socket = libc.connect(path);
    }
    if (socket < 0) throw new Error('the server does not come up');
    this.#socket = socket;
    const pollFd = new DataView(this.#fds.buffer);
    pollFd.setInt32(0, socket, true);
    pollFd.setInt16(4, POLLIN, true);
    this.ask(Command.VERSION, new Uint8Array(VERSION_BYTES));
  }

  /** Bytes of the reply. */
  ask(command: number, payload: Uint8Array): number {
    const bytes = new Uint8Array(HEADER.BYTES + payload.length);
    const view = new DataView(bytes.buffer);
    view.setUint16(HEADER.COMMAND, command, true);
    view.setUint32(HEADER.SIZE, bytes.length, true);
    bytes.set(payload, HEADER.BYTES);
    libc.send(this.#socket, bytes, 0);
    libc.poll(this.#fds, 1, PATIENCE_MILLISECONDS);
    return libc.receive(this.#socket, 4096).count;
  }
}

/** Transport, and where the server is and what else its process does (vfio-user-server.ts). */
const servers = {
  native: ['native', 'main', 'idle'],
  net: ['net', 'main', 'idle'],
  'native in a worker': ['native', 'worker', 'idle'],
  'native, main loop busy': ['native', 'main', 'busy'],
  'native in a worker, main loop busy': ['native', 'worker', 'busy'],
} as const;

function roundTrip(server: readonly string[]): Work {
  const path = join(mkdtempSync(join(tmpdir(), 'viommu-bench-')), 'socket');
  const script = fileURLToPath(new URL('../vfio-user-server.ts', import.meta.url));
  const child = spawn(process.execPath, [...process.execArgv, script, path, ...server], { stdio: 'ignore' });
  child.unref();
  process.once('exit', () => child.kill());
  const client = new Client(path);
  const read = new Uint8Array(REGION_ACCESS.BYTES);
  new DataView(read.buffer).setUint32(REGION_ACCESS.COUNT, 4, true);
  const operations = 20;
  const batch = () => {
    let sum = 0;
    for (let i = 0; i < operations; i++) sum += client.ask(Command.REGION_READ, read);
    return sum;
  };
  return { operations, batch };
}

export const row: Row = {
  name: 'vfio-user-read',
  baseline: null,
  variants: Object.entries(servers).map(([name, server]) => ({
    name: `register read, ${name}`,
    goal: null,
    baseline: null,
    setup: () => roundTrip(server),
  })),
};
