import { fstatSync, rmSync } from 'node:fs';
import { errno, HostError } from '../../../host/errno.ts';
import type { Descriptors } from '../descriptors.ts';
import { MessageAssembler, ProtocolError } from '../message.ts';
import { type Connection, type ConnectionHandler, type Transport, UNSENT_LIMIT } from '../transport.ts';
import { type Libc, openLibc } from './libc.ts';
import { POLLIN, POLLOUT, Poller, type Watch } from './poller.ts';

/** Messages of one connection that are handled before the others have their turn. */
const MESSAGES_A_TURN = 32;

let pollerOf: { readonly libc: Libc; readonly poller: Poller } | null = null;

/** The transport that brings descriptors. @throws Error that says what is missing: Linux, or koffi for this processor. */
export async function nativeTransport(): Promise<Transport> {
  const libc = await openLibc();
  pollerOf ??= { libc, poller: new Poller(libc) };
  const { poller } = pollerOf;
  return {
    descriptors: descriptorsOf(libc),
    listen: async (path, accept) => {
      const listener = libc.listen(path);
      if (listener < 0) throw new HostError(`listen on ${path}`, listener);
      const connections = new Set<NativeConnection>();
      const watch = poller.watch(listener, () => {
        const socket = libc.accept(listener);
        if (socket < 0) return;
        const connection = new NativeConnection(libc, poller, socket, () => connections.delete(connection));
        connections.add(connection);
        connection.open(accept(connection));
      });
      return () => {
        watch.close();
        for (const connection of [...connections]) connection.close();
        libc.port.close(listener);
        rmSync(path, { force: true });
      };
    },
  };
}

/** What the kernel does with a descriptor, as numbers. */
function descriptorsOf({ port, signal }: Libc): Descriptors {
  return {
    sizeOf: (descriptor) => {
      try {
        return fstatSync(descriptor).size;
      } catch (error) {
        return -((error as NodeJS.ErrnoException).errno ?? errno.EBADF);
      }
    },
    map: (descriptor, bytes, offset, readOnly) => port.mmap(descriptor, bytes, offset, readOnly),
    isEventfd: (descriptor) => port.readlink(`/proc/self/fd/${descriptor}`) === 'anon_inode:[eventfd]',
    signal,
    close: (descriptor) => {
      port.close(descriptor);
    },
  };
}

class NativeConnection implements Connection {
  readonly #libc: Libc;
  readonly #socket: number;
  readonly #assembler = new MessageAssembler();
  readonly #watch: Watch;
  readonly #ended: () => void;
  #handler: ConnectionHandler | null = null;
  #unsent: Uint8Array[] = [];
  #unsentBytes = 0;
  #closed = false;

  constructor(libc: Libc, poller: Poller, socket: number, ended: () => void) {
    this.#libc = libc;
    this.#socket = socket;
    this.#ended = ended;
    this.#watch = poller.watch(socket, (events) => this.#ready(events));
  }

  open(handler: ConnectionHandler): void {
    this.#handler = handler;
  }

  #ready(events: number): void {
    if ((events & POLLOUT) !== 0) this.#flush();
    if ((events & ~POLLOUT) === 0) return;
    for (let messages = 0; messages < MESSAGES_A_TURN && !this.#closed; ) {
      const { count, bytes, descriptors, truncated } = this.#libc.receive(this.#socket, this.#assembler.wanted);
      if (count === -errno.EAGAIN) return;
      if (count <= 0 || truncated) {
        for (const descriptor of descriptors) this.#libc.port.close(descriptor);
        this.close();
        return;
      }
      if (this.#push(bytes, descriptors)) messages++;
    }
  }

  /** Whether a message was handled. */
  #push(bytes: Uint8Array, descriptors: readonly number[]): boolean {
    try {
      const message = this.#assembler.push(bytes, descriptors);
      if (message === null) return false;
      this.#handler?.received(message);
      return true;
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.close();
      return true;
    }
  }

  send(bytes: Uint8Array): void {
    if (this.#closed) return;
    this.#unsent.push(bytes);
    this.#unsentBytes += bytes.length;
    this.#flush();
    if (this.#unsentBytes > UNSENT_LIMIT) this.close();
  }

  #flush(): void {
    while (this.#unsent.length > 0) {
      const [first] = this.#unsent as [Uint8Array];
      const sent = this.#libc.send(this.#socket, first, 0);
      if (sent < 0) {
        if (sent === -errno.EAGAIN) this.#watch.setEvents(POLLIN | POLLOUT);
        else this.close();
        return;
      }
      this.#unsentBytes -= sent;
      if (sent === first.length) this.#unsent.shift();
      else this.#unsent[0] = first.subarray(sent);
    }
    this.#watch.setEvents(POLLIN);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch.close();
    for (const descriptor of this.#assembler.abandon()) this.#libc.port.close(descriptor);
    this.#libc.port.close(this.#socket);
    this.#ended();
    this.#handler?.closed();
  }
}
