import { EXECUTE, READ, READ_WRITE, WRITE } from '../../memory/access.ts';
import { hiOfPfn, loOfPfn, PAGE_LG2, pfnOfHiLo } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { Iotlb, NO_CONTEXT } from '../../memory/iotlb.ts';
import { VirtioDevice } from '../../virtqueue/device.ts';
import {
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_RING_PACKED,
  F_VERSION_1,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_FEATURES_OK,
} from '../../virtqueue/spec.ts';
import { targetFault } from '../fault-codes.ts';
import { IdentitySpace } from '../identity-space.ts';
import type { AddressSpace, Target, TargetObserver } from '../target.ts';
import { Batch } from './batch.ts';
import { ConfigSpace } from './config-space.ts';
import type { Domain } from './domain.ts';
import { Domains } from './domains.ts';
import { Endpoint, type ReservedRegion } from './endpoint.ts';
import { FaultQueue } from './fault-queue.ts';
import { type Settings, settingsOf, type VirtioIommuOptions } from './options.ts';
import * as virtio from './protocol.ts';
import { RequestQueue } from './request-queue.ts';
import { checkState, domainsOf, saveDomain, type VirtioIommuState } from './state.ts';

/** lg2 of the bytes that one answer in bypass mode speaks for: any would be true. */
const IDENTITY_LG2 = 30;

/**
 * The virtio-iommu device (virtio 1.3, 5.13). A driver reaches it through `device` (status, features, queues), the
 * configuration space and `notify`; a recording through `attach`, `detach`, `map`, `unmap` and `probe`.
 * `translate` answers the complement of the fault's reason: ~FAULT_R_UNKNOWN, ~FAULT_R_DOMAIN, ~FAULT_R_MAPPING.
 */
export class VirtioIommu implements Target {
  readonly name = 'virtio-iommu';
  readonly memory: GuestMemory;
  /** What the transport's registers reach. */
  readonly device: VirtioDevice;
  readonly #settings: Settings;
  readonly #config: ConfigSpace;
  readonly #iotlb: Iotlb;
  readonly #domains: Domains;
  readonly #batch: Batch;
  readonly #view: DataView;
  readonly #requests: RequestQueue;
  readonly #faults: FaultQueue;
  readonly translated: Int32Array;

