import { PAGE_BYTES } from '../../memory/address.ts';
import { errno } from '../errno.ts';
import type { Port, PortMemory } from '../port.ts';
import { SimDevice, type SimDeviceParts, SimGroup } from './device.ts';
import { EventFile, SharedFile, type SimFile } from './files.ts';
import { CallHooks } from './hooks.ts';
import { type IommuConfig, SimIommu } from './iommu.ts';
import { LockedMemory, type Payer } from './locked-memory.ts';
import { PhysicalMemory, ProcessMemory, type Vma } from './memory.ts';
import { SimProcess } from './process.ts';
import { UserBuffer } from './structs.ts';

export interface SimDeviceConfig {
  /** `vfio0`, as under /dev/vfio/devices. */
  readonly name: string;
  /** Index into `iommus`; default 0. */
  readonly iommu?: number;
  /** IOMMU group; default: one of its own. */
  readonly group?: number;
  /** It can ask for pages that are not there (PCI PRI). Default false. */
  readonly pageRequests?: boolean;
  /** Width of its PASIDs; default: of its IOMMU's. */
  readonly pasidLog2?: number;
}

/** The simulated machine. Default: one IOMMU as a PC has, and one device, `vfio0`. */
export interface SimMachine {
  readonly iommus?: readonly IommuConfig[];
  readonly devices?: readonly SimDeviceConfig[];
  /** Bytes that the process may pin (RLIMIT_MEMLOCK); more is ENOMEM. Default: no limit (CAP_IPC_LOCK). */
  readonly pinLimit?: number;
  /** Mappings that a type1 container allows (vfio_iommu_type1.dma_entry_limit). Default 65535, as the kernel's. */
  readonly dmaEntryLimit?: number;
}

/** A kernel interface: adds its nodes (`kernel.nodes`) and what it wants of devices. One file or folder each. */
export type SimInterface = (kernel: SimKernel) => void;

/** A simulated Linux: processes, of which one runs at a time, and devices. What its interfaces do is registered by them. */
export class SimKernel implements Port {
  readonly name = 'sim';
  readonly machine: SimMachine;
  readonly iommus: readonly SimIommu[];
  readonly devices: readonly SimDevice[];
  readonly groups = new Map<number, SimGroup>();
  readonly physical = new PhysicalMemory();
  /** What opening a path makes; a negative errno refuses. */
  readonly nodes = new Map<string, () => SimFile | number>();
  readonly hooks = new CallHooks(() => this.step());
  /** Hardware that works by itself: whatever has happened, it goes on a step. */
  readonly hardware = new Set<() => void>();
  /** Bytes pinned for DMA now. */
  pinnedBytes = 0;
  /** What the user of all processes has locked. */
  readonly #user = new LockedMemory();
  readonly #processes = new Set<SimProcess>();
  /** Open files, and what holds each: descriptors of all processes, and what the kernel has mapped of it. */
  readonly #files = new Map<SimFile, number>();
  /** The process that makes calls now. */
  #current: SimProcess;
  readonly #byName: ReadonlyMap<string, SimDevice>;

  constructor(machine: SimMachine, interfaces: readonly SimInterface[]) {
    this.machine = machine;
    this.#current = new SimProcess(new ProcessMemory(this.physical), machine.pinLimit ?? Number.POSITIVE_INFINITY);
    this.#processes.add(this.#current);
    this.iommus = (machine.iommus ?? [{}]).map((config) => new SimIommu(config));
    const devices = machine.devices ?? [{ name: 'vfio0' }];
    this.devices = devices.map((config, index) => {
      const number = config.group ?? 1000 + index;
      const group = this.groups.get(number) ?? new SimGroup(number);
      this.groups.set(number, group);
      const iommu = this.iommus[config.iommu ?? 0];
      if (iommu === undefined) throw new RangeError(`SimKernel: ${config.name} names IOMMU ${config.iommu}, which there is not`);
      return this.createDevice({ pageRequests: false, ...config, iommu, group });
    });
    this.#byName = new Map(this.devices.map((device) => [device.name, device]));
    for (const add of interfaces) add(this);
  }

  /** The process that makes calls now. */
  get current(): SimProcess {
    return this.#current;
  }

  /** Its memory. */
  get process(): ProcessMemory {
    return this.#current.memory;
  }

  /** A child of the process that runs; `as` lets it make calls. */
  fork(): SimProcess {
    const child = this.#current.fork();
    this.#processes.add(child);
    for (const file of child.files.values()) this.hold(file);
    return child;
  }

