import { READ, READ_WRITE, WRITE } from '../../memory/access.ts';
import { addressOfPfn, hiOfPfn, loOfPfn, PFN_LIMIT } from '../../memory/address.ts';
import { requireArray, requireBoolean, requireObject } from '../../memory/arguments.ts';
import { INTERVAL_OVERLAP, IntervalMap } from '../../memory/interval-map.ts';
import { errno, HostError } from '../errno.ts';
import type { DirtyTracking, HostDevice, HostSpace, IovaRange, SpaceRequirements } from '../host.ts';
import type { PortMemory } from '../port.ts';
import { outOfReach } from '../reach.ts';
import { type GroupSpace, VfioDevice, type VfioGroup } from './group.ts';
import type { VfioHost } from './host.ts';
import * as uapi from './uapi.ts';

/** All of a 64-bit address space. */
export const WHOLE: readonly IovaRange[] = [{ first: 0, last: PFN_LIMIT - 1 }];
/** As many as IntervalMap can hold: the kernel's own limit is asked for and is lower. */
const MAPPINGS_MAX = 2 ** 28;

/**
 * A VFIO container as a HostSpace. VFIO has rules that iommufd has not, and they end here: a container takes mappings only
 * while a group is in it and forgets them when the last one leaves, so the space remembers them and maps them again; and
 * each IOMMU driver has its own idea of mapping twice, of unmapping a part and of unmapping nothing, so the space answers
 * those itself.
 */
export abstract class VfioSpace implements HostSpace, GroupSpace {
  readonly host: VfioHost;
  protected readonly container: number;
  protected readonly requirements: SpaceRequirements;
  protected readonly mappings = new IntervalMap(MAPPINGS_MAX);
  readonly #groups = new Set<VfioGroup>();
  readonly #mapStruct: PortMemory;
  readonly #mapInts: Int32Array;
  readonly #unmapStruct: PortMemory;
  readonly #unmapInts: Int32Array;
  #covered: readonly IovaRange[] = [];
  #error: HostError | null = null;
  #open = true;

  constructor(host: VfioHost, requirements: SpaceRequirements) {
    requireObject('VfioSpace', 'host', host, 'VfioHost', ['openContainer']);
    requireObject('VfioSpace', 'requirements', requirements);
    this.host = host;
    this.requirements = requirements;
    this.container = host.openContainer();
    this.#mapStruct = host.port.allocate(uapi.VFIO_DMA_MAP_BYTES);
    this.#mapInts = new Int32Array(this.#mapStruct.buffer);
    this.#mapInts[0] = uapi.VFIO_DMA_MAP_BYTES;
    this.#unmapStruct = host.port.allocate(uapi.VFIO_DMA_UNMAP_BYTES);
    this.#unmapInts = new Int32Array(this.#unmapStruct.buffer);
    this.#unmapInts[0] = uapi.VFIO_DMA_UNMAP_BYTES;
  }

  abstract readonly mappingLimit: number;
  /** What the kernel says of the container now, while a group is in it. */
  protected abstract kernelApertures(): readonly IovaRange[];
  protected abstract kernelGranuleLg2(): number;
  /** Another set of groups is in the container: asks the kernel what is possible now; prepares the container for the first group. */
  protected abstract entered(first: boolean): number;
  /** The last group has left, and the kernel has dropped whatever the container had. */
  protected abstract emptied(): void;
  /** Maps and unmaps in the kernel; the range is known to be free, or to split no mapping. */
  protected abstract mapNow(iova: number, host: number, pages: number, permission: number): number;
  protected abstract unmapNow(iova: number, pages: number): number;

  get error(): HostError | null {
    return this.#error;
  }

  /** A group is in the container: what is mapped is in the kernel too. */
  protected get live(): boolean {
    return this.#groups.size > 0;
  }

  apertures(): readonly IovaRange[] {
    return this.live ? this.kernelApertures() : WHOLE;
  }

