import { errno } from '../../host/errno.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Descriptors } from './descriptors.ts';
import type { VfioUserClient, VfioUserDevice } from './device.ts';
import type { DmaRegions } from './dma-regions.ts';
import { IrqTable } from './irq-table.ts';
import { type Message, newMessage, ProtocolError } from './message.ts';
import * as spec from './spec.ts';
import { Command, Flags } from './spec.ts';

/** What answers a command: a payload, or a positive errno. */
type Answer = Uint8Array | number;

const NOTHING = new Uint8Array(0);

/** The protocol with one client: checks each request as a hostile client's, has the device carry it out, answers. */
export class Session implements VfioUserClient {
  readonly #device: VfioUserDevice;
  readonly #regions: DmaRegions;
  readonly #irqs: IrqTable;
  readonly #descriptors: Descriptors | null;
  readonly #send: (bytes: Uint8Array) => void;
  /** What the device has to say while it handles a request: goes out behind the answer, as the client's processor waits for that. */
  readonly #behind: Uint8Array[] = [];
  #handling = false;
  #agreed = false;
  #nextId = 0;

  constructor(device: VfioUserDevice, regions: DmaRegions, descriptors: Descriptors | null, send: (bytes: Uint8Array) => void) {
    this.#device = device;
    this.#regions = regions;
    this.#descriptors = descriptors;
    this.#irqs = new IrqTable(device, descriptors);
    this.#send = send;
  }

  get memory(): GuestMemory {
    return this.#regions.memory;
  }

  trigger(irq: number, vector: number): boolean {
    return this.#irqs.trigger(irq, vector);
  }

  write(address: bigint, data: Uint8Array): void {
    if (!this.#agreed) return;
    const { bytes, body } = newMessage(this.#nextId, Command.DMA_WRITE, Flags.NO_REPLY, spec.DMA_ACCESS_BYTES + data.length);
    this.#nextId = (this.#nextId + 1) & 0xffff;
    body.setBigUint64(0, address, true);
    body.setBigUint64(8, BigInt(data.length), true);
    bytes.set(data, spec.HEADER.BYTES + spec.DMA_ACCESS_BYTES);
    if (this.#handling) this.#behind.push(bytes);
    else this.#send(bytes);
  }

  /** Handles a message. @throws ProtocolError when nothing more can be had from this client. */
  receive(message: Message): void {
    // Nothing that goes out wants an answer.
    if ((message.flags & Flags.TYPE) === Flags.REPLY) {
      this.#closeAll(message.descriptors);
      return;
    }
    this.#handling = true;
    try {
      const answer = this.#answer(message);
      if ((message.flags & Flags.NO_REPLY) === 0) this.#send(replyTo(message, answer));
    } finally {
      this.#handling = false;
      for (const bytes of this.#behind.splice(0)) this.#send(bytes);
    }
  }

  /** The client is gone: so are its memory and its eventfds. */
  close(): void {
    const wasThere = this.#agreed;
    this.#agreed = false;
    try {
      if (wasThere) this.#device.disconnected();
    } finally {
      this.#irqs.clear();
      this.#regions.clear();
    }
  }

  #answer({ command, payload, descriptors }: Message): Answer {
    if (command === Command.DMA_MAP && this.#agreed) {
      this.#closeAll(descriptors.slice(1));
      return this.#orEmpty(this.#regions.map(payload, descriptors[0] ?? null));
    }
    if (command === Command.DEVICE_SET_IRQS && this.#agreed) return this.#orEmpty(this.#irqs.set(payload, descriptors));
    this.#closeAll(descriptors);
    if (command === Command.VERSION) return this.#version(payload);
    if (!this.#agreed) throw new ProtocolError(`command ${command} before VERSION`);
    switch (command) {
      case Command.DMA_UNMAP:
        return this.#orEcho(this.#regions.unmap(payload), payload, spec.DMA_UNMAP.BYTES);
      case Command.DEVICE_GET_INFO:
        return this.#info(payload);
      case Command.DEVICE_GET_REGION_INFO:
        return this.#regionInfo(payload);
      case Command.DEVICE_GET_IRQ_INFO:
        return this.#irqInfo(payload);
      case Command.REGION_READ:
        return this.#read(payload);
      case Command.REGION_WRITE:
        return this.#orEcho(this.#write(payload), payload, spec.REGION_ACCESS.BYTES);
      case Command.REGION_WRITE_MULTI:
        return this.#writeMany(payload);
      case Command.DEVICE_RESET:
        this.#device.reset();
        return NOTHING;
    }
    return errno.EOPNOTSUPP;
  }

  #version(payload: DataView): Answer {
    if (payload.byteLength < spec.VERSION_BYTES || this.#agreed) throw new ProtocolError('VERSION is too short, or comes again');
    // A client takes any minor version up to its own.
    if (payload.getUint16(0, true) !== 0) throw new ProtocolError(`version ${payload.getUint16(0, true)} is not 0`);
    this.#agreed = true;
    this.#device.connected(this);
    const { descriptors, data, mappings } = spec.LIMITS;
    const capabilities = {
      max_msg_fds: descriptors,
      max_data_xfer_size: data,
      max_dma_maps: mappings,
      pgsizes: 4096,
      write_multiple: true,
    };
    const json = new TextEncoder().encode(`${JSON.stringify({ capabilities })}\0`);
    const answer = new Uint8Array(spec.VERSION_BYTES + json.length);
    answer.set(json, spec.VERSION_BYTES);
    return answer;
  }

  #info(payload: DataView): Answer {
    if (payload.byteLength < spec.DEVICE_INFO_BYTES) return errno.EINVAL;
    return words(spec.DEVICE_INFO_BYTES, spec.DeviceFlags.RESET | spec.DeviceFlags.PCI, spec.REGIONS, spec.IRQ_TYPES);
  }

  #regionInfo(payload: DataView): Answer {
    if (payload.byteLength < spec.REGION_INFO_BYTES) return errno.EINVAL;
    const index = payload.getUint32(8, true);
    if (index >= spec.REGIONS) return errno.EINVAL;
    const bytes = this.#device.regions[index] ?? 0;
    return words(spec.REGION_INFO_BYTES, bytes === 0 ? 0 : spec.RegionFlags.READ | spec.RegionFlags.WRITE, index, 0, bytes, 0, 0, 0);
  }

  #irqInfo(payload: DataView): Answer {
    if (payload.byteLength < spec.IRQ_INFO_BYTES) return errno.EINVAL;
    const index = payload.getUint32(8, true);
    const type = this.#device.irqs[index];
    return type === undefined ? errno.EINVAL : words(spec.IRQ_INFO_BYTES, type.flags, index, type.count);
  }

  #read(payload: DataView): Answer {
    const place = this.#place(payload);
    if (typeof place === 'number') return place;
    const { region, offset, count } = place;
    const answer = new Uint8Array(spec.REGION_ACCESS.BYTES + count);
    answer.set(new Uint8Array(payload.buffer, payload.byteOffset, spec.REGION_ACCESS.BYTES));
    this.#device.readRegion(region, offset, new DataView(answer.buffer, spec.REGION_ACCESS.BYTES));
    return answer;
  }

  #write(payload: DataView): number {
    const place = this.#place(payload);
    if (typeof place === 'number') return place;
    const { region, offset, count } = place;
    if (payload.byteLength < spec.REGION_ACCESS.BYTES + count) return errno.EINVAL;
    // The message's buffer is used again for the next one; what the device keeps of it is the device's matter.
    const data = new DataView(payload.buffer, payload.byteOffset + spec.REGION_ACCESS.BYTES, count);
    this.#device.writeRegion(region, offset, data);
    return 0;
  }

