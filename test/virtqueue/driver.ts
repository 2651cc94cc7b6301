import { hiOf, loOf } from '../../src/memory/address.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { QueueSetup } from '../../src/virtqueue/virtqueue.ts';

/*
 * The driver's side of a virtqueue, small: rings and buffers in one stretch of guest memory, buffers used in order. Written from
 * virtio 1.4, 2.7 and 2.8, without a look at the device's side.
 */

/** One buffer: the device-readable bytes, and how many it may write; each cut into descriptors at the given lengths. */
export interface Buffer {
  readonly readable: Uint8Array;
  readonly writable: number;
  /** Bytes per descriptor. Default: one descriptor a part. */
  readonly cut?: number;
  /** Through an indirect table. */
  readonly indirect?: boolean;
}

export interface Used {
  readonly written: number;
  /** The device-writable part. */
  readonly bytes: Uint8Array;
}

interface Piece {
  readonly at: number;
  readonly bytes: number;
  readonly writable: boolean;
}

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const SLOT_BYTES = 4096;

export abstract class Driver {
  readonly memory: GuestMemory;
  readonly base: number;
  readonly size: number;
  readonly setup: QueueSetup;
  /** Buffers that the device has, oldest first. */
  readonly waiting: { id: number; descriptors: number; writableAt: number; writable: number }[] = [];
  #slot = 0;

  /** Takes up `bytes` of memory from `base` on. */
  constructor(memory: GuestMemory, base: number, size: number) {
    this.memory = memory;
    this.base = base;
    this.size = size;
    const driver = base + 16 * size;
    const device = driver + 8 * size + 64;
    this.setup = { size, descriptors: BigInt(base), driver: BigInt(driver), device: BigInt(device) };
  }

  get bytes(): number {
    return this.#buffers - this.base + this.size * SLOT_BYTES;
  }
  get #buffers(): number {
    return this.base + Math.ceil((40 * this.size + 256) / 4096) * 4096;
  }

  /** Makes a buffer available; the device is not notified. */
  add(buffer: Buffer): void {
    const slot = this.#buffers + (this.#slot++ % this.size) * SLOT_BYTES;
    const writableAt = slot + buffer.readable.length;
    this.memory.write(0, slot | 0, buffer.readable, 0, buffer.readable.length);
    this.memory.write(0, writableAt | 0, new Uint8Array(buffer.writable).fill(0xee), 0, buffer.writable);
    let pieces = [...cut(slot, buffer.readable.length, false, buffer.cut), ...cut(writableAt, buffer.writable, true, buffer.cut)];
    let indirect = false;
    if (buffer.indirect) {
      const table = slot + SLOT_BYTES - 16 * pieces.length;
      this.writeTable(table, pieces);
      pieces = [{ at: table, bytes: 16 * pieces.length, writable: false }];
      indirect = true;
    }
    const taken = this.waiting.reduce((sum, { descriptors }) => sum + descriptors, 0);
    if (taken + pieces.length > this.size) throw new Error(`the driver has ${this.size - taken} descriptors left, not ${pieces.length}`);
    const id = this.offer(pieces, indirect);
    this.waiting.push({ id, descriptors: pieces.length, writableAt, writable: buffer.writable });
  }

  /** What the device has used since the last time. */
  collect(): Used[] {
    const found: Used[] = [];
    for (let used = this.next(); used !== null; used = this.next()) {
      const buffer = this.waiting.shift()!;
      if (buffer.id !== used.id) throw new Error(`used ${used.id}, expected ${buffer.id}`);
      const bytes = new Uint8Array(buffer.writable);
      this.memory.read(0, buffer.writableAt | 0, bytes, 0, bytes.length);
      found.push({ written: used.written, bytes });
    }
    return found;
  }

  /** Whether the device wants a notification for what was added since the last time it was asked. */
  abstract wantsNotification(eventIdx: boolean): boolean;
  /** Which used buffer the driver wants to be interrupted for: the `count`th from now; 0: for none. */
  abstract askInterrupt(count: number, eventIdx: boolean): void;
  protected abstract writeTable(table: number, pieces: readonly Piece[]): void;
  /** Puts the descriptors into the ring; returns the ID that the device will use. */
  protected abstract offer(pieces: readonly Piece[], indirect: boolean): number;
  protected abstract next(): { id: number; written: number } | null;

  protected store16(at: number, value: number): void {
    this.memory.store16(0, at | 0, value);
  }
  protected load16(at: number): number {
    this.memory.load16(0, at | 0);
    return this.memory.word[0];
  }
  protected load32(at: number): number {
    this.memory.load32(0, at | 0);
    return this.memory.word[0] >>> 0;
  }
  protected storeDescriptor(at: number, piece: Piece, third: number, fourth: number): void {
    this.memory.store64(0, at | 0, hiOf(BigInt(piece.at)), loOf(BigInt(piece.at)));
    this.memory.store32(0, (at + 8) | 0, piece.bytes);
    this.store16(at + 12, third);
    this.store16(at + 14, fourth);
  }
}

function cut(at: number, bytes: number, writable: boolean, limit = Infinity): Piece[] {
  const pieces: Piece[] = [];
  for (let done = 0; done < bytes; done += limit) pieces.push({ at: at + done, bytes: Math.min(limit, bytes - done), writable });
  return pieces;
}

