import { MMIO, READ_WRITE } from '../../memory/access.ts';
import { PAGE_LG2, PFN_LIMIT } from '../../memory/address.ts';
import type { VirtioDeviceState } from '../../virtqueue/device.ts';
import type { DomainLimits } from './domain.ts';
import type { DomainMembers, Domains } from './domains.ts';
import { QUEUES } from './spec/features.ts';

interface SavedDomain {
  readonly id: number;
  readonly bypass: boolean;
  readonly endpoints: readonly number[];
  /** First page, pages, guest page, permission of each mapping in turn. */
  readonly mappings: readonly number[];
}

/** What `save` of VirtioIommu gives. */
export interface VirtioIommuState {
  readonly target: 'virtio-iommu';
  readonly bypass: boolean;
  readonly dropped: number;
  readonly device: VirtioDeviceState;
  readonly domains: readonly SavedDomain[];
}

export function saveDomain({ domain, endpoints }: DomainMembers): SavedDomain {
  const mappings: number[] = [];
  domain.mappings.intervals(0, Infinity, (first, gpa, pages, permission) => mappings.push(first, pages, gpa, permission) > 0);
  return { id: domain.id, bypass: domain.bypass, endpoints: endpoints.map(({ id }) => id), mappings };
}

/**
 * The domains of a state, whole but not in use: no endpoint knows of them yet.
 * @throws TypeError when the state is not one that `save` made, or has what no ATTACH or MAP would do here.
 */
export function domainsOf(state: VirtioIommuState, domains: Domains): DomainMembers[] {
  const { limits } = domains;
  const seen = new Set<number>();
  let left = limits.mappingLimit;
  check(state.domains.length <= limits.domainLimit, `${state.domains.length} domains`);
  return state.domains.map((saved) => {
    const { id } = saved;
    check(id >= limits.domains.first && id <= limits.domains.last, `domain ${id}`);
    check(!saved.bypass || saved.mappings.length === 0, `mappings of domain ${id}, which is in bypass mode`);
    left -= saved.mappings.length / 4;
    check(left >= 0, `more than ${limits.mappingLimit} mappings`);
    const domain = domains.create(id, saved.bypass);
    for (let i = 0; i < saved.mappings.length; i += 4) {
      const [first, pages, gpa, permission] = saved.mappings.slice(i, i + 4);
      const isPossible = isMapping(limits, first, pages, gpa, permission) && domain.mappings.insert(first, pages, gpa, permission) >= 0;
      check(isPossible, `mapping at page ${first} of domain ${id}`);
    }
    const endpoints = saved.endpoints.map((each) => {
      const endpoint = domains.endpoints.get(each);
      if (endpoint === undefined || seen.has(each)) throw refusal(`endpoint ${each} is not known, or in two domains`);
      check(!domain.maps(endpoint.reserved), `mappings of domain ${id}, in what endpoint ${each} reserves`);
      seen.add(each);
      return endpoint;
    });
    return { domain, endpoints };
  });
}

/** What MAP would do (5.13.6.5.2). */
function isMapping({ granuleLg2, input }: DomainLimits, first: number, pages: number, gpa: number, permission: number): boolean {
  const granule = 2 ** (granuleLg2 - PAGE_LG2);
  const isAligned = [first, pages, gpa].every((value) => value % granule === 0);
  const isInside = pages >= 1 && first >= input.first && first + pages - 1 <= input.last && gpa + pages <= PFN_LIMIT;
  return isAligned && isInside && (permission & (READ_WRITE | MMIO)) === permission;
}

function refusal(what: string): TypeError {
  return new TypeError(`VirtioIommu: not a saved state: ${what}`);
}

function check(good: boolean, what: string): void {
  if (!good) throw refusal(what);
}

/** @throws TypeError when the value is not a VirtioIommuState. */
export function checkState(value: unknown): VirtioIommuState {
  const state = value as VirtioIommuState;
  const right =
    isObject(state) &&
    state.target === 'virtio-iommu' &&
    typeof state.bypass === 'boolean' &&
    isCount(state.dropped) &&
    isDeviceState(state.device) &&
    isListOf(state.domains, isDomain) &&
    new Set(state.domains.map(({ id }) => id)).size === state.domains.length;
  if (!right) throw new TypeError('VirtioIommu: not a saved state');
  return state;
}

function isDomain(value: unknown): value is SavedDomain {
  const domain = value as SavedDomain;
  return (
    isObject(domain) &&
    isCount(domain.id) &&
    typeof domain.bypass === 'boolean' &&
    isListOf(domain.endpoints, isCount) &&
    domain.endpoints.length > 0 &&
    isListOf(domain.mappings, isCount) &&
    domain.mappings.length % 4 === 0
  );
}

function isDeviceState(value: unknown): boolean {
  const device = value as VirtioDeviceState;
  const isQueue = (queue: unknown) => queue === null || isSavedQueue(queue);
  return (
    isObject(device) &&
    isCount(device.status) &&
    isDecimal(device.features) &&
    isListOf(device.queues, isQueue) &&
    device.queues.length === QUEUES
  );
}

function isSavedQueue(value: unknown): boolean {
  const queue = value as NonNullable<VirtioDeviceState['queues'][number]>;
  return (
    isObject(queue) &&
    isCount(queue.size) &&
    [queue.descriptors, queue.driver, queue.device].every(isDecimal) &&
    isListOf(queue.positions, isCount) &&
    (queue.positions.length === 2 || queue.positions.length === 4)
  );
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}
function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
function isDecimal(value: unknown): boolean {
  return typeof value === 'string' && /^\d{1,20}$/.test(value);
}
function isListOf(value: unknown, isOne: (item: unknown) => boolean): value is readonly unknown[] {
  return Array.isArray(value) && value.every(isOne);
}
