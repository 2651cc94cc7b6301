import { requireInteger, requireObject } from '../../memory/arguments.ts';
import type { Capability } from '../capability.ts';

const SECTION = 'IOMMU capabilities';

interface CapabilityField extends Capability {
  /** Bits of the register, [highest, lowest]. */
  readonly bits: readonly [number, number];
}

/** The capabilities register, from bit 0 on. */
export const CAPABILITIES = [
  { name: 'version', section: SECTION, bits: [7, 0], value: 0x10, reason: 'the revision that is followed' },
  { name: 'Sv32', section: SECTION, bits: [8, 8], value: true, reason: 'tables of 32-bit guests (DC.tc.SXL)' },
  { name: 'Sv39', section: SECTION, bits: [9, 9], value: true, reason: 'first stage' },
  { name: 'Sv48', section: SECTION, bits: [10, 10], value: true, reason: 'first stage' },
  { name: 'Sv57', section: SECTION, bits: [11, 11], value: true, reason: 'first stage' },
  { name: 'Svrsw60t59b', section: SECTION, bits: [14, 14], value: true, reason: 'PTE bits 60 and 59 are not looked at' },
  {
    name: 'Svpbmt',
    section: SECTION,
    bits: [15, 15],
    value: true,
    reason: 'memory types are resolved and answered; RAM here has one type',
  },
  {
    name: 'Sv32x4',
    section: SECTION,
    bits: [16, 16],
    value: true,
    reason: 'second stage of 32-bit guests (fctl.GXL, where the embedder makes it writable)',
  },
  { name: 'Sv39x4', section: SECTION, bits: [17, 17], value: true, reason: 'second stage' },
  { name: 'Sv48x4', section: SECTION, bits: [18, 18], value: true, reason: 'second stage' },
  { name: 'Sv57x4', section: SECTION, bits: [19, 19], value: true, reason: 'second stage' },
  { name: 'AMO_MRIF', section: SECTION, bits: [21, 21], value: true, reason: 'storeInterrupt sets pending bits atomically' },
  { name: 'MSI_FLAT', section: SECTION, bits: [22, 22], value: true, reason: 'flat MSI page tables, basic translate mode' },
  { name: 'MSI_MRIF', section: SECTION, bits: [23, 23], value: true, reason: 'MRIF mode' },
  {
    name: 'AMO_HWAD',
    section: SECTION,
    bits: [24, 24],
    value: true,
    reason: 'walks set A and D; leave it out for guests with passed-through devices, whose requests set neither',
  },
  { name: 'ATS', section: SECTION, bits: [25, 25], value: true, reason: 'translation requests, invalidations, page requests' },
  { name: 'T2GPA', section: SECTION, bits: [26, 26], value: true, reason: 'translated requests through the second stage' },
  { name: 'END', section: SECTION, bits: [27, 27], value: true, reason: 'both byte orders' },
  { name: 'IGS', section: SECTION, bits: [29, 28], value: 2, reason: 'messages and wires' },
  { name: 'HPM', section: SECTION, bits: [30, 30], value: true, reason: 'cycles and all eight events' },
  { name: 'DBG', section: SECTION, bits: [31, 31], value: true, reason: 'tr_req and tr_response' },
  { name: 'PAS', section: SECTION, bits: [37, 32], value: 56, reason: 'as wide as entries can say' },
  { name: 'PD8', section: SECTION, bits: [38, 38], value: true, reason: 'process directory of one level' },
  { name: 'PD17', section: SECTION, bits: [39, 39], value: true, reason: 'process directory of two levels' },
  { name: 'PD20', section: SECTION, bits: [40, 40], value: true, reason: 'process directory of three levels' },
  {
    name: 'QOSID',
    section: SECTION,
    bits: [41, 41],
    value: true,
    reason: 'identifiers are kept and checked; nothing here is metered by them',
  },
  { name: 'NL', section: SECTION, bits: [42, 42], value: true, reason: 'accepted; no entry that is no leaf is cached' },
  { name: 'S', section: SECTION, bits: [43, 43], value: true, reason: 'ranges of IOTINVAL' },
  { name: 'custom', section: SECTION, bits: [63, 56], value: 0, reason: 'nothing of ours' },
] as const satisfies readonly CapabilityField[];

/** Name of a capability, as the specification writes it. */
export type CapabilityName = (typeof CAPABILITIES)[number]['name'];

/** The register with all of it. */
export const ALL_CAPABILITIES = riscvCapabilities();

/**
 * The capabilities register: all that there is, but for what is named otherwise.
 *
 * @example
 * const iommu = new RiscvIommu({ capabilities: riscvCapabilities({ AMO_HWAD: false, PAS: 48 }) }, { memory: GuestMemory.ofBytes(1 << 20) });
 * Number((iommu.read(0, 8) >> 32n) & 0x3fn); // 48
 *
 * @throws RangeError for a name that the specification has not, or a value that does not fit its field
 */
export function riscvCapabilities(otherwise: Readonly<Partial<Record<CapabilityName, number | boolean>>> = {}): bigint {
  requireObject('riscvCapabilities', 'otherwise', otherwise);
  const unknown = Object.keys(otherwise).find((name) => !CAPABILITIES.some((field) => field.name === name));
  if (unknown !== undefined) throw new RangeError(`riscvCapabilities: there is no ${unknown}`);
  let register = 0n;
  for (const { name, bits, value } of CAPABILITIES) {
    const [high, low] = bits;
    const chosen = Number(otherwise[name] ?? value);
    requireInteger('riscvCapabilities', name, chosen, 0, 2 ** (high - low + 1) - 1);
    register |= BigInt(chosen) << BigInt(low);
  }
  return register;
}
