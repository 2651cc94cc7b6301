import type { Capability, ExtendedCapability } from './capabilities.ts';
import type { RegisterBlock } from './registers.ts';

/** A window of registers that software places. */
export interface Bar {
  /** A power of two, from 16 bytes on (I/O: 4 to 256). */
  readonly bytes: number;
  /** Default `memory`: 32-bit addresses. A `memory64` one takes the next BAR's place too. */
  readonly kind?: 'memory' | 'memory64' | 'io';
  readonly prefetchable?: boolean;
  readonly registers: RegisterBlock;
}

/** What a function is; software sees nothing else of it. */
export interface PciDescription {
  readonly vendor: number;
  readonly device: number;
  readonly subsystemVendor?: number;
  readonly subsystem?: number;
  readonly revision?: number;
  /** Class, subclass and programming interface in 24 bits: 0x010000 is a SCSI controller. */
  readonly classCode: number;
  /** By number, 6 at most; null: not there. */
  readonly bars?: readonly (Bar | null)[];
  /** INTx pin: 1 is INTA#. Default 0, none. */
  readonly interruptPin?: number;
  readonly capabilities?: readonly Capability[];
  readonly extendedCapabilities?: readonly ExtendedCapability[];
  /** A PCI-to-PCI bridge: the header of type 1, two BARs at most. PciHost.addBridge makes its bus. Default false. */
  readonly bridge?: boolean;
  /** A part of the root complex, whose messages software expects although it never sets bus master enable. Default false. */
  readonly messagesWithoutBusMaster?: boolean;
  /** The table of MSI-X is among the registers behind its BAR, whose owner sends the messages (RISC-V's msi_cfg_tbl). Default false. */
  readonly msixInRegisters?: boolean;
}
