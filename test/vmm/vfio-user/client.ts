import { setImmediate as turn } from 'node:timers/promises';
import { type Libc, openLibc } from '../../../src/vmm/vfio-user/native/libc.ts';
import { Command, Flags, HEADER } from '../../../src/vmm/vfio-user/spec.ts';

/** A message that came in. */
export interface Incoming {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly error: number;
  readonly payload: DataView;
}

/** A vfio-user client of the tests' own: sends what it is told, whole or in pieces, right or wrong. */
export class Client {
  readonly #libc: Libc;
  readonly #socket: number;
  #received = new Uint8Array(0);
  #nextId = 100;
  closed = false;
  /** What the server said of its own: DMA_WRITE. */
  readonly writes: { readonly address: bigint; readonly data: number[] }[] = [];

  private constructor(libc: Libc, socket: number) {
    this.#libc = libc;
    this.#socket = socket;
  }

  static async connect(path: string): Promise<Client> {
    const libc = await openLibc();
    const socket = libc.connect(path);
    if (socket < 0) throw new Error(`connect: ${socket}`);
    return new Client(libc, socket);
  }

  /** Connects and agrees on a version. */
  static async greeted(path: string): Promise<Client> {
    const client = await Client.connect(path);
    try {
      await client.ask(Command.VERSION, version());
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  close(): void {
    this.#libc.port.close(this.#socket);
  }

  raw(bytes: Uint8Array, descriptors: readonly number[] = []): void {
    this.#libc.send(this.#socket, bytes, 0, descriptors);
  }

  send(command: number, payload: Uint8Array, descriptors: readonly number[] = [], flags = 0): number {
    const id = this.#nextId++;
    const bytes = new Uint8Array(HEADER.BYTES + payload.length);
    const view = new DataView(bytes.buffer);
    view.setUint16(HEADER.ID, id, true);
    view.setUint16(HEADER.COMMAND, command, true);
    view.setUint32(HEADER.SIZE, bytes.length, true);
    view.setUint32(HEADER.FLAGS, flags, true);
    bytes.set(payload, HEADER.BYTES);
    this.raw(bytes, descriptors);
    return id;
  }

  /** Sends a request and waits for its reply. */
  async ask(command: number, payload: Uint8Array, descriptors: readonly number[] = []): Promise<Incoming> {
    const id = this.send(command, payload, descriptors);
    for (;;) {
      const reply = await this.next();
      if (reply.id === id && (reply.flags & Flags.TYPE) === Flags.REPLY) return reply;
      throw new Error(`reply to ${reply.id}, not to ${id}`);
    }
  }

  /** The next message; the server's own writes are put aside. @throws Error when the server closes. */
  async next(): Promise<Incoming> {
    for (;;) {
      const message = this.#take();
      if (message === null) await this.#receive();
      else if ((message.flags & Flags.TYPE) === Flags.REPLY) return message;
      else this.#aside(message);
    }
  }

  /** Waits until the server has said something of its own. */
  async ownWrite(): Promise<{ readonly address: bigint; readonly data: number[] }> {
    while (this.writes.length === 0) {
      const message = this.#take();
      if (message === null) await this.#receive();
      else this.#aside(message);
    }
    return this.writes.shift()!;
  }

  #aside({ payload }: Incoming): void {
    const data = Array.from(new Uint8Array(payload.buffer, payload.byteOffset + 16, payload.byteLength - 16));
    this.writes.push({ address: payload.getBigUint64(0, true), data });
  }

  async untilClosed(): Promise<void> {
    while (!this.closed) await this.#receive().catch(() => {});
  }

  async #receive(): Promise<void> {
    for (;;) {
      const { count, bytes } = this.#libc.receive(this.#socket, 65536);
      if (count > 0) {
        this.#received = Uint8Array.from([...this.#received, ...bytes]);
        return;
      }
      // EAGAIN: nothing yet. A peer that closed with unread bytes resets the connection.
      if (count !== -11) {
        this.closed = true;
        throw new Error('the server closed the connection');
      }
      await turn();
    }
  }

  #take(): Incoming | null {
    const view = new DataView(this.#received.buffer, this.#received.byteOffset, this.#received.length);
    if (view.byteLength < HEADER.BYTES) return null;
    const size = view.getUint32(HEADER.SIZE, true);
    if (view.byteLength < size) return null;
    const bytes = this.#received.slice(0, size);
    this.#received = this.#received.slice(size);
    const header = new DataView(bytes.buffer);
    return {
      id: header.getUint16(HEADER.ID, true),
      command: header.getUint16(HEADER.COMMAND, true),
      flags: header.getUint32(HEADER.FLAGS, true),
      error: header.getUint32(HEADER.ERROR, true),
      payload: new DataView(bytes.buffer, HEADER.BYTES),
    };
  }

  async readRegion(region: number, offset: number, count: number): Promise<number[]> {
    const { error, payload } = await this.ask(Command.REGION_READ, access(region, offset, count));
    if (error !== 0) throw new Error(`errno ${error}`);
    return Array.from(new Uint8Array(payload.buffer, payload.byteOffset + 16));
  }

  async writeRegion(region: number, offset: number, data: readonly number[]): Promise<number> {
    const { error } = await this.ask(Command.REGION_WRITE, Uint8Array.from([...access(region, offset, data.length), ...data]));
    return error;
  }

  async map(address: bigint, bytes: number, offset: bigint, descriptors: readonly number[], flags = 3): Promise<number> {
    return (await this.ask(Command.DMA_MAP, dmaMap(address, bytes, offset, flags), descriptors)).error;
  }

  async unmap(address: bigint, bytes: number, flags = 0): Promise<number> {
    const payload = new DataView(new ArrayBuffer(24));
    payload.setUint32(0, 24, true);
    payload.setUint32(4, flags, true);
    payload.setBigUint64(8, address, true);
    payload.setBigUint64(16, BigInt(bytes), true);
    return (await this.ask(Command.DMA_UNMAP, new Uint8Array(payload.buffer))).error;
  }
}

export function version(major = 0, minor = 0): Uint8Array {
  const json = '{"capabilities":{"max_msg_fds":16,"pgsizes":4096}}\0';
  return Uint8Array.from([major, 0, minor, 0, ...new TextEncoder().encode(json)]);
}

export function access(region: number, offset: number, count: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, BigInt.asUintN(64, BigInt(offset)), true);
  view.setUint32(8, region, true);
  view.setUint32(12, count, true);
  return new Uint8Array(view.buffer);
}

export function dmaMap(address: bigint, bytes: number, offset: bigint, flags = 3): Uint8Array {
  const view = new DataView(new ArrayBuffer(32));
  view.setUint32(0, 32, true);
  view.setUint32(4, flags, true);
  view.setBigUint64(8, offset, true);
  view.setBigUint64(16, address, true);
  view.setBigUint64(24, BigInt(bytes), true);
  return new Uint8Array(view.buffer);
}

export function words(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}
