import { requireArray, requireObject } from '../../../memory/arguments.ts';
import { acpiTable, Bytes, type TableMaker } from './table.ts';

/** The I/O Virtualization Reporting Structure: AMD IOMMU specification 48882, chapter 5 "I/O Virtualization ACPI Table". */

/** Which requester IDs are behind a unit (5.2.2.2 and on), with the interrupts of theirs that pass (DTE setting, default 0). */
export type IvhdDevice =
  | { readonly kind: 'all'; readonly setting?: number }
  | { readonly kind: 'select'; readonly device: number; readonly setting?: number }
  | { readonly kind: 'range'; readonly first: number; readonly last: number; readonly setting?: number }
  /** Requests of `device` come as those of `alias`. */
  | { readonly kind: 'alias'; readonly device: number; readonly alias: number; readonly setting?: number }
  /** An I/O APIC or HPET, by the number that it has in other tables. */
  | { readonly kind: 'ioapic' | 'hpet'; readonly handle: number; readonly device: number; readonly setting?: number }
  /** A device that ACPI names (40h only). */
  | { readonly kind: 'acpi'; readonly device: number; readonly hid: string; readonly uid: string; readonly setting?: number };

/** A remapping unit (5.2.2, IVHD). */
export interface IvhdUnit {
  /** Requester ID of its PCI function, and where its capability block is in configuration space. */
  readonly device: number;
  readonly capability: number;
  /** Guest-physical address of its registers. */
  readonly registers: bigint;
  readonly segment?: number;
  /** Feature registers, as the unit has them. */
  readonly efr: bigint;
  readonly efr2?: bigint;
  readonly devices: readonly IvhdDevice[];
}

/** Memory that devices reach one to one (5.2.3, IVMD). */
export interface UnityMemory {
  /** First byte and bytes, whole pages. */
  readonly base: bigint;
  readonly bytes: bigint;
  /** Left out: all devices. */
  readonly devices?: { readonly first: number; readonly last: number };
  /** Default: both. */
  readonly read?: boolean;
  readonly write?: boolean;
}

export interface IvrsDescription {
  /** Bits of addresses: of guest memory, and of DMA. */
  readonly physicalBits: number;
  readonly virtualBits: number;
  /** Which kinds of block each unit gets: software takes the newest that it knows. Default 10h and 11h; 40h with ACPI devices. */
  readonly types?: readonly (0x10 | 0x11 | 0x40)[];
  readonly units: readonly IvhdUnit[];
  readonly memory?: readonly UnityMemory[];
  readonly maker?: TableMaker;
}

/** Types of device entries. */
const Entry = { all: 1, select: 2, rangeStart: 3, rangeEnd: 4, alias: 0x42, special: 0x48, acpi: 0xf0 } as const;
const variety = { ioapic: 1, hpet: 2 } as const;
const UID_TEXT = 2;
const IVMD_BYTES = 32;
/** GVAsize: 48 bits of guest-virtual address. */
const GVA_48 = 2;

/**
 * The table's bytes.
 *
 * @example
 * const unit = { device: 0x18, capability: 0x40, registers: 0xfeb8_0000n, efr: 0x19n, devices: [{ kind: 'all' }] };
 * const ivrs = ivrsTable({ physicalBits: 40, virtualBits: 48, units: [unit] });
 * String.fromCharCode(...ivrs.subarray(0, 4)); // 'IVRS'
 *
 * @throws RangeError when there is no unit, or something does not fit its field or is not aligned; the line names it.
 */
export function ivrsTable(description: IvrsDescription): Uint8Array {
  requireObject('IVRS', 'description', description);
  const { physicalBits, virtualBits, types, units, memory = [], maker } = description;
  requireArray('IVRS', 'units', units);
  requireArray('IVRS', 'memory', memory);
  if (units.length === 0) throw new RangeError('IVRS: there is no unit');
  if (physicalBits < 32 || physicalBits > 64 || virtualBits < 32 || virtualBits > 64)
    throw new RangeError(`IVRS: addresses of ${physicalBits} and ${virtualBits} bits`);
  // IVinfo (5.1): EFRSup, DMA remapping, sizes.
  const body = new Bytes().u32('IVinfo', 3 | (GVA_48 << 5) | (physicalBits << 8) | (virtualBits << 15)).zeros(8);
  const named = units.some(({ devices }) => devices.some(({ kind }) => kind === 'acpi'));
  for (const type of types ?? (named ? [0x10, 0x11, 0x40] : [0x10, 0x11])) for (const unit of units) body.append(ivhd(type, unit));
  for (const range of memory) body.append(ivmd(range));
  return acpiTable('IVRS', 2, body, maker);
}

