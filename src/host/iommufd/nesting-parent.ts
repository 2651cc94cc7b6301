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
import { own } from './device.ts';
import { SmmuGuestCommands } from './guest-commands.ts';
import { readHwInfo } from './hw-info.ts';
import { SmmuStage, VtdStage } from './installed-stage.ts';
import { SmmuInvalidations, VtdInvalidations } from './invalidate.ts';
import { faultQueueOf } from './page-requests.ts';
import { KernelPageTable } from './page-table.ts';
import { ParentSpace } from './parent-space.ts';
import { SmmuCommands } from './smmu-commands.ts';
import { IommufdSpace } from './space.ts';
import { StageEvents } from './stage-events.ts';
import { CommandQueue, createVintf, type Vintf } from './tegra241.ts';
import { type Vdevice, Viommu } from './viommu.ts';

/** Entries that one invalidation call carries at most. */
const INVALIDATIONS = 4096;
/** enum iommu_viommu_type */
const VIOMMU_SMMUV3 = 1;
/** IHI 0070, 6.3.4. */
const IDR3_RIL = 1 << 10;
/** enum iommu_hw_info_arm_smmuv3_flags: TLBI and CFGI must be issued twice. */
const TWICE = 1;
/** STE.V and STE.Config (IHI 0070, 5.2). */
const FIXED = { abort: 1n, bypass: 1n | (4n << 1n) } as const;

/** What the kernel takes of a stream table entry (5.2): V, Config, S1Fmt, S1ContextPtr, S1CDMax; S1DSS, S1CIR, S1COR, S1CSH, S1STALLD, EATS. */
const STE0 = 1n | (7n << 1n) | (3n << 4n) | 0xf_ffff_ffff_ffc0n | (0x1fn << 59n);
const STE1 = 0xffn | (1n << 27n) | (3n << 28n);

/** A guest's entry without what says nothing of a first stage; of one that is not valid nothing counts. */
function guestEntry([word0, word1]: readonly [bigint, bigint]): readonly [bigint, bigint] {
  return (word0 & 1n) === 0n ? [0n, 0n] : [word0 & STE0, word1 & STE1];
}

/** How a guest's own commands reach an SMMUv3: through the vIOMMU, or a queue that the hardware reads. */
interface SmmuSide {
  readonly viommu: Viommu;
  readonly vintf: Vintf | null;
  readonly calls: SmmuInvalidations;
  readonly route: SmmuCommands;
  readonly idr: readonly number[];
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
  readonly #table: KernelPageTable;
  readonly #smmu: SmmuSide | null = null;
  readonly #commands: SmmuGuestCommands | null = null;
  readonly #ranges: VtdInvalidations | null = null;
  readonly #events: StageEvents;
  readonly #fixed = new Map<'abort' | 'bypass', AttachmentPoint>();
  readonly #devices = new Map<HostDevice, Vdevice>();
  readonly #streams = new Set<number>();
  readonly #made: { close(): void }[] = [];
  #queuePages: TablePages | null = null;
  #nextStream = 0;