  /** What `run` does, a process does. */
  as<T>(process: SimProcess, run: () => T): T {
    const before = this.#current;
    this.#current = process;
    try {
      return run();
    } finally {
      this.#current = before;
    }
  }

  /** A process ends: descriptors are closed, and its memory is gone but for what is pinned. */
  exit(process: SimProcess): void {
    this.as(process, () => this.#closeAll());
    process.memory.release();
    this.#processes.delete(process);
  }

  #closeAll(): void {
    for (const fd of [...this.#current.files.keys()].reverse()) this.uninstall(fd);
  }

  /** Takes a descriptor of the process that runs away. */
  uninstall(fd: number): void {
    const file = this.#current.remove(fd);
    if (file !== undefined) this.drop(file);
  }

  /** The file stays open until it is dropped as often. */
  hold(file: SimFile): void {
    this.#files.set(file, (this.#files.get(file) ?? 0) + 1);
  }

  drop(file: SimFile): void {
    const left = (this.#files.get(file) ?? 1) - 1;
    if (left > 0) this.#files.set(file, left);
    else {
      this.#files.delete(file);
      file.close();
    }
  }

  /** Lets hardware that polls memory go on: before every call and every DMA, and whenever a test asks. */
  step(): void {
    for (const run of this.hardware) run();
  }

  /** A device behind an IOMMU, in a group of its own unless one is given; `devices` has only those that the machine was made with. */
  createDevice(parts: Omit<SimDeviceParts, 'physical' | 'process' | 'step'>): SimDevice {
    return new SimDevice({ ...parts, physical: this.physical, process: this.process, step: () => this.step() });
  }

  relax(): void {
    this.step();
  }

  /** @throws RangeError when there is no device of that name. */
  device(name = 'vfio0'): SimDevice {
    const device = this.#byName.get(name);
    if (device === undefined) throw new RangeError(`SimKernel: no device ${name}`);
    return device;
  }

  /** Makes a file of shared memory (as in /dev/shm) that can be opened, mapped, and mapped for DMA. */
  createFile(path: string, bytes: number): void {
    const file = new SharedFile(this, bytes);
    this.nodes.set(path, () => file.reopen());
  }

  file(fd: number): SimFile | undefined {
    return this.#current.files.get(fd);
  }

  install(file: SimFile): number {
    this.hold(file);
    return this.#current.install(file);
  }

  open(path: string): number {
    return this.hooks.call('open', -1, () => {
      const node = this.nodes.get(path);
      if (node === undefined) return -errno.ENOENT;
      const file = node();
      return typeof file === 'number' ? file : this.install(file);
    });
  }

  /** The descriptor is gone even when an error is reported, as Linux does it. */
  close(fd: number): number {
    const result = this.hooks.call('close', fd, () => (this.file(fd) === undefined ? -errno.EBADF : 0));
    this.uninstall(fd);
    return result;
  }

  /** What sysfs has: the IOMMU group of each device. */
  readlink(path: string): string | number {
    const device = this.#byName.get(/^\/sys\/class\/vfio-dev\/([^/]*)\/device\/iommu_group$/.exec(path)?.[1] ?? '');
    return device === undefined ? -errno.ENOENT : `../../../kernel/iommu_groups/${device.group.number}`;
  }

  ioctl(fd: number, request: number, argument: PortMemory | number): number {
    const file = this.file(fd);
    const address = typeof argument === 'number' ? argument : Number(argument.address);
    return this.hooks.call(file?.ioctlName(request) ?? 'ioctl', fd, () =>
      file === undefined ? -errno.EBADF : file.ioctl(request, address),
    );
  }

  /** `writable` false: it can be read only. */
  allocate(bytes: number, { writable = true } = {}): PortMemory {
    if (!Number.isSafeInteger(bytes) || bytes <= 0) throw new RangeError(`allocate: ${bytes} bytes`);
    const frames = this.physical.allocate(Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES);
    const vma = this.process.map(frames, 0, frames.buffer.byteLength, { writable, isPrivate: true });
    this.physical.drop(frames);
    return this.#portMemory(vma, frames.buffer);
  }

  mmap(fd: number, bytes: number, offset: bigint): PortMemory | number {
    let vma: Vma | undefined;
    const result = this.hooks.call('mmap', fd, () => {
      const file = this.file(fd);
      if (file === undefined) return -errno.EBADF;
      if (bytes <= 0 || offset % BigInt(PAGE_BYTES) !== 0n) return -errno.EINVAL;
      const mapped = file.mmap?.(Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES, Number(offset)) ?? -errno.ENODEV;
      if (typeof mapped === 'number') return mapped;
      vma = mapped;
      return 0;
    });
    if (vma === undefined) return result;
    if (vma.offset === 0 && vma.frames.buffer.byteLength === vma.last - vma.first + 1) return this.#portMemory(vma, vma.frames.buffer);
    this.process.unmap(vma);
    throw new RangeError('SimKernel.mmap: part of a file has no buffer of its own; map all of it');
  }

  read(fd: number, into: PortMemory, bytes: number): number {
    return this.hooks.call('read', fd, () => this.#transfer(fd, into, bytes, (file, user) => file.read?.(user)));
  }

  write(fd: number, from: PortMemory, bytes: number): number {
    return this.hooks.call('write', fd, () => this.#transfer(fd, from, bytes, (file, user) => file.write?.(user)));
  }

  #transfer(fd: number, memory: PortMemory, bytes: number, move: (file: SimFile, user: UserBuffer) => number | undefined): number {
    const file = this.file(fd);
    if (file === undefined) return -errno.EBADF;
    return move(file, new UserBuffer(this.process, memory.address, bytes)) ?? -errno.EINVAL;
  }

  /** Nothing happens while a simulated process waits, so the answer is what is there now. */
  poll(fd: number, _milliseconds: number): number {
    return this.hooks.call('poll', fd, () => {
      const file = this.file(fd);
      return file === undefined ? -errno.EBADF : (file.readable?.() ?? true) ? 1 : 0;
    });
  }

  eventfd(): number {
    return this.hooks.call('eventfd', -1, () => this.install(new EventFile()));
  }

  /**
   * Who pays for what the process that runs wants pinned: the process itself, or the user of all of them. `counted`: even though it has CAP_IPC_LOCK;
   * default false.
   */
  payer(by: 'process' | 'user' = 'process', counted = false): Payer {
    const process = this.#current;
    const account = by === 'user' ? this.#user : process.locked;
    return { account: process.lockLimit === Number.POSITIVE_INFINITY && !counted ? null : account, process };
  }

  /** Pins memory for DMA against the limit: 0 or -ENOMEM. */
  pin(bytes: number, { account, process }: Payer = this.payer()): number {
    if (account !== null) {
      if (bytes > 0 && account.bytes + bytes > process.lockLimit) return -errno.ENOMEM;
      account.bytes += bytes;
    }
    this.pinnedBytes += bytes;
    return 0;
  }

  unpin(bytes: number, { account }: Payer = this.payer()): void {
    if (account !== null) account.bytes -= bytes;
    this.pinnedBytes -= bytes;
  }

  /** What the process has of the kernel now, by kind: all of it must be 0, memory that it allocated excepted, when it has closed everything. */
  live(): Record<string, number> {
    const [processes, files] = [[...this.#processes], [...this.#files.keys()]];
    const live: Record<string, number> = {
      descriptors: processes.reduce((sum, process) => sum + process.files.size, 0),
      mappings: processes.reduce((sum, { memory }) => sum + memory.live, 0),
      frames: this.physical.live,
    };
    live['pinnedBytes'] = this.pinnedBytes;
    live['domains'] = this.iommus.reduce((sum, iommu) => sum + iommu.domains, 0);
    live['groupsOwned'] = [...this.groups.values()].filter((group) => group.owner !== null).length;
    for (const file of files) {
      for (const [kind, count] of Object.entries(file.objects?.() ?? {})) live[kind] = (live[kind] ?? 0) + count;
    }
    return live;
  }

  /** What every open file says of itself, as plain data: equal before and after a call that must change nothing. */
  save(): unknown {
    return { live: this.live(), files: [...this.#current.files].map(([fd, file]) => [fd, file.save?.() ?? null]) };
  }

  /** The process exits and a new one starts: descriptors are closed; memory that was handed out stays readable. */
  reset(): void {
    for (const process of [...this.#processes]) if (process !== this.#current) this.exit(process);
    this.#closeAll();
    this.hooks.reset();
  }

  #portMemory(vma: Vma, buffer: SharedArrayBuffer): PortMemory {
    let mapped = true;
    const { process } = this;
    return {
      buffer,
      address: BigInt(vma.first),
      bytes: buffer.byteLength,
      release: () => {
        if (mapped) process.unmap(vma);
        mapped = false;
      },
    };
  }
}
