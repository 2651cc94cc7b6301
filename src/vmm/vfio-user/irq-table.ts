import { errno } from '../../host/errno.ts';
import type { Descriptors } from './descriptors.ts';
import type { VfioUserDevice } from './device.ts';
import { SET_IRQS_BYTES, SetIrqs } from './spec.ts';

/** What a request can bring for each vector. */
const KINDS: readonly number[] = [SetIrqs.NONE, SetIrqs.BOOL, SetIrqs.EVENTFD];

/** The client's eventfds: one for each vector of each interrupt type. */
export class IrqTable {
  readonly #device: VfioUserDevice;
  readonly #descriptors: Descriptors | null;
  readonly #eventfds: (number | null)[][];

  constructor(device: VfioUserDevice, descriptors: Descriptors | null) {
    this.#device = device;
    this.#descriptors = descriptors;
    this.#eventfds = device.irqs.map(({ count }) => new Array<number | null>(count).fill(null));
  }

  trigger(irq: number, vector: number): boolean {
    const eventfd = this.#eventfds[irq]?.[vector] ?? null;
    if (eventfd !== null) this.#descriptors?.signal(eventfd);
    return eventfd !== null;
  }

  /** DEVICE_SET_IRQS. 0 or a positive errno. Descriptors are kept or closed. */
  set(request: DataView, descriptors: readonly number[]): number {
    const answer = this.#set(request, descriptors);
    const kept = new Set(this.#eventfds.flat());
    for (const descriptor of descriptors) if (!kept.has(descriptor)) this.#descriptors?.close(descriptor);
    return answer;
  }

  #set(request: DataView, descriptors: readonly number[]): number {
    if (request.byteLength < SET_IRQS_BYTES) return errno.EINVAL;
    const [flags, irq, start, count] = [4, 8, 12, 16].map((at) => request.getUint32(at, true)) as [number, number, number, number];
    const eventfds = this.#eventfds[irq];
    if (eventfds === undefined || start + count > eventfds.length) return errno.EINVAL;
    const data = flags & (SetIrqs.NONE | SetIrqs.BOOL | SetIrqs.EVENTFD);
    const action = flags & (SetIrqs.MASK | SetIrqs.UNMASK | SetIrqs.TRIGGER);
    const chosen = (i: number) => data === SetIrqs.NONE || request.getUint8(SET_IRQS_BYTES + i) !== 0;
    if (data === SetIrqs.BOOL && request.byteLength < SET_IRQS_BYTES + count) return errno.EINVAL;
    // One kind of data, so that what was checked is what is read.
    if (!KINDS.includes(data)) return errno.EINVAL;
    switch (action) {
      case SetIrqs.TRIGGER:
        if (data === SetIrqs.EVENTFD) return this.#install(eventfds, start, count, descriptors);
        // No data and no vectors: the type is taken out of use.
        if (data === SetIrqs.NONE && count === 0) this.#remove(eventfds, 0, eventfds.length);
        else for (let i = 0; i < count; i++) if (chosen(i)) this.trigger(irq, start + i);
        return 0;
      case SetIrqs.MASK:
      case SetIrqs.UNMASK:
        if (data !== SetIrqs.NONE && data !== SetIrqs.BOOL) return errno.EOPNOTSUPP;
        for (let i = 0; i < count; i++) if (chosen(i)) this.#device.maskIrq(irq, action === SetIrqs.MASK);
        return 0;
    }
    return errno.EINVAL;
  }

  /** As many descriptors as vectors, or none: these vectors have none then. */
  #install(eventfds: (number | null)[], start: number, count: number, descriptors: readonly number[]): number {
    if (descriptors.length !== 0 && descriptors.length !== count) return errno.EINVAL;
    if (!descriptors.every((descriptor) => this.#descriptors?.isEventfd(descriptor))) return errno.EINVAL;
    this.#remove(eventfds, start, start + count);
    descriptors.forEach((descriptor, i) => {
      eventfds[start + i] = descriptor;
    });
    return 0;
  }

  #remove(eventfds: (number | null)[], start: number, end: number): void {
    for (let i = start; i < end; i++) {
      const old = eventfds[i];
      eventfds[i] = null;
      if (old !== null && old !== undefined) this.#descriptors?.close(old);
    }
  }

  clear(): void {
    for (const eventfds of this.#eventfds) this.#remove(eventfds, 0, eventfds.length);
  }
}
