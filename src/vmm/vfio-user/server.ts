import { requireObject } from '../../memory/arguments.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { VfioUserClient, VfioUserDevice } from './device.ts';
import { DmaRegions, type SharedRam } from './dma-regions.ts';
import { type Message, ProtocolError } from './message.ts';
import { nativeTransport } from './native/transport.ts';
import { netTransport } from './net-transport.ts';
import { Session } from './session.ts';
import type { Connection, ConnectionHandler, Transport } from './transport.ts';

export interface VfioUserOptions {
  /** Path of the Unix socket, 107 bytes at most. A file that is there is not removed. */
  readonly path: string;
  readonly device: VfioUserDevice;
  /**
   * `native` brings descriptors (guest RAM, eventfds) and needs Linux and koffi; `net` needs nothing. Default: native where it can be had.
   */
  readonly transport?: 'native' | 'net';
  /** RAM of the guest where the client hands over no descriptors: the file that it maps from, as memory of this process. */
  readonly ram?: SharedRam;
  /** What the client maps goes there, but not where there is something already. Default: a memory of its own. */
  readonly memory?: GuestMemory;
  /** Hears what the device threw, and the client is turned away; left out: it is thrown on. */
  readonly failed?: (error: unknown) => void;
}

/**
 * One device on one socket, for one client at a time: a second one is turned away, and after a client is gone the next may come.
 *
 * @example
 * const device = new PciVfioDevice(new PciFunction({ vendor: 0x1234, device: 1, classCode: 0xff0000 }));
 * const server = await VfioUserServer.listen({ path: `/tmp/viommu-example-${process.pid}`, device, transport: 'net' });
 * server.memory.regions.length; // 0: no client has mapped anything
 * server.close();
 */
export class VfioUserServer {
  /** What the client has mapped for DMA: empty without one. The same object for the server's life. */
  readonly memory: GuestMemory;
  readonly #regions: DmaRegions;
  readonly #options: VfioUserOptions;
  readonly #transport: Transport;
  #session: Session | null = null;
  #stop: (() => void) | null = null;

  private constructor(options: VfioUserOptions, transport: Transport) {
    this.#options = options;
    this.#transport = transport;
    this.#regions = new DmaRegions(transport.descriptors, options.ram ?? null, options.memory);
    this.memory = this.#regions.memory;
  }

  /** @throws HostError, or Node's own, when the socket cannot be had; Error when the transport cannot. */
  static async listen(options: VfioUserOptions): Promise<VfioUserServer> {
    requireObject('VfioUserServer', 'options', options);
    const server = new VfioUserServer(options, await transportOf(options.transport));
    await server.#listen();
    return server;
  }

  async #listen(): Promise<void> {
    this.#stop = await this.#transport.listen(this.#options.path, (connection) => {
      if (this.#session !== null) return this.#turnAway(connection);
      const session = new Session(this.#options.device, this.#regions, this.#transport.descriptors, (bytes) => connection.send(bytes));
      this.#session = session;
      return {
        received: (message) => this.#guarded(connection, () => session.receive(message)),
        closed: () => {
          this.#session = null;
          this.#guarded(connection, () => session.close());
        },
      };
    });
  }

  #turnAway(connection: Connection): ConnectionHandler {
    setImmediate(() => connection.close());
    const { descriptors } = this.#transport;
    const received = (message: Message) => {
      for (const one of message.descriptors) descriptors?.close(one);
    };
    return { received, closed: () => {} };
  }

  /** What the device throws goes to who wants to hear of it. */
  #guarded(connection: Connection, act: () => void): void {
    try {
      act();
    } catch (error) {
      const { failed } = this.#options;
      if (failed === undefined || error instanceof ProtocolError) throw error;
      failed(error);
      connection.close();
    }
  }

  /** The client that is there now. */
  get client(): VfioUserClient | null {
    return this.#session;
  }

  /** Whether descriptors come over the transport. */
  get native(): boolean {
    return this.#transport.descriptors !== null;
  }

  /** Turns the client away and stops listening; the socket's file is gone. Idempotent. */
  close(): void {
    this.#stop?.();
    this.#stop = null;
  }
}

async function transportOf(wish: 'native' | 'net' | undefined): Promise<Transport> {
  if (wish === 'net') return netTransport;
  if (wish === 'native') return nativeTransport();
  return nativeTransport().catch(() => netTransport);
}