  cover(ranges: readonly IovaRange[]): number {
    requireArray('VfioSpace', 'ranges', ranges);
    this.#covered = ranges;
    return this.live ? this.coverNow(ranges) : 0;
  }

  /** What `cover` was asked for last, and what is required. */
  protected get covered(): readonly IovaRange[] {
    return [...(this.requirements.apertures ?? []), ...this.#covered];
  }

  /** As `cover`, while a group is in the container. */
  protected coverNow(ranges: readonly IovaRange[]): number {
    const outside = outOfReach(this.kernelApertures(), ranges);
    if (outside === undefined) return 0;
    const { first, last } = outside;
    return this.fail(
      'VFIO_IOMMU_GET_INFO',
      errno.ERANGE,
      first,
      last - first + 1,
      `the host can map only ${rangesText(this.kernelApertures())}`,
    );
  }

  get granuleLg2(): number {
    return this.live ? this.kernelGranuleLg2() : 12;
  }

  map(iova: number, host: number, pages: number, permission: number): number {
    if (pages < 1 || (permission & READ_WRITE) === 0) return this.fail('VFIO_IOMMU_MAP_DMA', errno.EINVAL, iova, pages);
    if (iova + pages > PFN_LIMIT || host + pages > PFN_LIMIT) return this.fail('VFIO_IOMMU_MAP_DMA', errno.EOVERFLOW, iova, pages);
    const slot = this.mappings.insert(iova, pages, host, permission & READ_WRITE);
    if (slot < 0) return this.fail('VFIO_IOMMU_MAP_DMA', slot === INTERVAL_OVERLAP ? errno.EEXIST : errno.ENOSPC, iova, pages);
    if (!this.live) return 0;
    const result = this.mapNow(iova, host, pages, permission);
    if (result < 0) this.mappings.remove(iova, pages);
    return result;
  }

  unmap(iova: number, pages: number): number {
    return this.unmapWith(iova, pages, this.#unmapNow);
  }

  readonly #unmapNow = (iova: number, pages: number) => this.unmapNow(iova, pages);

  /** Unmaps by a given call of the kernel, if the range is one that may be unmapped. */
  protected unmapWith(iova: number, pages: number, unmapNow: (iova: number, pages: number) => number): number {
    if (pages < 1) return this.fail('VFIO_IOMMU_UNMAP_DMA', errno.EINVAL, iova, pages);
    if (iova + pages > PFN_LIMIT) return this.fail('VFIO_IOMMU_UNMAP_DMA', errno.EOVERFLOW, iova, pages);
    if (!this.#coversWhole(iova, iova + pages)) return this.fail('VFIO_IOMMU_UNMAP_DMA', errno.ENOENT, iova, pages);
    if (this.live) {
      const result = unmapNow(iova, pages);
      if (result < 0) return result;
    }
    this.mappings.remove(iova, pages);
    return 0;
  }

  get dirty(): DirtyTracking | null {
    return null;
  }

  trackDirty(on: boolean): number {
    requireBoolean('VfioSpace', 'on', on);
    return this.fail('VFIO_IOMMU_DIRTY_PAGES', errno.EOPNOTSUPP, 0, 0, `${this.host.kind} keeps no dirty bits`);
  }

  copy(_from: HostSpace, iova: number, pages: number, _permission: number): number {
    return this.fail('copy', errno.EOPNOTSUPP, iova, pages, 'VFIO containers share no mappings');
  }

  /** Something is mapped in [first, end), and no mapping sticks out of it. */
  #coversWhole(first: number, end: number): boolean {
    const { mappings } = this;
    const next = mappings.seek(first);
    if (next < 0 || mappings.firstOf(next) >= end || mappings.firstOf(next) < first) return false;
    const last = mappings.lookup(end - 1);
    return last < 0 || mappings.firstOf(last) + mappings.pagesOf(last) <= end;
  }

  attach(device: HostDevice): number {
    const own = this.#own(device);
    if (own.closed) return this.fail('VFIO_GROUP_SET_CONTAINER', errno.ENODEV, 0, 0, `${device.name} is closed`);
    const before = own.space;
    if (before === this) return this.#reopen(own);
    if (before !== null) {
      const left = before.detach(own);
      if (left < 0) return this.fail('VFIO_GROUP_UNSET_CONTAINER', left, 0, 0, own.name);
    }
    const result = this.take(own);
    if (result < 0 && before !== null) before.take(own);
    return result;
  }

  /** A detach that failed may have cost the device its file. */
  #reopen(device: VfioDevice): number {
    const opened = device.fd < 0 ? device.open() : 0;
    return opened < 0 ? this.fail('VFIO_GROUP_GET_DEVICE_FD', opened, 0, 0, device.name) : 0;
  }

  /** Attaches a device that is attached to nothing. */
  take(device: VfioDevice): number {
    const { group } = device;
    // A container that did not let go of a group when its last device was detached is asked again.
    if (group.space !== null && group.space !== this && group.attached === 0) group.space.leave(group);
    if (group.space !== null && group.space !== this)
      return this.fail('VFIO_GROUP_SET_CONTAINER', errno.EBUSY, 0, 0, `another device of ${group.path} is attached to another space`);
    const enters = group.space === null;
    let result = enters ? this.#enter(group) : 0;
    if (result === 0) {
      result = device.open();
      if (result < 0) {
        if (enters) this.leave(group);
        this.fail('VFIO_GROUP_GET_DEVICE_FD', result, 0, 0, device.name);
      }
    }
    // A group that the container has not let go again reaches what it maps, with a device file or without.
    if (result === 0 || (enters && group.space === this)) device.space = this;
    return result;
  }

  detach(device: HostDevice): number {
    const own = this.#own(device);
    if (own.space !== this) return this.fail('VFIO_GROUP_UNSET_CONTAINER', errno.EINVAL, 0, 0, `${device.name} is not attached to it`);
    own.closeFile();
    own.space = null;
    const result = own.group.attached > 0 ? 0 : this.leave(own.group);
    if (result === 0) return 0;
    const error = this.#error;
    // A group whose device is open is let go by no container, so the file had to be closed to try.
    own.space = this;
    own.open();
    this.#error = error;
    return result;
  }

  #own(device: HostDevice): VfioDevice {
    if (device instanceof VfioDevice) return device;
    throw new TypeError(`VfioSpace: ${String(device?.name)} was not opened through this host`);
  }

