import { requireAccess, requireBoolean, requireFunction, requireInteger, requireNumber, requireObject } from '../../memory/arguments.ts';
import { BarWindow } from './bar-window.ts';
import { ConfigSpace } from './config-space.ts';
import type { Bar, PciDescription } from './description.ts';
import { FunctionLevelReset } from './function-level-reset.ts';
import { barFields, headerOf } from './header.ts';
import { Msi } from './msi.ts';
import { MsixTable, type SavedMsix } from './msix.ts';
import { placeCapabilities, placeExtended } from './placement.ts';
import { PowerState } from './power-state.ts';
import * as pci from './spec.ts';

/** What the function needs of the machine around it. */
export interface PciSurroundings {
  /** Delivers a message (MSI, MSI-X) that the function sends; through the IOMMU's interrupt remapping, where there is one. */
  sendMessage?(address: bigint, data: number): void;
  /** The level of its INTx pin. */
  setIntx?(asserted: boolean): void;
  /** The function has been reset, by the machine or by software (FLR, D3hot): what is behind its BARs goes back, too. */
  reset?(): void;
}

/** As plain data. */
export interface PciState {
  readonly config: string;
  readonly msix: SavedMsix | null;
  readonly intx: boolean;
}

/**
 * A PCI function (PCI Express Base 5.0, 7.5): configuration space made from a declaration, registers behind BARs, interrupts by the way
 * that software chose. Where it is in a machine is the matter of PciHost, or of a vfio-user client.
 *
 * @example
 * const registers = { read: () => 0x42n, write: () => {} };
 * const device = new PciFunction({ vendor: 0x1234, device: 1, classCode: 0xff0000, bars: [{ bytes: 4096, registers }] });
 * device.readConfig(0, 4).toString(16); // '11234'
 * device.writeConfig(4, 2, 2);
 * device.readBar(0, 0, 4); // 0x42n
 */
export class PciFunction {
  readonly bars: readonly (Bar | null)[];
  readonly interruptPin: number;
  /** Where each capability lies, in the order of the description. */
  readonly capabilityOffsets: readonly number[];
  readonly #config = new ConfigSpace();
  readonly #surroundings: PciSurroundings;
  readonly #msix: MsixTable | null;
  readonly #msi: Msi | null;
  readonly #power: PowerState;
  readonly #flr: FunctionLevelReset;
  /** Where its PASID capability lies; -1: nowhere. */
  readonly #pasid: number;
  readonly #windows: readonly BarWindow[];
  #intx = false;
  #line = false;

