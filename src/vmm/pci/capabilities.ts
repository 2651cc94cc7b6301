import { requireArray, requireBoolean, requireNumber, requireNumbers, requireObject } from '../../memory/arguments.ts';
import type { WindowFields } from './bar-window.ts';
import type { ConfigField } from './config-space.ts';
import {
  CapabilityId,
  DEVICE_CAPABILITIES,
  DEVICE_CONTROL,
  ExtendedId,
  FUNCTION_LEVEL_RESET,
  MSI_ADDRESS,
  MSI_CONTROL,
  MSI_UPPER_ADDRESS,
  MSIX_CONTROL,
  MSIX_PBA,
  MSIX_TABLE,
  MsiControl,
  MsixControl,
  PASID_CONTROL,
  POWER_CAPABILITIES,
  POWER_CONTROL,
  PowerControl,
} from './spec.ts';

/** A capability: its ID and its registers behind ID and next pointer (extended: behind the 4-byte header). */
export interface Capability {
  readonly id: number;
  readonly bytes: number;
  readonly fields: readonly ConfigField[];
  /** Where it begins; left out: behind the one before. */
  readonly at?: number;
  /** Some of its registers are a window on what is behind BARs. */
  readonly barWindow?: WindowFields;
}

/** An extended capability (PCI Express Base 5.0, 7.6). */
export interface ExtendedCapability extends Capability {
  readonly version: number;
}

/** Where an MSI-X table, or its pending bits, lie: a BAR and an offset in it that is a multiple of 8. */
export interface InBar {
  readonly bar: number;
  readonly offset: number;
}

/** MSI with a power of two of vectors up to 32, 64-bit addresses and, if wanted, mask bits (7.7.1). @throws RangeError for another number. */
export function msi(vectors = 1, maskable = false): Capability {
  requireNumber('PCI', 'vectors', vectors);
  requireBoolean('PCI', 'maskable', maskable);
  const capable = Math.log2(vectors);
  if (!Number.isInteger(capable) || capable < 0 || capable > 5) throw new RangeError(`PCI: MSI has ${vectors} vectors`);
  const control = (capable << MsiControl.CAPABLE_SHIFT) | MsiControl.WIDE | (maskable ? MsiControl.MASKABLE : 0);
  const fields: ConfigField[] = [
    { name: 'Message Control', at: MSI_CONTROL, bytes: 2, value: control, writable: MsiControl.ENABLE | MsiControl.ENABLED },
    { name: 'Message Address', at: MSI_ADDRESS, bytes: 4, writable: ~3 },
    { name: 'Message Upper Address', at: MSI_UPPER_ADDRESS, bytes: 4, writable: -1 },
    { name: 'Message Data', at: 12, bytes: 2, writable: 0xffff },
  ];
  const all = vectors === 32 ? -1 : (1 << vectors) - 1;
  if (maskable)
    fields.push({ name: 'Mask Bits', at: 16, bytes: 4, writable: all }, { name: 'Pending Bits', at: 20, bytes: 4, changes: all });
  return { id: CapabilityId.MSI, bytes: maskable ? 24 : 14, fields };
}

/** MSI-X (7.7.2). @throws RangeError for no possible number of vectors or place. */
export function msix(vectors: number, table: InBar, pending: InBar): Capability {
  requireNumber('PCI', 'vectors', vectors);
  requireObject('PCI', 'table', table);
  requireObject('PCI', 'pending', pending);
  requireNumbers('PCI', { bar: table.bar, offset: table.offset, pendingBar: pending.bar, pendingOffset: pending.offset });
  if (!Number.isInteger(vectors) || vectors < 1 || vectors > 2048) throw new RangeError(`PCI: MSI-X has ${vectors} vectors`);
  for (const { bar, offset } of [table, pending])
    if (bar < 0 || bar > 5 || offset % 8 !== 0) throw new RangeError(`PCI: MSI-X cannot lie in BAR ${bar} at 0x${offset.toString(16)}`);
  return {
    id: CapabilityId.MSIX,
    bytes: 12,
    fields: [
      {
        name: 'Message Control',
        at: MSIX_CONTROL,
        bytes: 2,
        value: vectors - 1,
        writable: MsixControl.MASK_ALL | MsixControl.ENABLE,
      },
      { name: 'Table Offset, BIR', at: MSIX_TABLE, bytes: 4, value: table.offset | table.bar },
      { name: 'PBA Offset, BIR', at: MSIX_PBA, bytes: 4, value: pending.offset | pending.bar },
    ],
  };
}

