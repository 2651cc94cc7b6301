import { requireArray, requireObject } from '../../../memory/arguments.ts';
import { acpiTable, Bytes, type TableMaker } from './table.ts';

/** The DMA Remapping Reporting table: VT-d D51397-018 (5.10), chapter 8 "BIOS Considerations". */

/** A device in the scope of a structure (8.3.1). */
export interface DeviceScope {
  readonly kind: 'endpoint' | 'bridge' | 'ioapic' | 'hpet' | 'namespace';
  /** I/O APIC ID, HPET number or ACPI device number; endpoints and bridges have none. */
  readonly enumerationId?: number;
  readonly startBus: number;
  /** From the host bridge down; for all but endpoints and bridges the source-id's device and function. */
  readonly path: readonly { readonly device: number; readonly function: number }[];
  /** SIDP only (8.9): REQ_WO_PASID_NESTED_NOTALLOWED and the bits after it. */
  readonly flags?: number;
}

/** A remapping unit (8.3, DRHD). */
export interface RemappingUnit {
  readonly segment?: number;
  /** Guest-physical address of its registers. */
  readonly registers: bigint;
  /** Bytes of its registers, a power of two from 4096 on. Default 4096. */
  readonly registerBytes?: number;
  /** All PCI devices of the segment that no other unit has; the last unit of its segment. */
  readonly includeAll?: boolean;
  readonly scope?: readonly DeviceScope[];
}

/** Memory that devices reach before, and while, they are remapped (8.4, RMRR). */
export interface ReservedMemory {
  readonly segment?: number;
  /** First byte, a multiple of 4096. */
  readonly base: bigint;
  /** Last byte, one less than a multiple of 4096. */
  readonly limit: bigint;
  readonly scope: readonly DeviceScope[];
}

/** Root ports with ATS behind them (8.5, ATSR). */
export interface AtsPorts {
  readonly segment?: number;
  readonly allPorts?: boolean;
  readonly scope?: readonly DeviceScope[];
}

/** Integrated devices with translation caches (8.8, SATC), or with properties (8.9, SIDP). */
export interface IntegratedDevices {
  readonly segment?: number;
  /** SATC only: ATC_REQUIRED. */
  readonly atcRequired?: boolean;
  readonly scope: readonly DeviceScope[];
}

/** Which memory a unit is near to (8.6, RHSA). */
export interface UnitAffinity {
  /** The unit's, as in its own structure. */
  readonly registers: bigint;
  /** Of the SRAT. */
  readonly proximityDomain: number;
}

/** A device that only ACPI knows, which makes requests (8.7, ANDD): its scope of kind `namespace` has the same number. */
export interface NamespaceDevice {
  /** 1 to 255, each once. */
  readonly deviceNumber: number;
  /** Its path in the namespace: `\\_SB.PCI0.I2C0`. */
  readonly objectName: string;
}

/** What a machine says of its remapping hardware. */
export interface DmarDescription {
  /** Bits of a DMA address, as the units' HAW. */
  readonly hostAddressWidth: number;
  /** INTR_REMAP: then every I/O APIC stands in the scope of a unit (8.3.1.1). */
  readonly interruptRemapping: boolean;
  readonly x2apicOptOut?: boolean;
  readonly dmaOptIn?: boolean;
  readonly units: readonly RemappingUnit[];
  readonly reservedMemory?: readonly ReservedMemory[];
  readonly atsPorts?: readonly AtsPorts[];
  readonly affinities?: readonly UnitAffinity[];
  readonly namespaceDevices?: readonly NamespaceDevice[];
  readonly translationCaches?: readonly IntegratedDevices[];
  readonly properties?: readonly IntegratedDevices[];
  readonly maker?: TableMaker;
}

/** Types of structures (8.2), which stand in numerical order, and of scopes (8.3.1). */
const Structure = { drhd: 0, rmrr: 1, atsr: 2, rhsa: 3, andd: 4, satc: 5, sidp: 6 } as const;
const scopeTypes = { endpoint: 1, bridge: 2, ioapic: 3, hpet: 4, namespace: 5 } as const;

/**
 * The table's bytes.
 *
 * @example
 * const dmar = dmarTable({ hostAddressWidth: 48, interruptRemapping: false, units: [{ registers: 0xfed9_0000n, includeAll: true }] });
 * String.fromCharCode(...dmar.subarray(0, 4)); // 'DMAR'
 *
 * @throws RangeError when there is no unit, or something does not fit its field or is not aligned; the line names it.
 */
