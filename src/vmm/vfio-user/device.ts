import type { GuestMemory } from '../../memory/guest-memory.ts';

/** What a connected client is for a device: its guest's memory, interrupts, and writes of the device's own. */
export interface VfioUserClient {
  /** What the client has mapped for DMA, at this moment. */
  readonly memory: GuestMemory;
  /** Signals a vector of an interrupt type. False: the client gave no eventfd for it. */
  trigger(irq: number, vector: number): boolean;
  /** Has the client write to its guest's addresses: for what is no RAM, such as a message to an interrupt controller. */
  write(address: bigint, bytes: Uint8Array): void;
}

/** How an interrupt type is advertised. */
export interface IrqType {
  readonly count: number;
  /** Bits of IrqFlags. */
  readonly flags: number;
}

/** A device as a vfio-user client sees it. Regions and interrupt types are numbered as VFIO numbers those of PCI devices. */
export interface VfioUserDevice {
  /** Bytes of each region; 0: not there. */
  readonly regions: readonly number[];
  readonly irqs: readonly IrqType[];
  /** Fills `into` from the region. The range is within it. */
  readRegion(region: number, offset: number, into: DataView): void;
  writeRegion(region: number, offset: number, from: DataView): void;
  /** The client takes the mask off an interrupt type, or puts it on. */
  maskIrq(irq: number, masked: boolean): void;
  reset(): void;
  /** A client is there. */
  connected(client: VfioUserClient): void;
  /** The client is gone, and its memory with it. */
  disconnected(): void;
}
