import { READ, WRITE } from '../../../memory/access.ts';
import { PAGE_BYTES, PAGE_LG2 } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import * as uapi from '../../vfio/uapi.ts';
import type { SimGroup } from '../device.ts';
import type { SimKernel } from '../kernel.ts';
import type { SimProcess } from '../process.ts';
import { readArgsz } from '../structs.ts';
import type { ContainerDriver } from './container.ts';
import { Registrations } from './registered.ts';
import { type CommandOf, dmaMap, dmaUnmap, eehOp, registerMemory, tceCreate, tceInfo, tceRemove } from './structs.ts';
import { type TceConfig, type TceEntry, TceTable, TceTranslation, tceDefaults } from './tce-tables.ts';

const FLAG_DDW = 1;
const EEH_OPS = 10;
/** tce_iommu_mm_set: who calls these first is the process that the container works for. */
const CLAIMING = new Set([uapi.VFIO_IOMMU_SPAPR_REGISTER_MEMORY, uapi.VFIO_IOMMU_SPAPR_TCE_CREATE, uapi.VFIO_IOMMU_SPAPR_TCE_REMOVE]);

/** The sPAPR TCE IOMMU driver, versions 1 and 2 (the kernel's vfio_iommu_spapr_tce.c). */
export class TceDriver implements ContainerDriver {
  readonly #kernel: SimKernel;
  readonly #version: 1 | 2;
  readonly #groups: SimGroup[] = [];
  readonly #tables: [TceTable | null, TceTable | null] = [null, null];
  readonly #registered: Registrations;
  #config: Required<TceConfig> = tceDefaults;
  #enabled = false;
  /** The default window is made when something first needs it. */
  #defaultPending = false;
  #lockedBytes = 0;
  /** The process that it works for, once there is one: no other gets anywhere. */
  #owner: SimProcess | null = null;

  constructor(kernel: SimKernel, version: 1 | 2) {
    this.#kernel = kernel;
    this.#version = version;
    this.#registered = new Registrations(kernel);
  }

