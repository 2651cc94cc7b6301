import { READ, WRITE } from '../../memory/access.ts';
import { PFN_LIMIT, pfnOfHiLo } from '../../memory/address.ts';
import { errno, HostError, hostErrorOf } from '../errno.ts';
import type { DirtyTracking, HostDevice, HostSpace, IovaRange, SpaceRequirements } from '../host.ts';
import { outOfReach } from '../reach.ts';
import { sharedMemoryOf } from '../shared-memory.ts';
import { Command } from './command.ts';
import { type IommufdContext, KernelObject } from './context.ts';
import { type Attachable, own, type Place } from './device.ts';
import { KernelPageTable, type NestedOptions } from './page-table.ts';
import { type IoctlName, MAP_FIXED_IOVA, MAP_READABLE, MAP_WRITEABLE } from './uapi.ts';

/** struct iommu_ioas_map; its last three fields are 64 bits wide. */
const MAP = { bytes: 40, flags: 1, ioas: 2, address: 4, length: 6, iova: 8 } as const;
/** struct iommu_ioas_map_file: as map, with a descriptor where map has a reserved word. */
const MAP_FILE = { ...MAP, fd: 3 } as const;
/** struct iommu_ioas_copy */
const COPY = { bytes: 40, flags: 1, destination: 2, source: 3, length: 4, destinationIova: 6, sourceIova: 8 } as const;
/** struct iommu_ioas_unmap */
const UNMAP = { bytes: 24, ioas: 1, iova: 2, length: 4 } as const;
/** struct iommu_ioas_iova_ranges */
const RANGES = { bytes: 32, ioas: 1, count: 2, pointer: 4, alignment: 6 } as const;
/** struct iommu_ioas_allow_iovas */
const ALLOW = { bytes: 24, ioas: 1, count: 2, pointer: 4 } as const;

/** struct iommu_option; its `op`, 16 bits, is 0 to set. */
const OPTION = { bytes: 24, id: 1, object: 3, value: 4 } as const;
const OPTION_HUGE_PAGES = 1;

/** Map flags by permission (src/memory/access.ts): READ is bit 0, WRITE bit 1. */
const flagsOf = [0, MAP_READABLE, MAP_WRITEABLE, MAP_READABLE | MAP_WRITEABLE].map((flags) => flags | MAP_FIXED_IOVA);

/** What IOMMU_IOAS_MAP_FILE answers for a file that it cannot map (none of a memfd, of shared memory, of huge pages), and a kernel that has no such call. */
const NO_SUCH_FILE: ReadonlySet<number> = new Set([-errno.ENOTTY, -errno.EINVAL, -errno.EBADF, -errno.EOPNOTSUPP]);

/** An I/O address space: an IOAS, whose hardware page tables the kernel makes as devices are attached to it. */
export class IommufdSpace extends KernelObject implements HostSpace {
  readonly mappingLimit = Number.POSITIVE_INFINITY;
  readonly #required: SpaceRequirements;
  readonly #map: Command;
  /** Made for the first file. */
  #mapFile: Command | null = null;
  readonly #unmap: Command;
  readonly #copy: Command;
  /** Page tables that devices are attached by where the kernel's automatic ones do not do, one for each kind of IOMMU. */
  readonly #tables: KernelPageTable[] = [];
  #failed: IoctlName = 'IOMMU_IOAS_MAP';
  #errno = 0;
  #first = 0;
  #pages = 0;
  #hint: string | undefined;

