import { NO_CONTEXT } from '../../../memory/iotlb.ts';
import type { TableMemory } from '../../../pagetable/page-table.ts';
import { RiscvTable } from '../../../pagetable/riscv.ts';
import { TwoStage } from '../../../pagetable/two-stage.ts';
import { NO_PASID } from '../../target.ts';
import type { Hpm } from '../control/hpm.ts';
import type { Registers } from '../control/registers.ts';
import { Cause } from '../spec/causes.ts';
import { PdtMode } from '../spec/device-context.ts';
import { Cap } from '../spec/registers.ts';
import type { IommuMemory } from '../surroundings.ts';
import { coversProcess, type DeviceContext, type DeviceDirectory, type StageFormat } from './device-directory.ts';
import { PDT_GUEST_PAGE_FAULT, type ProcessDirectory } from './process-directory.ts';
import { firstStageMode } from './stage-modes.ts';

/** The translation of one process of one device, or of the device's requests without process_id. */
export interface Stages {
  readonly device: DeviceContext;
  /** Requests of supervisor privilege are allowed (PC.ta.ENS). */
  readonly supervisor: boolean;
  readonly sum: boolean;
  /** null: Bare. */
  readonly firstStage: StageFormat | null;
  /** PSCID, -1: none, as the first stage is Bare. */
  readonly pscid: number;
  /** Tags in the IOTLB. */
  readonly space: number;
  readonly context: number;
  /** Tables of the first stage, behind the second where there is one; null: Bare. */
  readonly first: RiscvTable | null;
  readonly nested: TwoStage | null;
}

/** IOTLB tags: host address spaces, whose second stage is Bare, come after the GSCIDs; SUM is part of the context. */
export const HOST_SPACE = 0x1_0000;
export const CONTEXT_OF_SUM = 1 << 20;

interface CachedDevice {
  readonly context: DeviceContext;
  readonly stages: Map<number, Stages>;
}

/** Key of the translation that T2GPA makes of translated requests: the second stage alone. */
const SECOND_ONLY = -2;

/** The directory caches ("Caching in-memory data structures") and steps 3 to 16 of "Process to translate an IOVA". */
export class Contexts {
  /** Why `find` found none; PDT_GUEST_PAGE_FAULT: see the process directory. */
  cause = 0;
  /** Some context had SUM set, so that the IOTLB may know contexts of that kind. */
  usesSum = false;
  /** DC.tc.DTF of the device that was looked up last; false where there was no context. */
  quiet = false;
  readonly #registers: Registers;
  readonly #memory: IommuMemory;
  readonly #devices: DeviceDirectory;
  readonly #processes: ProcessDirectory;
  readonly #hpm: Hpm;
  /** Contexts kept at most, of devices and, for each, of processes. */
  readonly #limit: number;
  readonly #cache = new Map<number, CachedDevice>();

  constructor(
    parts: { readonly registers: Registers; readonly memory: IommuMemory; readonly hpm: Hpm },
    devices: DeviceDirectory,
    processes: ProcessDirectory,
    limit: number,
  ) {
    const { registers, memory, hpm } = parts;
    this.#registers = registers;
    this.#hpm = hpm;
    this.#memory = memory;
    this.#devices = devices;
    this.#processes = processes;
    this.#limit = limit;
  }

  /** Steps 5 and 6. null: `cause` says why. */
  device(device: number): DeviceContext | null {
    this.quiet = false;
    if (!this.#devices.covers(device)) return this.#refuse(Cause.typeDisallowed);
    const known = this.#cache.get(device);
    if (known !== undefined) {
      this.quiet = known.context.quiet;
      return known.context;
    }
    const context = this.#devices.locate(device);
    if (context === null) return this.#refuse(this.#devices.cause);
    this.quiet = context.quiet;
    keep(this.#cache, device, { context, stages: new Map() }, this.#limit);
    return context;
  }

  /** Steps 5 to 7, for a request with a process_id or NO_PASID. `ats`: a translation request or a translated one. null: `cause` says why. */
  admit(device: number, process: number, ats: boolean): DeviceContext | null {
    const context = this.device(device);
    if (context === null) return null;
    if (ats && !context.ats) return this.#refuse(Cause.typeDisallowed);
    if (process !== NO_PASID && (!context.pdtv || !coversProcess(context.fscMode, process))) return this.#refuse(Cause.typeDisallowed);
    return context;
  }

  /** Steps 10 to 16, for a request that was admitted. null: `cause` says why. */
  find(context: DeviceContext, process: number, privileged: boolean): Stages | null {
    // 11.
    if (process === NO_PASID && context.dpe) this.#hpm.ids.process = 0;
    const known = this.#cache.get(context.device);
    const stages = known?.stages.get(process) ?? this.#build(context, process);
    // 15. Supervisor privilege wants PC.ta.ENS.
    if (stages !== null && privileged && process !== NO_PASID && !stages.supervisor) return this.#refuse(Cause.typeDisallowed);
    return stages;
  }

  /** 9. A translated request with T2GPA: the address is guest-physical, the first stage Bare. */
  secondOnly(context: DeviceContext): Stages {
    const known = this.#cache.get(context.device)?.stages.get(SECOND_ONLY);
    return known ?? this.#keep(context, SECOND_ONLY, this.#bare(context, false));
  }

  #build(context: DeviceContext, process: number): Stages | null {
    let made: Stages;
    // 10. Without a process directory the device-context holds the first stage.
    if (!context.pdtv) {
      made = this.#make(context, { mode: context.fscMode, root: context.fscRoot, pscid: context.pscid, ens: true, sum: false });
    } else if ((process === NO_PASID && !context.dpe) || context.fscMode === PdtMode.bare) {
      // 12. and 13.
      made = this.#bare(context, process !== NO_PASID || context.dpe);
    } else {
      // 14. and 16.
      const located = this.#processes.locate(context, process === NO_PASID ? 0 : process);
      if (located === null) return this.#refuse(this.#processes.cause);
      made = this.#make(context, located);
    }
    return this.#keep(context, process, made);
  }

  #keep(context: DeviceContext, process: number, made: Stages): Stages {
    const found = this.#cache.get(context.device);
    return found === undefined ? made : keep(found.stages, process, made, this.#limit);
  }

  #bare(context: DeviceContext, sum: boolean): Stages {
    return this.#make(context, { mode: 0, root: 0, pscid: 0, ens: true, sum });
  }

