import { addressOfPfn, PAGE_LG2 } from '../../memory/address.ts';
import { requireNumber, requireObject } from '../../memory/arguments.ts';
import { errno } from '../errno.ts';
import type { IovaRange } from '../host.ts';
import type { SharedMemory } from '../shared-memory.ts';
import type { VfioHost } from '../vfio/host.ts';
import { VfioSpace } from '../vfio/space.ts';
import * as uapi from '../vfio/uapi.ts';
import { ProcessPieces, RegisteredMemory } from './registered-memory.ts';
import { EEH_OP, TCE_REGISTER, VFIO_EEH_PE_GET_STATE } from './uapi.ts';
import { type TceInfo, type TceRequirements, type TceWindow, WindowCalls, type WindowWish } from './windows.ts';

/**
 * A container with the sPAPR TCE driver. Mappings lie in windows; the kernel forgets windows and registered memory with the last device.
 *
 * @example
 * const kernel = simKernel({ iommus: [{ tce: {} }] });
 * const host = new TceHost(kernel);
 * const space = host.createSpace({ windows: [{ pageLg2: 16, sizeLg2: 40 }] });
 * space.attach(host.openDevice(`/dev/vfio/${kernel.device().group.number}#${kernel.device().name}`)); // 0
 * space.windows[1].pageLg2; // 16
 * host.close();
 */
export class TceSpace extends VfioSpace {
  readonly mappingLimit = Number.POSITIVE_INFINITY;
  readonly #version: 1 | 2;
  readonly #wishes: readonly WindowWish[];
  readonly #calls: WindowCalls;
  readonly #registered: RegisteredMemory;
  /** Memory that the host was told of, and what of it is registered. */
  readonly #shared: ReadonlySet<SharedMemory>;
  readonly #ahead = new Set<SharedMemory>();
  #windows: TceWindow[] = [];

