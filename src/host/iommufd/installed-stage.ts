import type { HostError } from '../errno.ts';
import type { HostDevice, InstalledStage } from '../host.ts';
import type { Handle, IommufdContext } from './context.ts';
import { type Invalidations, SmmuInvalidations, VtdInvalidations } from './invalidate.ts';
import { StageOne } from './page-table.ts';
import { smmuv3Stage1, vtdStage1 } from './stage-one.ts';
import type { Viommu } from './viommu.ts';

/** Ranges of one call; more of them are one invalidation of everything. */
const RANGES = 32;

/** A first stage of the user's and what it has to make the hardware forget: ranges until there are too many, then everything. */
abstract class ForgettingStage extends StageOne implements InstalledStage {
  protected abstract readonly invalidations: Invalidations;
  readonly #first = new Float64Array(RANGES);
  readonly #pages = new Float64Array(RANGES);
  #count = 0;
  #all = false;
  #syncFailed = false;

  protected abstract addRange(first: number, pages: number): void;
  protected abstract addAll(): void;

  override get error(): HostError | null {
    return this.#syncFailed ? this.invalidations.error : super.error;
  }

  override attach(device: HostDevice): number {
    this.#syncFailed = false;
    return super.attach(device);
  }

  override detach(device: HostDevice): number {
    this.#syncFailed = false;
    return super.detach(device);
  }

  invalidate(first: number, pages: number): void {
    if (this.#count === RANGES) this.#all = true;
    if (this.#all) return;
    this.#first[this.#count] = first;
    this.#pages[this.#count++] = pages;
  }

  invalidateAll(): void {
    this.#all = true;
  }

  sync(): number {
    if (!this.#all && this.#count === 0) return 0;
    if (this.#all) this.addAll();
    else for (let i = 0; i < this.#count; i++) this.addRange(this.#first[i], this.#pages[i]);
    this.#count = 0;
    const result = this.invalidations.flush();
    this.#syncFailed = result < 0;
    // What the kernel counts as done may not be: SMMUv3 issues in blocks, and an error takes the rest of one with it. So all is given again.
    this.#all = result < 0;
    return result;
  }

  protected override release(): void {
    this.invalidations.dispose();
  }
}

export class VtdStage extends ForgettingStage {
  protected readonly invalidations: VtdInvalidations;

  constructor(context: IommufdContext, device: Handle, parent: Handle, stage: Parameters<typeof vtdStage1>[0]) {
    super(context, device, parent, vtdStage1(stage), {});
    this.invalidations = new VtdInvalidations(context, this, RANGES);
  }

  /** Not only leaves: tables that became empty are gone as well. */
  protected addRange(first: number, pages: number): void {
    this.invalidations.addPages(first, pages, false);
  }

  protected addAll(): void {
    this.invalidations.addAll();
  }
}

/** IHI 0070, 4.4.2. */
const TLBI_NH_ASID = 0x11;
const TLBI_NH_VA = 0x12;
/** TG: the granule of a range is 4 KiB. NUM and SCALE have 5 bits. */
const TG_4K = 1 << 10;
const NUM_LIMIT = 32;
const SCALE_LIMIT = 20;

/** How a stage on a vIOMMU is told apart, and who may come to it. */
export interface SmmuCommands {
  readonly asid: number;
  /** Commands name ranges (IDR3.RIL). */
  readonly ranged: boolean;
  /** Gives the device its stream. 0 or a negative errno. */
  admit(device: HostDevice): number;
}

export class SmmuStage extends ForgettingStage {
  protected readonly invalidations: SmmuInvalidations;
  readonly #commands: SmmuCommands;

  constructor(context: IommufdContext, device: Handle, viommu: Viommu, ste: readonly [bigint, bigint], commands: SmmuCommands) {
    super(context, device, viommu, smmuv3Stage1(...ste), {});
    this.invalidations = new SmmuInvalidations(context, viommu, RANGES);
    this.#commands = commands;
  }

  override attach(device: HostDevice): number {
    const result = this.#commands.admit(device);
    return result < 0 ? result : super.attach(device);
  }

  /** (NUM + 1) × 2^SCALE granules that hold the range; what else lies in them is read again, no more. */
  protected addRange(first: number, pages: number): void {
    const { asid, ranged } = this.#commands;
    let scale = 0;
    while (pages > NUM_LIMIT * 2 ** scale) scale++;
    if (pages > 1 && (!ranged || scale > SCALE_LIMIT)) {
      this.addAll();
      return;
    }
    const num = Math.ceil(pages / 2 ** scale) - 1;
    const range = pages > 1 ? (num << 12) | (scale << 20) : 0;
    this.invalidations.addCommand(TLBI_NH_VA | range, asid << 16, (first << 12) | (pages > 1 ? TG_4K : 0), (first / 0x100000) | 0);
  }

  protected addAll(): void {
    this.invalidations.addCommand(TLBI_NH_ASID, this.#commands.asid << 16, 0, 0);
  }
}
