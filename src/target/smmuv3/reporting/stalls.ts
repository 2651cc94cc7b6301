import type { Features } from '../capabilities.ts';
import type { EndedStall, StallTaker } from '../surroundings.ts';
import type { Events, Fault, Request } from './events.ts';

interface Stall {
  readonly stream: number;
  /** Accesses for one reason share an event (3.12.2.1). */
  readonly reason: string;
}

/** Stalled transactions, 3.12.2: at most STALL_MAX have a tag at a time; the others wait until some tag is free again, or room for events. */
export class Stalls {
  /** Tag of the access that stalled last; -1: none. */
  stag = -1;
  readonly #events: Events;
  readonly #taker: StallTaker | undefined;
  readonly #most: number;
  readonly #stalls = new Map<number, Stall>();
  #next = 0;
  #waits = false;

  constructor(events: Events, features: Features, taker: StallTaker | undefined) {
    this.#events = events;
    this.#taker = taker;
    this.#most = features.STALL_MAX;
  }

  /** Whether somebody holds accesses that stall. */
  get areTaken(): boolean {
    return this.#taker !== undefined;
  }

  begin(fault: Fault, request: Request): void {
    const { stream, substream, hi, lo, access } = request;
    const reason = [substream, hi, lo >>> 12, access].join(' ');
    const isTold = [...this.#stalls.values()].some((stall) => stall.stream === stream && stall.reason === reason);
    // 7.2.1: its event is not lost; it is retried when there is room.
    if (isTold || !this.#hasRoom) {
      this.stag = -1;
      this.#waits = true;
      return;
    }
    while (this.#stalls.has(this.#next)) this.#next = (this.#next + 1) % this.#most;
    this.stag = this.#next;
    this.#next = (this.#next + 1) % this.#most;
    this.#stalls.set(this.stag, { stream, reason });
    this.#events.record(fault, request, this.stag);
  }

  /** CMD_RESUME; a tag that is not the stream's has no effect. What stalled for the same reason comes again (3.12.2.1). */
  resume(stream: number, stag: number, action: EndedStall['action']): void {
    if (this.#stalls.get(stag)?.stream !== stream) return;
    this.#end(stag, action);
    this.#endUntagged('retry');
  }

  /** CMD_STALL_TERM: the stream's entry has been made to abort what comes again (4.7.2). */
  terminate(stream: number): void {
    for (const [stag, stall] of [...this.#stalls]) if (stall.stream === stream) this.#end(stag, 'abort');
    this.#endUntagged('retry');
  }

  /** SMMUEN is 0: all are terminated (6.3.9.6). */
  terminateAll(): void {
    for (const stag of [...this.#stalls.keys()]) this.#end(stag, 'abort');
    this.#endUntagged('abort');
  }

  /** There may be room for events. */
  roomMade(): void {
    if (this.#hasRoom) this.#endUntagged('retry');
  }

  get #hasRoom(): boolean {
    return this.#events.isWritable && this.#stalls.size < this.#most;
  }

  #endUntagged(action: 'retry' | 'abort'): void {
    if (!this.#waits) return;
    this.#waits = false;
    this.#taker?.untagged(action);
  }

  #end(stag: number, action: EndedStall['action']): void {
    const stall = this.#stalls.get(stag);
    this.#stalls.delete(stag);
    if (stall !== undefined) this.#taker?.ended({ stream: stall.stream, stag, action });
  }

  reset(): void {
    this.#stalls.clear();
    this.#next = 0;
    this.#waits = false;
    this.stag = -1;
  }

  /** Rows of tag, stream and reason, in the order in which they began; the next tag; whether others wait. */
  save(): { readonly rows: readonly (readonly [number, number, string])[]; readonly next: number; readonly waits: boolean } {
    return {
      rows: [...this.#stalls].map(([stag, { stream, reason }]) => [stag, stream, reason] as const),
      next: this.#next,
      waits: this.#waits,
    };
  }

  load({ rows, next, waits }: ReturnType<Stalls['save']>): void {
    this.reset();
    for (const [stag, stream, reason] of rows) this.#stalls.set(stag, { stream, reason });
    this.#next = next;
    this.#waits = waits;
  }
}
