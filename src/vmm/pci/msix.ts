import type { Capability } from './capabilities.ts';
import type { ConfigSpace } from './config-space.ts';
import type { RegisterBlock } from './registers.ts';
import { bytesOfHex, hexOf, isHexOf } from './saved-bytes.ts';
import { MSIX_CONTROL, MSIX_ENTRY_BYTES, MSIX_PBA, MSIX_TABLE, MSIX_VECTOR_MASKED, MsixControl } from './spec.ts';

/** Sends a message: a 4-byte memory write of `data`. */
export type SendMessage = (address: bigint, data: number) => void;

/** As plain data, in hexadecimal. */
export interface SavedMsix {
  readonly table: string;
  readonly pending: string;
}

/** The table of MSI-X messages and the bits of those that wait (PCI Express Base 5.0, 7.7.2). Little-endian, as a BAR shows them. */
export class MsixTable {
  readonly vectors: number;
  readonly bar: number;
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #table: number;
  readonly #pendingAt: number;
  readonly #pendingBar: number;
  readonly #send: SendMessage;
  readonly #view: DataView;
  readonly #pending: Uint8Array;

  /** `at`: where the capability lies in `config`. */
  constructor(capability: Capability, config: ConfigSpace, at: number, send: SendMessage) {
    const value = (offset: number) => capability.fields.find((field) => field.at === offset)?.value ?? 0;
    this.vectors = value(MSIX_CONTROL) + 1;
    this.bar = value(MSIX_TABLE) & 7;
    this.#table = value(MSIX_TABLE) & ~7;
    this.#pendingBar = value(MSIX_PBA) & 7;
    this.#pendingAt = value(MSIX_PBA) & ~7;
    this.#config = config;
    this.#at = at;
    this.#send = send;
    this.#view = new DataView(new ArrayBuffer(this.vectors * MSIX_ENTRY_BYTES));
    this.#pending = new Uint8Array(Math.ceil(this.vectors / 64) * 8);
    this.reset();
  }

  /** Where the table and the bits that wait end, in which BAR. */
  get places(): readonly { readonly bar: number; readonly end: number }[] {
    return [
      { bar: this.bar, end: this.#table + this.#view.byteLength },
      { bar: this.#pendingBar, end: this.#pendingAt + this.#pending.length },
    ];
  }

  get enabled(): boolean {
    return (this.#control & MsixControl.ENABLE) !== 0;
  }

  get #control(): number {
    return this.#config.get(this.#at + MSIX_CONTROL, 2);
  }

  /** Table or pending bits at this place of a BAR; null: neither is there. */
  blockAt(bar: number, offset: number): { readonly block: RegisterBlock; readonly offset: number } | null {
    if (bar === this.bar && offset >= this.#table && offset < this.#table + this.#view.byteLength)
      return { block: this.#tableBlock, offset: offset - this.#table };
    if (bar === this.#pendingBar && offset >= this.#pendingAt && offset < this.#pendingAt + this.#pending.length)
      return { block: this.#pendingBlock, offset: offset - this.#pendingAt };
    return null;
  }

  readonly #tableBlock: RegisterBlock = {
    read: (offset, bytes) => readBytes(this.#view, offset, bytes),
    // Byte by byte: a narrow access does not exist for software that keeps to 7.7.2, and does no harm.
    write: (offset, bytes, value) => {
      for (let i = 0; i < bytes && offset + i < this.#view.byteLength; i++)
        this.#view.setUint8(offset + i, Number((value >> BigInt(8 * i)) & 0xffn));
      for (let vector = Math.floor(offset / MSIX_ENTRY_BYTES); vector * MSIX_ENTRY_BYTES < offset + bytes; vector++) this.#settle(vector);
    },
  };

  readonly #pendingBlock: RegisterBlock = {
    read: (offset, bytes) => readBytes(new DataView(this.#pending.buffer), offset, bytes),
    write: () => {},
  };

  /** Sends the vector's message, or remembers it while it is masked. */
  signal(vector: number): void {
    if (vector >= this.vectors) return;
    this.#pending[vector >> 3] |= 1 << (vector & 7);
    this.#settle(vector);
  }

  /** What waits and is masked no more goes out: after a change of the control register. */
  settle(): void {
    for (let vector = 0; vector < this.vectors; vector++) this.#settle(vector);
  }

  #settle(vector: number): void {
    if (vector >= this.vectors || (this.#pending[vector >> 3] & (1 << (vector & 7))) === 0) return;
    const at = vector * MSIX_ENTRY_BYTES;
    const control = this.#control;
    if ((control & MsixControl.ENABLE) === 0 || (control & MsixControl.MASK_ALL) !== 0) return;
    if ((this.#view.getUint32(at + 12, true) & MSIX_VECTOR_MASKED) !== 0) return;
    this.#pending[vector >> 3] &= ~(1 << (vector & 7));
    this.#send(this.#view.getBigUint64(at, true), this.#view.getUint32(at + 8, true));
  }

  /** Every vector is masked (7.7.2.6). */
  reset(): void {
    new Uint8Array(this.#view.buffer).fill(0);
    this.#pending.fill(0);
    for (let vector = 0; vector < this.vectors; vector++) this.#view.setUint32(vector * MSIX_ENTRY_BYTES + 12, MSIX_VECTOR_MASKED, true);
  }

  save(): SavedMsix {
    return { table: hexOf(new Uint8Array(this.#view.buffer)), pending: hexOf(this.#pending) };
  }

  /** Whether `save` of such a table can have made it. */
  accepts(state: unknown): state is SavedMsix {
    const { table, pending }: Partial<Record<keyof SavedMsix, unknown>> = state ?? {};
    return isHexOf(table, this.#view.byteLength) && isHexOf(pending, this.#pending.length);
  }

  /** Bits of vectors that there are not do not come with it. */
  load(state: SavedMsix): void {
    new Uint8Array(this.#view.buffer).set(bytesOfHex(state.table));
    this.#pending.set(bytesOfHex(state.pending));
    for (let vector = this.vectors; vector < 8 * this.#pending.length; vector++) this.#pending[vector >> 3] &= ~(1 << (vector & 7));
  }
}

function readBytes(view: DataView, offset: number, bytes: number): bigint {
  let value = 0n;
  for (let i = 0; i < bytes && offset + i < view.byteLength; i++) value |= BigInt(view.getUint8(offset + i)) << BigInt(8 * i);
  return value;
}
