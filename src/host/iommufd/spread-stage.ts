import { errno, HostError } from '../errno.ts';
import type { HostDevice, InstalledStage } from '../host.ts';
import type { Handle } from './context.ts';
import { type Attachable, own, type Place } from './device.ts';

/** A first stage on the IOMMU of one unit. */
export interface UnitStage extends InstalledStage, Handle {
  readonly forPasid: boolean;
  /** `as`: what the device is attached to then, as others see it. */
  attach(device: HostDevice, as?: Place): number;
  detach(device: HostDevice, as?: Place): number;
}

/** What of a nesting parent is one IOMMU's, for each that devices have come from. */
export interface StageUnits<Unit> {
  readonly units: ReadonlySet<Unit>;
  /** Whose IOMMU a device is behind, as far as it has been attached. */
  readonly homes: WeakMap<HostDevice, Unit>;
  /** For the IOMMU of a device that no other takes. @throws HostError */
  add(device: Attachable): Unit;
  drop(unit: Unit): void;
  /** @throws HostError EINVAL for a device behind another IOMMU. */
  create(unit: Unit, device: Attachable): UnitStage;
}

/**
 * One first stage for devices behind several IOMMUs: the same tables, of which each IOMMU that does not take another's page tables is told for itself. The
 * kernel does not say which those are, but by EINVAL.
 */
export class SpreadStage<Unit> implements InstalledStage, Place {
  readonly #of: StageUnits<Unit>;
  readonly #stages = new Map<Unit, UnitStage>();
  #error: HostError | null = null;

  /** @throws HostError when the hardware in front of the device does not take it. */
  constructor(units: StageUnits<Unit>, device: Attachable) {
    this.#of = units;
    if (this.#suitable(device) !== null) return;
    const unit = units.add(device);
    try {
      this.#stages.set(unit, units.create(unit, device));
    } catch (error) {
      units.drop(unit);
      throw error;
    }
  }

  get #first(): UnitStage {
    return this.#stages.values().next().value!;
  }

  get id(): number {
    return this.#first.id;
  }

  get forPasid(): boolean {
    return this.#first.forPasid;
  }

  get error(): HostError | null {
    return this.#error;
  }

  attach(device: HostDevice): number {
    return this.enter(own(device));
  }

  enter(who: Attachable): number {
    const { homes, units } = this.#of;
    const known = homes.get(who.device);
    const home = known !== undefined && units.has(known) ? known : undefined;
    for (const [unit, stage] of this.#stages) {
      if (home !== undefined && home !== unit) continue;
      const result = stage.attach(who, this);
      if (result !== -errno.EINVAL || home !== undefined) return this.#came(who, unit, result);
    }
    try {
      const unit = home ?? this.#suitable(who);
      return unit === null ? this.#enterBy(this.#of.add(who), who, true) : this.#enterBy(unit, who, false);
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      this.#error = error;
      return -error.errno;
    }
  }

  /** The first unit beside those that have the stage that takes it for the device, and then has it; null: none does. @throws HostError */
  #suitable(who: Attachable): Unit | null {
    for (const unit of this.#of.units) {
      if (this.#stages.has(unit)) continue;
      try {
        this.#stages.set(unit, this.#of.create(unit, who));
        return unit;
      } catch (error) {
        if (!(error instanceof HostError) || error.errno !== errno.EINVAL) throw error;
      }
    }
    return null;
  }

  /** @throws HostError; then the unit has no such stage, and is gone when it is new. */
  #enterBy(unit: Unit, who: Attachable, isNew: boolean): number {
    let stage = this.#stages.get(unit);
    try {
      stage ??= this.#of.create(unit, who);
      // Its IOMMU may remember somebody else's entries with the same ASID.
      stage.invalidateAll();
      const result = stage.sync() || stage.attach(who, this);
      if (result < 0) throw stage.error ?? new HostError('attach', -result, undefined, who.name);
      this.#stages.set(unit, stage);
      return this.#came(who, unit, 0);
    } catch (error) {
      stage?.close();
      this.#stages.delete(unit);
      if (isNew) this.#of.drop(unit);
      throw error;
    }
  }

  #came(who: Attachable, unit: Unit, result: number): number {
    if (result === 0) this.#of.homes.set(who.device, unit);
    else this.#error = this.#stages.get(unit)?.error ?? null;
    return result;
  }

  detach(device: HostDevice): number {
    const result = this.#first.detach(device, this);
    if (result < 0) this.#error = this.#first.error;
    return result;
  }

  invalidate(first: number, pages: number): void {
    for (const stage of this.#stages.values()) stage.invalidate(first, pages);
  }

  invalidateAll(): void {
    for (const stage of this.#stages.values()) stage.invalidateAll();
  }

  /** One call for each IOMMU at most. */
  sync(): number {
    let result = 0;
    for (const stage of this.#stages.values()) {
      const answer = stage.sync();
      if (answer === 0 || result < 0) continue;
      result = answer;
      this.#error = stage.error;
    }
    return result;
  }

  close(): void {
    for (const [unit, stage] of this.#stages) {
      stage.close();
      this.#stages.delete(unit);
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