  #make(
    device: DeviceContext,
    of: { readonly mode: number; readonly root: number; readonly pscid: number; readonly ens: boolean; readonly sum: boolean },
  ): Stages {
    const mode = firstStageMode(this.#registers, of.mode, device.sxl) ?? null;
    this.usesSum ||= of.sum;
    const firstStage = mode === null ? null : { mode, root: of.root };
    const table = (memory: TableMemory) => this.firstTable(device, firstStage!, of.sum, memory);
    const nested =
      firstStage !== null && device.second !== null
        ? new TwoStage({ memory: this.#memory, second: device.second, first: table, implicit: device.implicit })
        : null;
    return {
      device,
      supervisor: of.ens,
      sum: of.sum,
      firstStage,
      pscid: mode === null ? -1 : of.pscid,
      space: device.secondStage === null ? HOST_SPACE : device.gscid,
      context: mode === null ? NO_CONTEXT : of.pscid + (of.sum ? CONTEXT_OF_SUM : 0),
      first: nested === null ? firstStage && table(this.#memory) : (nested.first as RiscvTable),
      nested,
    };
  }

  /** A first stage's tables, whose byte order is DC.tc.SBE. */
  firstTable(device: DeviceContext, format: StageFormat, sum: boolean, memory: TableMemory): RiscvTable {
    return new RiscvTable({
      mode: format.mode,
      root: format.root,
      memory,
      bigEndian: device.sbe,
      updateAccessedDirty: device.sade,
      sum,
      ...this.#devices.formats,
    });
  }

  /** Address that the second stage refused, after PDT_GUEST_PAGE_FAULT: [lo, hi]. */
  get refusedGpa(): readonly [number, number] {
    return [this.#processes.gpaLo, this.#processes.gpaHi];
  }

  /**
   * lg2 of the page that a Bare stage is said to have ("PCIe ATS translation request handling" recommends 2 MiB or 1 GiB):
   * one that the widest table format of the stage has.
   */
  bareFirstLg2({ sxl }: DeviceContext): number {
    const registers = this.#registers;
    return registers.can(Cap.sv57 | Cap.sv48) || (!sxl && registers.can(Cap.sv39)) ? 30 : 21;
  }
  bareSecondLg2(): number {
    const registers = this.#registers;
    return registers.can(Cap.sv57x4 | Cap.sv48x4) || (!registers.guest32 && registers.can(Cap.sv39x4)) ? 30 : 21;
  }

  /** IODIR.INVAL_DDT; null: all devices. */
  forgetDevice(device: number | null): void {
    if (device === null) this.#cache.clear();
    else this.#cache.delete(device);
  }

  /** IODIR.INVAL_PDT. The requests without process_id may use process 0 (DPE). */
  forgetProcess(device: number, process: number): void {
    const stages = this.#cache.get(device)?.stages;
    stages?.delete(process);
    if (process === 0) stages?.delete(NO_PASID);
  }

  #refuse(cause: number): null {
    this.cause = cause;
    return null;
  }
}

export { PDT_GUEST_PAGE_FAULT };

/** Adds to a bounded cache; the oldest entry makes room. */
function keep<T>(cache: Map<number, T>, key: number, value: T, limit: number): T {
  if (cache.size >= limit) {
    const [oldest] = cache.keys();
    cache.delete(oldest);
  }
  cache.set(key, value);
  return value;
}
