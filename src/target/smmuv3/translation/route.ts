import { READ, WRITE } from '../../../memory/access.ts';
import { ArmTable } from '../../../pagetable/arm.ts';
import type { TableMemory } from '../../../pagetable/page-table.ts';
import { SecondStageMemory } from '../../../pagetable/two-stage.ts';
import { isSet } from '../../fields.ts';
import { type Features, sizeOf } from '../capabilities.ts';
import type { Fault } from '../reporting/events.ts';
import { STE } from '../spec/ste.ts';
import { BigEndianMemory } from './big-endian.ts';
import type { Context } from './context.ts';
import { PRIVATE_TAG } from './scope.ts';
import { stage2Config } from './stage-2.ts';
import type { StreamEntry } from './stream-entry.ts';

/** What becomes of requests, numbered because the hot path compares. */
export const VERDICT = { translate: 0, bypass: 1, abort: 2, fault: 3 } as const;

const IMPLICIT = { read: READ, write: WRITE };
const AS_ASKED = Uint8Array.from({ length: 16 }, (_, access) => access);
/** Contexts of the TLB: scope.ts; these two are stage 2's, which has no ASID. */
const STAGE_2_TAG = -2;

/** Where a stream's requests, or those of one of its substreams, go. */
export class Route {
  readonly verdict: number;
  readonly entry: StreamEntry | null;
  readonly fault: Fault | null;
  /** Stage 1; null: it is bypassed. */
  readonly context: Context | null;
  readonly lower: ArmTable | null = null;
  readonly upper: ArmTable | null = null;
  readonly second: ArmTable | null = null;
  /** What its tables lie in. */
  readonly memory: TableMemory;
  /** Memory as stage 1 sees it; null: as it is. */
  readonly behind: SecondStageMemory | null = null;
  readonly wishes: Uint8Array;
  /** Tags of the TLB: the world, and the context of unprivileged requests. */
  readonly space: number;
  readonly tag: number;
  /** Bits of an address's high half that are beyond OAS. */
  readonly beyond: number;
  readonly ignoresTop: number;
  readonly tracksDirty: boolean;

  constructor(
    features: Features,
    memory: TableMemory,
    verdict: number,
    { entry = null, context = null, fault = null }: { entry?: StreamEntry | null; context?: Context | null; fault?: Fault | null },
  ) {
    this.memory = memory;
    this.verdict = verdict;
    this.entry = entry;
    this.context = context;
    this.fault = fault;
    this.wishes = entry?.wishes ?? AS_ASKED;
    this.space = entry?.world ?? 0;
    this.tag = context === null ? STAGE_2_TAG : 2 * context.asid + (context.isPrivate ? PRIVATE_TAG : 0);
    this.beyond = -(1 << (sizeOf(features.OAS) - 32));
    this.ignoresTop = context?.ignoresTop ?? 0;
    const updates = entry?.s2 === true && isSet(entry.words, STE.S2HA) && isSet(entry.words, STE.S2HD);
    this.tracksDirty = updates || context?.tracksDirty === true;
    if (verdict !== VERDICT.translate || entry === null) return;
    if (entry.s2) this.second = secondStage(entry, features, memory);
    if (context === null) return;
    if (this.second !== null) this.behind = new SecondStageMemory(memory, this.second, IMPLICIT);
    this.lower = context.table(false, this.behind ?? memory);
    this.upper = context.table(true, this.behind ?? memory);
  }
}

/** The tables of stage 2 of a legal entry. */
export function secondStage(entry: StreamEntry, features: Features, memory: TableMemory): ArmTable {
  return new ArmTable(isSet(entry.words, STE.S2ENDI) ? new BigEndianMemory(memory) : memory, stage2Config(entry.words, features));
}

/** Memory as context descriptors are fetched from it: behind stage 2, if there is one. */
export function contextMemory(entry: StreamEntry, features: Features, memory: TableMemory): SecondStageMemory | TableMemory {
  return entry.s2 ? new SecondStageMemory(memory, secondStage(entry, features, memory), IMPLICIT) : memory;
}
