import type { VirtioDeviceState } from '../../virtqueue/device.ts';
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
 * @throws TypeError when the state is not one that `save` made, or names endpoints that are not known here.
 */
export function domainsOf(state: VirtioIommuState, domains: Domains): DomainMembers[] {
  const seen = new Set<number>();
  return state.domains.map((saved) => {
    const domain = domains.create(saved.id, saved.bypass);
    const endpoints = saved.endpoints.map((id) => {
      const endpoint = domains.endpoints.get(id);
      if (endpoint === undefined || seen.has(id)) throw new TypeError(`VirtioIommu: endpoint ${id} is not known, or in two domains`);
      seen.add(id);
      return endpoint;
    });
    for (let i = 0; i < saved.mappings.length; i += 4) {
      const [first, pages, gpa, permission] = saved.mappings.slice(i, i + 4);
      if (pages < 1 || first + pages > 2 ** 52 || domain.mappings.insert(first, pages, gpa, permission) < 0)
        throw new TypeError(`VirtioIommu: mapping at page ${first} of domain ${saved.id} is not possible`);
    }
    return { domain, endpoints };
  });
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
