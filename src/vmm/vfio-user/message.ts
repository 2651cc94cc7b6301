import { Flags, HEADER, LIMITS, MESSAGE_LIMIT } from './spec.ts';

/** The other side does not keep to the protocol; nothing that comes after it can be understood. */
export class ProtocolError extends Error {
  constructor(message: string) {
    super(`vfio-user: ${message}`);
    this.name = 'ProtocolError';
  }
}

/** A whole message, and the descriptors that came beside it: whoever handles it closes them, or keeps them. */
export interface Message {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  /** Behind the header. */
  readonly payload: DataView;
  readonly descriptors: readonly number[];
}

/** Puts messages together from a stream. Memory is bounded by the longest message. */
export class MessageAssembler {
  #buffer = new Uint8Array(4096);
  #have = 0;
  #want: number = HEADER.BYTES;
  #descriptors: number[] = [];

  /** Bytes that the message under way still needs before anything can be said of it. */
  get wanted(): number {
    return this.#want - this.#have;
  }

  /**
   * Takes up to `wanted` bytes of `bytes` from `at` on. A message when it is whole; null: more is needed.
   * @throws ProtocolError when its size is not possible, or more descriptors come with it than were offered.
   */
  push(bytes: Uint8Array, descriptors: readonly number[] = []): Message | null {
    this.#buffer.set(bytes, this.#have);
    this.#have += bytes.length;
    this.#descriptors.push(...descriptors);
    if (this.#descriptors.length > LIMITS.descriptors) throw new ProtocolError(`a message with ${this.#descriptors.length} descriptors`);
    if (this.#have < this.#want) return null;
    const header = new DataView(this.#buffer.buffer, 0, HEADER.BYTES);
    if (this.#want === HEADER.BYTES && !this.#sized(header.getUint32(HEADER.SIZE, true))) return null;
    const message: Message = {
      id: header.getUint16(HEADER.ID, true),
      command: header.getUint16(HEADER.COMMAND, true),
      flags: header.getUint32(HEADER.FLAGS, true),
      payload: new DataView(this.#buffer.buffer, HEADER.BYTES, this.#want - HEADER.BYTES),
      descriptors: this.#descriptors,
    };
    this.#have = 0;
    this.#want = HEADER.BYTES;
    this.#descriptors = [];
    return message;
  }

  /** Whether the header is all of the message. */
  #sized(size: number): boolean {
    if (size < HEADER.BYTES || size > MESSAGE_LIMIT) throw new ProtocolError(`a message of ${size} bytes`);
    this.#want = size;
    if (size > this.#buffer.length) {
      const larger = new Uint8Array(MESSAGE_LIMIT);
      larger.set(this.#buffer.subarray(0, HEADER.BYTES));
      this.#buffer = larger;
    }
    return size === HEADER.BYTES;
  }

  /** Descriptors of a message that will never be whole. */
  abandon(): readonly number[] {
    return this.#descriptors.splice(0);
  }
}

/** A message of `payload` bytes to be filled in, header done. */
export function newMessage(id: number, command: number, flags: number, payload: number, error = 0): { bytes: Uint8Array; body: DataView } {
  const bytes = new Uint8Array(HEADER.BYTES + payload);
  const header = new DataView(bytes.buffer);
  header.setUint16(HEADER.ID, id, true);
  header.setUint16(HEADER.COMMAND, command, true);
  header.setUint32(HEADER.SIZE, bytes.length, true);
  header.setUint32(HEADER.FLAGS, flags | (error === 0 ? 0 : Flags.ERROR), true);
  header.setUint32(HEADER.ERROR, error, true);
  return { bytes, body: new DataView(bytes.buffer, HEADER.BYTES) };
}
