import type { HostError } from '../errno.ts';
import type { HostDevice, InstalledStage, StageOptions } from '../host.ts';
import type { Handle, IommufdContext } from './context.ts';
import type { Place } from './device.ts';
import type { FaultQueue } from './fault-queue.ts';
import type { CommandRoute, VtdInvalidations } from './invalidate.ts';
import { type NestedOptions, StageOne } from './page-table.ts';
import { type StageOneData, smmuv3Stage1, type VtdStage1, vtdStage1 } from './stage-one.ts';
import type { Viommu } from './viommu.ts';

/** See StageOptions. */
const RANGES = 32;

/** What a stage is made with beside its data. */
export interface StageParts extends StageOptions {
  readonly faults?: FaultQueue;
  readonly forPasid?: boolean;
}

/** A first stage of the user's and what it has to make the hardware forget: ranges until there are too many, then everything. */
abstract class ForgettingStage extends StageOne implements InstalledStage {
  readonly #first: number[] = [];
  readonly #pages: number[] = [];
  readonly #limit: number;
  #all = false;
  #syncError: HostError | null = null;

  constructor(context: IommufdContext, device: Handle, parent: Handle, data: StageOneData, parts: StageParts) {
    const { faults, forPasid = false, ranges = RANGES } = parts;
    const options: NestedOptions = faults === undefined ? { forPasid } : { forPasid, faults };
    super(context, device, parent, data, options);
    this.#limit = ranges;
  }

  protected abstract addRange(first: number, pages: number): void;
  protected abstract addAll(): void;
  /** Carries out what was added. 0 or a negative errno. */
  protected abstract flush(): number;
  protected abstract readonly flushError: HostError | null;

  override get error(): HostError | null {
    return this.#syncError ?? super.error;
  }

  override attach(device: HostDevice, as?: Place): number {
    this.#syncError = null;
    return super.attach(device, as);
  }

  override detach(device: HostDevice, as?: Place): number {
    this.#syncError = null;
    return super.detach(device, as);
  }

  invalidate(first: number, pages: number): void {
    if (this.#first.length === this.#limit) this.#all = true;
    if (this.#all) return;
    this.#first.push(first);
    this.#pages.push(pages);
  }

  invalidateAll(): void {
    this.#all = true;
  }

  sync(): number {
    if (!this.#all && this.#first.length === 0) return 0;
    if (this.#all) this.addAll();
    else for (let i = 0; i < this.#first.length; i++) this.addRange(this.#first[i], this.#pages[i]);
    this.#first.length = 0;
    this.#pages.length = 0;
    const result = this.flush();
    this.#syncError = result < 0 ? this.flushError : null;
    // What the kernel counts as done may not be: SMMUv3 issues in blocks, and an error takes the rest of one with it. So all is given again.
    this.#all = result < 0;
    return result;
  }
}

export class VtdStage extends ForgettingStage {
  readonly #invalidations: VtdInvalidations;

  /** `invalidations`: of all stages of a parent, with room for the ranges of one. */
  constructor(
    context: IommufdContext,
    device: Handle,
    parent: Handle,
    stage: VtdStage1,
    parts: StageParts & { readonly invalidations: VtdInvalidations },
  ) {
    super(context, device, parent, vtdStage1(stage), parts);
    this.#invalidations = parts.invalidations;
  }

  /** Not only leaves: tables that became empty are gone as well. */
  protected addRange(first: number, pages: number): void {
    this.#invalidations.addPages(first, pages, false);
  }

  protected addAll(): void {
    this.#invalidations.addAll();
  }

  protected flush(): number {
    this.#invalidations.aim(this);
    return this.#invalidations.flush();
  }

  protected get flushError(): HostError | null {
    return this.#invalidations.error;
  }
}

/** IHI 0070, 4.4.2. */
const TLBI_NH_ALL = 0x10;
const TLBI_NH_ASID = 0x11;
const TLBI_NH_VA = 0x12;
const TLBI_NH_VAA = 0x13;
/** TG: the granule of a range is 4 KiB. NUM and SCALE have 5 bits. */
const TG_4K = 1 << 10;
const NUM_LIMIT = 32;
const SCALE_LIMIT = 20;

/** How a stage on a vIOMMU is told apart, and who may come to it. */
export interface SmmuParts extends StageParts {
  /** Left out: it has many context descriptors, and every ASID is meant. */
  readonly asid?: number;
  /** Commands name ranges (IDR3.RIL). */
  readonly ranged: boolean;
  readonly route: CommandRoute;
  /** Gives the device its stream. 0 or a negative errno. */
  admit(device: HostDevice): number;
}

export class SmmuStage extends ForgettingStage {
  readonly #parts: SmmuParts;

  constructor(context: IommufdContext, device: Handle, viommu: Viommu, ste: readonly [bigint, bigint], parts: SmmuParts) {
    super(context, device, viommu, smmuv3Stage1(...ste), parts);
    this.#parts = parts;
  }

  override attach(device: HostDevice, as?: Place): number {
    const result = this.#parts.admit(device);
    return result < 0 ? result : super.attach(device, as);
  }

  /** (NUM + 1) × 2^SCALE granules that hold the range; what else lies in them is read again, no more. */
  protected addRange(first: number, pages: number): void {
    const { asid, ranged, route } = this.#parts;
    let scale = 0;
    while (pages > NUM_LIMIT * 2 ** scale) scale++;
    if (pages > 1 && (!ranged || scale > SCALE_LIMIT)) {
      this.addAll();
      return;
    }
    const num = Math.ceil(pages / 2 ** scale) - 1;
    const range = pages > 1 ? (num << 12) | (scale << 20) : 0;
    const command = asid === undefined ? TLBI_NH_VAA : TLBI_NH_VA;
    route.addCommand(command | range, (asid ?? 0) << 16, (first << 12) | (pages > 1 ? TG_4K : 0), (first / 0x100000) | 0);
  }

  protected addAll(): void {
    const { asid, route } = this.#parts;
    if (asid === undefined) route.addCommand(TLBI_NH_ALL, 0, 0, 0);
    else route.addCommand(TLBI_NH_ASID, asid << 16, 0, 0);
  }

  protected flush(): number {
    return this.#parts.route.flush();
  }

  protected get flushError(): HostError | null {
    return this.#parts.route.error;
  }
}
