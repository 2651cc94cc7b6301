import type { Descriptors } from './descriptors.ts';
import type { Message } from './message.ts';

/** One client's connection. */
export interface Connection {
  send(bytes: Uint8Array): void;
  /** `closed` is called, as if the other side had. */
  close(): void;
}

/** Who handles a connection. */
export interface ConnectionHandler {
  /** @throws ProtocolError to have the connection closed. */
  received(message: Message): void;
  closed(): void;
}

/** A way to listen on a Unix socket. */
export interface Transport {
  /** null: no descriptors come over it. */
  readonly descriptors: Descriptors | null;
  /** Ends with a function that stops listening and closes what is connected. */
  listen(path: string, accept: (connection: Connection) => ConnectionHandler): Promise<() => void>;
}

/** Bytes that wait for a client to read them, at most; then it is closed. */
export const UNSENT_LIMIT = 4 << 20;
