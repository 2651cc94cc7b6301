import { require64, requireAccess, requireNumber, requireObject } from '../../memory/arguments.ts';
import { type BarHit, PciBus } from './bus.ts';
import type { PciFunction } from './function.ts';
import { CONFIG_BYTES } from './spec.ts';

/** Requester ID of a function: bus, device (0 to 31) and function (0 to 7). @throws RangeError for anything else. */
export function requesterId(bus: number, device: number, fn = 0): number {
  requireNumber('PCI', 'bus', bus);
  requireNumber('PCI', 'device', device);
  requireNumber('PCI', 'fn', fn);
  if (!(bus >= 0 && bus < 256 && device >= 0 && device < 32 && fn >= 0 && fn < 8))
    throw new RangeError(`PCI: ${bus}:${device}.${fn} is no function's place`);
  return (bus << 8) | (device << 3) | fn;
}

/** x86's way to configuration space (PCI Local Bus 3.0, 3.2.2.3.2): the address port and, after it, the data port. */
export const CONFIG_ADDRESS_PORT = 0xcf8;
const CONFIG_DATA_PORT = 0xcfc;
const CONFIG_ENABLE = 0x8000_0000;

/**
 * A host bridge: finds functions by bus, device and function for configuration accesses (ECAM, or the two ports), and by address for
 * accesses of the processor to what software put behind BARs.
 *
 * @example
 * const host = new PciHost();
 * const remove = host.add(requesterId(0, 5), new PciFunction({ vendor: 0x1234, device: 1, classCode: 0xff0000 }));
 * host.readEcam(5 << 15, 4); // 0x11234n
 * remove();
 */
export class PciHost {
  /** Bus 0. */
  readonly bus = new PciBus(() => 0);
  #address = 0;

  /** A function of bus 0 that is there from now on; the disposer takes it away. @throws RangeError when the place is taken, or on another bus. */
  add(requester: number, fn: PciFunction): () => void {
    requireNumber('PciHost', 'requester', requester);
    requireObject('PciHost', 'fn', fn, 'PciFunction', ['readConfig']);
    if (requester >> 8 !== 0) throw new RangeError(`PCI: 0x${requester.toString(16)} is on a bus behind a bridge (PciBus.add)`);
    return this.bus.add(requester >> 3, requester & 7, fn);
  }

  /** The function that software reaches by this requester ID now. */
  functionAt(requester: number): PciFunction | null {
    requireNumber('PciHost', 'requester', requester);
    return this.bus.find(requester);
  }

  /** Reads the enhanced configuration space (PCI Express Base 5.0, 7.2.2): 4096 bytes a function. All ones where there is none. */
  readEcam(offset: number, bytes: number): bigint {
    requireAccess('PciHost', offset, bytes);
    let value = 0n;
    for (let done = 0; done < bytes; done += 4) {
      const size = Math.min(4, bytes - done);
      value |= BigInt(this.#read(Math.floor(offset / CONFIG_BYTES), (offset % CONFIG_BYTES) + done, size)) << BigInt(8 * done);
    }
    return value;
  }

  writeEcam(offset: number, bytes: number, value: bigint): void {
    requireAccess('PciHost', offset, bytes, value);
    for (let done = 0; done < bytes; done += 4) {
      const part = Number((value >> BigInt(8 * done)) & 0xffff_ffffn);
      this.#write(Math.floor(offset / CONFIG_BYTES), (offset % CONFIG_BYTES) + done, Math.min(4, bytes - done), part);
    }
  }

  /** Reads ports 0xcf8 to 0xcff. */
  readPort(port: number, bytes: number): number {
    requireNumber('PciHost', 'port', port);
    requireNumber('PciHost', 'bytes', bytes);
    if (port < CONFIG_DATA_PORT) return port === CONFIG_ADDRESS_PORT && bytes === 4 ? (this.#address & ~3) >>> 0 : allOnes(bytes);
    const place = this.#selected(port);
    return place === null ? allOnes(bytes) : this.#read(place.requester, place.offset, bytes);
  }

  writePort(port: number, bytes: number, value: number): void {
    requireNumber('PciHost', 'port', port);
    requireNumber('PciHost', 'bytes', bytes);
    requireNumber('PciHost', 'value', value);
    if (port === CONFIG_ADDRESS_PORT && bytes === 4) this.#address = value & ~0x7f00_0000;
    const place = port < CONFIG_DATA_PORT ? null : this.#selected(port);
    if (place !== null) this.#write(place.requester, place.offset, bytes, value);
  }

  /** The two lowest bits read as zero, but libqos names the byte by them, as QEMU's host bridges let it, where others do by the port. */
  #selected(port: number): { readonly requester: number; readonly offset: number } | null {
    if ((this.#address & CONFIG_ENABLE) === 0) return null;
    return { requester: (this.#address >>> 8) & 0xffff, offset: (this.#address & 0xff) | (port & 3) };
  }

  #read(requester: number, offset: number, bytes: number): number {
    return this.bus.find(requester)?.readConfig(offset, bytes) ?? allOnes(bytes);
  }

  #write(requester: number, offset: number, bytes: number, value: number): void {
    this.bus.find(requester)?.writeConfig(offset, bytes, value);
  }

  /** Reads memory behind a BAR; null: no function answers there. */
  readMemory(address: bigint, bytes: number): bigint | null {
    require64('PciHost', 'address', address);
    requireNumber('PciHost', 'bytes', bytes);
    const found = this.#find(address, false);
    return found === null ? null : found.fn.readBar(found.bar, found.offset, bytes);
  }

  /** Whether a function took the write. */
  writeMemory(address: bigint, bytes: number, value: bigint): boolean {
    require64('PciHost', 'address', address);
    requireNumber('PciHost', 'bytes', bytes);
    require64('PciHost', 'value', value);
    const found = this.#find(address, false);
    found?.fn.writeBar(found.bar, found.offset, bytes, value);
    return found !== null;
  }

  /** The same for I/O space. */
  readIo(port: number, bytes: number): bigint | null {
    requireNumber('PciHost', 'port', port);
    requireNumber('PciHost', 'bytes', bytes);
    const found = this.#find(BigInt(port), true);
    return found === null ? null : found.fn.readBar(found.bar, found.offset, bytes);
  }

  writeIo(port: number, bytes: number, value: bigint): boolean {
    requireNumber('PciHost', 'port', port);
    requireNumber('PciHost', 'bytes', bytes);
    require64('PciHost', 'value', value);
    const found = this.#find(BigInt(port), true);
    found?.fn.writeBar(found.bar, found.offset, bytes, value);
    return found !== null;
  }

  #find(address: bigint, io: boolean): BarHit | null {
    return this.bus.decode(address, io);
  }

  /** The functions go back to power-on, as on a bus reset. */
  reset(): void {
    this.#address = 0;
    for (const fn of this.bus.functions()) fn.reset();
  }
}

function allOnes(bytes: number): number {
  return bytes === 4 ? 0xffff_ffff : 2 ** (8 * bytes) - 1;
}

/** Bytes that an ECAM of this many buses takes. */
export function ecamBytes(buses: number): number {
  requireNumber('PCI', 'buses', buses);
  return buses * 256 * CONFIG_BYTES;
}
