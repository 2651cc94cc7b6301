import { hiOf, loOf } from '../../memory/address.ts';
import { require64, requireBytes, requireNumbers, requireObject } from '../../memory/arguments.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { Iotlb } from '../../memory/iotlb.ts';
import { VirtioDevice } from '../../virtqueue/device.ts';
import { STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_FEATURES_OK } from '../../virtqueue/spec.ts';
import { put } from '../fields.ts';
import { IdentitySpace } from '../identity-space.ts';
import type { AddressSpace, PfnRange, Target, TargetObserver } from '../target.ts';
import { Batch } from './batch.ts';
import { FEATURES, featuresOf } from './capabilities.ts';
import { ConfigSpace } from './config-space.ts';
import { Domains } from './domains.ts';
import { FaultQueue } from './fault-queue.ts';
import { type Settings, settingsOf, type VirtioIommuOptions } from './options.ts';
import { RequestQueue } from './request-queue.ts';
import { Requests } from './requests.ts';
import { type ReservedRegion, ReservedRegions } from './reserved-regions.ts';
import { F_BYPASS, F_BYPASS_CONFIG, F_MAP_UNMAP, F_MMIO, QUEUES, REQUEST_QUEUE } from './spec/features.ts';
import {
  ATTACH,
  ATTACH_BYTES,
  ATTACH_F_BYPASS,
  DETACH,
  DETACH_BYTES,
  HEAD,
  MAP,
  MAP_BYTES,
  MAP_F_MMIO,
  MAP_F_READ,
  MAP_F_WRITE,
  T_ATTACH,
  T_DETACH,
  T_MAP,
  T_UNMAP,
  UNMAP,
  UNMAP_BYTES,
} from './spec/requests.ts';
import { checkState, domainsOf, saveDomain, type VirtioIommuState } from './state.ts';
import { Translator } from './translator.ts';