  attachGroup(group: SimGroup): number {
    const { tce } = group.devices[0].iommu.config;
    if (tce === null) return -errno.ENODEV;
    const config = { ...tceDefaults, ...tce };
    if (this.#version === 2 && (config.windowsMax === 0 || config.pageSizes === 0n)) return -errno.EINVAL;
    if (this.#version === 1 && this.#groups.length > 0) return -errno.EBUSY;
    if (this.#groups.length === 0) {
      this.#config = config;
      this.#defaultPending = true;
    }
    this.#groups.push(group);
    const translation = new TceTranslation(this.#tables);
    for (const device of group.devices) device.translation = translation;
    return 0;
  }

  detachGroup(group: SimGroup): void {
    this.#groups.splice(this.#groups.indexOf(group), 1);
    for (const device of group.devices) device.translation = null;
  }

  release(): void {
    for (const index of [0, 1]) this.#freeTable(index);
    this.#registered.clear();
    this.#disable();
  }

  ioctlName(request: number): string | undefined {
    return names.get(request);
  }

  /** What the other version has is no ioctl of this one: ENOTTY. */
  ioctl(request: number, address: number): number {
    const v2 = this.#version === 2;
    const { process, current } = this.#kernel;
    if (this.#owner !== null && this.#owner !== current) return -errno.EPERM;
    if (v2 && CLAIMING.has(request)) this.#owner = current;
    switch (request) {
      case uapi.VFIO_IOMMU_GET_INFO:
        return this.#info(address);
      case uapi.VFIO_IOMMU_MAP_DMA:
        if (!this.#enabled) return -errno.EPERM;
        return done(readArgsz(dmaMap, dmaMap.bytes, process, address), (command) => this.#map(command));
      case uapi.VFIO_IOMMU_UNMAP_DMA:
        if (!this.#enabled) return -errno.EPERM;
        return done(readArgsz(dmaUnmap, dmaUnmap.endOf('size'), process, address), (command) => this.#unmap(command));
      case uapi.VFIO_IOMMU_ENABLE:
        return v2 ? -errno.ENOTTY : this.#enable();
      case uapi.VFIO_IOMMU_DISABLE:
        if (!v2) this.#disable();
        return v2 ? -errno.ENOTTY : 0;
      case uapi.VFIO_IOMMU_SPAPR_REGISTER_MEMORY:
      case uapi.VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY:
        return v2 ? this.#register(request, address) : -errno.ENOTTY;
      case uapi.VFIO_IOMMU_SPAPR_TCE_CREATE:
        return v2 ? done(readArgsz(tceCreate, tceCreate.bytes, process, address), (command) => this.#createCall(command)) : -errno.ENOTTY;
      case uapi.VFIO_IOMMU_SPAPR_TCE_REMOVE:
        return v2 ? done(readArgsz(tceRemove, tceRemove.bytes, process, address), (command) => this.#removeCall(command)) : -errno.ENOTTY;
      case uapi.VFIO_EEH_PE_OP:
        return this.#eeh(address);
      default:
        return -errno.ENOTTY;
    }
  }

  #info(address: number): number {
    const { start32, bytes32, pageSizes, windowsMax, levelsMax } = this.#config;
    return done(readArgsz(tceInfo, tceInfo.endOf('dma32_window_size'), this.#kernel.process, address), (command) => {
      const dynamic = this.#version === 2 && windowsMax > 0;
      const ddw = dynamic
        ? { pgsizes: pageSizes, max_dynamic_windows_supported: windowsMax, levels: levelsMax }
        : { pgsizes: 0n, max_dynamic_windows_supported: 0, levels: 0 };
      const answer = { dma32_window_start: start32, dma32_window_size: bytes32, flags: dynamic ? FLAG_DDW : 0 };
      return command.respond({ ...answer, ...ddw }, command.in.argsz >= tceInfo.bytes ? tceInfo.bytes : undefined);
    });
  }

  /** Version 1 counts the whole default window as locked memory. */
  #enable(): number {
    if (this.#enabled) return -errno.EBUSY;
    if (this.#config.bytes32 === 0) return -errno.EPERM;
    this.#owner = this.#kernel.current;
    const refused = this.#kernel.pin(this.#config.bytes32);
    if (refused < 0) return refused;
    this.#lockedBytes = this.#config.bytes32;
    this.#enabled = true;
    return 0;
  }

  #disable(): void {
    this.#enabled = false;
    this.#kernel.unpin(this.#lockedBytes);
    this.#lockedBytes = 0;
  }

  #register(request: number, address: number): number {
    if (this.#owner === null) return -errno.EPERM;
    return done(readArgsz(registerMemory, registerMemory.bytes, this.#kernel.process, address), ({ in: { flags, vaddr, size } }) => {
      if (flags !== 0) return -errno.EINVAL;
      if (request === uapi.VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY) return this.#registered.unregister(vaddr, size);
      const result = this.#registered.register(vaddr, size);
      if (result === 0) this.#enabled = true;
      return result;
    });
  }

  #defaultWindow(): number {
    if (!this.#defaultPending) return 0;
    const window = this.#create(PAGE_LG2, BigInt(this.#config.bytes32), 1);
    if (typeof window === 'number') return window;
    this.#defaultPending = false;
    return 0;
  }

  /** tce_iommu_create_window: in the first place that is free, whose address on the bus is the platform's. */
  #create(pageLg2: number, bytes: bigint, levels: number): TceTable | number {
    const index = this.#tables.indexOf(null);
    if (index < 0) return -errno.ENOSPC;
    const { pageSizes, levelsMax, start32, start64 } = this.#config;
    if (((pageSizes >> BigInt(pageLg2)) & 1n) === 0n && this.#version === 2) return -errno.EINVAL;
    const power = bytes > 0n && (bytes & (bytes - 1n)) === 0n;
    if (!power || bytes < 1n << BigInt(pageLg2) || levels < 1 || levels > levelsMax) return -errno.EINVAL;
    const entries = Number(bytes >> BigInt(pageLg2));
    if (tooDeep(Math.log2(entries), levels, pageLg2)) return -errno.EINVAL;
    const refused = this.#kernel.pin(tableBytes(entries));
    if (refused < 0) return refused;
    const table = new TceTable(index === 0 ? BigInt(start32) : start64, pageLg2, entries, levels);
    this.#tables[index] = table;
    return table;
  }

  #createCall(command: CommandOf<typeof tceCreate>): number {
    const { flags, page_shift, window_size, levels } = command.in;
    if (flags !== 0) return -errno.EINVAL;
    const failed = this.#defaultWindow();
    if (failed < 0) return failed;
    const table = this.#create(page_shift, window_size, levels);
    return typeof table === 'number' ? table : command.respond({ start_addr: table.start });
  }

  #removeCall({ in: { flags, start_addr } }: CommandOf<typeof tceRemove>): number {
    if (flags !== 0) return -errno.EINVAL;
    if (this.#defaultPending && start_addr === 0n) {
      this.#defaultPending = false;
      return 0;
    }
    const index = this.#tables.findIndex((table) => table !== null && table.entryOf(start_addr) >= 0);
    if (index < 0) return -errno.EINVAL;
    this.#freeTable(index);
    return 0;
  }

  #freeTable(index: number): void {
    const table = this.#tables[index];
    if (table === null) return;
    this.#clear(table, 0, table.entries);
    this.#kernel.unpin(tableBytes(table.entries));
    this.#tables[index] = null;
  }

  /** An address that is in no window is ENXIO; one that the window's pages do not fit is 1, for the kernel's check is a truth value. */
  #map({ in: { flags, vaddr, iova, size } }: CommandOf<typeof dmaMap>): number {
    if ((flags & ~3) !== 0) return -errno.EINVAL;
    const failed = this.#defaultWindow();
    if (failed < 0) return failed;
    const table = this.#tableOf(iova);
    if (table === undefined) return -errno.ENXIO;
    const mask = (1n << BigInt(table.pageLg2)) - 1n;
    if (((size | vaddr) & mask) !== 0n || flags === 0) return -errno.EINVAL;
    if ((iova & mask) !== 0n) return 1;
    const permission = ((flags & 1) !== 0 ? READ : 0) | ((flags & 2) !== 0 ? WRITE : 0);
    const first = table.entryOf(iova);
    const count = Number(size >> BigInt(table.pageLg2));
    for (let done = 0; done < count; done++) {
      // A process has nothing above 2^53, so nothing is lost by a number.
      const result = this.#mapOne(table, first + done, Number(vaddr) + done * 2 ** table.pageLg2, permission);
      if (result === 0) continue;
      this.#clear(table, first, done);
      return result;
    }
    return 0;
  }

  #mapOne(table: TceTable, index: number, address: number, permission: number): number {
    if (index >= table.entries) return -errno.EINVAL;
    const entry = this.#version === 2 ? this.#registeredEntry(address, table.pageLg2, permission) : this.#pinnedEntry(address, permission);
    if (typeof entry === 'number') return entry;
    this.#exchange(table, index, entry);
    return 0;
  }

  #registeredEntry(address: number, pageLg2: number, permission: number): TceEntry | number {
    const memory = this.#registered.find(address, 2 ** pageLg2);
    if (memory === undefined || pageLg2 > this.#config.memoryPageLg2) return -errno.EINVAL;
    memory.mapped++;
    return { physical: (memory.physical + address - memory.first) / PAGE_BYTES, permission, frames: memory.frames, address };
  }

  /** Version 1 has the default window only, whose pages are no larger than memory's. */
  #pinnedEntry(address: number, permission: number): TceEntry | number {
    const vma = this.#kernel.process.find(address);
    if (vma === undefined || vma.registers || !vma.writable) return -errno.EFAULT;
    this.#kernel.physical.hold(vma.frames);
    return { physical: (vma.frames.first + vma.offset + address - vma.first) / PAGE_BYTES, permission, frames: vma.frames, address };
  }

  /** A TCE that is mapped again is replaced, whatever it was. */
  #exchange(table: TceTable, index: number, entry: TceEntry | null): void {
    const old = table.exchange(index, entry);
    if (old === undefined) return;
    if (this.#version === 1) this.#kernel.physical.drop(old.frames);
    else this.#registered.find(old.address, 1)!.mapped--;
  }

  #clear(table: TceTable, first: number, count: number): void {
    for (const index of table.used(first, count)) this.#exchange(table, index, null);
  }

  #unmap({ in: { flags, iova, size } }: CommandOf<typeof dmaUnmap>): number {
    if (flags !== 0) return -errno.EINVAL;
    const failed = this.#defaultWindow();
    if (failed < 0) return failed;
    const table = this.#tableOf(iova);
    if (table === undefined) return -errno.ENXIO;
    const mask = (1n << BigInt(table.pageLg2)) - 1n;
    if ((size & mask) !== 0n) return -errno.EINVAL;
    const first = table.entryOf(iova);
    const count = Number(size >> BigInt(table.pageLg2));
    if ((iova & mask) !== 0n || first + count > table.entries) return 1;
    this.#clear(table, first, count);
    return 0;
  }

  #tableOf(iova: bigint): TceTable | undefined {
    return this.#tables.find((table): table is TceTable => table !== null && table.entryOf(iova) >= 0);
  }

