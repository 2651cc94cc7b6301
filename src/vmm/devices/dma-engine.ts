import { READ, WRITE } from '../../memory/access.ts';
import { hiOf, loOf } from '../../memory/address.ts';
import { requireAccess, requireObject } from '../../memory/arguments.ts';
import { NO_PASID } from '../../target/target.ts';
import { integratedEndpoint, msix, powerManagement } from '../pci/capabilities.ts';
import type { FunctionDma } from '../pci/dma.ts';
import { PciFunction, type PciSurroundings, withReset } from '../pci/function.ts';
import type { RegisterBlock } from '../pci/registers.ts';

/** Identity of the engine as a PCI function. */
export const ENGINE_VENDOR = 0x1efd;
export const ENGINE_DEVICE = 0xed0a;
const PCI_CLASS = 0x088000;

/** Registers in BAR 0, little-endian; data in the page behind them. */
export const ENGINE = {
  /** Reads MAGIC. */
  ID: 0x00,
  /** I/O virtual address, 64 bits. */
  ADDRESS: 0x08,
  /** Bytes: 1 to 4096. */
  BYTES: 0x10,
  /** PASID, or all ones for none. */
  PASID: 0x14,
  /** Starts what is written (EngineCommand); done when the write is. */
  COMMAND: 0x18,
  /** What came of it: 0, or the negative code of a fault, as the target says it. */
  RESULT: 0x1c,
  /** Operand of an atomic. */
  OPERAND: 0x20,
  /** Commands done, and those that ended with a fault. */
  DONE: 0x28,
  FAULTS: 0x2c,
  DATA: 0x1000,
  DATA_BYTES: 0x1000,
} as const;
export const EngineCommand = {
  /** Memory to data. */
  READ: 1,
  /** Data to memory. */
  WRITE: 2,
  /** Adds the operand to 8 bytes of memory; what was there goes to data. */
  FETCH_ADD: 3,
  /** Sends the MSI-X vector that ADDRESS names. */
  SIGNAL: 4,
} as const;
export const ENGINE_MAGIC = 0x444d_4156;
const VECTORS = 4;
const TABLE = 0x2000;
const PENDING = 0x3000;

/** What the engine needs of its function: DMA by its requester ID. */
export type EngineDma = Pick<FunctionDma, 'transfer'>;

/**
 * A device that does the DMA that it is told: any address, any PASID, read, write, atomic, message. For tests of what an IOMMU lets through
 * and what not.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * const target = new VirtioIommu({ memory });
 * target.addEndpoint(8);
 * const engine = new DmaEngine({});
 * engine.attach(new FunctionDma(engine.fn, 8, target, memory));
 * engine.fn.readConfig(0, 2); // 0x1efd
 */
export class DmaEngine implements RegisterBlock {
  readonly fn: PciFunction;
  readonly #registers = new DataView(new ArrayBuffer(0x30));
  readonly #data = new Uint8Array(ENGINE.DATA_BYTES);
  #dma: EngineDma | null = null;

  constructor(surroundings: PciSurroundings) {
    requireObject('DmaEngine', 'surroundings', surroundings);
    this.fn = new PciFunction(
      {
        vendor: ENGINE_VENDOR,
        device: ENGINE_DEVICE,
        classCode: PCI_CLASS,
        bars: [{ bytes: 0x4000, registers: this }],
        capabilities: [integratedEndpoint(true), powerManagement(), msix(VECTORS, { bar: 0, offset: TABLE }, { bar: 0, offset: PENDING })],
      },
      withReset(surroundings, () => this.#reset()),
    );
    this.#reset();
  }

  /** How it reaches memory: made for its function, so after it. */
  attach(dma: EngineDma): void {
    requireObject('DmaEngine', 'dma', dma, 'EngineDma', ['transfer']);
    this.#dma = dma;
  }

  read(offset: number, bytes: number): bigint {
    requireAccess('DmaEngine', offset, bytes);
    let value = 0n;
    for (let i = 0; i < bytes; i++) value |= BigInt(this.#byte(offset + i)) << BigInt(8 * i);
    return value;
  }

  #byte(offset: number): number {
    if (offset >= ENGINE.DATA) return this.#data[offset - ENGINE.DATA] ?? 0;
    return offset < this.#registers.byteLength ? this.#registers.getUint8(offset) : 0;
  }

  write(offset: number, bytes: number, value: bigint): void {
    requireAccess('DmaEngine', offset, bytes, value);
    for (let i = 0; i < bytes; i++) {
      const byte = Number((value >> BigInt(8 * i)) & 0xffn);
      if (offset + i >= ENGINE.DATA) this.#data[offset + i - ENGINE.DATA] = byte;
      else if (writable(offset + i)) this.#registers.setUint8(offset + i, byte);
    }
    if (offset === ENGINE.COMMAND) this.#start(Number(value & 0xffn));
  }

  #start(command: number): void {
    const result = this.#perform(command);
    this.#registers.setInt32(ENGINE.RESULT, result, true);
    this.#count(ENGINE.DONE);
    if (result < 0) this.#count(ENGINE.FAULTS);
  }

  #perform(command: number): number {
    const address = this.#registers.getBigUint64(ENGINE.ADDRESS, true);
    const bytes = Math.min(this.#registers.getUint32(ENGINE.BYTES, true), ENGINE.DATA_BYTES);
    if (command === EngineCommand.SIGNAL) return this.fn.signal(Number(address & 0x7ffn)) ? 0 : -1;
    if (this.#dma === null) return -1;
    if (command === EngineCommand.FETCH_ADD) return this.#fetchAdd(address);
    const access = command === EngineCommand.READ ? READ : WRITE;
    return this.#dma.transfer(hiOf(address), loOf(address), this.#data.subarray(0, bytes), access, this.#pasid);
  }

  /** A PCI Express atomic needs both permissions, and does nothing without them. */
  #fetchAdd(address: bigint): number {
    const dma = this.#dma!;
    const old = new DataView(new ArrayBuffer(8));
    const bytes = new Uint8Array(old.buffer);
    const read = dma.transfer(hiOf(address), loOf(address), bytes, READ, this.#pasid);
    if (read < 0) return read;
    this.#data.set(bytes);
    const sum = old.getBigUint64(0, true) + this.#registers.getBigUint64(ENGINE.OPERAND, true);
    old.setBigUint64(0, sum, true);
    return dma.transfer(hiOf(address), loOf(address), bytes, WRITE, this.#pasid);
  }

  get #pasid(): number {
    const pasid = this.#registers.getInt32(ENGINE.PASID, true);
    return pasid === -1 ? NO_PASID : pasid & 0xf_ffff;
  }

  #count(at: number): void {
    this.#registers.setUint32(at, this.#registers.getUint32(at, true) + 1, true);
  }

  #reset(): void {
    new Uint8Array(this.#registers.buffer).fill(0);
    this.#data.fill(0);
    this.#registers.setUint32(ENGINE.ID, ENGINE_MAGIC, true);
    this.#registers.setUint32(ENGINE.PASID, 0xffff_ffff, true);
  }
}

/** Identity, result and counters are the engine's own. */
function writable(offset: number): boolean {
  return (offset >= ENGINE.ADDRESS && offset < ENGINE.COMMAND) || (offset >= ENGINE.OPERAND && offset < ENGINE.DONE);
}
