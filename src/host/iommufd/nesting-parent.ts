import { PAGE_BYTES } from '../../memory/address.ts';
import { errno, hostErrorOf } from '../errno.ts';
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
import { SmmuStage, VtdStage } from './installed-stage.ts';
import { faultQueueOf } from './page-requests.ts';
import type { KernelPageTable } from './page-table.ts';
import { ParentSpace } from './parent-space.ts';
import { BarePoint, ParentUnit } from './parent-unit.ts';
import { IommufdSpace } from './space.ts';
import { SpreadCommands } from './spread-commands.ts';
import { SpreadPoint, SpreadStage, type Units } from './spread-stage.ts';
import { StageEvents } from './stage-events.ts';
import { Streams } from './streams.ts';

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

/** A nesting parent of iommufd and what stands on it: first stages, and, of each IOMMU that its devices stand behind, a vIOMMU with them, and a queue. */
export class IommufdParent implements NestingParent {
  readonly hardware: NestingHardware;
  readonly space: ParentSpace;
  readonly #context: IommufdContext;
  readonly #units: Units<ParentUnit>;
  readonly #all = new Set<ParentUnit>();
  readonly #commands: SpreadCommands | null;
  readonly #events: StageEvents;
  readonly #fixed = new Map<'abort' | 'bypass', AttachmentPoint>();
  readonly #streams = new Streams();
  readonly #made: { close(): void }[] = [];
  /** Guest-physical pages that are left for queues; null: there are none. */
  #rings: number[] | null = null;

  /** `queue`: the vIOMMU is one that can have a queue. @throws HostError */
  constructor(context: IommufdContext, device: Attachable, hardware: NestingHardware, { queue, dirtyTracking }: ParentOptions) {
    this.#context = context;
    this.hardware = hardware;
    this.#commands = hardware.kind === 'smmuv3' ? new SpreadCommands() : null;
    this.#events = new StageEvents(context);
    const homes = new WeakMap<HostDevice, ParentUnit>();
    this.#units = { all: this.#all, homes, add: (joining) => this.#addUnit(joining), drop: (unit) => this.#dropUnit(unit) };
    this.space = new ParentSpace(context, device, { forPasid: hardware.pasidStages, dirtyTracking });
    try {
      this.#join(this.space.table, device, queue);
    } catch (error) {
      this.space.close();
      throw error;
    }
  }

  /** @throws HostError; then the table is gone. */
  #join(table: KernelPageTable, device: Handle, queue: boolean): ParentUnit {
    try {
      const unit = new ParentUnit(this.#context, device, table, this.hardware.kind, queue);
      this.#all.add(unit);
      if (unit.smmu !== null) this.#commands?.join(unit.smmu.commands);
      return unit;
    } catch (error) {
      this.space.dropTable(table);
      throw error;
    }
  }

