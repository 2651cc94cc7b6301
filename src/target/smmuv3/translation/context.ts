import { EXECUTE, PRIVILEGED, READ_WRITE, WRITE } from '../../../memory/access.ts';
import { ArmTable } from '../../../pagetable/arm.ts';
import { FAULT_NOT_PRESENT, FAULT_PERMISSION, faultCode, OUT_PERMISSION, type TableMemory } from '../../../pagetable/page-table.ts';
import { get, isSet } from '../../fields.ts';
import type { Features } from '../capabilities.ts';
import { CD } from '../spec/cd.ts';
import { BigEndianMemory } from './big-endian.ts';
import { CD_RULES, type CheckedContext, hasTable, stage1Config } from './context-checks.ts';
import { type StreamEntry, WORLD_EL2 } from './stream-entry.ts';

/** Bit 55 of an address chooses the table (3.4.1). */
const UPPER = 1 << 23;
const RESTRICTED = faultCode(FAULT_PERMISSION, 0);
const NO_TABLE = faultCode(FAULT_NOT_PRESENT, 0);

/** A context descriptor as it was read, and what follows of it. */
export class Context {
  readonly words: Int32Array;
  /** The rule that it breaks; null: it is legal. */
  readonly illegal: string | null;
  /** CD.ASID; 0 in EL2, which has none. */
  readonly asid: number;
  /** CD.ASET: global translations are not those of contexts without (3.17.1). */
  readonly isPrivate: boolean;
  /** Bit 0: the top byte of lower addresses is ignored; bit 1: that of upper ones. */
  readonly ignoresTop: number;
  readonly tracksDirty: boolean;
  readonly #checked: CheckedContext;
  readonly #wxn: boolean;
  readonly #pan: boolean;
  /** What the unprivileged may do to a page that PAN keeps from the privileged. */
  readonly #panAsks: number;
  /** Bit 0 of the lower table, bit 1 of the upper: the unprivileged do not reach it. */
  readonly #e0pd: number;

  constructor(words: Int32Array, entry: StreamEntry, features: Features) {
    this.words = words;
    this.#checked = { words, entry, features };
    this.illegal = CD_RULES.find(({ breaks }) => breaks(this.#checked))?.name ?? null;
    const isEl2 = entry.world === WORLD_EL2;
    this.asid = isEl2 ? 0 : get(words, CD.ASID);
    this.isPrivate = !isEl2 && isSet(words, CD.ASET);
    this.ignoresTop = Number(isSet(words, CD.TBI0)) | (Number(isSet(words, CD.TBI1) && !isEl2) << 1);
    this.tracksDirty = isSet(words, CD.HD) && isSet(words, CD.HA);
    this.#wxn = isSet(words, CD.WXN);
    this.#pan = isSet(words, CD.PAN) && !isEl2;
    this.#panAsks = features.EPAN === 1 && isSet(words, CD.EPAN) ? READ_WRITE | EXECUTE : READ_WRITE;
    this.#e0pd = isEl2 || features.E0PD === 0 ? 0 : Number(isSet(words, CD.E0PD0)) | (Number(isSet(words, CD.E0PD1)) << 1);
  }

  /** PAN makes what the privileged reach depend on what the unprivileged do. */
  get restrictsPrivileged(): boolean {
    return this.#pan;
  }

  /** One of the tables over memory as stage 1 sees it; null: its addresses are not translated. */
  table(upper: boolean, memory: TableMemory): ArmTable | null {
    if (!hasTable(this.#checked, upper)) return null;
    return new ArmTable(isSet(this.words, CD.ENDI) ? new BigEndianMemory(memory) : memory, stage1Config(this.#checked, upper));
  }

  /** What E0PD keeps from a table's unprivileged accesses: everything. */
  keepsOff(upper: boolean, privileged: boolean): boolean {
    return !privileged && (this.#e0pd & (upper ? 2 : 1)) !== 0;
  }

  /** The permissions that a walk found, WXN applied. */
  permitted(permission: number): number {
    return this.#wxn && (permission & WRITE) !== 0 ? permission & ~EXECUTE : permission;
  }

  /** Stage 1 of an access: lg2 of the page, its output in the table's `out`; or a fault code. */
  walk(table: ArmTable | null, hi: number, lo: number, wish: number): number {
    const privileged = (wish & PRIVILEGED) !== 0;
    if (table === null || this.keepsOff((hi & UPPER) !== 0, privileged)) return NO_TABLE;
    const denied = this.#pan && privileged ? this.#deniedByPan(table, hi, lo) : 0;
    if ((wish & denied) !== 0) return RESTRICTED;
    const lg2 = table.walk(hi, lo, wish);
    if (lg2 < 0) return lg2;
    const { out } = table;
    out[OUT_PERMISSION] = this.permitted(out[OUT_PERMISSION]) & ~denied;
    return (wish & EXECUTE & ~out[OUT_PERMISSION]) !== 0 ? RESTRICTED : lg2;
  }

  /** PAN: data that the unprivileged reach, with EPAN also execute, is none of the privileged. */
  #deniedByPan(table: ArmTable, hi: number, lo: number): number {
    return table.walk(hi, lo, 0) >= 0 && (table.out[OUT_PERMISSION] & this.#panAsks) !== 0 ? READ_WRITE : 0;
  }
}
