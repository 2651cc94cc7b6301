import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';

/*
 * A PCI device of the lab VM that does any DMA at once and knows what became of it: QEMU's vfio-user-pci is its client, so that its
 * DMA goes through the IOMMU that QEMU emulates. It lives in the process that boots the VM. (docs/interop/vfio-user.rst of QEMU.)
 */

/** Registers of BAR 0, 32 bits each. */
export const DMA_REGISTERS = { addressLow: 0x00, addressHigh: 0x04, data: 0x08, command: 0x0c, status: 0x10 } as const;
export const DMA_READ = 1;
export const DMA_WRITE = 2;
export const DMA_BUSY = 0;
export const DMA_DONE = 1;
const DMA_REFUSED = 2;

const BAR_BYTES = 4096;
const CONFIG_BYTES = 256;
const CONFIG_REGION = 7;
const REGIONS = 9;
const IRQ_TYPES = 5;

// Message header: id u16, command u16, size u32 with the header, flags u32, errno u32.
const HEADER_BYTES = 16;
const FLAG_REPLY = 1;
const FLAG_NO_REPLY = 0x10;
const FLAG_ERROR = 0x20;
const VERSION = 1;
const GET_INFO = 4;
const GET_REGION_INFO = 5;
const GET_IRQ_INFO = 7;
const REGION_READ = 9;
const REGION_WRITE = 10;
const COMMAND_DMA_READ = 11;
const COMMAND_DMA_WRITE = 12;

export class DmaDevice {
  /** What QEMU is to be given. */
  readonly qemuArguments: string;
  readonly #path: string;
  readonly #server: Server;
  readonly #config = Buffer.alloc(CONFIG_BYTES);
  readonly #bar = Buffer.alloc(BAR_BYTES);
  #socket: Socket | null = null;
  #nextId = 0x8000;

  /** `slot`: the PCI device number on bus 0. */
  constructor(socketPath: string, slot: number) {
    this.#path = socketPath;
    const device = { driver: 'vfio-user-pci', addr: `${slot}.0`, socket: { type: 'unix', path: socketPath } };
    this.qemuArguments = `-device ${JSON.stringify(device)}`;
    this.#config.writeUInt32LE(0x5649_1234, 0);
    this.#config.writeUInt32LE(0xff00_0000, 8);
    this.#server = createServer((socket) => this.#serve(socket));
  }

  listen(): Promise<void> {
    rmSync(this.#path, { force: true });
    return new Promise((resolve) => this.#server.listen(this.#path, resolve));
  }

  close(): void {
    this.#socket?.destroy();
    this.#server.close();
    rmSync(this.#path, { force: true });
  }

  #serve(socket: Socket): void {
    this.#socket = socket;
    let pending: Buffer = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= HEADER_BYTES && pending.length >= pending.readUInt32LE(4)) {
        const bytes = pending.readUInt32LE(4);
        this.#message(pending.subarray(0, bytes));
        pending = pending.subarray(bytes);
      }
    });
  }

  #message(message: Buffer): void {
    const command = message.readUInt16LE(2);
    const flags = message.readUInt32LE(8);
    const body = message.subarray(HEADER_BYTES);
    if ((flags & FLAG_REPLY) !== 0) {
      this.#dmaDone(command, (flags & FLAG_ERROR) !== 0, body);
      return;
    }
    const answer = this.#answer(command, body);
    if ((flags & FLAG_NO_REPLY) === 0) this.#send(message.readUInt16LE(0), command, FLAG_REPLY, answer);
  }

  #send(id: number, command: number, flags: number, body: Buffer): void {
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt16LE(id, 0);
    header.writeUInt16LE(command, 2);
    header.writeUInt32LE(HEADER_BYTES + body.length, 4);
    header.writeUInt32LE(flags, 8);
    this.#socket?.write(Buffer.concat([header, body]));
  }

  #answer(command: number, body: Buffer): Buffer {
    switch (command) {
      case VERSION: {
        const version = Buffer.alloc(4);
        version.writeUInt16LE(body.readUInt16LE(2), 2);
        return Buffer.concat([version, Buffer.from('{"capabilities":{"max_data_xfer_size":1048576}}\0')]);
      }
      case GET_INFO:
        return words(16, 1 | 2, REGIONS, IRQ_TYPES);
      case GET_REGION_INFO: {
        const index = body.readUInt32LE(8);
        const bytes = index === CONFIG_REGION ? CONFIG_BYTES : index === 0 ? BAR_BYTES : 0;
        return words(32, bytes > 0 ? 3 : 0, index, 0, bytes, 0, 0, 0);
      }
      case GET_IRQ_INFO:
        return words(16, 0, body.readUInt32LE(8), 0);
      case REGION_READ: {
        const { at, memory, count } = this.#region(body);
        return Buffer.concat([body.subarray(0, 16), memory.subarray(at, at + count)]);
      }
      case REGION_WRITE: {
        const { at, memory, count } = this.#region(body);
        body.copy(memory, at, 16, 16 + count);
        if (memory === this.#bar && at === DMA_REGISTERS.command) this.#startDma();
        return body.subarray(0, 16);
      }
      default:
        // DMA_MAP, DMA_UNMAP, SET_IRQS, DEVICE_RESET: nothing to do. An unmap wants its body back.
        return body;
    }
  }

  #region(body: Buffer): { at: number; memory: Buffer; count: number } {
    const memory = body.readUInt32LE(8) === CONFIG_REGION ? this.#config : this.#bar;
    return { at: Number(body.readBigUInt64LE(0)), memory, count: body.readUInt32LE(12) };
  }

  /** Four bytes from or to memory; the reply says whether the IOMMU let them through. */
  #startDma(): void {
    const bar = this.#bar;
    bar.writeUInt32LE(DMA_BUSY, DMA_REGISTERS.status);
    const write = bar.readUInt32LE(DMA_REGISTERS.command) === DMA_WRITE;
    const transfer = Buffer.alloc(16);
    bar.copy(transfer, 0, DMA_REGISTERS.addressLow, DMA_REGISTERS.addressLow + 8);
    transfer.writeBigUInt64LE(4n, 8);
    const data = bar.subarray(DMA_REGISTERS.data, DMA_REGISTERS.data + 4);
    this.#nextId = this.#nextId === 0xffff ? 0x8000 : this.#nextId + 1;
    if (write) this.#send(this.#nextId, COMMAND_DMA_WRITE, 0, Buffer.concat([transfer, data]));
    else this.#send(this.#nextId, COMMAND_DMA_READ, 0, transfer);
  }

  #dmaDone(command: number, failed: boolean, body: Buffer): void {
    if (!failed && command === COMMAND_DMA_READ) body.copy(this.#bar, DMA_REGISTERS.data, 16, 20);
    this.#bar.writeUInt32LE(failed ? DMA_REFUSED : DMA_DONE, DMA_REGISTERS.status);
  }
}

function words(...values: number[]): Buffer {
  const buffer = Buffer.alloc(4 * values.length);
  for (const [index, value] of values.entries()) buffer.writeUInt32LE(value, 4 * index);
  return buffer;
}