/** A vendor's own registers (7.9.4), those behind the length byte. */
export function vendor(fields: readonly ConfigField[], bytes: number): Capability {
  requireArray('PCI', 'fields', fields);
  requireNumber('PCI', 'bytes', bytes);
  return { id: CapabilityId.VENDOR, bytes, fields: [{ name: 'Capability Length', at: 2, bytes: 1, value: bytes }, ...fields] };
}

/**
 * Power management (7.5.2): D0 and D3hot. A function that comes back from D3hot is reset, unless `noSoftReset`. It has no power
 * management events.
 */
export function powerManagement(noSoftReset = false): Capability {
  requireBoolean('PCI', 'noSoftReset', noSoftReset);
  return {
    id: CapabilityId.POWER,
    bytes: 8,
    fields: [
      { name: 'Power Management Capabilities', at: POWER_CAPABILITIES, bytes: 2, value: 0x0003 },
      {
        name: 'Power Management Control/Status',
        at: POWER_CONTROL,
        bytes: 2,
        value: noSoftReset ? PowerControl.NO_SOFT_RESET : 0,
        writable: PowerControl.STATE,
      },
    ],
  };
}

/**
 * A PCI Express endpoint integrated into the root complex (7.5.3): needed by those that look for extended capabilities.
 * `functionLevelReset`: software can reset the function by it (6.6.2).
 */
export function integratedEndpoint(functionLevelReset = false): Capability {
  requireBoolean('PCI', 'functionLevelReset', functionLevelReset);
  // Role-based error reporting.
  const capabilities = 0x8000 | (functionLevelReset ? FUNCTION_LEVEL_RESET : 0);
  return {
    id: CapabilityId.EXPRESS,
    bytes: 60,
    fields: [
      { name: 'PCI Express Capabilities', at: 2, bytes: 2, value: 0x0092 },
      { name: 'Device Capabilities', at: DEVICE_CAPABILITIES, bytes: 4, value: capabilities },
      { name: 'Device Control', at: DEVICE_CONTROL, bytes: 2, value: 0x0810, writable: 0x78ff },
      { name: 'Device Status', at: 10, bytes: 2, clears: 0x000f },
      { name: 'Device Control 2', at: 0x28, bytes: 2, writable: 0x7fff },
    ],
  };
}

/** Address Translation Service (10.5.1). `queueDepth`: invalidations that the function takes at a time, 1 to 32. */
export function ats(queueDepth = 32): ExtendedCapability {
  requireNumber('PCI', 'queueDepth', queueDepth);
  const pageAligned = 1 << 5;
  return {
    id: ExtendedId.ATS,
    version: 1,
    bytes: 8,
    fields: [
      { name: 'ATS Capability', at: 4, bytes: 2, value: (queueDepth & 0x1f) | pageAligned },
      { name: 'ATS Control', at: 6, bytes: 2, writable: 0x801f },
    ],
  };
}

/** Page Request Interface (10.5.2). `outstanding`: requests under way at most. */
export function pri(outstanding = 32): ExtendedCapability {
  requireNumber('PCI', 'outstanding', outstanding);
  return {
    id: ExtendedId.PRI,
    version: 1,
    bytes: 16,
    fields: [
      { name: 'Page Request Control', at: 4, bytes: 2, writable: 0x0001 },
      // Stopped; responses carry a PASID where the request does.
      { name: 'Page Request Status', at: 6, bytes: 2, value: 0x8100, clears: 0x0003 },
      { name: 'Outstanding Page Request Capacity', at: 8, bytes: 4, value: outstanding },
      { name: 'Outstanding Page Request Allocation', at: 12, bytes: 4, writable: -1 },
    ],
  };
}

/** PASID (7.8.9). `width`: bits of a PASID, 1 to 20. */
export function pasid(width = 20): ExtendedCapability {
  requireNumber('PCI', 'width', width);
  return {
    id: ExtendedId.PASID,
    version: 1,
    bytes: 8,
    fields: [
      // Privileged mode and execute requests are supported.
      { name: 'PASID Capability', at: 4, bytes: 2, value: 6 | (width << 8) },
      { name: 'PASID Control', at: PASID_CONTROL, bytes: 2, writable: 0x0007 },
    ],
  };
}
