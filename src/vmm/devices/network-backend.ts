import { requireBytes, requireFunction, requireObject } from '../../memory/arguments.ts';

/** Bytes of the longest Ethernet frame without its check sequence: 1,500 of payload, a header, a VLAN tag. */
export const FRAME_BYTES = 1518;
/** A frame's length in front of it, big-endian. */
const LENGTH_BYTES = 4;

/** The other end of a network device's wire. Frames have no check sequence. */
export interface NetworkBackend {
  /** Called once: where frames for the device go. */
  connect(receive: (frame: Uint8Array) => void): void;
  send(frame: Uint8Array): void;
}

/** What a wire needs of a stream: a socket, or any other Duplex of Node's. */
export interface ByteStream {
  readonly destroyed: boolean;
  /** More was written than the other end has taken. */
  readonly writableNeedDrain: boolean;
  write(bytes: Uint8Array): boolean;
  on(event: 'data', listener: (bytes: Uint8Array) => void): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
  destroy(): unknown;
}

/**
 * A stream as a wire, each frame behind its length: what `-netdev stream` of QEMU speaks, and so what joins two machines, or a machine and a
 * gateway. A peer that sends a longer frame than Ethernet's speaks something else: the stream is destroyed. What it does not read is not
 * kept beyond the stream's own buffer.
 *
 * @example
 * const written = [];
 * const stream = { destroyed: false, writableNeedDrain: false, on: () => {}, destroy: () => {}, write: (bytes) => written.push(...bytes) };
 * const backend = new StreamBackend(stream); // a socket, as a rule
 * backend.send(Uint8Array.of(7, 8));
 * written; // [0, 0, 0, 2, 7, 8]
 */
export class StreamBackend implements NetworkBackend {
  readonly #stream: ByteStream;
  /** Frames that the peer did not take in time, as on a wire. */
  dropped = 0;

  constructor(stream: ByteStream) {
    requireObject('StreamBackend', 'stream', stream, 'Duplex', ['write', 'on']);
    this.#stream = stream;
    stream.on('error', () => {});
  }

  connect(receive: (frame: Uint8Array) => void): void {
    requireFunction('StreamBackend', 'receive', receive);
    let rest: Buffer = Buffer.alloc(0);
    this.#stream.on('data', (piece) => {
      rest = Buffer.concat([rest, piece]);
      let at = 0;
      while (rest.length - at >= LENGTH_BYTES) {
        const bytes = rest.readUInt32BE(at);
        if (bytes === 0 || bytes > FRAME_BYTES) {
          this.#stream.destroy();
          return;
        }
        if (rest.length - at < LENGTH_BYTES + bytes) break;
        receive(Uint8Array.from(rest.subarray(at + LENGTH_BYTES, at + LENGTH_BYTES + bytes)));
        at += LENGTH_BYTES + bytes;
      }
      rest = rest.subarray(at);
    });
  }

  send(frame: Uint8Array): void {
    requireBytes('StreamBackend', 'frame', frame);
    if (this.#stream.destroyed || this.#stream.writableNeedDrain) {
      this.dropped++;
      return;
    }
    const packet = Buffer.alloc(LENGTH_BYTES + frame.length);
    packet.writeUInt32BE(frame.length);
    packet.set(frame, LENGTH_BYTES);
    this.#stream.write(packet);
  }
}
