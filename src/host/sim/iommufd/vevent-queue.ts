import { errno } from '../../errno.ts';
import type { Event } from '../nesting/model.ts';
import type { UserBuffer } from '../structs.ts';
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

  read(user: UserBuffer): number {
    const header = iommufdVeventHeader.bytes;
    if (user.bytes < header) return -errno.EINVAL;
    for (let done = 0; ; ) {
      const [entry] = this.#entries;
      if (entry === undefined || user.bytes - done < header) return done;
      const size = entry.data?.length ?? 0;
      if (user.bytes - done < header + size) return done === 0 ? -errno.EINVAL : done;
      const head = new Uint8Array(header);
      iommufdVeventHeader.encode(head, { flags: entry.data === null ? LOST_EVENTS : 0, sequence: entry.sequence });
      if (!user.write(head, done)) return done === 0 ? -errno.EFAULT : done;
      if (entry.data !== null && !user.write(entry.data, done + header)) return done === 0 ? -errno.EFAULT : done;
      this.#entries.shift();
      done += header + size;
    }
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
  return EventQueueFile.open(context, queue, (fd) => command.respond({ out_veventq_id: queue.id, out_veventq_fd: fd }));
});

export const veventHandlers: readonly IoctlHandler[] = [alloc];