  /** @throws RangeError when the description is not possible. */
  constructor(description: PciDescription, surroundings: PciSurroundings = {}) {
    requireObject('PciFunction', 'description', description);
    requireObject('PciFunction', 'surroundings', surroundings);
    requireInteger('PciFunction', 'vendor', description.vendor, 0, 0xffff);
    requireInteger('PciFunction', 'device', description.device, 0, 0xffff);
    requireInteger('PciFunction', 'classCode', description.classCode, 0, 0xff_ffff);
    requireFunction('PciFunction', 'sendMessage', surroundings.sendMessage);
    requireFunction('PciFunction', 'setIntx', surroundings.setIntx);
    requireFunction('PciFunction', 'reset', surroundings.reset);
    const { capabilities = [], extendedCapabilities = [], interruptPin = 0, bars = [] } = description;
    this.#surroundings = surroundings;
    this.interruptPin = interruptPin;
    this.bars = Array.from({ length: 6 }, (_, i) => bars[i] ?? null);
    if (bars.length > (description.bridge ? 2 : 6) || interruptPin < 0 || interruptPin > 4)
      throw new RangeError(`PCI: ${bars.length} BARs, pin ${interruptPin}`);
    this.#config.declare(0, headerOf(description));
    this.#config.declare(pci.BAR0, barFields(this.bars));
    this.capabilityOffsets = placeCapabilities(this.#config, capabilities);
    const extended = placeExtended(this.#config, extendedCapabilities);
    this.#pasid = extended[extendedCapabilities.findIndex(({ id }) => id === pci.ExtendedId.PASID)] ?? -1;
    const send = (address: bigint, data: number) => {
      // A message is a write of the function's own, so it takes bus mastering (7.5.1.1.3).
      if (this.busMaster || (description.messagesWithoutBusMaster && this.#power.isOn)) this.#surroundings.sendMessage?.(address, data);
    };
    const place = (id: number) => capabilities.findIndex((capability) => capability.id === id);
    this.#power = new PowerState(this.#config, this.capabilityOffsets[place(pci.CapabilityId.POWER)] ?? -1);
    this.#flr = new FunctionLevelReset(this.#config, this.capabilityOffsets[place(pci.CapabilityId.EXPRESS)] ?? -1);
    const msix = place(pci.CapabilityId.MSIX);
    const msi = place(pci.CapabilityId.MSI);
    this.#msix =
      msix < 0 || description.msixInRegisters
        ? null
        : new MsixTable(capabilities[msix]!, this.#config, this.capabilityOffsets[msix]!, send);
    for (const { bar, end } of this.#msix?.places ?? [])
      if (end > (this.bars[bar]?.bytes ?? 0))
        throw new RangeError(`PCI: MSI-X reaches to 0x${end.toString(16)} of BAR ${bar}, which ends before`);
    this.#windows = capabilities.flatMap(({ barWindow }, i) =>
      barWindow === undefined ? [] : new BarWindow(barWindow, this.#config, this.capabilityOffsets[i]!, this),
    );
    this.#msi = msi < 0 ? null : new Msi(capabilities[msi]!, this.#config, this.capabilityOffsets[msi]!, send);
  }

  /** Vectors of MSI-X, and of MSI; 0 where it has none. */
  get vectors(): { readonly msix: number; readonly msi: number } {
    return { msix: this.#msix?.vectors ?? 0, msi: this.#msi?.vectors ?? 0 };
  }

  /** Whether software has chosen MSI-X. */
  get msixEnabled(): boolean {
    return this.#msix?.enabled ?? false;
  }

  /** Whether software lets it do DMA. */
  get busMaster(): boolean {
    return this.#power.isOn && (this.#config.get(pci.COMMAND, 2) & pci.Command.BUS_MASTER) !== 0;
  }

  /** Whether its requests may carry PASIDs (7.8.9.3); a function that does not declare the capability is not asked. */
  get mayUsePasids(): boolean {
    return this.#pasid < 0 || (this.#config.get(this.#pasid + pci.PASID_CONTROL, 2) & pci.PASID_ENABLE) !== 0;
  }

  /** Where software has put a BAR, or null while the function does not answer there. */
  addressOf(bar: number): bigint | null {
    requireNumber('PciFunction', 'bar', bar);
    const found = this.bars[bar];
    if (!found) return null;
    const wanted = found.kind === 'io' ? pci.Command.IO : pci.Command.MEMORY;
    return this.#power.isOn && (this.#config.get(pci.COMMAND, 2) & wanted) !== 0 ? this.placeOf(bar) : null;
  }

  /** The address in a BAR, whether the function answers or not. */
  placeOf(bar: number): bigint {
    requireNumber('PciFunction', 'bar', bar);
    const low = this.#config.get(pci.BAR0 + 4 * bar, 4);
    const kind = this.bars[bar]?.kind;
    if (kind === 'io') return BigInt((low & ~3) >>> 0);
    const high = kind === 'memory64' ? this.#config.get(pci.BAR0 + 4 * bar + 4, 4) : 0;
    return (BigInt(high) << 32n) | BigInt((low & ~15) >>> 0);
  }

  /** Reads up to 4 bytes of configuration space. */
  readConfig(offset: number, bytes: number): number {
    requireAccess('PciFunction', offset, bytes);
    for (const window of this.#windows) window.beforeRead(offset, bytes);
    return this.#config.get(offset, bytes);
  }

  writeConfig(offset: number, bytes: number, value: number): void {
    requireAccess('PciFunction', offset, bytes);
    requireNumber('PciFunction', 'value', value);
    this.#config.write(offset, bytes, value);
    for (const window of this.#windows) window.written(offset, bytes);
    if (this.#flr.isAskedBy(offset, bytes, value)) this.#flr.perform(() => this.reset());
    else if (this.#power.settle()) this.reset();
    this.#settle();
  }

  /** What waited for a register to change, or for the function to be on, goes out. */
  #settle(): void {
    this.#settleIntx();
    if (!this.#power.isOn) return;
    this.#msix?.settle();
    this.#msi?.settle();
  }

  /** Reads 1, 2, 4 or 8 bytes behind a BAR; 0 where nothing is, or while the function is off. */
  readBar(bar: number, offset: number, bytes: number): bigint {
    requireNumber('PciFunction', 'bar', bar);
    requireAccess('PciFunction', offset, bytes);
    const found = this.bars[bar];
    if (!found || !this.#power.isOn || offset < 0 || offset + bytes > found.bytes) return 0n;
    const inTable = this.#msix?.blockAt(bar, offset) ?? null;
    return inTable === null ? found.registers.read(offset, bytes) : inTable.block.read(inTable.offset, bytes);
  }

  writeBar(bar: number, offset: number, bytes: number, value: bigint): void {
    requireNumber('PciFunction', 'bar', bar);
    requireAccess('PciFunction', offset, bytes, value);
    const found = this.bars[bar];
    if (!found || !this.#power.isOn || offset < 0 || offset + bytes > found.bytes) return;
    const inTable = this.#msix?.blockAt(bar, offset) ?? null;
    if (inTable === null) found.registers.write(offset, bytes, value);
    else inTable.block.write(inTable.offset, bytes, value);
  }

  /** Interrupts by MSI-X or MSI, none of which a function that is off sends. False: software uses neither, so it is INTx's matter (`setIntx`). */
  signal(vector: number): boolean {
    requireNumber('PciFunction', 'vector', vector);
    const way = this.#msix?.enabled ? this.#msix : this.#msi?.enabled ? this.#msi : null;
    way?.signal(vector);
    return way !== null;
  }

  /** Whether the function wants its INTx pin asserted; it is while nothing forbids that (7.5.1.1.3, 7.5.1.1.4). */
  setIntx(wanted: boolean): void {
    requireBoolean('PciFunction', 'wanted', wanted);
    this.#intx = wanted && this.interruptPin !== 0;
    const status = this.#config.get(pci.STATUS, 2) & ~pci.Status.INTERRUPT;
    this.#config.put(pci.STATUS, 2, this.#intx ? status | pci.Status.INTERRUPT : status);
    this.#settleIntx();
  }

  #settleIntx(): void {
    const disabled = (this.#config.get(pci.COMMAND, 2) & pci.Command.INTX_DISABLE) !== 0;
    const level = this.#intx && !disabled && this.#power.isOn && !this.#msix?.enabled && !this.#msi?.enabled;
    if (level === this.#line) return;
    this.#line = level;
    this.#surroundings.setIntx?.(level);
  }

  /** Back to power-on; `PciSurroundings.reset` hears of it. */
  reset(): void {
    this.#config.reset();
    this.#power.settle();
    this.#msix?.reset();
    this.#intx = false;
    this.#settleIntx();
    this.#surroundings.reset?.();
  }

  save(): PciState {
    return { config: this.#config.save(), msix: this.#msix?.save() ?? null, intx: this.#intx };
  }

  /** @throws TypeError when the state is not one that `save` of such a function made. */
  load(state: PciState): void {
    const { config, msix, intx } = state ?? {};
    if (typeof intx !== 'boolean' || this.#msix?.accepts(msix) === false) throw new TypeError('PCI: the state is not of such a function');
    this.#config.load(config);
    this.#power.settle();
    if (msix) this.#msix?.load(msix);
    this.setIntx(intx);
  }
}

/** The same surroundings, and `reset` before theirs: for whoever owns the registers behind BARs. */
export function withReset(surroundings: PciSurroundings, reset: () => void): PciSurroundings {
  return {
    sendMessage: (address, data) => surroundings.sendMessage?.(address, data),
    setIntx: (asserted) => surroundings.setIntx?.(asserted),
    reset: () => {
      reset();
      surroundings.reset?.();
    },
  };
}
