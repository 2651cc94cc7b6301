import type { Capability, ExtendedCapability } from './capabilities.ts';
import type { ConfigSpace } from './config-space.ts';
import * as pci from './spec.ts';

/** 7.5.1.1.11: a list that begins at the capabilities pointer. */
export function placeCapabilities(config: ConfigSpace, capabilities: readonly Capability[]): number[] {
  const offsets: number[] = [];
  let end = pci.HEADER_BYTES;
  let link = pci.CAPABILITIES_POINTER;
  for (const { id, bytes, fields, at } of capabilities) {
    const base = at ?? end;
    if (base < end || base % 4 !== 0 || base + bytes > pci.CONVENTIONAL_BYTES)
      throw new RangeError(`PCI: capability 0x${id.toString(16)} does not fit at 0x${base.toString(16)}`);
    config.declare(0, [{ name: 'Next Capability', at: link, bytes: 1, value: base }]);
    config.declare(base, [{ name: 'Capability ID', at: 0, bytes: 1, value: id }, ...fields]);
    offsets.push(base);
    link = base + 1;
    end = (base + bytes + 3) & ~3;
  }
  if (offsets.length > 0)
    config.declare(pci.STATUS, [{ name: 'Status', at: 0, bytes: 2, value: pci.Status.CAPABILITIES, clears: pci.STATUS_CLEARS }]);
  return offsets;
}

/** 7.6.3: a list that begins at 0x100; all zero where there is none. Where each of them lies. */
export function placeExtended(config: ConfigSpace, capabilities: readonly ExtendedCapability[]): number[] {
  let base = pci.CONVENTIONAL_BYTES;
  return capabilities.map(({ id, version, bytes, fields }, i) => {
    const at = base;
    base = (base + bytes + 3) & ~3;
    const next = i + 1 < capabilities.length ? base : 0;
    config.declare(at, [{ name: 'Extended Capability Header', at: 0, bytes: 4, value: id | (version << 16) | (next << 20) }, ...fields]);
    return at;
  });
}