  /** Brings a group into the container with all that is mapped, or not at all. */
  #enter(group: VfioGroup): number {
    const { host, container } = this;
    const first = !this.live;
    new Int32Array(host.control.buffer)[0] = container;
    host.calls.attach++;
    let result = host.port.ioctl(group.fd, uapi.VFIO_GROUP_SET_CONTAINER, host.control);
    if (result < 0) return this.fail('VFIO_GROUP_SET_CONTAINER', result, 0, 0, group.path);
    group.space = this;
    this.#groups.add(group);
    if (first) {
      host.calls.control++;
      result = host.port.ioctl(container, uapi.VFIO_SET_IOMMU, host.driver.type);
      if (result < 0) this.fail('VFIO_SET_IOMMU', result, 0, 0, setIommuHint(result));
    }
    if (result >= 0) result = this.entered(first);
    if (result >= 0) result = this.#meetsRequirements();
    if (result >= 0 && first) result = this.#mapAll();
    if (result < 0) this.leave(group);
    return Math.min(result, 0);
  }

  /** Takes the group out of the container. Returns 0 or a negative errno. */
  leave(group: VfioGroup): number {
    this.host.calls.attach++;
    const result = this.host.port.ioctl(group.fd, uapi.VFIO_GROUP_UNSET_CONTAINER, 0);
    const held = result === -errno.EBUSY ? ': a file of its devices is held, as by a region that is still mapped' : '';
    if (result < 0) return this.fail('VFIO_GROUP_UNSET_CONTAINER', result, 0, 0, `${group.path}${held}`);
    this.lost(group);
    return 0;
  }

  /** The group is in the container no more. */
  lost(group: VfioGroup): void {
    group.space = null;
    this.#groups.delete(group);
    if (this.live) this.entered(false);
    else this.emptied();
  }

  silence(): void {
    if (this.#groups.size !== 1) return;
    this.mappings.intervals(0, PFN_LIMIT - 1, (iova, _host, pages) => {
      this.unmapNow(iova, pages);
      return true;
    });
  }

  #mapAll(): number {
    let result = 0;
    this.mappings.intervals(0, PFN_LIMIT - 1, (iova, host, pages, permission) => {
      result = this.mapNow(iova, host, pages, permission);
      return result >= 0;
    });
    return result;
  }

  #meetsRequirements(): number {
    const { apertures = [], granuleLg2 = this.granuleLg2 } = this.requirements;
    const possible = this.apertures();
    for (const wanted of apertures) {
      if (possible.some((range) => range.first <= wanted.first && range.last >= wanted.last)) continue;
      return this.fail(
        'attach',
        errno.EADDRINUSE,
        wanted.first,
        wanted.last - wanted.first + 1,
        `the host can map only ${rangesText(possible)}`,
      );
    }
    if (this.granuleLg2 <= granuleLg2) return 0;
    return this.fail('attach', errno.EINVAL, 0, 0, `mappings must be aligned to 2^${this.granuleLg2}, and 2^${granuleLg2} is asked for`);
  }

  /** The ioctl alone. */
  protected mapIoctl(iova: number, host: number, pages: number, permission: number): number {
    const ints = this.#mapInts;
    ints[1] =
      ((permission & READ) !== 0 ? uapi.VFIO_DMA_MAP_FLAG_READ : 0) | ((permission & WRITE) !== 0 ? uapi.VFIO_DMA_MAP_FLAG_WRITE : 0);
    ints[2] = loOfPfn(host);
    ints[3] = hiOfPfn(host);
    ints[4] = loOfPfn(iova);
    ints[5] = hiOfPfn(iova);
    ints[6] = loOfPfn(pages);
    ints[7] = hiOfPfn(pages);
    this.host.calls.map++;
    return this.host.port.ioctl(this.container, uapi.VFIO_IOMMU_MAP_DMA, this.#mapStruct);
  }

  /** The ioctl alone. */
  protected unmapIoctl(iova: number, pages: number, flags = 0): number {
    const ints = this.#unmapInts;
    ints[1] = flags;
    ints[2] = loOfPfn(iova);
    ints[3] = hiOfPfn(iova);
    ints[4] = loOfPfn(pages);
    ints[5] = hiOfPfn(pages);
    this.host.calls.unmap++;
    return this.host.port.ioctl(this.container, uapi.VFIO_IOMMU_UNMAP_DMA, this.#unmapStruct);
  }

  /** Keeps the error and returns its negative errno. `pages` 0: the call is about no range. */
  protected fail(operation: string, error: number, iova = 0, pages = 0, hint?: string): number {
    this.#error = new HostError(operation, error, pages > 0 ? { first: iova, last: iova + pages - 1 } : undefined, hint);
    return -Math.abs(error);
  }

  close(): void {
    if (!this.#open) return;
    if (this.live) throw new HostError('close', errno.EBUSY, undefined, 'a device is attached');
    this.#open = false;
    this.mappings.clear();
    this.host.port.close(this.container);
    this.#mapStruct.release();
    this.#unmapStruct.release();
    this.host.dropSpace(this);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function setIommuHint(error: number): string | undefined {
  if (error === -errno.EPERM)
    return 'the IOMMU does not isolate interrupts: vfio_iommu_type1.allow_unsafe_interrupts=1 accepts that, or no permission';
  if (error === -errno.ENODEV) return 'the device has no IOMMU that this driver serves';
  return undefined;
}

export function rangesText(ranges: readonly IovaRange[]): string {
  const text = (pfn: number) => addressOfPfn(pfn).toString(16);
  return ranges.map(({ first, last }) => `[0x${text(first)}, 0x${text(last + 1)})`).join(', ') || 'nothing';
}