  /** Of one more IOMMU; with a queue, if it can have one. @throws HostError */
  #addUnit(device: Attachable): ParentUnit {
    const ring = this.#rings?.pop();
    if (ring !== undefined) {
      try {
        const unit = this.#join(this.space.addTable(device), device, true);
        this.#openRing(unit, ring);
        return unit;
      } catch (error) {
        hostErrorOf(error);
        this.#rings?.push(ring);
      }
    }
    return this.#join(this.space.addTable(device), device, false);
  }

  #openRing(unit: ParentUnit, page: number): void {
    try {
      unit.openQueue(this.space, page);
    } catch (error) {
      this.#dropUnit(unit);
      throw error;
    }
  }

  #dropUnit(unit: ParentUnit): void {
    if (unit.smmu !== null) {
      this.#streams.releaseAll(unit.smmu);
      this.#events.ignore(unit.smmu.viommu);
      this.#commands?.leave(unit.smmu.commands);
    }
    unit.close();
    this.#all.delete(unit);
    this.space.dropTable(unit.table);
  }

  get commands(): GuestCommands | null {
    return this.#commands;
  }

  allocate(pages: number): TablePages {
    return this.#context.port.allocate(pages * PAGE_BYTES);
  }

  install(device: HostDevice, stage: UserStage, options: StageOptions = {}): InstalledStage {
    return new SpreadStage(this.#units, (unit, joining) => this.#create(unit, joining, stage, options), own(device));
  }

  #create(unit: ParentUnit, device: Attachable, stage: UserStage, { ranges, pageRequests = false }: StageOptions): VtdStage | SmmuStage {
    const queue = pageRequests === true ? this.#events.faults() : pageRequests === false ? undefined : faultQueueOf(pageRequests);
    const faults = queue === undefined ? {} : { faults: queue };
    const parts = { ...faults, ...(ranges !== undefined && { ranges }) };
    if (stage.kind === 'vtd' && unit.ranges !== null) {
      const forPasid = this.hardware.pasidStages;
      return new VtdStage(this.#context, device, unit.table, stage, { ...parts, forPasid, invalidations: unit.ranges });
    }
    const { smmu } = unit;
    if (stage.kind === 'smmuv3' && smmu !== null) {
      const { viommu, idr, route } = smmu;
      const { asid } = stage;
      const ste = asid === undefined ? guestEntry(stage.ste) : stage.ste;
      const ranged = (idr[3] & IDR3_RIL) !== 0;
      const admit = (joining: HostDevice) => this.#streams.admit(smmu, joining);
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

  /** VT-d: nothing but the parent for bypass, and a space without mappings for abort. */
  #makeFixed(device: Attachable, kind: 'abort' | 'bypass'): AttachmentPoint {
    if (this.hardware.kind === 'vtd' && kind === 'bypass') return new SpreadPoint(this.#units, ({ table }) => new BarePoint(table), device);
    const made =
      this.hardware.kind === 'vtd' ? new IommufdSpace(this.#context, {}) : this.install(device, { kind: 'smmuv3', ste: [FIXED[kind], 0n] });
    this.#made.unshift(made);
    return made;
  }

  name(device: HostDevice, id: number): number {
    const unit = this.hardware.kind === 'smmuv3' ? this.#admit(own(device), id) : null;
    if (typeof unit === 'number') return unit;
    this.#events.names.set(own(device).id, id);
    try {
      if (unit !== null) this.#events.listen(unit.smmu!.viommu);
      return 0;
    } catch (error) {
      return -hostErrorOf(error).errno;
    }
  }

  /** On the vIOMMU of the IOMMU that it stands behind, which is made when it is the first there. A negative errno: on none. */
  #admit(device: Attachable, id: number): ParentUnit | number {
    const { homes } = this.#units;
    const home = homes.get(device);
    const isKnown = home !== undefined && this.#all.has(home);
    for (const unit of isKnown ? [home] : this.#all) {
      const result = this.#streams.admit(unit.smmu!, device, id);
      if (result < 0 && (result !== -errno.EINVAL || isKnown)) return result;
      if (result < 0) continue;
      homes.set(device, unit);
      return unit;
    }
    try {
      const unit = this.#addUnit(device);
      const result = this.#streams.admit(unit.smmu!, device, id);
      if (result < 0) this.#dropUnit(unit);
      else homes.set(device, unit);
      return result < 0 ? result : unit;
    } catch (error) {
      return -hostErrorOf(error).errno;
    }
  }

  openQueues(first: number, last: number): void {
    const [unit] = this.#all;
    unit.openQueue(this.space, last);
    this.#rings = Array.from({ length: last - first }, (_, i) => first + i);
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
    this.#streams.releaseAll();
    while (this.#made.length > 0) {
      this.#made[0].close();
      this.#made.shift();
    }
    // The vIOMMUs with their queues, then the tables under them.
    for (const unit of this.#all) {
      unit.close();
      this.#all.delete(unit);
    }
    this.space.close();
    this.#fixed.clear();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}
