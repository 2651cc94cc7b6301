import { requireBigint, requireBoolean, requireNumber, requireObject } from '../../memory/arguments.ts';
import type { PciFunction } from './function.ts';
import * as pci from './spec.ts';

/** Where an access ends: a BAR of a function, and how far into it. */
export interface BarHit {
  readonly fn: PciFunction;
  readonly bar: number;
  readonly offset: number;
}

interface Slot {
  readonly fn: PciFunction;
  /** The bus on a bridge's other side. */
  readonly behind: PciBus | null;
}

/**
 * A bus: functions by device and function number, and what is behind bridges, reached by the numbers and windows that software has given
 * those (PCI Express Base 5.0, 7.5.1.3; PCI-to-PCI Bridge 1.2, 3.1.2.1 and 4.3).
 *
 * @example
 * const bus = new PciBus(() => 0);
 * const remove = bus.add(5, 0, new PciFunction({ vendor: 0x1234, device: 1, classCode: 0xff0000 }));
 * bus.number; // 0
 * remove();
 */
export class PciBus {
  readonly #slots = new Map<number, Slot>();
  readonly #number: () => number;

  /** `number`: the bus's own, now. */
  constructor(number: () => number) {
    if (typeof number !== 'function') throw new TypeError('PciBus: number is no function');
    this.#number = number;
  }

  /** What requests from here carry; 0 behind a bridge that software has not numbered yet. */
  get number(): number {
    return this.#number();
  }

  /** A function that is there from now on; the disposer takes it away. @throws RangeError when the place is taken, or none. */
  add(device: number, number: number, fn: PciFunction): () => void {
    requireNumber('PciBus', 'device', device);
    requireNumber('PciBus', 'number', number);
    requireObject('PciBus', 'fn', fn, 'PciFunction', ['readConfig']);
    return this.#put(device, number, { fn, behind: null });
  }

  /** A bridge; the bus behind it. @throws RangeError as `add`, and for a function that is no bridge. */
  addBridge(device: number, number: number, bridge: PciFunction): PciBus {
    requireNumber('PciBus', 'device', device);
    requireNumber('PciBus', 'number', number);
    requireObject('PciBus', 'bridge', bridge, 'PciFunction', ['readConfig']);
    if (bridge.readConfig(pci.HEADER_TYPE, 1) !== pci.BRIDGE_HEADER) throw new RangeError('PCI: the function is no bridge');
    const behind = new PciBus(() => bridge.readConfig(pci.SECONDARY_BUS, 1));
    this.#put(device, number, { fn: bridge, behind });
    return behind;
  }

  #put(device: number, number: number, slot: Slot): () => void {
    const place = (device << 3) | number;
    if (!(device >= 0 && device < 32 && number >= 0 && number < 8)) throw new RangeError(`PCI: ${device}.${number} is no function's place`);
    if (this.#slots.has(place)) throw new RangeError(`PCI: ${device}.${number} is taken`);
    this.#slots.set(place, slot);
    return () => {
      if (this.#slots.get(place) === slot) this.#slots.delete(place);
    };
  }

  /** Requester ID of a function of this bus, as its requests carry it now; -1: it is not here. */
  requesterOf(fn: PciFunction): number {
    requireObject('PciBus', 'fn', fn);
    for (const [place, slot] of this.#slots) if (slot.fn === fn) return (this.number << 8) | place;
    return -1;
  }

  /** The function that a configuration access with this requester ID reaches. */
  find(requester: number): PciFunction | null {
    requireNumber('PciBus', 'requester', requester);
    const bus = requester >> 8;
    if (bus === this.number) return this.#slots.get(requester & 0xff)?.fn ?? null;
    for (const { fn, behind } of this.#slots.values()) {
      const secondary = fn.readConfig(pci.SECONDARY_BUS, 1);
      // Before software has numbered it, a bridge passes nothing on.
      if (behind === null || secondary === 0 || bus < secondary || bus > fn.readConfig(pci.SUBORDINATE_BUS, 1)) continue;
      return behind.find(requester);
    }
    return null;
  }

  /** What answers at an address of memory or I/O space. */
  decode(address: bigint, io: boolean): BarHit | null {
    requireBigint('PciBus', 'address', address);
    requireBoolean('PciBus', 'io', io);
    for (const { fn, behind } of this.#slots.values()) {
      const hit = hitOf(fn, address, io) ?? (behind !== null && !io && forwards(fn, address) ? behind.decode(address, io) : null);
      if (hit !== null) return hit;
    }
    return null;
  }

  /** Every function here and behind bridges. */
  *functions(): Generator<PciFunction> {
    for (const { fn, behind } of this.#slots.values()) {
      yield fn;
      if (behind !== null) yield* behind.functions();
    }
  }
}

function hitOf(fn: PciFunction, address: bigint, io: boolean): BarHit | null {
  for (let bar = 0; bar < fn.bars.length; bar++) {
    const description = fn.bars[bar];
    if (!description || (description.kind === 'io') !== io) continue;
    const base = fn.addressOf(bar);
    if (base !== null && address >= base && address < base + BigInt(description.bytes)) return { fn, bar, offset: Number(address - base) };
  }
  return null;
}

/** Whether one of a bridge's two memory windows has the address; a base above its limit is no window. */
function forwards(bridge: PciFunction, address: bigint): boolean {
  if ((bridge.readConfig(pci.COMMAND, 2) & pci.Command.MEMORY) === 0) return false;
  const edge = (at: number) => BigInt(bridge.readConfig(at, 2) & 0xfff0) << 16n;
  const upper = (at: number) => BigInt(bridge.readConfig(at, 4)) << 32n;
  const windows: readonly (readonly [bigint, bigint])[] = [
    [edge(pci.MEMORY_BASE), edge(pci.MEMORY_LIMIT)],
    [edge(pci.PREFETCHABLE_BASE) + upper(pci.PREFETCHABLE_BASE_UPPER), edge(pci.PREFETCHABLE_LIMIT) + upper(pci.PREFETCHABLE_LIMIT_UPPER)],
  ];
  return windows.some(([base, limit]) => address >= base && address <= limit + 0xf_ffffn);
}