  /** @throws HostError when the kernel refuses, or cannot promise the required apertures. */
  constructor(context: IommufdContext, required: SpaceRequirements) {
    super(context, context.control('IOMMU_IOAS_ALLOC', 12, () => {})[2]);
    const { port } = context;
    this.#required = required;
    this.#map = new Command(port, 'IOMMU_IOAS_MAP', MAP.bytes);
    this.#map.words[MAP.ioas] = this.id;
    this.#unmap = new Command(port, 'IOMMU_IOAS_UNMAP', UNMAP.bytes);
    this.#unmap.words[UNMAP.ioas] = this.id;
    this.#copy = new Command(port, 'IOMMU_IOAS_COPY', COPY.bytes);
    this.#copy.words[COPY.destination] = this.id;
    try {
      if (required.apertures !== undefined) this.#allow(required.apertures);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Makes the kernel refuse any device that cannot reach these ranges. */
  #allow(apertures: readonly IovaRange[]): void {
    const memory = this.context.port.allocate(Math.max(1, apertures.length) * 16);
    const view = new DataView(memory.buffer);
    for (const [index, { first, last }] of apertures.entries()) {
      view.setBigUint64(index * 16, BigInt(first) << 12n, true);
      view.setBigUint64(index * 16 + 8, (BigInt(last) << 12n) | 0xfffn, true);
    }
    const fill = (command: Command) => {
      command.words[ALLOW.ioas] = this.id;
      command.words[ALLOW.count] = apertures.length;
      command.set64(ALLOW.pointer, memory.address);
    };
    try {
      this.context.control('IOMMU_IOAS_ALLOW_IOVAS', ALLOW.bytes, fill, 'the required apertures');
    } finally {
      memory.release();
    }
  }

  map(iova: number, host: number, pages: number, permission: number): number {
    const { shared } = this.context;
    const memory = shared.size === 0 ? null : sharedMemoryOf(shared, host, pages);
    if (memory?.file) {
      const offset = memory.file.offset + (BigInt(host - memory.first) << 12n);
      const result = this.mapFile(iova, memory.file.fd, offset, pages, permission);
      // A file that the kernel cannot map, or a kernel that maps none: the memory is there at its address all the same.
      if (!NO_SUCH_FILE.has(result)) return result;
    }
    const { words } = this.#map;
    words[MAP.flags] = flagsOf[permission & (READ | WRITE)];
    this.#map.setPages(MAP.address, host);
    this.#map.setPages(MAP.length, pages);
    this.#map.setPages(MAP.iova, iova);
    this.context.calls.map++;
    const result = this.#map.call(this.context.fd);
    return result < 0 ? this.#fail('IOMMU_IOAS_MAP', result, iova, pages) : 0;
  }

  /** Maps where there is room, as the kernel chooses. Returns the IOVA page, or a negative errno. */
  mapAnywhere(host: number, pages: number, permission: number): number {
    const { words } = this.#map;
    words[MAP.flags] = flagsOf[permission & (READ | WRITE)] & ~MAP_FIXED_IOVA;
    this.#map.setPages(MAP.address, host);
    this.#map.setPages(MAP.length, pages);
    this.#map.setPages(MAP.iova, 0);
    this.context.calls.map++;
    const result = this.#map.call(this.context.fd);
    return result < 0 ? this.#fail('IOMMU_IOAS_MAP', result, 0, 0) : pfnOfHiLo(words[MAP.iova + 1], words[MAP.iova]);
  }

  /** Maps `pages` pages of a file (a memfd, a file of /dev/shm) from byte `offset` on. Returns 0 or a negative errno. */
  mapFile(iova: number, fd: number, offset: bigint, pages: number, permission: number): number {
    const command = this.#fileCommand();
    command.words[MAP_FILE.flags] = flagsOf[permission & (READ | WRITE)];
    command.words[MAP_FILE.ioas] = this.id;
    command.words[MAP_FILE.fd] = fd;
    command.set64(MAP_FILE.address, offset);
    command.setPages(MAP_FILE.length, pages);
    command.setPages(MAP_FILE.iova, iova);
    this.context.calls.map++;
    const result = command.call(this.context.fd);
    return result < 0 ? this.#fail('IOMMU_IOAS_MAP_FILE', result, iova, pages) : 0;
  }

  #fileCommand(): Command {
    this.#mapFile ??= new Command(this.context.port, 'IOMMU_IOAS_MAP_FILE', MAP_FILE.bytes);
    return this.#mapFile;
  }

  unmap(iova: number, pages: number): number {
    const { words } = this.#unmap;
    this.#unmap.setPages(UNMAP.iova, iova);
    this.#unmap.setPages(UNMAP.length, pages);
    if (pages === PFN_LIMIT) words.fill(-1, UNMAP.length, UNMAP.length + 2); // 2^64 bytes: the kernel's word for all of it
    this.context.calls.unmap++;
    const result = this.#unmap.call(this.context.fd);
    if (result < 0) return this.#fail('IOMMU_IOAS_UNMAP', result, iova, pages);
    // Of the whole space the kernel says 0 bytes where nothing is mapped; of a range ENOENT, or (some versions) the same.
    const nothing = words[UNMAP.length] === 0 && words[UNMAP.length + 1] === 0;
    return nothing ? this.#fail('IOMMU_IOAS_UNMAP', -errno.ENOENT, iova, pages) : 0;
  }

