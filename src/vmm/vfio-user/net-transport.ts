import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { MessageAssembler, ProtocolError } from './message.ts';
import { type Connection, type ConnectionHandler, type Transport, UNSENT_LIMIT } from './transport.ts';

/** The transport that needs nothing but Node. Descriptors are lost on the way: no eventfds, and no memory but what the server was given. */
export const netTransport: Transport = {
  descriptors: null,
  listen: async (path, accept) => {
    const connections = new Set<NetConnection>();
    const server = createServer((socket) => {
      const connection = new NetConnection(socket, () => connections.delete(connection));
      connections.add(connection);
      connection.open(accept(connection));
    });
    server.listen(path);
    await once(server, 'listening');
    return () => {
      server.close();
      for (const connection of [...connections]) connection.close();
    };
  },
};

class NetConnection implements Connection {
  readonly #socket: Socket;
  readonly #assembler = new MessageAssembler();
  #handler: ConnectionHandler | null = null;
  #closed = false;

  constructor(socket: Socket, ended: () => void) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    // What failed is said by 'close' as well.
    socket.on('error', () => {});
    socket.on('close', () => {
      ended();
      this.#end();
    });
  }

  open(handler: ConnectionHandler): void {
    this.#handler = handler;
  }

  #take(chunk: Uint8Array): void {
    try {
      for (let at = 0; at < chunk.length && !this.#closed; ) {
        const end = Math.min(chunk.length, at + this.#assembler.wanted);
        const message = this.#assembler.push(chunk.subarray(at, end));
        at = end;
        if (message !== null) this.#handler?.received(message);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.close();
    }
  }

  send(bytes: Uint8Array): void {
    if (this.#closed) return;
    this.#socket.write(bytes);
    if (this.#socket.writableLength > UNSENT_LIMIT) this.close();
  }

  close(): void {
    this.#socket.destroy();
    this.#end();
  }

  #end(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#handler?.closed();
  }
}