  #eeh(address: number): number {
    if (!this.#config.eeh) return -errno.ENODEV;
    return done(readArgsz(eehOp, eehOp.bytes, this.#kernel.process, address), ({ in: { flags, op } }) =>
      flags !== 0 || op >= EEH_OPS ? -errno.EINVAL : 0,
    );
  }

  objects(): Record<string, number> {
    const mapped = this.#tables.reduce((sum, table) => sum + (table?.mapped ?? 0), 0);
    return { tces: mapped, registrations: this.#registered.size, dmaWindows: this.#tables.filter((table) => table !== null).length };
  }

  save(): unknown {
    const tables = this.#tables.map((table) => {
      if (table === null) return null;
      const tces = table.used(0, table.entries).map((index) => [index, table.get(index)?.physical, table.get(index)?.permission]);
      return { start: table.start.toString(16), pageLg2: table.pageLg2, entries: table.entries, levels: table.levels, tces };
    });
    return { version: this.#version, enabled: this.#enabled, pending: this.#defaultPending, tables, registered: this.#registered.save() };
  }
}

/** Runs the rest of a call when its struct could be read. */
function done<C extends object>(command: C | number, run: (command: C) => number): number {
  return typeof command === 'number' ? command : run(command);
}

/** pnv_pci_ioda2_table_alloc_pages: what the levels index and the page together stay below 2^55, and a level has a page at least. */
function tooDeep(entriesLg2: number, levels: number, pageLg2: number): boolean {
  const levelLg2 = Math.max(Math.ceil(entriesLg2 / levels), PAGE_LG2 - 3);
  return levelLg2 * levels + pageLg2 >= 55;
}

function tableBytes(entries: number): number {
  return Math.ceil((8 * entries) / PAGE_BYTES) * PAGE_BYTES;
}

const names = new Map<number, string>([
  [uapi.VFIO_IOMMU_GET_INFO, 'VFIO_IOMMU_SPAPR_TCE_GET_INFO'],
  [uapi.VFIO_IOMMU_MAP_DMA, 'VFIO_IOMMU_MAP_DMA'],
  [uapi.VFIO_IOMMU_UNMAP_DMA, 'VFIO_IOMMU_UNMAP_DMA'],
  [uapi.VFIO_IOMMU_ENABLE, 'VFIO_IOMMU_ENABLE'],
  [uapi.VFIO_IOMMU_DISABLE, 'VFIO_IOMMU_DISABLE'],
  [uapi.VFIO_IOMMU_SPAPR_REGISTER_MEMORY, 'VFIO_IOMMU_SPAPR_REGISTER_MEMORY'],
  [uapi.VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY, 'VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY'],
  [uapi.VFIO_IOMMU_SPAPR_TCE_CREATE, 'VFIO_IOMMU_SPAPR_TCE_CREATE'],
  [uapi.VFIO_IOMMU_SPAPR_TCE_REMOVE, 'VFIO_IOMMU_SPAPR_TCE_REMOVE'],
  [uapi.VFIO_EEH_PE_OP, 'VFIO_EEH_PE_OP'],
]);
