import { requireBigint, requireBoolean, requireNumber, requireObject } from '../../memory/arguments.ts';
import type { PciFunction } from '../pci/function.ts';
import { CapabilityId, CONFIG_BYTES, CONVENTIONAL_BYTES } from '../pci/spec.ts';
import type { IrqType, VfioUserClient, VfioUserDevice } from './device.ts';
import { CONFIG_REGION, IRQ_TYPES, Irq, IrqFlags, REGIONS } from './spec.ts';

/** How much of a function the client itself may know. */
export interface PciDeviceOptions {
  /**
   * The client does not learn of MSI-X, only its guest does: messages then are the function's own writes, which an IOMMU can translate
   * or remap, and none of the client's. Until the first reset the capability has a vendor's ID. Default false.
   */
  readonly hideMsix?: boolean;
  /** While it answers true nobody is there: configuration space reads all ones. For functions that are a unit's registers and nothing else. */
  readonly absent?: () => boolean;
  /** After each reset of the client's. */
  readonly reset?: () => void;
  readonly connected?: (client: VfioUserClient) => void;
  readonly disconnected?: () => void;
}

/**
 * A PCI function as vfio-user shows it.
 *
 * @example
 * const fn = new PciFunction({ vendor: 0x1234, device: 1, classCode: 0xff0000 });
 * const device = new PciVfioDevice(fn);
 * device.regions.length; // 9
 */
export class PciVfioDevice implements VfioUserDevice {
  readonly regions: readonly number[];
  readonly irqs: readonly IrqType[];
  readonly #fn: PciFunction;
  readonly #options: PciDeviceOptions;
  /** Where the MSI-X capability is while the client must not see it; -1: nowhere. */
  #disguised: number;
  #client: VfioUserClient | null = null;
  #intx = false;
  #intxMasked = false;
  #pulse = false;

  constructor(fn: PciFunction, options: PciDeviceOptions = {}) {
    requireObject('PciVfioDevice', 'fn', fn, 'PciFunction', ['readConfig']);
    requireObject('PciVfioDevice', 'options', options);
    this.#fn = fn;
    this.#options = options;
    const extended = fn.readConfig(CONVENTIONAL_BYTES, 4) !== 0;
    const regions = new Array<number>(REGIONS).fill(0);
    fn.bars.forEach((bar, i) => {
      regions[i] = bar?.bytes ?? 0;
    });
    regions[CONFIG_REGION] = extended ? CONFIG_BYTES : CONVENTIONAL_BYTES;
    this.regions = regions;
    const irqs = Array.from({ length: IRQ_TYPES }, (): IrqType => ({ count: 0, flags: 0 }));
    const hidden = options.hideMsix === true;
    if (fn.interruptPin > 0) irqs[Irq.INTX] = { count: 1, flags: IrqFlags.EVENTFD | IrqFlags.MASKABLE | IrqFlags.AUTOMASKED };
    irqs[Irq.MSI] = { count: fn.vectors.msi, flags: IrqFlags.EVENTFD | IrqFlags.NORESIZE };
    irqs[Irq.MSIX] = { count: hidden ? 0 : fn.vectors.msix, flags: IrqFlags.EVENTFD | IrqFlags.NORESIZE };
    this.irqs = irqs;
    this.#disguised = hidden ? msixOffset(fn) : -1;
  }

