import { EDU, type PeerIommu, TESTDEV } from './q35.ts';
import type { Qtest } from './qtest.ts';
import { STRUCTURES } from './table-programs.ts';

/*
 * QEMU's AMD IOMMU, programmed as little as it takes to walk one table: specification 48882, 2.2.2 (device table),
 * 2.4 (commands), 2.5 (events), 3.4 (registers).
 */

const AMD = 0xfed8_0000;
/** Registers (3.4). */
const DEVICE_TABLE = 0x00;
const COMMAND_BUFFER = 0x08;
const EVENT_LOG = 0x10;
const CONTROL = 0x18;
const COMMAND_TAIL = 0x2008;
const EVENT_HEAD = 0x2010;
const EVENT_TAIL = 0x2018;
/** IommuEn, EventLogEn, CmdBufEn. */
const CONTROL_ENABLE = 1n | (1n << 2n) | (1n << 12n);
/** Buffers of 256 entries of 16 bytes. */
const BUFFER_ENTRIES = 256;
const BUFFER_LENGTH = 8n << 56n;

const INVALIDATE_DEVTAB_ENTRY = 2n << 60n;
const INVALIDATE_PAGES = 3n << 60n;
const DOMAIN = 1n;
/** Address and S bit that mean all of the domain (2.4.3). */
const ALL_PAGES = 0x7fff_ffff_ffff_f000n | 1n;

const COMMANDS = STRUCTURES;
const EVENTS = STRUCTURES + 0x1000;
/** 4 KiB: the devices of the first 128 IDs. */
const DEVICES = STRUCTURES + 0x2000;

export class AmdPeer implements PeerIommu {
  readonly #qemu: Qtest;
  #tail = 0;

  constructor(qemu: Qtest) {
    this.#qemu = qemu;
    qemu.fill(STRUCTURES, 0x3000, 0);
    qemu.writeq(AMD + DEVICE_TABLE, BigInt(DEVICES));
    qemu.writeq(AMD + COMMAND_BUFFER, BigInt(COMMANDS) | BUFFER_LENGTH);
    qemu.writeq(AMD + EVENT_LOG, BigInt(EVENTS) | BUFFER_LENGTH);
    qemu.writeq(AMD + CONTROL, CONTROL_ENABLE);
  }

  #command(low: bigint, high: bigint): void {
    this.#qemu.writeq(COMMANDS + this.#tail * 16, low);
    this.#qemu.writeq(COMMANDS + this.#tail * 16 + 8, high);
    this.#tail = (this.#tail + 1) % BUFFER_ENTRIES;
    this.#qemu.writeq(AMD + COMMAND_TAIL, BigInt(this.#tail * 16));
  }

  #setEntry(low: bigint): void {
    for (const device of [TESTDEV, EDU]) {
      this.#qemu.writeq(DEVICES + device * 32, low);
      this.#qemu.writeq(DEVICES + device * 32 + 8, DOMAIN);
      this.#command(INVALIDATE_DEVTAB_ENTRY | BigInt(device), 0n);
    }
  }
  #entry = 0n;

  /** Puts a host table before both devices: V, TV, Mode, root, IR, IW (2.2.2.1). */
  use(root: number, levels: number): void {
    this.#entry = 3n | (BigInt(levels) << 9n) | BigInt(root) | (3n << 61n);
    this.#setEntry(this.#entry);
  }

  /** A device table entry without V passes requests untranslated. */
  enable(on: boolean): void {
    this.#setEntry(on ? this.#entry : 0n);
    this.invalidate();
  }

  invalidate(): void {
    this.#command(INVALIDATE_PAGES | (DOMAIN << 32n), ALL_PAGES);
  }

  /** The event code (2.5) of the oldest new event; all of them are taken off the log. */
  async fault(): Promise<number> {
    const [head, tail] = await Promise.all([this.#qemu.readq(AMD + EVENT_HEAD), this.#qemu.readq(AMD + EVENT_TAIL)]);
    if (head === tail) return 0;
    const event = await this.#qemu.readq(EVENTS + Number(head));
    this.#qemu.writeq(AMD + EVENT_HEAD, tail);
    return Number(event >> 60n);
  }
}