  constructor(host: VfioHost, version: 1 | 2, requirements: TceRequirements, shared: ReadonlySet<SharedMemory>) {
    super(host, requirements);
    this.#version = version;
    this.#shared = shared;
    this.#wishes = requirements.windows ?? [];
    this.#calls = new WindowCalls(host, this.container);
    this.#registered = new RegisteredMemory(
      ProcessPieces.of(host.port),
      (address, pages) => this.#memory(uapi.VFIO_IOMMU_SPAPR_REGISTER_MEMORY, address, pages),
      (address, pages) => this.#memory(uapi.VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY, address, pages),
    );
  }

  /** The windows that there are, the default one first. Empty while no device is attached. */
  get windows(): readonly TceWindow[] {
    return this.#windows;
  }

  protected entered(first: boolean): number {
    if (!first) return 0;
    const info = this.#calls.info();
    if (typeof info === 'number') return this.fail('VFIO_IOMMU_SPAPR_TCE_GET_INFO', info);
    this.#windows = info.defaultWindow.last > info.defaultWindow.first ? [info.defaultWindow] : [];
    if (this.#version === 1) return this.#enable();
    for (const memory of this.#shared) this.#registerAhead(memory);
    for (const wish of this.#wishes) {
      const result = this.#create(wish, info);
      if (result < 0) return result;
    }
    const required = this.#cover(this.requirements.apertures ?? [], info);
    // What is wished for beyond that has its answer in `cover`.
    if (required >= 0) this.#cover(this.covered, info);
    return required;
  }

  protected emptied(): void {
    this.#windows = [];
    this.#registered.clear();
    this.#ahead.clear();
  }

  /** Version 1 pins and counts by the size of the window, so it has to be switched on. */
  #enable(): number {
    this.host.calls.control++;
    const result = this.host.port.ioctl(this.container, uapi.VFIO_IOMMU_ENABLE, 0);
    return result < 0 ? this.fail('VFIO_IOMMU_ENABLE', result, 0, 0, 'all of the default window counts as locked memory') : 0;
  }

  #create(wish: WindowWish, info: TceInfo): number {
    const window = this.#calls.create(wish, info);
    if (typeof window !== 'number') {
      this.#windows.push(window);
      return 0;
    }
    const sizes = `page sizes 0x${info.pageSizes.toString(16)}, ${info.windowsMax} windows, ${info.levelsMax} levels`;
    return this.fail('VFIO_IOMMU_SPAPR_TCE_CREATE', window, 0, 0, `${JSON.stringify(wish)}; the platform has ${sizes}`);
  }

  protected override coverNow(ranges: readonly IovaRange[]): number {
    const info = this.#version === 2 ? this.#calls.info() : null;
    if (typeof info === 'number') return this.fail('VFIO_IOMMU_SPAPR_TCE_GET_INFO', info);
    const result = info === null ? 0 : this.#cover(ranges, info);
    return result < 0 ? result : super.coverNow(ranges);
  }

  /** Takes away windows that nothing is wanted of and nothing is mapped in, and creates those that are missing. */
  #cover(wanted: readonly IovaRange[], info: TceInfo): number {
    const stretches = stretchesOf(wanted);
    if (stretches.length > 0 && this.#windows.length >= info.windowsMax) {
      const unwanted = this.#windows.filter((window) => this.#isEmpty(window) && !stretches.some((stretch) => meet(window, stretch)));
      for (const window of unwanted) this.removeWindow(window);
    }
    for (const stretch of stretches) {
      const result = this.#windows.some((window) => contains(window, stretch)) ? 0 : this.#createFor(stretch, info);
      if (result < 0) return result;
    }
    return 0;
  }

  /**
   * A window that contains the stretch. Where it begins is the platform's choice: if it is elsewhere, an empty window in the
   * way gives way, unless that does not help.
   */
  #createFor(stretch: IovaRange, info: TceInfo): number {
    const inTheWay = this.#windows.find((window) => meet(window, stretch) && this.#isEmpty(window));
    const removed = inTheWay === undefined ? 0 : this.removeWindow(inTheWay);
    if (removed < 0) return removed;
    const result = this.#createAround(stretch, info);
    if (result < 0 && inTheWay !== undefined) this.#putBack(inTheWay, info);
    return result;
  }

  #putBack({ first, last, pageLg2 }: TceWindow, info: TceInfo): void {
    const window = this.#calls.create({ pageLg2, sizeLg2: PAGE_LG2 + Math.log2(last - first + 1) }, info);
    if (typeof window !== 'number') this.#windows.unshift(window);
  }

  /** If it is too short, a longer one takes its place. */
  #createAround({ first, last }: IovaRange, info: TceInfo): number {
    const wish = (pages: number) => ({
      sizeLg2: PAGE_LG2 + Math.ceil(Math.log2(pages)),
      ...this.#pageWish(this.requirements.granuleLg2, info),
    });
    let result = this.#create(wish(last - first + 1), info);
    if (result < 0) return result;
    const window = this.#windows[this.#windows.length - 1];
    if (contains(window, { first, last })) return 0;
    result = this.removeWindow(window);
    if (result < 0) return result;
    if (window.first <= first && this.#create(wish(last - window.first + 1), info) === 0) return 0;
    return this.fail(
      'VFIO_IOMMU_SPAPR_TCE_CREATE',
      errno.ERANGE,
      first,
      last - first + 1,
      'where the platform puts windows none reaches it',
    );
  }

  #isEmpty({ first, last }: TceWindow): boolean {
    const slot = this.mappings.seek(first);
    return slot < 0 || this.mappings.firstOf(slot) > last;
  }

  #pageWish(granuleLg2: number | undefined, info: TceInfo): WindowWish {
    const pageLg2 = granuleLg2 ?? 0;
    return pageLg2 > PAGE_LG2 && ((info.pageSizes >> BigInt(pageLg2)) & 1n) !== 0n ? { pageLg2 } : {};
  }

  /** Adds a window while a device is attached. Returns 0 or a negative errno. */
  createWindow(wish: WindowWish = {}): number {
    requireObject('TceSpace', 'wish', wish);
    const info = this.#calls.info();
    return typeof info === 'number' ? this.fail('VFIO_IOMMU_SPAPR_TCE_GET_INFO', info) : this.#create(wish, info);
  }

  /** Removes a window and all that is mapped in it; the default one too, where the platform lets it go. Returns 0 or a negative errno. */
  removeWindow(window: TceWindow): number {
    requireObject('TceSpace', 'window', window);
    const index = this.#windows.indexOf(window);
    const pages = window.last - window.first + 1;
    if (index < 0) return this.fail('VFIO_IOMMU_SPAPR_TCE_REMOVE', errno.EINVAL, window.first, pages, 'no window of this space');
    const result = this.#calls.remove(window);
    if (result < 0) return this.fail('VFIO_IOMMU_SPAPR_TCE_REMOVE', result, window.first, pages);
    this.#windows.splice(index, 1);
    for (let slot = this.mappings.seek(window.first); slot >= 0 && this.mappings.firstOf(slot) <= window.last; ) {
      this.#forget(slot);
      slot = this.mappings.seek(window.first);
    }
    return 0;
  }

  #forget(slot: number): void {
    const first = this.mappings.firstOf(slot);
    const pages = this.mappings.pagesOf(slot);
    if (this.#version === 2) this.#registered.drop(this.mappings.valueOf(slot), pages);
    this.mappings.remove(first, pages);
  }

  protected kernelApertures(): readonly IovaRange[] {
    return this.#windows.map(({ first, last }) => ({ first, last })).sort((a, b) => a.first - b.first);
  }

  protected kernelGranuleLg2(): number {
    return this.#windows.reduce((lg2, window) => Math.max(lg2, window.pageLg2), PAGE_LG2);
  }

  protected mapNow(iova: number, host: number, pages: number, permission: number): number {
    // The kernel looks at the first page's place alone, and at no alignment of the whole.
    const window = this.#windows.find((candidate) => candidate.first <= iova && iova + pages - 1 <= candidate.last);
    if (window === undefined) return this.fail('VFIO_IOMMU_MAP_DMA', errno.EINVAL, iova, pages, 'not within one DMA window');
    const held = this.#version === 2 ? this.#registered.hold(host, pages) : 0;
    if (held < 0) return this.fail('VFIO_IOMMU_SPAPR_REGISTER_MEMORY', held, iova, pages);
    const result = failed(this.mapIoctl(iova, host, pages, permission));
    if (result === 0) return 0;
    if (this.#version === 2) this.#registered.drop(host, pages);
    return this.fail('VFIO_IOMMU_MAP_DMA', result, iova, pages, result === -errno.EPERM ? notContained(window) : undefined);
  }

  /** One call for every run of adjacent mappings in a window: the kernel takes no more, and clears entry by entry. */
  protected unmapNow(iova: number, pages: number): number {
    const end = iova + pages;
    const { mappings } = this;
    for (let slot = mappings.seek(iova); slot >= 0 && mappings.firstOf(slot) < end; ) {
      const first = mappings.firstOf(slot);
      const length = this.#runLength(slot, end);
      const result = failed(this.unmapIoctl(first, length));
      if (result < 0) {
        this.#mapAgain(iova, first);
        return this.fail('VFIO_IOMMU_UNMAP_DMA', result, first, length);
      }
      slot = mappings.seek(first + length);
    }
    for (let slot = mappings.seek(iova); slot >= 0 && mappings.firstOf(slot) < end; slot = mappings.seek(iova)) this.#forget(slot);
    return 0;
  }

  /** What was unmapped of [first, end) before a call failed: nothing has happened then. */
  #mapAgain(first: number, end: number): void {
    if (end <= first) return;
    this.mappings.intervals(first, end - 1, (iova, host, pages, permission) => {
      this.mapIoctl(iova, host, pages, permission);
      return true;
    });
  }

  /** Pages from the mapping's first on that adjacent mappings cover, within its window and below `end`. */
  #runLength(slot: number, end: number): number {
    const first = this.mappings.firstOf(slot);
    const window = this.#windows.find((candidate) => candidate.first <= first && first <= candidate.last);
    const limit = Math.min(end, (window?.last ?? first) + 1);
    let at = first;
    for (let next = slot; next >= 0 && at < limit; next = this.mappings.lookup(at)) at += this.mappings.pagesOf(next);
    return at - first;
  }

  /**
   * Pins pages of this process once and for all, so that maps of them need not (version 2). Pages that are mapped without it
   * are pinned with each mapping. Returns 0 or a negative errno.
   */
  registerMemory(host: number, pages: number): number {
    requireNumber('TceSpace', 'host', host);
    requireNumber('TceSpace', 'pages', pages);
    if (this.#version === 1) return 0;
    const result = this.#registered.hold(host, pages);
    return result < 0 ? this.fail('VFIO_IOMMU_SPAPR_REGISTER_MEMORY', result, 0, 0) : 0;
  }

  /** The host was told of it: registered ahead while there is a device. */
  shared(memory: SharedMemory): void {
    if (this.#version === 2 && this.live) this.#registerAhead(memory);
  }

  unshared(memory: SharedMemory): void {
    if (this.#ahead.delete(memory)) this.#registered.drop(memory.first, memory.pages);
  }

  /** Where the kernel will not (the limit on locked memory), parts are registered with their mappings. */
  #registerAhead(memory: SharedMemory): void {
    if (this.#registered.hold(memory.first, memory.pages) >= 0) this.#ahead.add(memory);
  }

  unregisterMemory(host: number, pages: number): void {
    requireNumber('TceSpace', 'host', host);
    requireNumber('TceSpace', 'pages', pages);
    if (this.#version === 2) this.#registered.drop(host, pages);
  }

  #memory(request: number, host: number, pages: number): number {
    const { control, calls, port } = this.host;
    const view = new DataView(control.buffer);
    view.setUint32(0, TCE_REGISTER.bytes, true);
    view.setUint32(TCE_REGISTER.flags, 0, true);
    view.setBigUint64(TCE_REGISTER.address, addressOfPfn(host), true);
    view.setBigUint64(TCE_REGISTER.size, addressOfPfn(pages), true);
    calls.control++;
    const result = port.ioctl(this.container, request, control);
    // Where only some of the pages can be pinned the kernel says how many, and has registered none.
    return result > 0 ? -errno.EFAULT : result;
  }

  /** State of the partitionable endpoint (VFIO_EEH_PE_STATE_*: 0 normal), or a negative errno; -EOPNOTSUPP where the kernel has no EEH. */
  eehState(): number {
    const { control, calls, port } = this.host;
    const known = this.host.extension(this.container, uapi.VFIO_EEH);
    if (known < 0) return this.fail('VFIO_CHECK_EXTENSION', known, 0, 0, 'VFIO_EEH');
    if (known === 0) return this.fail('VFIO_EEH_PE_OP', errno.EOPNOTSUPP, 0, 0, 'the kernel has no EEH');
    const view = new DataView(control.buffer);
    view.setUint32(0, EEH_OP.bytes, true);
    view.setUint32(EEH_OP.flags, 0, true);
    view.setUint32(EEH_OP.op, VFIO_EEH_PE_GET_STATE, true);
    calls.control++;
    const result = port.ioctl(this.container, uapi.VFIO_EEH_PE_OP, control);
    return result < 0 ? this.fail('VFIO_EEH_PE_OP', result) : result;
  }
}

/** The kernel answers 1, not an errno, for an address outside the window or not aligned to its pages. */
function failed(result: number): number {
  return result > 0 ? -errno.EINVAL : result;
}

function notContained(window: TceWindow): string {
  return `the memory's own pages are smaller than the window's, 2^${window.pageLg2} bytes`;
}

function contains(window: TceWindow, { first, last }: IovaRange): boolean {
  return window.first <= first && window.last >= last;
}

function meet(window: TceWindow, { first, last }: IovaRange): boolean {
  return window.first <= last && window.last >= first;
}

/** Ranges that one window serves as well as two: a gap no larger than what lies before it costs less than a window. */
function stretchesOf(ranges: readonly IovaRange[]): IovaRange[] {
  const stretches: { first: number; last: number }[] = [];
  for (const { first, last } of [...ranges].sort((a, b) => a.first - b.first)) {
    const before = stretches.at(-1);
    if (before !== undefined && first - before.last <= before.last - before.first + 1) before.last = Math.max(before.last, last);
    else stretches.push({ first, last });
  }
  return stretches;
}
