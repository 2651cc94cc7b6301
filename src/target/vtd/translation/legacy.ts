import { get, getWide, isSet, reservedClear } from '../../fields.ts';
import { NO_PASID, type TableReader } from '../../target.ts';
import { PASID_BITS } from '../capabilities.ts';
import type { Registers } from '../control/registers.ts';
import type { VtdChoices } from '../options.ts';
import { CONTEXT, CONTEXT_RESERVED, CONTEXT_TT, ROOT, ROOT_RESERVED } from '../spec/entries.ts';
import { Fault } from '../spec/faults.ts';
import type { Programmed } from './stages.ts';
import type { Structures } from './structures.ts';
import { aboveWidth } from './wide-addresses.ts';

/** Root and context tables of legacy mode (3.4.3, 9.1, 9.3). */
export class LegacyTables {
  /** Why `locate` found nothing, and whether an entry on the way says FPD. */
  reason = 0;
  suppressed = false;
  readonly #registers: Registers;
  readonly #structures: Structures;
  readonly #choices: VtdChoices;
  readonly #root = new Int32Array(4);
  readonly #context = new Int32Array(4);
  readonly #rootReserved: Int32Array;
  readonly #contextReserved: Int32Array;

  constructor(registers: Registers, structures: Structures, choices: VtdChoices) {
    this.#registers = registers;
    this.#structures = structures;
    this.#choices = choices;
    this.#rootReserved = aboveWidth(ROOT_RESERVED, choices.hostAddressWidth, 0);
    this.#contextReserved = aboveWidth(CONTEXT_RESERVED, choices.hostAddressWidth, 0);
  }

  locate(device: number): Programmed | null {
    this.suppressed = false;
    const root = this.#root;
    const entry = this.#context;
    if (!this.#structures.read(this.#rootEntryOf(device), root)) return this.#refuse(Fault['LRT.1']);
    if (!isSet(root, ROOT.P)) return this.#refuse(Fault['LRT.2']);
    if (!reservedClear(root, this.#rootReserved)) return this.#refuse(Fault['LRT.3']);
    if (!this.#structures.read(contextEntryOf(root, device), entry)) return this.#refuse(Fault['LCT.1']);
    this.suppressed = isSet(entry, CONTEXT.FPD);
    if (!isSet(entry, CONTEXT.P)) return this.#refuse(Fault['LCT.2']);
    if (!reservedClear(entry, this.#contextReserved)) return this.#refuse(Fault['LCT.3']);
    const { secondStageLevels, deviceTlb } = this.#choices;
    const levels = secondStageLevels.find((count) => count === get(entry, CONTEXT.AW) + 2);
    // LCT.4.1
    if (levels === undefined) return this.#refuse(Fault['LCT.4']);
    const type = get(entry, CONTEXT.TT);
    // LCT.4.2
    if (type > CONTEXT_TT.passThrough || (type === CONTEXT_TT.all && !deviceTlb)) return this.#refuse(Fault['LCT.4']);
    const second = { levels, root: getWide(entry, CONTEXT.SSPTPTR), accessedDirty: false };
    return {
      legacy: true,
      domain: get(entry, CONTEXT.DID),
      pasid: NO_PASID,
      first: null,
      second: type === CONTEXT_TT.passThrough ? null : second,
      suppressed: this.suppressed,
      supervisor: false,
      deviceTlb: type === CONTEXT_TT.all,
      pageRequests: false,
    };
  }

  /** Tells the entries that the device's requests go by, before they are read through `structures`; every PASID stands for them. */
  tell(device: number, structures: Structures, tables: TableReader): void {
    const root = this.#root;
    const rootAt = this.#rootEntryOf(device);
    tables(rootAt, 16, 1, 0, 2 ** PASID_BITS - 1);
    if (structures.read(rootAt, root) && isSet(root, ROOT.P)) tables(contextEntryOf(root, device), 16, 1, 0, 2 ** PASID_BITS - 1);
  }

  #rootEntryOf(device: number): number {
    const table = this.#registers.root;
    return (table[1] >>> 0) * 0x1_0000_0000 + ((table[0] & ~0xfff) >>> 0) + (device >> 8) * 16;
  }

  #refuse(reason: number): null {
    this.reason = reason;
    return null;
  }
}

function contextEntryOf(root: Int32Array, device: number): number {
  return getWide(root, ROOT.CTP) * 4096 + (device & 0xff) * 16;
}