/**
 * The virtio-iommu device (virtio 1.4, 5.13). A driver reaches it through `device` (status, features, queues), the
 * configuration space and `notify`; a recording through `attach`, `detach`, `map`, `unmap` and `probe`.
 * `translate` answers the complement of the fault's reason: ~FAULT_R_UNKNOWN, ~FAULT_R_DOMAIN, ~FAULT_R_MAPPING.
 *
 * @example
 * const iommu = new VirtioIommu({ memory: GuestMemory.ofBytes(1 << 20), bootBypass: false });
 * iommu.addEndpoint(8);
 * iommu.negotiate();
 * iommu.attach(1, 8); // 0: OK
 * iommu.map(1, 0x5000n, 0x5fffn, 0x7000n, 3); // 0
 * iommu.translate(8, -1, 0, 0x5123, READ); // 12: lg2 of the page
 * iommu.translated[0]; // 0x7123
 * statusName(iommu.map(2, 0n, 0xfffn, 0n, 3)); // 'NOENT': there is no domain 2
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
  readonly #does: Requests;
  readonly #requests: RequestQueue;
  readonly #faults: FaultQueue;
  readonly #translator: Translator;
  readonly translated: Int32Array;

  /** @throws RangeError when an option is not possible, TypeError when one is not of its type. */
  constructor(options: VirtioIommuOptions) {
    const settings = settingsOf(options);
    const memory: GuestMemory = options.memory;
    this.memory = memory;
    this.#settings = settings;
    this.#config = new ConfigSpace(settings);
    this.#iotlb = new Iotlb(settings.iotlbCapacity);
    this.#domains = new Domains(settings.limits, new IdentitySpace(memory), this.#iotlb);
    this.#does = new Requests(this.#domains);
    this.#batch = new Batch(this.#does, this.#domains);
    this.device = new VirtioDevice(memory, offeredFeatures(settings), QUEUES, settings.queueSize, {
      interrupt: options.interrupt ?? (() => undefined),
      negotiated: () => this.#negotiated(),
      reset: () => this.#deviceReset(),
    });
    const probe = { bytes: settings.probeBytes, endpoints: this.#domains.endpoints };
    this.#requests = new RequestQueue(memory, this.device, this.#batch, probe);
    this.#faults = new FaultQueue(memory, this.device);
    this.#translator = new Translator(this.#domains, this.#iotlb, this.#faults);
    this.translated = this.#translator.translated;
    this.#config.bypass = settings.bootBypass;
    this.#domains.bypass = settings.bootBypass;
  }

  /**
   * Makes an endpoint known; the disposer takes it away again.
   * @throws RangeError when it is known already, or its reserved regions are not possible.
   */
  addEndpoint(id: number, reserved: readonly ReservedRegion[] = []): () => void {
    requireNumbers('VirtioIommu', { id });
    if (this.#domains.endpoints.has(id)) throw new RangeError(`VirtioIommu: endpoint ${id} is known already`);
    if (!Number.isInteger(id) || id < 0 || id > 0xffff_ffff) throw new RangeError(`VirtioIommu: endpoint ${id} is no 32-bit number`);
    const endpoint = { id, reserved: new ReservedRegions(reserved, this.#settings.probeBytes), domain: null };
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
    requireNumbers('VirtioIommu', { offset });
    requireBytes('VirtioIommu', 'to', to);
    this.#config.read(offset, to);
  }

  /** A driver's write to the configuration space: only `bypass` takes one, once F_BYPASS_CONFIG is negotiated (5.13.4.1). */
  writeConfig(offset: number, from: Uint8Array): void {
    requireNumbers('VirtioIommu', { offset });
    requireBytes('VirtioIommu', 'from', from);
    const bypass = this.#config.bypassWritten(offset, from);
    if (bypass === null || (this.#features & F_BYPASS_CONFIG) === 0n) return;
    if (this.#domains.setBypass(bypass)) this.#config.bypass = bypass;
    else this.device.breakDown();
  }

  /**
   * Available buffer notification. True: there is more to do than one call may; call again from another turn. The event queue's
   * buffers are looked at when a fault needs one.
   */
  notify(queue: number): boolean {
    requireNumbers('VirtioIommu', { queue });
    return queue === REQUEST_QUEUE && this.#requests.serve();
  }

  /** What a driver does up to FEATURES_OK (3.1.1), for those who have none. @throws RangeError when the features are not acceptable. */
  negotiate(features: bigint = this.device.offeredFeatures): void {
    require64('VirtioIommu', 'features', features);
    this.device.status = 0;
    this.device.driverFeatures = features;
    this.device.status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
    if ((this.device.status & STATUS_FEATURES_OK) === 0)
      throw new RangeError(`VirtioIommu: features 0x${features.toString(16)} are not acceptable`);
  }

  /** ATTACH (5.13.6.3). This and the next ones do one request, as a kick of its own, and return its status. */
  attach(domain: number, endpoint: number, flags = 0): number {
    requireNumbers('VirtioIommu', { domain, endpoint, flags });
    const request = this.#begin(T_ATTACH, ATTACH_BYTES);
    put(request, ATTACH.DOMAIN, domain);
    put(request, ATTACH.ENDPOINT, endpoint);
    put(request, ATTACH.FLAGS, flags);
    return this.#end(ATTACH_BYTES);
  }

  /** DETACH (5.13.6.4). */
  detach(domain: number, endpoint: number): number {
    requireNumbers('VirtioIommu', { domain, endpoint });
    const request = this.#begin(T_DETACH, DETACH_BYTES);
    put(request, DETACH.DOMAIN, domain);
    put(request, DETACH.ENDPOINT, endpoint);
    return this.#end(DETACH_BYTES);
  }

  /** MAP (5.13.6.5): [virtStart, virtEnd], both included, to `physStart` on. */
  map(domain: number, virtStart: bigint, virtEnd: bigint, physStart: bigint, flags: number): number {
    requireNumbers('VirtioIommu', { domain, flags });
    require64('VirtioIommu', 'virtStart', virtStart);
    require64('VirtioIommu', 'virtEnd', virtEnd);
    require64('VirtioIommu', 'physStart', physStart);
    const request = this.#begin(T_MAP, MAP_BYTES);
    put(request, MAP.DOMAIN, domain);
    put(request, MAP.VIRT_START_LO, loOf(virtStart));
    put(request, MAP.VIRT_START_HI, hiOf(virtStart));
    put(request, MAP.VIRT_END_LO, loOf(virtEnd));
    put(request, MAP.VIRT_END_HI, hiOf(virtEnd));
    put(request, MAP.PHYS_START_LO, loOf(physStart));
    put(request, MAP.PHYS_START_HI, hiOf(physStart));
    put(request, MAP.FLAGS, flags);
    return this.#end(MAP_BYTES);
  }

  /** UNMAP (5.13.6.6): [virtStart, virtEnd], both included. */
  unmap(domain: number, virtStart: bigint, virtEnd: bigint): number {
    requireNumbers('VirtioIommu', { domain });
    require64('VirtioIommu', 'virtStart', virtStart);
    require64('VirtioIommu', 'virtEnd', virtEnd);
    const request = this.#begin(T_UNMAP, UNMAP_BYTES);
    put(request, UNMAP.DOMAIN, domain);
    put(request, UNMAP.VIRT_START_LO, loOf(virtStart));
    put(request, UNMAP.VIRT_START_HI, hiOf(virtStart));
    put(request, UNMAP.VIRT_END_LO, loOf(virtEnd));
    put(request, UNMAP.VIRT_END_HI, hiOf(virtEnd));
    return this.#end(UNMAP_BYTES);
  }

  /** PROBE (5.13.6.7): the reserved regions of an endpoint; null: NOENT. */
  probe(endpoint: number): readonly ReservedRegion[] | null {
    requireNumbers('VirtioIommu', { endpoint });
    return this.#domains.endpoints.get(endpoint)?.reserved.regions ?? null;
  }

  observe(observer: TargetObserver): () => void {
    requireObject('VirtioIommu', 'observer', observer, 'TargetObserver', ['attach', 'changed', 'flush']);
    if (this.#domains.observer !== null) throw new TypeError('VirtioIommu: there is an observer already');
    this.#domains.observer = observer;
    let observing = true;
    return () => {
      if (observing) this.#domains.observer = null;
      observing = false;
    };
  }

  get iotlbHits(): number {
    return this.#iotlb.hits;
  }

  get iotlbMisses(): number {
    return this.#iotlb.misses;
  }

  knows(endpoint: number): boolean {
    requireNumbers('VirtioIommu', { endpoint });
    return this.#domains.endpoints.has(endpoint);
  }

  /** All of the input range. */
  get offered(): readonly PfnRange[] {
    return [this.#settings.limits.input];
  }

  /** The rest becomes reserved regions of the endpoint (5.13.6.8.1), which PROBE says; RangeError where a PROBE answer has no room for them. */
  confine(endpoint: number, reachable: readonly PfnRange[]): () => void {
    requireNumbers('VirtioIommu', { endpoint });
    const known = this.#domains.endpoints.get(endpoint);
    if (known === undefined) throw new RangeError(`VirtioIommu: no endpoint ${endpoint}`);
    const before = known.reserved;
    this.#domains.reserve(known, before.beyond(reachable, this.#settings.limits.input));
    return () => this.#domains.reserve(known, before);
  }

  spaceOf(endpoint: number): AddressSpace | null {
    requireNumbers('VirtioIommu', { endpoint });
    const known = this.#domains.endpoints.get(endpoint);
    return known === undefined ? null : this.#domains.spaceOf(known);
  }

  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    return this.#translator.translate(endpoint, pasid, hi, lo, access);
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
    return this.#settings.bypassMode === 'feature' ? (this.#features & F_BYPASS) !== 0n : this.#config.bypass;
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
    this.#does.mapUnmap = has(F_MAP_UNMAP);
    this.#does.attachFlags = has(F_BYPASS_CONFIG) ? ATTACH_F_BYPASS : 0;
    this.#does.mapFlags = MAP_F_READ | MAP_F_WRITE | (has(F_MMIO) ? MAP_F_MMIO : 0);
  }

  #begin(type: number, bytes: number): Int32Array {
    this.#batch.clear();
    const [request] = this.#batch.requests;
    request.fill(0, 0, bytes / 4);
    put(request, HEAD.TYPE, type);
    return request;
  }

  #end(bytes: number): number {
    this.#batch.add(bytes);
    this.#batch.settle();
    return this.#batch.statuses[0];
  }
}

/** What the options leave of the table of features. */
function offeredFeatures({ bypassMode, probeBytes }: Settings): bigint {
  const without = [...(bypassMode === 'config' ? [] : ['BYPASS_CONFIG']), ...(probeBytes > 0 ? [] : ['PROBE'])];
  return featuresOf(FEATURES, without) | (bypassMode === 'feature' ? F_BYPASS : 0n);
}
