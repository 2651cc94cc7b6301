import { errno } from '../../errno.ts';
import type { Event } from '../nesting/model.ts';
import { handler, type IoctlHandler } from './context.ts';
import { EventQueueFile, type EventSource } from './event-file.ts';
import { iommufdVeventHeader, iommuVeventqAlloc } from './structs.ts';
import { Viommu } from './viommu.ts';

/** Events of a guest's IOMMU for its own event queue (the kernel's eventq.c). */

const LOST_EVENTS = 1;
const SEQUENCE_MASK = 0x7fff_ffff;

interface Entry {
  readonly sequence: number;
  /** null: events were lost here, and none has come since. */
  readonly data: Uint8Array | null;
}

class VeventQueue implements EventSource {
  readonly kind = 'veventq';
  id = 0;
  users = 1;
  readonly type: number;
  readonly #viommu: Viommu;
  readonly #depth: number;
  #entries: Entry[] = [];
  #sequence = 0;

  constructor(viommu: Viommu, type: number, depth: number) {
    this.#viommu = viommu;
    this.type = type;
    this.#depth = depth;
    viommu.eventQueues.set(type, this);
    viommu.users++;
  }

  /** A queue that is full loses the event: a header at the end says so until the next event's sequence does. */
  report({ data }: Event): void {
    const full = this.#entries.filter((entry) => entry.data !== null).length === this.#depth;
    if (this.#entries.at(-1)?.data === null) this.#entries.pop();
    this.#entries.push({ sequence: this.#sequence, data: full ? null : data });
    this.#sequence = (this.#sequence + 1) & SEQUENCE_MASK;
  }

  get waiting(): boolean {
    return this.#entries.length > 0;
  }

  read(view: Uint8Array): number {
    let done = 0;
    for (let entry = this.#entries[0]; entry !== undefined; entry = this.#entries[0]) {
      const bytes = iommufdVeventHeader.bytes + (entry.data?.length ?? 0);
      if (bytes > view.length - done) break;
      iommufdVeventHeader.encode(view.subarray(done), { flags: entry.data === null ? LOST_EVENTS : 0, sequence: entry.sequence });
      if (entry.data !== null) view.set(entry.data, done + iommufdVeventHeader.bytes);
      this.#entries.shift();
      done += bytes;
    }
    return done;
  }

  destroy(): void {
    this.#viommu.eventQueues.delete(this.type);
    this.#viommu.users--;
  }

  save(): unknown {
    return { type: this.type, sequence: this.#sequence, waiting: this.#entries.length };
  }
}

const alloc = handler('IOMMU_VEVENTQ_ALLOC', iommuVeventqAlloc, 'out_veventq_fd', (context, command) => {
  const { flags, viommu_id, type, veventq_depth, reserved } = command.in;
  if (flags !== 0 || reserved !== 0 || type === 0) return -errno.EOPNOTSUPP;
  if (veventq_depth === 0) return -errno.EINVAL;
  const viommu = context.get(viommu_id, Viommu);
  if (viommu === undefined) return -errno.ENOENT;
  if (viommu.eventQueues.has(type)) return -errno.EEXIST;
  const queue = context.add(new VeventQueue(viommu, type, veventq_depth));
  return command.respond({ out_veventq_id: queue.id, out_veventq_fd: context.kernel.install(new EventQueueFile(context, queue)) });
});

export const veventHandlers: readonly IoctlHandler[] = [alloc];
