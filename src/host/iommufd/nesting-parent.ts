import { READ } from '../../memory/access.ts';
import { PAGE_BYTES, pfnOf } from '../../memory/address.ts';
import { errno, HostError } from '../errno.ts';
import type {
  AttachmentPoint,
  GuestCommands,
  HostDevice,
  InstalledStage,
  NestingHardware,
  NestingParent,
  StageEvent,
  StageOptions,
  TablePages,
  UserStage,
} from '../host.ts';
import type { Handle, IommufdContext } from './context.ts';
import { type Attachable, own } from './device.ts';
import { SmmuGuestCommands } from './guest-commands.ts';
import { SmmuStage, VtdStage } from './installed-stage.ts';
import { faultQueueOf } from './page-requests.ts';
import { KernelPageTable } from './page-table.ts';
import { ParentSpace } from './parent-space.ts';
import { ParentUnit } from './parent-unit.ts';
import { IommufdSpace } from './space.ts';
import { SpreadStage } from './spread-stage.ts';
import { StageEvents } from './stage-events.ts';
import { CommandQueue } from './tegra241.ts';
import type { Vdevice } from './viommu.ts';

/** IHI 0070, 6.3.4. */
const IDR3_RIL = 1 << 10;
/** STE.V and STE.Config (IHI 0070, 5.2). */
const FIXED = { abort: 1n, bypass: 1n | (4n << 1n) } as const;

/** What the kernel takes of a stream table entry (5.2): V, Config, S1Fmt, S1ContextPtr, S1CDMax; S1DSS, S1CIR, S1COR, S1CSH, S1STALLD, EATS. */
const STE0 = 1n | (7n << 1n) | (3n << 4n) | 0xf_ffff_ffff_ffc0n | (0x1fn << 59n);
const STE1 = 0xffn | (1n << 27n) | (3n << 28n);

/** A guest's entry without what says nothing of a first stage; of one that is not valid nothing counts. */
function guestEntry([word0, word1]: readonly [bigint, bigint]): readonly [bigint, bigint] {
  return (word0 & 1n) === 0n ? [0n, 0n] : [word0 & STE0, word1 & STE1];
}

interface ParentOptions {
  readonly queue: boolean;
  readonly dirtyTracking: boolean;
}

/** Whose vIOMMU each device has its place on: the kernel gives it one. */
const places = new WeakMap<HostDevice, IommufdParent>();

/** A nesting parent of iommufd and what stands on it: first stages, a vIOMMU with its devices, a queue. */
export class IommufdParent implements NestingParent {
  readonly hardware: NestingHardware;
  readonly space: ParentSpace;
  readonly #context: IommufdContext;
  /** Of the first device's IOMMU: all that is a guest's own, and its vIOMMU, are there. */
  readonly #unit: ParentUnit;
  readonly #units = new Set<ParentUnit>();
  readonly #homes = new WeakMap<HostDevice, ParentUnit>();
  readonly #commands: SmmuGuestCommands | null = null;
  readonly #events: StageEvents;
  readonly #fixed = new Map<'abort' | 'bypass', AttachmentPoint>();
  readonly #devices = new Map<HostDevice, { readonly vdevice: Vdevice; readonly unit: ParentUnit }>();
  readonly #streams = new Set<number>();
  readonly #made: { close(): void }[] = [];
  #queuePages: TablePages | null = null;
  #nextStream = 0;