/** 2.7: descriptors are taken round and round, which is right while buffers are used in order. */
export class SplitDriver extends Driver {
  #descriptor = 0;
  #available = 0;
  #used = 0;
  #asked = 0;

  protected offer(pieces: readonly Piece[], indirect: boolean): number {
    const head = this.#descriptor;
    pieces.forEach((piece, i) => {
      const at = this.#descriptor;
      this.#descriptor = (at + 1) % this.size;
      const flags = (i + 1 < pieces.length ? NEXT : 0) | (piece.writable ? WRITE : 0) | (indirect ? INDIRECT : 0);
      this.storeDescriptor(this.base + 16 * at, piece, flags, this.#descriptor);
    });
    const driver = Number(this.setup.driver);
    this.store16(driver + 4 + 2 * (this.#available % this.size), head);
    this.#available = (this.#available + 1) & 0xffff;
    this.store16(driver + 2, this.#available);
    return head;
  }

  protected writeTable(table: number, pieces: readonly Piece[]): void {
    pieces.forEach((piece, i) => {
      const flags = (i + 1 < pieces.length ? NEXT : 0) | (piece.writable ? WRITE : 0);
      this.storeDescriptor(table + 16 * i, piece, flags, i + 1);
    });
  }

  protected next(): { id: number; written: number } | null {
    const device = Number(this.setup.device);
    if (this.load16(device + 2) === this.#used) return null;
    const at = device + 4 + 8 * (this.#used % this.size);
    this.#used = (this.#used + 1) & 0xffff;
    return { id: this.load32(at), written: this.load32(at + 4) };
  }

  wantsNotification(eventIdx: boolean): boolean {
    const device = Number(this.setup.device);
    const before = this.#asked;
    this.#asked = this.#available;
    if (!eventIdx) return this.load16(device) === 0;
    const event = this.load16(device + 4 + 8 * this.size);
    return ((this.#available - event - 1) & 0xffff) < ((this.#available - before) & 0xffff);
  }

  askInterrupt(count: number, eventIdx: boolean): void {
    const driver = Number(this.setup.driver);
    if (eventIdx) this.store16(driver + 4 + 2 * this.size, (this.#used + (count > 0 ? count - 1 : 0x8000)) & 0xffff);
    else this.store16(driver, count > 0 ? 0 : 1);
  }
}

/** 2.8. */
export class PackedDriver extends Driver {
  /** Reads the length of a used descriptor without the WRITE flag too, which 2.8.4 reserves. */
  trustsLength = false;
  #next = 0;
  #wrap = 1;
  #used = 0;
  #usedWrap = 1;
  #id = 0;
  #asked = { at: 0, wrap: 1 };

  protected offer(pieces: readonly Piece[], indirect: boolean): number {
    const id = this.#id++ % this.size;
    pieces.forEach((piece, i) => {
      const marks = this.#wrap === 1 ? 1 << 7 : 1 << 15;
      const flags = (i + 1 < pieces.length ? NEXT : 0) | (piece.writable ? WRITE : 0) | (indirect ? INDIRECT : 0);
      this.storeDescriptor(this.base + 16 * this.#next, piece, id, flags | marks);
      if (++this.#next === this.size) {
        this.#next = 0;
        this.#wrap ^= 1;
      }
    });
    return id;
  }

  protected writeTable(table: number, pieces: readonly Piece[]): void {
    pieces.forEach((piece, i) => {
      this.storeDescriptor(table + 16 * i, piece, 0, piece.writable ? WRITE : 0);
    });
  }

  protected next(): { id: number; written: number } | null {
    const at = this.base + 16 * this.#used;
    const flags = this.load16(at + 14);
    const marks = (flags >> 7) & 1;
    if (this.waiting.length === 0 || marks !== flags >> 15 || marks !== this.#usedWrap) return null;
    this.#used += this.waiting[0].descriptors;
    if (this.#used >= this.size) {
      this.#used -= this.size;
      this.#usedWrap ^= 1;
    }
    return { id: this.load16(at + 12), written: this.trustsLength || (flags & WRITE) !== 0 ? this.load32(at + 8) : 0 };
  }

  wantsNotification(eventIdx: boolean): boolean {
    const device = Number(this.setup.device);
    const before = this.#asked;
    this.#asked = { at: this.#next, wrap: this.#wrap };
    const flags = this.load16(device + 2);
    if (flags !== 2 || !eventIdx) return flags === 0;
    const event = this.load16(device);
    const position = (at: number, wrap: number) => at + (wrap === before.wrap ? 0 : this.size);
    const eventAt = position(event & 0x7fff, event >> 15);
    return eventAt >= before.at && eventAt < position(this.#next, this.#wrap);
  }

  askInterrupt(count: number, eventIdx: boolean): void {
    const driver = Number(this.setup.driver);
    if (!eventIdx || count === 0) {
      this.store16(driver + 2, count > 0 ? 0 : 1);
      return;
    }
    // Buffers that are still to be added take an entry each.
    let at = this.#used;
    for (let i = 0; i + 1 < count; i++) at += this.waiting[i]?.descriptors ?? 1;
    const wrap = at >= this.size ? this.#usedWrap ^ 1 : this.#usedWrap;
    this.store16(driver, (at % this.size) | (wrap << 15));
    this.store16(driver + 2, 2);
  }
}
