import { PAGE_BYTES } from '../../memory/address.ts';
import { requireInteger as integer, require64, requireFunction, requireObject } from '../../memory/arguments.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { ErrorEvent } from './error-event.ts';

/** As QEMU's functions have it. */
export const DEFAULT_MSI_ADDRESS = 0xfe00_0000_0000_0000n;

/** PCI address spaces of a function, as loads and stores name them: 0 to 5 its BARs, 15 its configuration space. */
export interface PciSpaces {
  /** `bytes` bytes (1 to 8) as the register gets them, or null: no such place. */
  load(space: number, offset: bigint, bytes: number): bigint | null;
  /** False: no such place. */
  store(space: number, offset: bigint, bytes: number, value: bigint): boolean;
  /** Whether `store` would take `bytes` bytes at `offset`: asked for all of a block before any of it is stored, so that a refused one leaves nothing. */
  takes(space: number, offset: bigint, bytes: number): boolean;
}

export interface ZpciFunctionOptions {
  /** Function ID, and the number by which machines know the function: the endpoint. */
  readonly fid: number;
  /** User-defined ID, 1 to 0xffff. Default: `fid`. */
  readonly uid?: number;
  /** Handle while the function is disabled: bit 31 is clear, the low 16 bits are the function's own. Default: 0x20000 and the function's index. */
  readonly handle?: number;
  /** Group. Default 0xff. */
  readonly group?: number;
  /** PCI vendor and device, for CLP's list. Default 0. */
  readonly vendor?: number;
  readonly device?: number;
  /** DMA addresses that the function can be given, whole pages. Default: 4 GiB to 2^57, as QEMU has it. */
  readonly aperture?: { readonly start: bigint; readonly last: bigint };
  /** Not configured yet: standby. Default: configured and disabled. */
  readonly standby?: boolean;
  /** Loads and stores. Default: nowhere. */
  readonly spaces?: PciSpaces;
}

export interface ZpciIommuOptions {
  readonly memory: GuestMemory;
  readonly functions: readonly ZpciFunctionOptions[];
  /** An error event for the guest (CHSC store event information): what it is told of a fault. */
  readonly errorEvent?: (event: ErrorEvent) => void;
  /** An adapter interruption of this subclass; the indicators are set already. */
  readonly adapterInterruption?: (isc: number) => void;
  /** Time of day clock, for function measurement blocks. Default: it stands at 0. */
  readonly timeOfDay?: () => bigint;
  /** Designation types that the guest may use, from the left: 0x80 segment, 0x40 region third, 0x20 second, 0x10 first. Default: all. */
  readonly designations?: number;
  /** Whether functions may do without translation (IOTA.T = 0). Default false. */
  readonly relaxedTranslation?: boolean;
  /** Where functions write their MSIs: a page. Default 0xfe00000000000000. */
  readonly msiAddress?: bigint;
  /** Interrupts of a function, 1 to 2048. Default 128. */
  readonly interrupts?: number;
  /** Translations cached at most: a power of two from 16 on. Default: 65536. */
  readonly iotlbEntries?: number;
}

/** @throws RangeError when options contradict themselves; TypeError when one is left out or not of its type. */
export function checkOptions(options: ZpciIommuOptions): void {
  requireObject('ZpciIommu', 'options', options);
  for (const name of ['errorEvent', 'adapterInterruption', 'timeOfDay'] as const) requireFunction('ZpciIommu', name, options[name]);
  const { memory, functions, designations = 0xf0, msiAddress = 0n, interrupts = 1 } = options;
  if (!Array.isArray(memory?.regions)) throw new TypeError('ZpciIommu: memory is no GuestMemory');
  if (!Array.isArray(functions)) throw new TypeError('ZpciIommu: functions are no array');
  requireInteger('designations', designations, 0x10, 0xf0);
  if ((designations & 0xf) !== 0) throw new RangeError(`ZpciIommu: designations 0x${designations.toString(16)} has types without tables`);
  requireInteger('interrupts', interrupts, 1, 2048);
  requirePage('msiAddress', msiAddress);
  functions.forEach(checkFunction);
  requireDistinct(
    'fid',
    functions.map(({ fid }) => fid),
  );
  requireDistinct(
    'uid',
    functions.map(({ fid, uid = fid }) => uid),
  );
  requireDistinct(
    'handle',
    functions.map(({ handle }, index) => handleOf(handle, index) & 0xffff),
  );
}

export function handleOf(handle: number | undefined, index: number): number {
  return handle ?? 0x2_0000 | index;
}

function checkFunction(options: ZpciFunctionOptions, index: number): void {
  requireObject('ZpciIommu', 'function', options);
  const { fid, uid = fid, handle, group = 0, vendor = 0, device = 0, aperture, spaces } = options;
  requireInteger('fid', fid, 0, 0xffff_ffff);
  requireInteger('uid', uid, 1, 0xffff);
  requireInteger('handle', handleOf(handle, index), 0, 0x7fff_ffff);
  requireInteger('group', group, 0, 0xff);
  requireInteger('vendor', vendor, 0, 0xffff);
  requireInteger('device', device, 0, 0xffff);
  if (spaces !== undefined) checkSpaces(spaces);
  if (aperture === undefined) return;
  requireObject('ZpciIommu', 'aperture', aperture);
  requirePage('aperture.start', aperture.start);
  require64('ZpciIommu', 'aperture.last', aperture.last);
  requirePage('aperture.last + 1', aperture.last + 1n);
  if (aperture.start > aperture.last) throw new RangeError('ZpciIommu: aperture is empty');
}

function checkSpaces(spaces: PciSpaces): void {
  requireObject('ZpciIommu', 'spaces', spaces);
  for (const name of ['load', 'store', 'takes'] as const)
    if (typeof spaces[name] !== 'function') throw new TypeError(`ZpciIommu: spaces.${name} is no function`);
}

function requireInteger(name: string, value: number, least: number, most: number): void {
  integer('ZpciIommu', name, value, least, most);
}

function requirePage(name: string, address: bigint): void {
  if (typeof address !== 'bigint') throw new TypeError(`ZpciIommu: ${name} is no bigint`);
  if (address < 0n || address > 1n << 64n || address % BigInt(PAGE_BYTES) !== 0n)
    throw new RangeError(`ZpciIommu: ${name} 0x${address.toString(16)} is no page's start`);
}

function requireDistinct(what: string, values: readonly number[]): void {
  if (new Set(values).size !== values.length) throw new RangeError(`ZpciIommu: a ${what} is there twice`);
}