  /** The client, for messages of the function's: `PciSurroundings.sendMessage` of a function whose messages are writes. */
  sendMessage(address: bigint, data: number): void {
    requireBigint('PciVfioDevice', 'address', address);
    requireNumber('PciVfioDevice', 'data', data);
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, data, true);
    this.#client?.write(address, bytes);
  }

  /** Signals a vector where the client keeps the table: `PciSurroundings.signal`. */
  trigger(irq: number, vector: number): boolean {
    requireNumber('PciVfioDevice', 'irq', irq);
    requireNumber('PciVfioDevice', 'vector', vector);
    return this.#client?.trigger(irq, vector) ?? false;
  }

  /** The level of the function's pin: `PciSurroundings.setIntx`. The client masks a level that it was told, until its guest has seen to it. */
  setIntx(asserted: boolean): void {
    requireBoolean('PciVfioDevice', 'asserted', asserted);
    this.#intx = asserted;
    this.#settleIntx();
  }

  /** An edge on a pin that the client has as a level: told now, or once the client's guest has seen to the one before. */
  pulseIntx(): void {
    this.#pulse = true;
    this.#settleIntx();
  }

  #settleIntx(): void {
    if (!(this.#intx || this.#pulse) || this.#intxMasked || this.#client === null) return;
    this.#pulse = false;
    this.#intxMasked = this.#client.trigger(Irq.INTX, 0);
  }

  maskIrq(irq: number, masked: boolean): void {
    requireNumber('PciVfioDevice', 'irq', irq);
    requireBoolean('PciVfioDevice', 'masked', masked);
    if (irq !== Irq.INTX) return;
    this.#intxMasked = masked;
    this.#settleIntx();
  }

  readRegion(region: number, offset: number, into: DataView): void {
    requireNumber('PciVfioDevice', 'region', region);
    requireNumber('PciVfioDevice', 'offset', offset);
    if (!(into instanceof DataView)) throw new TypeError('PciVfioDevice: into is no DataView');
    if (region !== CONFIG_REGION) {
      for (const [at, bytes] of pieces(offset, into.byteLength, 8)) putBytes(into, at - offset, bytes, this.#fn.readBar(region, at, bytes));
      return;
    }
    if (this.#options.absent?.() === true) new Uint8Array(into.buffer, into.byteOffset, into.byteLength).fill(0xff);
    else this.#readConfig(offset, into);
  }

  /** Whole registers are read whole: for some, a read does something. */
  #readConfig(offset: number, into: DataView): void {
    for (const [at, bytes] of pieces(offset, into.byteLength, 4))
      putBytes(into, at - offset, bytes, BigInt(this.#fn.readConfig(at, bytes)));
    const disguised = this.#disguised - offset;
    if (disguised >= 0 && disguised < into.byteLength) into.setUint8(disguised, CapabilityId.VENDOR);
  }

  writeRegion(region: number, offset: number, from: DataView): void {
    requireNumber('PciVfioDevice', 'region', region);
    requireNumber('PciVfioDevice', 'offset', offset);
    if (!(from instanceof DataView)) throw new TypeError('PciVfioDevice: from is no DataView');
    const isConfig = region === CONFIG_REGION;
    for (const [at, bytes] of pieces(offset, from.byteLength, isConfig ? 4 : 8)) {
      const value = getBytes(from, at - offset, bytes);
      if (isConfig) this.#fn.writeConfig(at, bytes, Number(value));
      else this.#fn.writeBar(region, at, bytes, value);
    }
  }

  reset(): void {
    this.#fn.reset();
    this.#disguised = -1;
    this.#intxMasked = false;
    this.#options.reset?.();
  }

  connected(client: VfioUserClient): void {
    requireObject('PciVfioDevice', 'client', client, 'VfioUserClient', ['write', 'trigger']);
    this.#client = client;
    this.#options.connected?.(client);
  }

  disconnected(): void {
    this.#client = null;
    this.#fn.reset();
    this.#options.reset?.();
    this.#disguised = this.#options.hideMsix === true ? msixOffset(this.#fn) : -1;
    this.#intxMasked = false;
    this.#options.disconnected?.();
  }
}

function msixOffset(fn: PciFunction): number {
  return fn.capabilityOffsets.find((at) => fn.readConfig(at, 1) === CapabilityId.MSIX) ?? -1;
}

/** An access as aligned ones of 1, 2, 4 and so on up to `largest` bytes: what a processor's own access is already. */
function* pieces(offset: number, bytes: number, largest: number): Generator<readonly [number, number]> {
  for (let at = offset; at < offset + bytes; ) {
    let size = largest;
    while (at % size !== 0 || at + size > offset + bytes) size >>= 1;
    yield [at, size];
    at += size;
  }
}

function putBytes(into: DataView, at: number, bytes: number, value: bigint): void {
  for (let i = 0; i < bytes; i++) into.setUint8(at + i, Number((value >> BigInt(8 * i)) & 0xffn));
}

function getBytes(from: DataView, at: number, bytes: number): bigint {
  let value = 0n;
  for (let i = bytes - 1; i >= 0; i--) value = (value << 8n) | BigInt(from.getUint8(at + i));
  return value;
}