  /** Writes of up to 8 bytes, one after the other; the answer says how many were done. */
  #writeMany(payload: DataView): Answer {
    if (payload.byteLength < 8) return errno.EINVAL;
    const count = Number(payload.getBigUint64(0, true));
    if (payload.byteLength < 8 + count * spec.MULTI_BYTES) return errno.EINVAL;
    for (let i = 0; i < count; i++) {
      const one = new DataView(payload.buffer, payload.byteOffset + 8 + i * spec.MULTI_BYTES, spec.MULTI_BYTES);
      const answer = this.#write(one);
      if (answer !== 0) return answer;
    }
    return words(count, 0);
  }

  #place(payload: DataView): { readonly region: number; readonly offset: number; readonly count: number } | number {
    if (payload.byteLength < spec.REGION_ACCESS.BYTES) return errno.EINVAL;
    const offset = Number(payload.getBigUint64(spec.REGION_ACCESS.OFFSET, true));
    const region = payload.getUint32(spec.REGION_ACCESS.REGION, true);
    const count = payload.getUint32(spec.REGION_ACCESS.COUNT, true);
    const bytes = region < spec.REGIONS ? (this.#device.regions[region] ?? 0) : 0;
    return count === 0 || count > spec.LIMITS.data || offset + count > bytes ? errno.EINVAL : { region, offset, count };
  }

  #orEmpty(error: number): Answer {
    return error === 0 ? NOTHING : error;
  }

  /** The first `bytes` of the request. */
  #orEcho(error: number, payload: DataView, bytes: number): Answer {
    return error === 0 ? new Uint8Array(payload.buffer, payload.byteOffset, bytes) : error;
  }

  #closeAll(descriptors: readonly number[]): void {
    for (const descriptor of descriptors) this.#descriptors?.close(descriptor);
  }
}

function replyTo({ id, command }: Message, answer: Answer): Uint8Array {
  if (typeof answer === 'number') return newMessage(id, command, Flags.REPLY, 0, answer).bytes;
  const { bytes } = newMessage(id, command, Flags.REPLY, answer.length);
  bytes.set(answer, spec.HEADER.BYTES);
  return bytes;
}

/** 32-bit fields in a row. */
function words(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}