function ivhd(type: number, unit: IvhdUnit): Uint8Array {
  const { device, capability, registers, segment = 0, efr, efr2 = 0n, devices } = unit;
  if (registers % 0x4000n !== 0n) throw new RangeError(`IVRS: registers 0x${registers.toString(16)} are not aligned to 16 KiB`);
  const entries = new Bytes();
  for (const one of devices) if (one.kind !== 'acpi' || type === 0x40) entry(entries, one);
  const isShort = type === 0x10;
  if (!isShort && efr === 0n)
    throw new RangeError(
      `IVRS: efr of unit 0x${device.toString(16)} is 0, and software that reads blocks of ${type.toString(16)}h takes it for the unit's`,
    );
  const block = new Bytes()
    .u8('type', type)
    .u8('flags', 0)
    .u16('length', (isShort ? 24 : 40) + entries.length)
    .u16('device', device)
    .u16('capability', capability)
    .u64('registers', registers)
    .u16('segment', segment)
    .u16('info', 0)
    .u32('features', isShort ? reporting(efr) : 0);
  if (!isShort) block.u64('efr', efr).u64('efr2', efr2);
  return block.append(entries.toUint8Array()).toUint8Array();
}

/** Feature reporting of 10h (table 96), which has some of the feature register's bits in other places. */
function reporting(efr: bigint): number {
  const field = (low: number, width: number) => Number((efr >> BigInt(low)) & ((1n << BigInt(width)) - 1n));
  const places: readonly (readonly [from: number, width: number, to: number])[] = [
    [2, 1, 0],
    [3, 1, 1],
    [4, 1, 2],
    [14, 2, 3],
    [6, 1, 5],
    [7, 1, 6],
    [8, 1, 7],
    [32, 5, 8],
    [12, 2, 28],
    [10, 2, 30],
  ];
  return places.reduce((value, [from, width, to]) => value + field(from, width) * 2 ** to, 0);
}

function entry(into: Bytes, one: IvhdDevice): void {
  const { setting = 0 } = one;
  const four = (type: number, device: number) => into.u8('type', type).u16('device', device).u8('setting', setting);
  switch (one.kind) {
    case 'all':
      four(Entry.all, 0);
      break;
    case 'select':
      four(Entry.select, one.device);
      break;
    case 'range':
      if (one.last < one.first)
        throw new RangeError(`IVRS: devices 0x${one.first.toString(16)} to 0x${one.last.toString(16)} are no range`);
      four(Entry.rangeStart, one.first);
      into.u8('type', Entry.rangeEnd).u16('last', one.last).u8('reserved', 0);
      break;
    case 'alias':
      four(Entry.alias, one.device).u8('reserved', 0).u16('alias', one.alias).u8('reserved', 0);
      break;
    case 'acpi':
      four(Entry.acpi, one.device).text('hid', one.hid, 8, '\0').zeros(8).u8('UID format', UID_TEXT).u8('UID length', one.uid.length);
      into.text('uid', one.uid, one.uid.length);
      break;
    default:
      four(Entry.special, 0).u8('handle', one.handle).u16('device', one.device).u8('variety', variety[one.kind]);
  }
}

function ivmd({ base, bytes, devices, read = true, write = true }: UnityMemory): Uint8Array {
  if (base % 4096n !== 0n || bytes % 4096n !== 0n || bytes === 0n)
    throw new RangeError(`IVRS: memory 0x${base.toString(16)} of ${bytes} bytes is no range of pages`);
  const isOne = devices !== undefined && devices.first === devices.last;
  return new Bytes()
    .u8('type', devices === undefined ? 0x20 : isOne ? 0x21 : 0x22)
    .u8('flags', 1 | (Number(read) << 1) | (Number(write) << 2))
    .u16('length', IVMD_BYTES)
    .u16('first', devices?.first ?? 0)
    .u16('last', devices === undefined || isOne ? 0 : devices.last)
    .zeros(8)
    .u64('base', base)
    .u64('bytes', bytes)
    .toUint8Array();
}