  /** @throws RangeError when an option is not possible, TypeError when one is not of its type. */
  constructor(options: VirtioIommuOptions) {
    const settings = settingsOf(options);
    const memory: GuestMemory = options.memory;
    this.memory = memory;
    this.#settings = settings;
    this.#config = new ConfigSpace(settings);
    this.#iotlb = new Iotlb(settings.iotlbCapacity);
    this.translated = this.#iotlb.out;
    this.#domains = new Domains(settings.limits, new IdentitySpace(memory), this.#iotlb);
    this.#batch = new Batch(this.#domains);
    this.#view = new DataView(this.#batch.bytes.buffer);
    this.device = new VirtioDevice(memory, offeredFeatures(settings), virtio.QUEUES, settings.queueSize, {
      interrupt: options.interrupt ?? (() => undefined),
      negotiated: () => this.#negotiated(),
      reset: () => this.#deviceReset(),
    });
    const probe = { bytes: settings.probeBytes, endpoints: this.#domains.endpoints };
    this.#requests = new RequestQueue(memory, this.device, this.#batch, probe);
    this.#faults = new FaultQueue(memory, this.device);
    this.#config.bypass = settings.bootBypass;
    this.#domains.bypass = settings.bootBypass;
  }

  /**
   * Makes an endpoint known; the disposer takes it away again.
   * @throws RangeError when it is known already, or its reserved regions are not possible.
   */
  addEndpoint(id: number, reserved: readonly ReservedRegion[] = []): () => void {
    if (this.#domains.endpoints.has(id)) throw new RangeError(`VirtioIommu: endpoint ${id} is known already`);
    const endpoint = new Endpoint(id, reserved, this.#settings.probeBytes);
    this.#domains.endpoints.set(id, endpoint);
    return () => {
      if (this.#domains.endpoints.get(id) !== endpoint) return;
      this.#domains.forget(endpoint);
    };
  }

  /** Domains and mappings that exist now, faults that found no buffer on the event queue. */
  get counts(): { readonly domains: number; readonly mappings: number; readonly droppedFaults: number } {
    return { domains: this.#domains.count, mappings: this.#domains.mappings, droppedFaults: this.#faults.dropped };
  }

  /** Fills `to` with the configuration space from `offset` on (5.13.4). */
  readConfig(offset: number, to: Uint8Array): void {
    this.#config.read(offset, to);
  }

  /** A driver's write to the configuration space: only `bypass` takes one, once F_BYPASS_CONFIG is negotiated (5.13.4.1). */
  writeConfig(offset: number, from: Uint8Array): void {
    const bypass = this.#config.bypassWritten(offset, from);
    if (bypass === null || (this.#features & virtio.F_BYPASS_CONFIG) === 0n) return;
    if (this.#domains.setBypass(bypass)) this.#config.bypass = bypass;
    else this.device.breakDown();
  }

  /**
   * Available buffer notification. True: there is more to do than one call may; call again from another turn. The event queue's
   * buffers are looked at when a fault needs one.
   */
  notify(queue: number): boolean {
    return queue === virtio.REQUEST_QUEUE && this.#requests.serve();
  }

  /** What a driver does up to FEATURES_OK (3.1.1), for those who have none. @throws RangeError when the features are not acceptable. */
  negotiate(features: bigint = this.device.offeredFeatures): void {
    this.device.status = 0;
    this.device.driverFeatures = features;
    this.device.status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
    if ((this.device.status & STATUS_FEATURES_OK) === 0)
      throw new RangeError(`VirtioIommu: features 0x${features.toString(16)} are not acceptable`);
  }

  /** ATTACH (5.13.6.3). This and the next ones do one request, as a kick of its own, and return its status. */
  attach(domain: number, endpoint: number, flags = 0): number {
    const view = this.#begin(virtio.T_ATTACH, domain, virtio.ATTACH_BYTES);
    view.setUint32(8, endpoint, true);
    view.setUint32(12, flags, true);
    return this.#end(virtio.ATTACH_BYTES);
  }

  /** DETACH (5.13.6.4). */
  detach(domain: number, endpoint: number): number {
    this.#begin(virtio.T_DETACH, domain, virtio.DETACH_BYTES).setUint32(8, endpoint, true);
    return this.#end(virtio.DETACH_BYTES);
  }

  /** MAP (5.13.6.5): [virtStart, virtEnd], both included, to `physStart` on. */
  map(domain: number, virtStart: bigint, virtEnd: bigint, physStart: bigint, flags: number): number {
    const view = this.#begin(virtio.T_MAP, domain, virtio.MAP_BYTES);
    view.setBigUint64(8, virtStart, true);
    view.setBigUint64(16, virtEnd, true);
    view.setBigUint64(24, physStart, true);
    view.setUint32(32, flags, true);
    return this.#end(virtio.MAP_BYTES);
  }

  /** UNMAP (5.13.6.6): [virtStart, virtEnd], both included. */
  unmap(domain: number, virtStart: bigint, virtEnd: bigint): number {
    const view = this.#begin(virtio.T_UNMAP, domain, virtio.UNMAP_BYTES);
    view.setBigUint64(8, virtStart, true);
    view.setBigUint64(16, virtEnd, true);
    return this.#end(virtio.UNMAP_BYTES);
  }

  /** PROBE (5.13.6.7): the reserved regions of an endpoint; null: NOENT. */
  probe(endpoint: number): readonly ReservedRegion[] | null {
    return this.#domains.endpoints.get(endpoint)?.regions ?? null;
  }

  observe(observer: TargetObserver): () => void {
    if (this.#domains.observer !== null) throw new TypeError('VirtioIommu: there is an observer already');
    this.#domains.observer = observer;
    let observing = true;
    return () => {
      if (observing) this.#domains.observer = null;
      observing = false;
    };
  }

  knows(endpoint: number): boolean {
    return this.#domains.endpoints.has(endpoint);
  }

  spaceOf(endpoint: number): AddressSpace | null {
    const known = this.#domains.endpoints.get(endpoint);
    return known === undefined ? null : this.#domains.spaceOf(known);
  }

  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    const known = this.#domains.endpoints.get(endpoint);
    if (known === undefined) return targetFault('virtio-iommu', virtio.FAULT_R_UNKNOWN);
    const wish = (access & READ_WRITE) | ((access & EXECUTE) !== 0 ? READ : 0);
    // The specification knows no process address spaces: what carries a PASID is not mapped.
    if (pasid >= 0) return this.#fault(virtio.FAULT_R_UNKNOWN, wish, known, hi, lo);
    const domain = known.domain;
    if (domain === null || domain.bypass) {
      if (domain === null && !this.#domains.bypass) return this.#fault(virtio.FAULT_R_DOMAIN, wish, known, hi, lo);
      return this.#identity(hi, lo, IDENTITY_LG2);
    }
    const lg2 = this.#iotlb.lookup(domain.tag, NO_CONTEXT, hi, lo, wish);
    return lg2 >= 0 ? lg2 : this.#lookup(known, domain, wish, hi, lo);
  }

  /** @throws Error when the host refuses to follow; nothing has changed then. */
  reset(): void {
    if (!this.#domains.replace([], this.#settings.bootBypass)) throw new Error('VirtioIommu: the host does not follow the reset');
    this.device.clear();
    this.#faults.dropped = 0;
    this.#config.bypass = this.#settings.bootBypass;
    this.#allow();
  }

  save(): VirtioIommuState {
    return {
      target: 'virtio-iommu',
      bypass: this.#config.bypass,
      dropped: this.#faults.dropped,
      device: this.device.save(),
      domains: this.#domains.members().map(saveDomain),
    };
  }

  /** @throws TypeError for what `save` did not make; Error when the host refuses to follow. Nothing has changed then. */
  load(value: unknown): void {
    const state = checkState(value);
    const domains = domainsOf(state, this.#domains);
    const before = { device: this.device.save(), bypass: this.#config.bypass };
    this.device.load(state.device);
    this.#config.bypass = state.bypass;
    if (!this.#domains.replace(domains, this.#bypass)) {
      this.device.load(before.device);
      this.#config.bypass = before.bypass;
      throw new Error('VirtioIommu: the host does not follow the loaded state');
    }
    this.#faults.dropped = state.dropped;
    this.#allow();
  }

  /** The features in force. */
  get #features(): bigint {
    return (this.device.status & STATUS_FEATURES_OK) !== 0 ? this.device.driverFeatures : 0n;
  }

  /** Whether endpoints without a domain are in bypass mode (5.13.6). */
  get #bypass(): boolean {
    return this.#settings.bypassMode === 'feature' ? (this.#features & virtio.F_BYPASS) !== 0n : this.#config.bypass;
  }

  #negotiated(): void {
    this.#allow();
    if (!this.#domains.setBypass(this.#bypass)) this.device.breakDown();
  }

  /**
   * "When the device is reset, endpoints are not attached to any domain" (5.13.5); `bypass` stays as it is (5.13.4.2). When the host
   * cannot give them what they have then, they are blocked, and the driver sees that the reset did not do.
   */
  #deviceReset(): void {
    this.#allow();
    if (this.#domains.replace([], this.#bypass)) return;
    this.#domains.block();
    this.device.breakDown();
  }

  /** What requests may ask for with the features in force (5.13.3). */
  #allow(): void {
    const features = this.#features;
    const has = (feature: bigint) => (features & feature) !== 0n;
    this.#batch.mapUnmap = has(virtio.F_MAP_UNMAP);
    this.#domains.attachFlags = has(virtio.F_BYPASS_CONFIG) ? virtio.ATTACH_F_BYPASS : 0;
    this.#domains.mapFlags = virtio.MAP_F_READ | virtio.MAP_F_WRITE | (has(virtio.F_MMIO) ? virtio.MAP_F_MMIO : 0);
  }

  #begin(type: number, domain: number, bytes: number): DataView {
    this.#batch.clear();
    this.#batch.bytes.fill(0, 0, bytes);
    this.#view.setUint8(0, type);
    this.#view.setUint32(4, domain, true);
    return this.#view;
  }

  #end(bytes: number): number {
    this.#batch.add(bytes);
    this.#batch.settle();
    return this.#batch.statuses[0];
  }

  /** What the IOTLB does not hold. */
  #lookup(endpoint: Endpoint, domain: Domain, wish: number, hi: number, lo: number): number {
    const pfn = pfnOfHiLo(hi, lo);
    const mappings = domain.mappings;
    const slot = mappings.lookup(pfn);
    // The doorbell of MSIs lies in front of the translation (5.13.6.8.1).
    if (slot < 0 && endpoint.isMsi(pfn)) return this.#identity(hi, lo, PAGE_LG2);
    const permission = slot < 0 ? 0 : mappings.permissionOf(slot);
    if (slot < 0 || (wish & ~permission) !== 0) return this.#fault(virtio.FAULT_R_MAPPING, wish, endpoint, hi, lo);
    const first = mappings.firstOf(slot);
    const lg2 = blockLg2(pfn, first, mappings.pagesOf(slot), mappings.valueOf(slot) - first);
    const gpa = mappings.valueOf(slot) + (pfn - first);
    const out = this.#iotlb.out;
    out[0] = loOfPfn(gpa) | (lo & 0xfff);
    out[1] = hiOfPfn(gpa);
    out[2] = permission & READ_WRITE;
    out[3] = 0;
    this.#iotlb.fill(domain.tag, NO_CONTEXT, hi, lo, lg2, out);
    return lg2;
  }

  #identity(hi: number, lo: number, lg2: number): number {
    this.translated[0] = lo;
    this.translated[1] = hi;
    return lg2;
  }

  #fault(reason: number, wish: number, endpoint: Endpoint, hi: number, lo: number): number {
    const flags = ((wish & READ) !== 0 ? virtio.FAULT_F_READ : 0) | ((wish & WRITE) !== 0 ? virtio.FAULT_F_WRITE : 0);
    this.#faults.report(reason, flags, endpoint.id, hi, lo);
    return targetFault('virtio-iommu', reason);
  }
}

/** lg2 of the largest aligned block around a page that a mapping holds whole, at an output with the same alignment. */
function blockLg2(pfn: number, first: number, pages: number, shift: number): number {
  let lg2 = PAGE_LG2;
  for (let size = 2; size <= pages; size *= 2, lg2++) {
    const start = pfn - (pfn % size);
    if (start < first || start + size > first + pages || shift % size !== 0) break;
  }
  return lg2;
}

function offeredFeatures({ bypassMode, probeBytes }: Settings): bigint {
  const always =
    F_VERSION_1 |
    F_RING_PACKED |
    F_EVENT_IDX |
    F_INDIRECT_DESC |
    virtio.F_INPUT_RANGE |
    virtio.F_DOMAIN_RANGE |
    virtio.F_MAP_UNMAP |
    virtio.F_MMIO;
  const bypass = bypassMode === 'config' ? virtio.F_BYPASS_CONFIG : bypassMode === 'feature' ? virtio.F_BYPASS : 0n;
  return always | bypass | (probeBytes > 0 ? virtio.F_PROBE : 0n);
}
