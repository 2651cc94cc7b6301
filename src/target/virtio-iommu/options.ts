import { pfnOf } from '../../memory/address.ts';
import { requireFunction, requireObject } from '../../memory/arguments.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { ConfigFields } from './config-space.ts';
import type { DomainLimits } from './domain.ts';

/** How endpoints without a domain get past the device (5.13.6): by a field that the driver can write, by an old feature, or not at all. */
export type BypassMode = 'config' | 'feature' | 'never';

export interface VirtioIommuOptions extends Partial<ConfigFields> {
  readonly memory: GuestMemory;
  /** Sends a used buffer notification of a queue, or (CONFIG_INTERRUPT) a configuration change notification. Default: nobody listens. */
  readonly interrupt?: (source: number) => void;
  /** Default: 'config', F_BYPASS_CONFIG. */
  readonly bypassMode?: BypassMode;
  /** What `bypass` is at power-on, with 'config'. Default true, so that firmware can boot. */
  readonly bootBypass?: boolean;
  /** Domains at one time. Default 65,536. */
  readonly domainLimit?: number;
  /** Mappings at one time. Default 2^20. */
  readonly mappingLimit?: number;
  /** Largest size of a queue. Default 256. */
  readonly queueSize?: number;
  /** Translations that the IOTLB holds, a power of two. Default 4096. */
  readonly iotlbCapacity?: number;
}

/** The options with what was left out, checked. */
export interface Settings extends ConfigFields {
  readonly bypassMode: BypassMode;
  readonly bootBypass: boolean;
  readonly queueSize: number;
  readonly iotlbCapacity: number;
  readonly limits: DomainLimits;
}

/** 2^39 bytes: what every host interface can map, a virtio-iommu below us included. */
const DEFAULT_INPUT = { start: 0n, last: 0x7f_ffff_ffffn };

/** @throws RangeError when an option is not possible, TypeError when one is not of its type. */
export function settingsOf(options: VirtioIommuOptions): Settings {
  requireObject('VirtioIommu', 'options', options);
  requireFunction('VirtioIommu', 'interrupt', options.interrupt);
  if (!Array.isArray(options.memory?.regions)) throw new TypeError('VirtioIommu: memory is no GuestMemory');
  requireBigint('pageSizeMask', options.pageSizeMask);
  if (options.inputRange !== undefined) {
    requireObject('VirtioIommu', 'inputRange', options.inputRange);
    requireBigint('inputRange.start', options.inputRange.start ?? null);
    requireBigint('inputRange.last', options.inputRange.last ?? null);
  }
  const pageSizeMask = options.pageSizeMask ?? 0xffff_ffff_ffff_f000n;
  const granuleLg2 = lowestBit(pageSizeMask);
  if (granuleLg2 < 12 || granuleLg2 > 30)
    throw new RangeError(`VirtioIommu: the lowest page size of 0x${pageSizeMask.toString(16)} is not in 2^12..2^30`);
  const inputRange = options.inputRange ?? DEFAULT_INPUT;
  const { start, last } = inputRange;
  const page = 1n << BigInt(granuleLg2);
  if (start < 0n || last < start || last >= 1n << 64n || start % page !== 0n || (last + 1n) % page !== 0n)
    throw new RangeError(`VirtioIommu: input range [0x${start.toString(16)}, 0x${last.toString(16)}] is not whole pages`);
  if (options.domainRange !== undefined) requireObject('VirtioIommu', 'domainRange', options.domainRange);
  const domainRange = options.domainRange ?? { first: 0, last: 0xffff_ffff };
  if (!(inRange(domainRange.first, 0, domainRange.last) && inRange(domainRange.last, 0, 0xffff_ffff)))
    throw new RangeError(`VirtioIommu: domain range ${domainRange.first}..${domainRange.last}`);
  const limits: DomainLimits = {
    granuleLg2,
    input: { first: pfnOf(start), last: pfnOf(last) },
    domains: domainRange,
    domainLimit: within('domainLimit', options.domainLimit ?? 65_536, 1, 2 ** 24),
    mappingLimit: within('mappingLimit', options.mappingLimit ?? 2 ** 20, 1, 2 ** 28),
  };
  const bypassMode = options.bypassMode ?? 'config';
  if (!['config', 'feature', 'never'].includes(bypassMode)) throw new RangeError(`VirtioIommu: bypassMode '${String(bypassMode)}' is none`);
  return {
    pageSizeMask,
    inputRange,
    domainRange,
    probeBytes: within('probeBytes', options.probeBytes ?? 512, 0, 65_536),
    bypassMode,
    bootBypass: bypassMode === 'config' && (options.bootBypass ?? true),
    queueSize: within('queueSize', options.queueSize ?? 256, 1, 32_768),
    iotlbCapacity: options.iotlbCapacity ?? 4096,
    limits,
  };
}

/** What is left out (undefined) has a default. */
function requireBigint(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'bigint') throw new TypeError(`VirtioIommu: ${name} ${String(value)} is no bigint`);
}

function inRange(value: number, lowest: number, highest: number): boolean {
  return Number.isInteger(value) && value >= lowest && value <= highest;
}

function within(name: string, value: number, lowest: number, highest: number): number {
  if (!inRange(value, lowest, highest)) throw new RangeError(`VirtioIommu: ${name} ${value} is not in ${lowest}..${highest}`);
  return value;
}

function lowestBit(mask: bigint): number {
  for (let bit = 0; bit < 64; bit++) if ((mask >> BigInt(bit)) & 1n) return bit;
  return -1;
}
