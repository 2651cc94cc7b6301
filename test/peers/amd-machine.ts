import { appendFileSync, closeSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { hiOf, joinHiLo, loOf, WRITE } from '../../src/memory/index.ts';
import { AmdIommu } from '../../src/target/amd/index.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { PciFunction, portConfig } from './pci.ts';
import { EDU, TESTDEV } from './q35.ts';
import { Qtest } from './qtest.ts';
import { DATA, RAM_BYTES, STRUCTURES } from './table-programs.ts';
import { Edu, IommuTestdev } from './testdev.ts';

/*
 * Two AMD IOMMUs with the same guest before them: ours, and QEMU's, programmed by the same register writes and structures
 * (48882, 2.2, 2.4, 2.5, 3.4). What QEMU makes of interrupts is in its trace: no APIC can be read where no CPU runs.
 */

const AMD = 0xfed8_0000;
const DEVICE_TABLE = 0x00;
const COMMAND_BASE = 0x08;
const EVENT_BASE = 0x10;
const CONTROL = 0x18;
const COMMAND_HEAD = 0x2000;
const COMMAND_TAIL = 0x2008;
const EVENT_HEAD = 0x2010;
const EVENT_TAIL = 0x2018;
const STATUS = 0x2020;
/** IommuEn, EventLogEn; CmdBufEn; GAEn; XTEn. */
const ENABLE = 1n | (1n << 2n);
const COMMANDS_ENABLE = 1n << 12n;
const GUEST_APIC = 1n << 17n;
const EXTENDED_APIC = 1n << 50n;
/** Overflow, ComWaitInt, EventLogRun, CmdBufRun. */
const STATUS_COMPARED = 0x1dn;
const RING = 8n << 56n;
const RING_BYTES = 4096;

const PAGES = 0x20;
export const Page = {
  commands: STRUCTURES,
  events: STRUCTURES + 0x1000,
  devices: STRUCTURES + 0x2000,
  tables: STRUCTURES + 0x3000,
  stored: STRUCTURES + 0x9000,
  interrupts: STRUCTURES + 0x1_0000,
} as const;

const EDU_BAR = 0xe010_0000;
const EDU_RAISE = 0x60;
const MSI = 5;
const TRACED = /amdvi_mem_ir_write .*addr 0x([0-9a-f]+),? data 0x([0-9a-f]+)/;

/** What a step came to on one side. */
export interface Side {
  readonly done: boolean;
  /** Doublewords of the events that it logged. */
  readonly events: readonly (readonly [bigint, bigint])[];
  readonly status: bigint;
  /** Offset of the command that is next. */
  readonly head: bigint;
  /** Where COMPLETION_WAIT stores. */
  readonly stored: bigint;
}

/** What came of a message. */
export interface Interrupt {
  readonly kind: 'abort' | 'pass' | 'remap';
  readonly destination?: number;
  readonly logical?: boolean;
  readonly vector?: number;
  readonly delivery?: number;
}

export class AmdPeers {
  readonly qemu: Qtest;
  readonly ours: AmdIommu;
  readonly memory = GuestMemory.ofBytes(RAM_BYTES);
  readonly #testdev: IommuTestdev;
  readonly #edu: PciFunction;
  readonly #trace: Trace;
  readonly #control: bigint;
  #msi = 0;
  #tail = 0;

  /** `wide`: interrupt table entries of 128 bits, with 32-bit destinations. */
  static async start(wide: boolean): Promise<AmdPeers> {
    const trace = new Trace();
    const iommu = `amd-iommu,dma-remap=on,intremap=on,xtsup=${wide ? 'on' : 'off'}`;
    const qemu = await Qtest.start('x86_64', [
      ...['-machine', 'q35', '-m', `${RAM_BYTES >> 20}M`, '-device', iommu],
      ...['-device', 'iommu-testdev,addr=4.0', '-device', 'edu,addr=5.0,dma_mask=0xffffffffffffffff'],
      ...['-trace', 'enable=amdvi_mem_ir_write', '-D', trace.path],
    ]);
    const config = portConfig(qemu);
    const testdev = new IommuTestdev(qemu, 0xe000_0000);
    await testdev.setUp(await PciFunction.find(config, TESTDEV));
    const edu = await PciFunction.find(config, EDU);
    await new Edu(qemu, EDU_BAR).setUp(edu);
    const peers = new AmdPeers(qemu, testdev, edu, trace, wide);
    peers.#msi = (await edu.capabilities()).find(([id]) => id === MSI)?.[1] ?? 0;
    return peers;
  }

  private constructor(qemu: Qtest, testdev: IommuTestdev, edu: PciFunction, trace: Trace, wide: boolean) {
    this.qemu = qemu;
    this.#testdev = testdev;
    this.#edu = edu;
    this.#trace = trace;
    this.#control = ENABLE | COMMANDS_ENABLE | (wide ? GUEST_APIC | EXTENDED_APIC : 0n);
    this.ours = new AmdIommu({ memory: this.memory });
    this.write(DEVICE_TABLE, BigInt(Page.devices));
    this.write(COMMAND_BASE, BigInt(Page.commands) | RING);
    this.write(EVENT_BASE, BigInt(Page.events) | RING);
    this.write(CONTROL, this.#control);
  }

  async dispose(): Promise<void> {
    try {
      await this.qemu.readq(AMD + STATUS);
    } finally {
      await this.qemu.dispose();
      this.#trace.dispose();
    }
  }

  store(address: number, value: bigint): void {
    this.qemu.writeq(address, value);
    this.memory.store64(0, address, hiOf(value), loOf(value));
  }

  write(offset: number, value: bigint): void {
    this.ours.write(offset, 8, value);
    this.qemu.writeq(AMD + offset, value);
  }

  async read(offset: number): Promise<{ ours: bigint; theirs: bigint }> {
    return { ours: this.ours.read(offset, 8), theirs: await this.qemu.readq(AMD + offset) };
  }

  /** No device has an entry, tables are empty, and nothing is cached. */
  setUp(): void {
    const [start, bytes] = [Page.devices, PAGES * 4096 - (Page.devices - STRUCTURES)];
    this.qemu.fill(start, bytes, 0);
    new Uint8Array(this.memory.regions[0].buffer, start, bytes).fill(0);
    this.forget();
  }

  submit(...commands: readonly (readonly [bigint, bigint])[]): void {
    for (const [low, high] of commands) {
      this.store(Page.commands + this.#tail, low);
      this.store(Page.commands + this.#tail + 8, high);
      this.#tail = (this.#tail + 16) % RING_BYTES;
    }
    this.write(COMMAND_TAIL, BigInt(this.#tail));
  }

  /** A command that stopped the buffer is left behind, and the buffer runs again (2.4). */
  recover(): void {
    this.write(CONTROL, this.#control & ~COMMANDS_ENABLE);
    this.write(COMMAND_HEAD, BigInt(this.#tail));
    this.write(CONTROL, this.#control);
    this.write(STATUS, 0x67n);
  }

  forget(): void {
    this.submit([8n << 60n, 0n], ...[TESTDEV, EDU].map((device): [bigint, bigint] => [(2n << 60n) | BigInt(device), 0n]));
  }

  /** A device writes 4 bytes; each side says what became of it. */
  async dma(iova: bigint): Promise<{ ours: Side; theirs: Side; landed: boolean }> {
    const lg2 = this.ours.translate(TESTDEV, NO_PASID, hiOf(iova), loOf(iova), WRITE);
    const address = joinHiLo(this.ours.translated[1], this.ours.translated[0]);
    const inData = lg2 >= 0 && address >= BigInt(DATA) && address < BigInt(RAM_BYTES);
    const look = inData ? address : BigInt(DATA) + 0x0fff_f000n;
    this.qemu.writel(look, 0);
    const result = await this.#testdev.write(iova, look);
    const sides = await this.sides();
    return {
      ours: { ...sides.ours, done: lg2 >= 0 },
      // Where no memory is the machine decides; the IOMMU's part is that it logs nothing.
      theirs: { ...sides.theirs, done: result !== 'refused' || (lg2 >= 0 && !inData && sides.theirs.events.length === 0) },
      landed: !inData || result === 'done',
    };
  }

  /** A device sends a message, 16 bits of data. */
  async interrupt(address: number, data: number): Promise<{ ours: Interrupt; theirs: Interrupt }> {
    const { config, bdf } = this.#edu;
    config.write(bdf, this.#msi + 4, address);
    config.write(bdf, this.#msi + 12, data);
    const header = await config.read(bdf, this.#msi);
    if ((header & 0x1_0000) === 0) await config.write(bdf, this.#msi, header | 0x1_0000);
    // What others sent before, as the I/O APIC does at the start.
    this.#trace.more();
    await this.qemu.writel(EDU_BAR + EDU_RAISE, 1);
    const line = TRACED.exec(this.#trace.more());
    const message = line === null ? null : { address: BigInt(`0x${line[1]}`), data: Number(`0x${line[2]}`) };
    const ours = this.ours.remap(EDU, address | 0, data);
    const passed = ours.kind !== 'remap' && message?.address === BigInt(address) && message.data === data;
    return { ours, theirs: passed ? { kind: 'pass' } : interruptOf(message) };
  }

  /** The entries that a walk of the host table for `iova` meets, root first, as far as there is memory (2.2.3). */
  path(entry: readonly bigint[], iova: bigint): bigint[] {
    const path: bigint[] = [];
    let table = entry[0];
    for (let level = (table >> 9n) & 7n; level > 0n && level < 7n && path.length < 8; level = (table >> 9n) & 7n) {
      const at = (table & 0xf_ffff_ffff_f000n) + (((iova >> (3n + 9n * level)) & 0x1ffn) << 3n);
      if (this.memory.load64(hiOf(at), loOf(at)) < 0) break;
      table = joinHiLo(this.memory.word[1], this.memory.word[0]);
      path.push(table);
      if ((table & 1n) === 0n) break;
    }
    return path;
  }

  /** Takes the events, and looks at the command buffer. */
  async sides(): Promise<{ ours: Side; theirs: Side }> {
    const offsets = [EVENT_HEAD, EVENT_TAIL, STATUS, COMMAND_HEAD];
    const [theirs, log, stored] = await Promise.all([
      Promise.all(offsets.map((offset) => this.qemu.readq(AMD + offset))),
      this.qemu.read(Page.events, RING_BYTES),
      this.qemu.readq(Page.stored),
    ]);
    const ours = offsets.map((offset) => this.ours.read(offset, 8));
    const buffer = this.memory.regions[0].buffer;
    this.memory.load64(0, Page.stored);
    const ourStored = joinHiLo(this.memory.word[1], this.memory.word[0]);
    const sides = {
      ours: sideOf(ours, new DataView(buffer, Page.events, RING_BYTES), ourStored),
      theirs: sideOf(theirs, new DataView(log.buffer, log.byteOffset, RING_BYTES), stored),
    };
    this.ours.write(EVENT_HEAD, 8, ours[1]);
    this.qemu.writeq(AMD + EVENT_HEAD, theirs[1]);
    return sides;
  }
}

function sideOf([first, tail, status, head]: readonly bigint[], log: DataView, stored: bigint): Side {
  const events: [bigint, bigint][] = [];
  for (let at = Number(first); at !== Number(tail); at = (at + 16) % RING_BYTES)
    events.push([log.getBigUint64(at, true), log.getBigUint64(at + 8, true)]);
  // 2.4: the head wraps. QEMU's stands behind the last command until the next.
  return { done: true, events, status: status & STATUS_COMPARED, head: head % BigInt(RING_BYTES), stored };
}

/** What the message says that reached the machine. */
function interruptOf(message: { readonly address: bigint; readonly data: number } | null): Interrupt {
  if (message === null) return { kind: 'abort' };
  const low = Number(message.address & 0xffff_ffffn);
  return {
    kind: 'remap',
    destination: ((low >>> 12) & 0xff) + Number(message.address >> 32n),
    logical: (low & 4) !== 0,
    vector: message.data & 0xff,
    delivery: (message.data >>> 8) & 7,
  };
}

/** The file to which QEMU writes what it traces. */
class Trace {
  readonly #folder = mkdtempSync(join(tmpdir(), 'viommu-trace-'));
  readonly path = join(this.#folder, 'trace');
  readonly #file: number;

  constructor() {
    appendFileSync(this.path, '');
    this.#file = openSync(this.path, 'r');
  }

  /** What is new. */
  more(): string {
    const bytes = Buffer.alloc(65536);
    return bytes.toString('latin1', 0, readSync(this.#file, bytes, 0, bytes.length, null));
  }

  dispose(): void {
    closeSync(this.#file);
    rmSync(this.#folder, { recursive: true });
  }
}