  /** `queue`: the vIOMMU is one that can have a queue. @throws HostError */
  constructor(context: IommufdContext, device: Handle, hardware: NestingHardware, { queue, dirtyTracking }: ParentOptions) {
    this.#context = context;
    this.hardware = hardware;
    this.space = new ParentSpace(context, device, { forPasid: hardware.pasidStages, dirtyTracking });
    this.#table = this.space.table;
    this.#made.unshift(this.space);
    try {
      if (hardware.kind === 'smmuv3') {
        this.#smmu = this.#createSmmu(device, queue);
        this.#commands = new SmmuGuestCommands(this.#smmu.route, this.#smmu.idr, this.#streams);
      } else this.#ranges = new VtdInvalidations(context, this.#table, INVALIDATIONS);
    } catch (error) {
      for (const object of this.#made) object.close();
      throw error;
    }
    this.#events = new StageEvents(context, this.#smmu?.viommu ?? null);
  }

  #createSmmu(device: Handle, queue: boolean): SmmuSide {
    const { data } = readHwInfo(this.#context, device, 0);
    if (data.kind !== 'smmuv3') throw new HostError('IOMMU_GET_HW_INFO', errno.EOPNOTSUPP, undefined, 'no SMMUv3');
    const vintf = queue ? createVintf(this.#context, device, this.#table) : null;
    const viommu = vintf?.viommu ?? new Viommu(this.#context, device, this.#table, VIOMMU_SMMUV3);
    this.#made.unshift(viommu);
    const calls = new SmmuInvalidations(this.#context, viommu, INVALIDATIONS);
    const route = new SmmuCommands(this.#context.port, calls, (data.flags & TWICE) !== 0);
    return { viommu, vintf, calls, route, idr: data.idr };
  }

  get commands(): GuestCommands | null {
    return this.#commands;
  }

  allocate(pages: number): TablePages {
    return this.#context.port.allocate(pages * PAGE_BYTES);
  }

  install(device: HostDevice, stage: UserStage, { ranges, pageRequests = false }: StageOptions = {}): InstalledStage {
    const queue = pageRequests === true ? this.#events.faults() : pageRequests === false ? undefined : faultQueueOf(pageRequests);
    const faults = queue === undefined ? {} : { faults: queue };
    const parts = { ...faults, ...(ranges !== undefined && { ranges }) };
    if (stage.kind === 'vtd' && this.#ranges !== null)
      return new VtdStage(this.#context, own(device), this.#table, stage, {
        ...parts,
        forPasid: this.hardware.pasidStages,
        invalidations: this.#ranges,
      });
    if (stage.kind === 'smmuv3' && this.#smmu !== null) {
      const { viommu, idr, route } = this.#smmu;
      const { asid } = stage;
      const ste = asid === undefined ? guestEntry(stage.ste) : stage.ste;
      const ranged = (idr[3] & IDR3_RIL) !== 0;
      const admit = (joining: HostDevice) => this.#admit(joining);
      const commands = { ...(asid !== undefined && { asid }), ranged, route, admit };
      return new SmmuStage(this.#context, own(device), viommu, ste, { ...parts, ...commands });
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
    if (this.#smmu !== null) {
      const stage = this.install(device, { kind: 'smmuv3', ste: [FIXED[kind], 0n] });
      this.#made.unshift(stage);
      return stage;
    }
    if (kind === 'bypass') return this.#table;
    const empty = new IommufdSpace(this.#context, {});
    this.#made.unshift(empty);
    const table = new KernelPageTable(this.#context, device, empty, { forPasid: this.hardware.pasidStages });
    this.#made.unshift(table);
    return table;
  }

  name(device: HostDevice, id: number): number {
    const failed = this.#smmu === null ? 0 : this.#admit(device, id);
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
  #admit(device: HostDevice, id = -1): number {
    for (const known of this.#devices.keys()) if (known.closed) this.release(known);
    const before = this.#devices.get(device);
    if (before !== undefined && (id < 0 || before.virtualId === BigInt(id))) return 0;
    try {
      places.get(device)?.release(device);
      const stream = id < 0 ? this.#nextStream++ : id;
      this.#devices.set(device, this.#smmu!.viommu.addDevice(own(device), BigInt(stream)));
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
    const vdevice = this.#devices.get(device);
    if (vdevice === undefined) return;
    // Of a closed device the kernel has taken it.
    vdevice.close();
    this.#devices.delete(device);
    this.#streams.delete(Number(vdevice.virtualId));
    places.delete(device);
  }

  openQueue(page: number): void {
    const smmu = this.#smmu;
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
    while (this.#made.length > 0) {
      this.#made[0].close();
      this.#made.shift();
    }
    this.#fixed.clear();
    this.#ranges?.dispose();
    this.#smmu?.calls.dispose();
    this.#queuePages?.release();
    this.#queuePages = null;
  }
  [Symbol.dispose](): void {
    this.close();
  }
}