export function dmarTable(description: DmarDescription): Uint8Array {
  requireObject('DMAR', 'description', description);
  const { hostAddressWidth, interruptRemapping, x2apicOptOut = false, dmaOptIn = false, units } = description;
  requireArray('DMAR', 'units', units);
  if (units.length === 0) throw new RangeError('DMAR: there is no unit');
  const flags = Number(interruptRemapping) | (Number(x2apicOptOut) << 1) | (Number(dmaOptIn) << 2);
  const body = new Bytes()
    .u8('hostAddressWidth', hostAddressWidth - 1)
    .u8('flags', flags)
    .zeros(10);
  // 8.3: the unit that takes all that is left comes after all others of its segment.
  const inOrder = [...units].sort((a, b) => Number(a.includeAll ?? false) - Number(b.includeAll ?? false));
  for (const unit of inOrder) append(body, Structure.drhd, drhd(unit), unit.scope ?? []);
  for (const memory of description.reservedMemory ?? []) append(body, Structure.rmrr, rmrr(memory), memory.scope);
  for (const ports of description.atsPorts ?? [])
    append(body, Structure.atsr, flagged(ports.allPorts ?? false, ports.segment), ports.allPorts ? [] : (ports.scope ?? []));
  for (const affinity of description.affinities ?? []) append(body, Structure.rhsa, rhsa(affinity, units), []);
  for (const device of distinct(description.namespaceDevices ?? [])) append(body, Structure.andd, andd(device), []);
  for (const caches of description.translationCaches ?? [])
    append(body, Structure.satc, flagged(caches.atcRequired ?? false, caches.segment), caches.scope);
  for (const devices of description.properties ?? [])
    append(body, Structure.sidp, new Bytes().zeros(2).u16('segment', devices.segment ?? 0), devices.scope);
  return acpiTable('DMAR', 1, body, description.maker);
}

function drhd({ segment = 0, registers, registerBytes = 4096, includeAll = false, scope = [] }: RemappingUnit): Bytes {
  const lg2 = Math.log2(registerBytes);
  if (!Number.isInteger(lg2) || lg2 < 12 || lg2 > 27)
    throw new RangeError(`DMAR: registerBytes ${registerBytes} is no power of two from 4096 on`);
  if (registers % BigInt(registerBytes) !== 0n) throw new RangeError(`DMAR: registers 0x${registers.toString(16)} are not aligned`);
  if (includeAll && scope.some(({ kind }) => kind === 'endpoint' || kind === 'bridge'))
    throw new RangeError('DMAR: a unit with includeAll names no endpoints or bridges');
  return new Bytes()
    .u8('flags', Number(includeAll))
    .u8('size', lg2 - 12)
    .u16('segment', segment)
    .u64('registers', registers);
}

function rmrr({ segment = 0, base, limit }: ReservedMemory): Bytes {
  if (base % 4096n !== 0n || limit % 4096n !== 4095n || limit < base)
    throw new RangeError(`DMAR: reserved memory 0x${base.toString(16)} to 0x${limit.toString(16)} is no range of pages`);
  return new Bytes().zeros(2).u16('segment', segment).u64('base', base).u64('limit', limit);
}

function rhsa({ registers, proximityDomain }: UnitAffinity, units: readonly RemappingUnit[]): Bytes {
  if (!units.some((unit) => unit.registers === registers))
    throw new RangeError(`DMAR: an affinity names registers 0x${registers.toString(16)}, which are no unit's`);
  return new Bytes().zeros(4).u64('registers', registers).u32('proximityDomain', proximityDomain);
}

function andd({ deviceNumber, objectName }: NamespaceDevice): Bytes {
  if (deviceNumber < 1) throw new RangeError(`DMAR: deviceNumber ${deviceNumber} is not in 1..255`);
  if (objectName.length === 0) throw new RangeError(`DMAR: namespace device ${deviceNumber} has no name`);
  return new Bytes().zeros(3).u8('deviceNumber', deviceNumber).text('objectName', objectName, objectName.length).zeros(1);
}

function distinct(devices: readonly NamespaceDevice[]): readonly NamespaceDevice[] {
  const twice = devices.find(({ deviceNumber }, i) => devices.findIndex((other) => other.deviceNumber === deviceNumber) !== i);
  if (twice !== undefined) throw new RangeError(`DMAR: two namespace devices have number ${twice.deviceNumber}`);
  return devices;
}

function flagged(flag: boolean, segment = 0): Bytes {
  return new Bytes().u8('flags', Number(flag)).u8('reserved', 0).u16('segment', segment);
}

function append(body: Bytes, type: number, fields: Bytes, scope: readonly DeviceScope[]): void {
  const devices = new Bytes();
  for (const device of scope) appendScope(devices, device);
  body
    .u16('type', type)
    .u16('length', 4 + fields.length + devices.length)
    .append(fields.toUint8Array())
    .append(devices.toUint8Array());
}

function appendScope(into: Bytes, { kind, enumerationId = 0, startBus, path, flags = 0 }: DeviceScope): void {
  if (path.length === 0) throw new RangeError(`DMAR: the path of a scope's ${kind} is empty`);
  into
    .u8('scope type', scopeTypes[kind])
    .u8('scope length', 6 + 2 * path.length)
    .u8('scope flags', flags)
    .u8('reserved', 0)
    .u8('enumerationId', enumerationId)
    .u8('startBus', startBus);
  for (const hop of path) {
    if (hop.device > 31 || hop.function > 7) throw new RangeError(`DMAR: ${hop.device}.${hop.function} is no device and function`);
    into.u8('device', hop.device).u8('function', hop.function);
  }
}
