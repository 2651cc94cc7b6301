import { errno, HostError, hostErrorOf } from '../errno.ts';
import type { AttachmentPoint, HostDevice, InstalledStage } from '../host.ts';
import type { Handle } from './context.ts';
import { type Attachable, own, type Place } from './device.ts';

/** What devices of one unit are attached to. */
export interface UnitPoint extends AttachmentPoint, Handle {
  readonly forPasid: boolean;
  /** `as`: what the device is attached to then, as others see it. */
  attach(device: HostDevice, as?: Place): number;
  detach(device: HostDevice, as?: Place): number;
  close(): void;
}

/** A first stage on the IOMMU of one unit. */
export type UnitStage = UnitPoint & Pick<InstalledStage, 'invalidate' | 'invalidateAll' | 'sync'>;

/** What of a nesting parent is one IOMMU's, for each that devices have come from. */
export interface Units<Unit> {
  readonly all: ReadonlySet<Unit>;
  /** Whose IOMMU a device is behind, as far as it has been attached. */
  readonly homes: WeakMap<HostDevice, Unit>;
  /** For the IOMMU of a device that no other takes. @throws HostError */
  add(device: Attachable): Unit;
  drop(unit: Unit): void;
}

/** @throws HostError EINVAL for a device behind another IOMMU than the unit's. */
export type Create<Unit, Point> = (unit: Unit, device: Attachable) => Point;

/**
 * What devices behind several IOMMUs are attached to: the same for each, made for each IOMMU that does not take another's page tables. The kernel does not
 * say which those are, but by EINVAL.
 */
export class SpreadPoint<Unit, Point extends UnitPoint = UnitPoint> implements AttachmentPoint, Place {
  protected readonly points = new Map<Unit, Point>();
  protected failed: HostError | null = null;
  readonly #units: Units<Unit>;
  readonly #create: Create<Unit, Point>;

  /** @throws HostError when the hardware in front of the device does not take it. */
  constructor(units: Units<Unit>, create: Create<Unit, Point>, device: Attachable) {
    this.#units = units;
    this.#create = create;
    if (this.#isTaken(device)) return;
    const unit = units.add(device);
    try {
      this.points.set(unit, create(unit, device));
    } catch (error) {
      units.drop(unit);
      throw error;
    }
  }

  /** By some unit that there is, and then that has it. @throws HostError */
  #isTaken(device: Attachable): boolean {
    for (const unit of this.#unitsFor(device)) {
      try {
        this.points.set(unit, this.#create(unit, device));
        return true;
      } catch (error) {
        if (hostErrorOf(error).errno !== errno.EINVAL) throw error;
      }
    }
    return false;
  }

  /** The device's own where it is known, and else those that have the point before others. */
  #unitsFor({ device }: Attachable): readonly Unit[] {
    const { all, homes } = this.#units;
    const home = homes.get(device);
    if (home !== undefined && all.has(home)) return [home];
    return [...this.points.keys(), ...[...all].filter((unit) => !this.points.has(unit))];
  }

  get #first(): Point {
    return this.points.values().next().value!;
  }

  get id(): number {
    return this.#first.id;
  }

  get forPasid(): boolean {
    return this.#first.forPasid;
  }

  get error(): HostError | null {
    return this.failed;
  }

  attach(device: HostDevice): number {
    const result = this.enter(own(device));
    if (result < 0) own(device).settle();
    return result;
  }

  enter(who: Attachable): number {
    const { all, homes } = this.#units;
    const isKnown = all.has(homes.get(who.device)!);
    for (const unit of this.#unitsFor(who)) {
      const result = this.#enterBy(unit, who);
      if (result !== -errno.EINVAL || isKnown) return result;
    }
    let unit: Unit;
    try {
      unit = this.#units.add(who);
    } catch (error) {
      return this.#refused(error);
    }
    const result = this.#enterBy(unit, who);
    if (result < 0) this.#units.drop(unit);
    return result;
  }

  #enterBy(unit: Unit, who: Attachable): number {
    const before = this.points.get(unit);
    let point = before;
    try {
      point ??= this.#create(unit, who);
      const result = (before === undefined ? this.prepare(point) : 0) || point.attach(who, this);
      if (result < 0) throw point.error ?? new HostError('attach', -result, undefined, who.name);
      this.points.set(unit, point);
      this.#units.homes.set(who.device, unit);
      return 0;
    } catch (error) {
      if (before === undefined) point?.close();
      return this.#refused(error);
    }
  }

  /** What one more unit has is to be before its first device comes. 0 or a negative errno. */
  protected prepare(_point: Point): number {
    return 0;
  }

  #refused(caught: unknown): number {
    const error = hostErrorOf(caught);
    this.failed = error;
    return -error.errno;
  }

  detach(device: HostDevice): number {
    const result = this.#first.detach(device, this);
    if (result < 0) this.failed = this.#first.error;
    return result;
  }

  close(): void {
    for (const [unit, point] of this.points) {
      point.close();
      this.points.delete(unit);
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** One first stage for devices behind several IOMMUs: the same tables, of which each is told for itself. */
export class SpreadStage<Unit> extends SpreadPoint<Unit, UnitStage> implements InstalledStage {
  /** Its IOMMU may remember somebody else's entries with the same ASID. */
  protected override prepare(stage: UnitStage): number {
    stage.invalidateAll();
    return stage.sync();
  }

  invalidate(first: number, pages: number): void {
    for (const stage of this.points.values()) stage.invalidate(first, pages);
  }

  invalidateAll(): void {
    for (const stage of this.points.values()) stage.invalidateAll();
  }

  /** One call for each IOMMU at most. What failed before is no error any more once it is done. */
  sync(): number {
    let result = 0;
    let failed: HostError | null = null;
    for (const stage of this.points.values()) {
      const answer = stage.sync();
      if (answer === 0 || result < 0) continue;
      result = answer;
      failed = stage.error;
    }
    if (failed !== null || this.failed?.operation === 'IOMMU_HWPT_INVALIDATE') this.failed = failed;
    return result;
  }
}