  copy(from: HostSpace, iova: number, pages: number, permission: number): number {
    if (!(from instanceof IommufdSpace) || from.context !== this.context) throw new TypeError('copy: the other space is not of this host');
    const { words } = this.#copy;
    words[COPY.flags] = flagsOf[permission & (READ | WRITE)];
    words[COPY.source] = from.id;
    this.#copy.setPages(COPY.length, pages);
    this.#copy.setPages(COPY.destinationIova, iova);
    this.#copy.setPages(COPY.sourceIova, iova);
    this.context.calls.copy++;
    const result = this.#copy.call(this.context.fd);
    return result < 0 ? this.#fail('IOMMU_IOAS_COPY', result, iova, pages) : 0;
  }

  attach(device: HostDevice): number {
    const bound = own(device);
    const before = bound.attachment;
    this.context.calls.attach++;
    const result = this.enter(bound);
    if (result < 0) {
      bound.settle();
      const hint = result === -errno.EADDRINUSE ? `${device.name} cannot reach what the space maps or must be able to map` : undefined;
      return this.#fail('VFIO_DEVICE_ATTACH_IOMMUFD_PT', result, 0, 0, hint);
    }
    const refusal = this.#granuleRefusal();
    if (refusal === null) return 0;
    const undone = this.#undoAttach(bound, before);
    const stays = undone < 0 ? ', and the kernel does not take it out of the space again' : '';
    return this.#fail(refusal.operation, refusal.errno, 0, 0, `${device.name}: ${refusal.hint}${stays}`);
  }

  /**
   * Attaches by a page table that suits: one of the kernel's own takes no PASIDs, and a group has one table for all of its devices. Returns 0 or a
   * negative errno.
   */
  enter(who: Attachable): number {
    if (who.wantsPasidTables) return this.enterBy(who, { forPasid: true });
    const result = who.attach(this);
    return result === -errno.EINVAL && this.#tables.length > 0 ? this.enterBy(who, { forPasid: true }) : result;
  }

  /** The same by tables with these options. One that does not go with the device's IOMMU is refused with EINVAL. */
  protected enterBy(who: Attachable, options: NestedOptions): number {
    for (const table of this.#tables) {
      const result = table.forPasid === options.forPasid ? who.attach(table, this) : -errno.EINVAL;
      if (result !== -errno.EINVAL) return result;
    }
    try {
      const table = this.createTable(who, options);
      const result = who.attach(table, this);
      if (result < 0) table.close();
      else this.#tables.push(table);
      return result;
    } catch (error) {
      return -hostErrorOf(error).errno;
    }
  }

  /** @throws HostError */
  protected createTable(who: Attachable, options: NestedOptions): KernelPageTable {
    return new KernelPageTable(this.context, who, this, options);
  }

  protected get tables(): readonly KernelPageTable[] {
    return this.#tables;
  }

  override close(): void {
    while (this.#tables.length > 0) {
      this.#tables[0].close();
      this.#tables.shift();
    }
    super.close();
  }

  /** Why the space, with the devices that it has now, cannot map at the required alignment; null when it can. */
  #granuleRefusal(): { operation: IoctlName; errno: number; hint: string } | null {
    const required = this.#required.granuleLg2;
    if (required === undefined) return null;
    try {
      const { granuleLg2 } = this;
      const hint = `it needs an alignment of 2^${granuleLg2} bytes, 2^${required} is required`;
      return granuleLg2 <= required ? null : { operation: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', errno: -errno.EINVAL, hint };
    } catch (caught) {
      const error = hostErrorOf(caught);
      return { operation: 'IOMMU_IOAS_IOVA_RANGES', errno: -error.errno, hint: 'its alignment cannot be asked' };
    }
  }

