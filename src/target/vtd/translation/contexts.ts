import { NO_PASID, type TableReader } from '../../target.ts';
import type { Registers } from '../control/registers.ts';
import type { VtdChoices } from '../options.ts';
import { Fault } from '../spec/faults.ts';
import { RootTable, TTM_ABORT, TTM_LEGACY, TTM_RESERVED, TTM_SCALABLE } from '../spec/registers.ts';
import { LegacyTables } from './legacy.ts';
import { ScalableTables } from './scalable.ts';
import type { Programmed, StageBuilder, Stages } from './stages.ts';
import type { Structures } from './structures.ts';

/** A fault for a requester ID that does not exist; nobody's, so it is not recorded. */
const NO_REQUESTER = 0xff;

/**
 * Context-cache and PASID-cache in one (6.2.2, 6.2.3): what entries say, by device and PASID. Only what is present and valid is kept,
 * caching mode or not (6.1 allows more); invalidations of a domain or PASID forget everything (6.5.2.1 allows it).
 */
export class Contexts {
  /** Why `find` found none, and whether FPD suppresses it. */
  reason = 0;
  suppressed = false;
  readonly #registers: Registers;
  readonly #choices: VtdChoices;
  readonly #legacy: LegacyTables;
  readonly #scalable: ScalableTables;
  readonly #builder: StageBuilder;
  readonly #cache = new Map<number, Map<number, Stages>>();
  #count = 0;

  constructor(registers: Registers, structures: Structures, builder: StageBuilder, choices: VtdChoices) {
    this.#registers = registers;
    this.#choices = choices;
    this.#builder = builder;
    this.#legacy = new LegacyTables(registers, structures, choices);
    this.#scalable = new ScalableTables(registers, structures, choices);
  }

  /** What a request's entries say. null: `reason` says why there is nothing. */
  find(device: number, pasid: number): Stages | null {
    const known = this.#cache.get(device)?.get(pasid);
    if (known !== undefined) return known;
    this.suppressed = false;
    if (!Number.isInteger(device) || device < 0 || device > 0xffff) return this.#refuse(NO_REQUESTER);
    const programmed = this.#locate(device, pasid);
    return programmed === null ? null : this.#keep(device, pasid, this.#builder.build(programmed));
  }

  /** PASIDs of the device that its tables have, a bounded number (ScalableTables.list). */
  list(device: number, structures: Structures): readonly number[] {
    return this.isTabled && !this.#registers.isLegacy ? this.#scalable.list(device, structures) : [];
  }

  /** Tables decide what requests reach. */
  get isTabled(): boolean {
    const { mode, translating } = this.#registers;
    return translating && (mode === TTM_LEGACY || (mode === TTM_SCALABLE && this.#choices.scalableMode));
  }

  /** Tells the entries that the device's requests go by, PASIDs for pages, as far as `list` reads. */
  tell(device: number, structures: Structures, tables: TableReader): void {
    if (this.#registers.isLegacy) this.#legacy.tell(device, structures, tables);
    else this.#scalable.list(device, structures, tables);
  }

  #locate(device: number, pasid: number): Programmed | null {
    const { mode, root } = this.#registers;
    // RTA.1.2, RTA.1.3
    if (mode === TTM_RESERVED || (mode === TTM_SCALABLE && !this.#choices.scalableMode)) return this.#refuse(Fault['RTA.1']);
    if (mode === TTM_ABORT) return this.#refuse(Fault['RTA.4']);
    // RTA.1.4: SSIRWE is no bit of RTADDR here (11.4.5), so it is never set.
    if (mode === TTM_LEGACY && pasid !== NO_PASID) return this.#refuse(Fault['RTA.2']);
    const tables = (root[0] & RootTable.TTM) === 0 ? this.#legacy : this.#scalable;
    const programmed = tables.locate(device, pasid);
    this.suppressed = tables.suppressed;
    return programmed ?? this.#refuse(tables.reason);
  }

  #keep(device: number, pasid: number, stages: Stages): Stages {
    if (this.#count >= this.#choices.contextEntries) this.forgetAll();
    let ofDevice = this.#cache.get(device);
    if (ofDevice === undefined) {
      ofDevice = new Map();
      this.#cache.set(device, ofDevice);
    }
    ofDevice.set(pasid, stages);
    this.#count++;
    return stages;
  }

  forgetAll(): void {
    this.#cache.clear();
    this.#count = 0;
  }

  forgetDevice(device: number): void {
    this.#count -= this.#cache.get(device)?.size ?? 0;
    this.#cache.delete(device);
  }

  #refuse(reason: number): null {
    this.reason = reason;
    return null;
  }
}