  /** `queue`: the vIOMMU is one that can have a queue. @throws HostError */
  constructor(context: IommufdContext, device: Handle, hardware: NestingHardware, { queue, dirtyTracking }: ParentOptions) {
    this.#context = context;
    this.hardware = hardware;
    this.space = new ParentSpace(context, device, { forPasid: hardware.pasidStages, dirtyTracking });
    this.#made.unshift(this.space);
    try {
      this.#unit = this.#addUnit(this.space.table, device, queue);
    } catch (error) {
      for (const object of this.#made) object.close();
      throw error;
    }
    const { smmu } = this.#unit;
    if (smmu !== null) this.#commands = new SmmuGuestCommands(smmu.route, smmu.idr, this.#streams);
    this.#events = new StageEvents(context, smmu?.viommu ?? null);
  }

  /** @throws HostError; then the table is gone. */
  #addUnit(table: KernelPageTable, device: Handle, queue: boolean): ParentUnit {
    try {
      const unit = new ParentUnit(this.#context, device, table, this.hardware.kind, queue);
      this.#units.add(unit);
      return unit;
    } catch (error) {
      this.space.dropTable(table);
      throw error;
    }
  }

  #dropUnit(unit: ParentUnit): void {
    for (const [device, place] of this.#devices) if (place.unit === unit) this.release(device);
    unit.close();
    this.#units.delete(unit);
    this.space.dropTable(unit.table);
  }

  get commands(): GuestCommands | null {
    return this.#commands;
  }

  allocate(pages: number): TablePages {
    return this.#context.port.allocate(pages * PAGE_BYTES);
  }

  install(device: HostDevice, stage: UserStage, options: StageOptions = {}): InstalledStage {
    if (options.severalIommus !== true) return this.#create(this.#unit, own(device), stage, options);
    const units = {
      units: this.#units,
      homes: this.#homes,
      add: (joining: Attachable) => this.#addUnit(this.space.addTable(joining), joining, false),
      drop: (unit: ParentUnit) => this.#dropUnit(unit),
      create: (unit: ParentUnit, joining: Attachable) => this.#create(unit, joining, stage, options),
    };
    return new SpreadStage(units, own(device));
  }

  #create(unit: ParentUnit, device: Attachable, stage: UserStage, { ranges, pageRequests = false }: StageOptions): VtdStage | SmmuStage {
    const queue = pageRequests === true ? this.#events.faults() : pageRequests === false ? undefined : faultQueueOf(pageRequests);
    const faults = queue === undefined ? {} : { faults: queue };
    const parts = { ...faults, ...(ranges !== undefined && { ranges }) };
    if (stage.kind === 'vtd' && unit.ranges !== null) {
      const forPasid = this.hardware.pasidStages;
      return new VtdStage(this.#context, device, unit.table, stage, { ...parts, forPasid, invalidations: unit.ranges });
    }
    if (stage.kind === 'smmuv3' && unit.smmu !== null) {
      const { viommu, idr, route } = unit.smmu;
      const { asid } = stage;
      const ste = asid === undefined ? guestEntry(stage.ste) : stage.ste;
      const ranged = (idr[3] & IDR3_RIL) !== 0;
      const admit = (joining: HostDevice) => this.#admit(unit, joining);
      const commands = { ...(asid !== undefined && { asid }), ranged, route, admit };
      return new SmmuStage(this.#context, device, viommu, ste, { ...parts, ...commands });
    }
    throw new TypeError(`no ${stage.kind} stage behind ${this.hardware.kind}`);
  }

  fixed(device: HostDevice, kind: 'abort' | 'bypass'): AttachmentPoint {
    const known = this.#fixed.get(kind);
    if (known !== undefined) return known;
    const made = this.#makeFixed(own(device), kind);
    this.#fixed.set(kind, made);
    return made;
  }

  /** VT-d: nothing but the parent for bypass, and a table without mappings for abort. */
  #makeFixed(device: Handle & HostDevice, kind: 'abort' | 'bypass'): AttachmentPoint {
    if (this.#unit.smmu !== null) {
      const stage = this.install(device, { kind: 'smmuv3', ste: [FIXED[kind], 0n] });
      this.#made.unshift(stage);
      return stage;
    }
    if (kind === 'bypass') return this.#unit.table;
    const empty = new IommufdSpace(this.#context, {});
    this.#made.unshift(empty);
    const table = new KernelPageTable(this.#context, device, empty, { forPasid: this.hardware.pasidStages });
    this.#made.unshift(table);
    return table;
  }

  name(device: HostDevice, id: number): number {
    const failed = this.#unit.smmu === null ? 0 : this.#admit(this.#unit, device, id);
    if (failed < 0) return failed;
    this.#events.names.set(own(device).id, id);
    try {
      this.#events.listen();
      return 0;
    } catch (error) {
      if (error instanceof HostError) return -error.errno;
      throw error;
    }
  }

  /** Commands and events name a stream by its virtual ID, so a device wants a place on the vIOMMU before it is attached. Any ID will do: -1. */
  #admit(unit: ParentUnit, device: HostDevice, id = -1): number {
    for (const known of this.#devices.keys()) if (known.closed) this.release(known);
    const before = this.#devices.get(device);
    if (before !== undefined && before.unit === unit && (id < 0 || before.vdevice.virtualId === BigInt(id))) return 0;
    try {
      places.get(device)?.release(device);
      const stream = id < 0 ? this.#nextStream++ : id;
      this.#devices.set(device, { vdevice: unit.smmu!.viommu.addDevice(own(device), BigInt(stream)), unit });
      this.#streams.add(stream);
      places.set(device, this);
      return 0;
    } catch (error) {
      if (error instanceof HostError) return -error.errno;
      throw error;
    }
  }

  /** The device has a place here no longer. @throws HostError */
  release(device: HostDevice): void {
    const vdevice = this.#devices.get(device)?.vdevice;
    if (vdevice === undefined) return;
    // Of a closed device the kernel has taken it.
    vdevice.close();
    this.#devices.delete(device);
    this.#streams.delete(Number(vdevice.virtualId));
    places.delete(device);
  }

  openQueue(page: number): void {
    const { smmu } = this.#unit;
    if (smmu === null || smmu.vintf === null)
      throw new HostError('IOMMU_HW_QUEUE_ALLOC', errno.EOPNOTSUPP, undefined, 'no vIOMMU that can have a queue');
    const pages = this.allocate(1);
    const mapped = this.space.map(page, pfnOf(pages.address), 1, READ);
    try {
      if (mapped < 0) throw this.space.error ?? new HostError('IOMMU_IOAS_MAP', mapped);
      const ring = new Uint8Array(pages.buffer, 0, PAGE_BYTES);
      const queue = new CommandQueue(smmu.vintf, 0, BigInt(page) << 12n, ring);
      this.#made.unshift(queue.hardware);
      queue.enable();
      smmu.route.use(queue);
      this.#queuePages = pages;
    } catch (error) {
      pages.release();
      throw error;
    }
  }

  events(): StageEvent[] {
    return this.#events.read();
  }

  respond(cookie: number, resolved: boolean): void {
    this.#events.respond(cookie, resolved);
  }

  get eventDescriptors(): readonly number[] {
    return this.#events.descriptors;
  }

  close(): void {
    this.#events.close();
    for (const device of this.#devices.keys()) this.release(device);
    // Stages and queues, then the vIOMMUs under them, then the tables under those.
    while (this.#made.length > 1) {
      this.#made[0].close();
      this.#made.shift();
    }
    for (const unit of this.#units) {
      unit.close();
      this.#units.delete(unit);
    }
    this.space.close();
    this.#fixed.clear();
    this.#queuePages?.release();
    this.#queuePages = null;
  }
  [Symbol.dispose](): void {
    this.close();
  }
}