  /** Back to where it was, or blocked. A negative errno: neither could be done, and it is in this space, as `attachment` says. */
  #undoAttach(device: Attachable, before: Place | null): number {
    this.context.calls.attach++;
    if (before !== null && (before.enter?.(device) ?? device.attach(before)) === 0) return 0;
    if (before !== null) this.context.calls.attach++;
    return device.detach();
  }

  detach(device: HostDevice): number {
    const bound = own(device);
    if (bound.attachment !== this)
      return this.#fail('VFIO_DEVICE_DETACH_IOMMUFD_PT', -errno.EINVAL, 0, 0, `${device.name} is not attached to it`);
    this.context.calls.attach++;
    const result = bound.detach();
    return result < 0 ? this.#fail('VFIO_DEVICE_DETACH_IOMMUFD_PT', result, 0, 0) : 0;
  }

  /** An automatic page table has no dirty tracking. */
  get dirty(): DirtyTracking | null {
    return null;
  }

  trackDirty(_on: boolean): number {
    return this.#fail('IOMMU_HWPT_SET_DIRTY_TRACKING', -errno.EOPNOTSUPP, 0, 0);
  }

  /** Whether the kernel joins contiguous pages to large ones for the hardware (it does unless told not to). @throws HostError */
  setLargePages(on: boolean): void {
    this.context.control('IOMMU_OPTION', OPTION.bytes, (command) => {
      command.words[OPTION.id] = OPTION_HUGE_PAGES;
      command.words[OPTION.object] = this.id;
      command.words[OPTION.value] = on ? 1 : 0;
    });
  }

  apertures(): readonly IovaRange[] {
    return this.#ranges().apertures;
  }

  cover(ranges: readonly IovaRange[]): number {
    try {
      const outside = outOfReach(this.apertures(), ranges);
      if (outside === undefined) return 0;
      const { first, last } = outside;
      return this.#fail('IOMMU_IOAS_IOVA_RANGES', -errno.ERANGE, first, last - first + 1, 'outside what the host can map');
    } catch (caught) {
      const error = hostErrorOf(caught);
      return this.#fail('IOMMU_IOAS_IOVA_RANGES', -error.errno, 0, 0);
    }
  }

  get granuleLg2(): number {
    const { alignment } = this.#ranges();
    return Math.max(12, Math.log2(Number(alignment)));
  }

  /** Asks anew each time: every attached device may have narrowed it. */
  #ranges(): { readonly apertures: IovaRange[]; readonly alignment: bigint } {
    const { port, fd, calls } = this.context;
    for (let room = 64; ; ) {
      const memory = port.allocate(room * 16);
      const command = new Command(port, 'IOMMU_IOAS_IOVA_RANGES', RANGES.bytes);
      try {
        command.words[RANGES.ioas] = this.id;
        command.words[RANGES.count] = room;
        command.set64(RANGES.pointer, memory.address);
        calls.control++;
        const result = command.call(fd);
        const count = command.words[RANGES.count];
        if (result === -errno.EMSGSIZE && count > room) {
          room = count;
          continue;
        }
        if (result < 0) throw new HostError('IOMMU_IOAS_IOVA_RANGES', result);
        return { apertures: wholePages(new DataView(memory.buffer), count), alignment: command.get64(RANGES.alignment) };
      } finally {
        command.release();
        memory.release();
      }
    }
  }

  #fail(operation: IoctlName, result: number, first: number, pages: number, hint?: string): number {
    this.#failed = operation;
    this.#errno = result;
    this.#first = first;
    this.#pages = pages;
    this.#hint = hint;
    return result;
  }

  get error(): HostError | null {
    if (this.#errno === 0) return null;
    const range = this.#pages > 0 ? { first: this.#first, last: this.#first + this.#pages - 1 } : undefined;
    return new HostError(this.#failed, this.#errno, range, this.#hint);
  }

  protected override release(): void {
    for (const command of [this.#map, this.#mapFile, this.#unmap, this.#copy]) command?.release();
  }
}

/** An array of struct iommu_iova_range, as whole pages. */
function wholePages(view: DataView, count: number): IovaRange[] {
  const ranges: IovaRange[] = [];
  for (let index = 0; index < count; index++) {
    const first = Number((view.getBigUint64(index * 16, true) + 0xfffn) >> 12n);
    const last = Number((view.getBigUint64(index * 16 + 8, true) + 1n) >> 12n) - 1;
    if (last >= first) ranges.push({ first, last });
  }
  return ranges;
}
