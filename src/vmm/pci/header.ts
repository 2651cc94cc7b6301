import type { ConfigField } from './config-space.ts';
import type { Bar, PciDescription } from './description.ts';
import * as pci from './spec.ts';

export function headerOf(description: PciDescription): ConfigField[] {
  return [...commonHeader(description), ...(description.bridge ? bridgeHeader : subsystem(description))];
}

/** Type 0 only. */
function subsystem({ vendor, device, subsystemVendor = vendor, subsystem: id = device }: PciDescription): ConfigField[] {
  return [
    { name: 'Subsystem Vendor ID', at: pci.SUBSYSTEM_VENDOR_ID, bytes: 2, value: subsystemVendor },
    { name: 'Subsystem ID', at: pci.SUBSYSTEM_ID, bytes: 2, value: id },
  ];
}

/** Type 1: windows have a granularity of 1 MiB, the prefetchable one 64-bit addresses; there is none for I/O. */
const bridgeHeader: readonly ConfigField[] = [
  { name: 'Header Type', at: pci.HEADER_TYPE, bytes: 1, value: pci.BRIDGE_HEADER },
  { name: 'Primary Bus Number', at: pci.PRIMARY_BUS, bytes: 1, writable: 0xff },
  { name: 'Secondary Bus Number', at: pci.SECONDARY_BUS, bytes: 1, writable: 0xff },
  { name: 'Subordinate Bus Number', at: pci.SUBORDINATE_BUS, bytes: 1, writable: 0xff },
  { name: 'Memory Base', at: pci.MEMORY_BASE, bytes: 2, writable: 0xfff0 },
  { name: 'Memory Limit', at: pci.MEMORY_LIMIT, bytes: 2, writable: 0xfff0 },
  { name: 'Prefetchable Memory Base', at: pci.PREFETCHABLE_BASE, bytes: 2, value: 1, writable: 0xfff0 },
  { name: 'Prefetchable Memory Limit', at: pci.PREFETCHABLE_LIMIT, bytes: 2, value: 1, writable: 0xfff0 },
  { name: 'Prefetchable Base Upper 32 Bits', at: pci.PREFETCHABLE_BASE_UPPER, bytes: 4, writable: -1 },
  { name: 'Prefetchable Limit Upper 32 Bits', at: pci.PREFETCHABLE_LIMIT_UPPER, bytes: 4, writable: -1 },
];

function commonHeader(description: PciDescription): ConfigField[] {
  const { vendor, device, revision = 0, classCode, interruptPin = 0 } = description;
  return [
    { name: 'Vendor ID', at: pci.VENDOR_ID, bytes: 2, value: vendor },
    { name: 'Device ID', at: pci.DEVICE_ID, bytes: 2, value: device },
    { name: 'Command', at: pci.COMMAND, bytes: 2, writable: pci.COMMAND_WRITABLE },
    { name: 'Status', at: pci.STATUS, bytes: 2, clears: pci.STATUS_CLEARS },
    { name: 'Revision ID', at: pci.REVISION_ID, bytes: 1, value: revision },
    { name: 'Class Code', at: pci.CLASS_CODE, bytes: 3, value: classCode },
    { name: 'Interrupt Line', at: pci.INTERRUPT_LINE, bytes: 1, writable: 0xff },
    { name: 'Interrupt Pin', at: pci.INTERRUPT_PIN, bytes: 1, value: interruptPin },
  ];
}

/** 7.5.1.2.1: the address bits that can be written say how large it is. */
export function barFields(bars: readonly (Bar | null)[]): ConfigField[] {
  const fields: ConfigField[] = [];
  bars.forEach((bar, i) => {
    if (bar === null) return;
    const { bytes, kind = 'memory', prefetchable = false } = bar;
    const least = kind === 'io' ? 4 : 16;
    if (!(bytes >= least && Number.isInteger(Math.log2(bytes)) && bytes <= 2 ** 31))
      throw new RangeError(`PCI: BAR ${i} has ${bytes} bytes, no power of two from ${least} on`);
    const type = kind === 'io' ? 1 : (kind === 'memory64' ? 4 : 0) | (prefetchable ? 8 : 0);
    fields.push({ name: `BAR ${i}`, at: 4 * i, bytes: 4, value: type, writable: -bytes });
    if (kind !== 'memory64') return;
    if (i === 5 || bars[i + 1]) throw new RangeError(`PCI: BAR ${i} has 64 bits, and there is no room for them`);
    fields.push({ name: `BAR ${i}, upper`, at: 4 * i + 4, bytes: 4, writable: -1 });
  });
  return fields;
}
