import { hostErrorOf } from '../../host/errno.ts';
import type { HostDevice, PageRequest, PageRequestQueue } from '../../host/host.ts';
import { hiOf, loOf, pfnOf } from '../../memory/address.ts';
import type { PageAnswer, Target } from '../../target/target.ts';
import type { DemandSpace } from './demand-space.ts';

/** What the service has of a target: what its guest has not mapped becomes the guest's own page request, or fault. */
export type FaultingTarget = Partial<Pick<Target, 'report' | 'translate'>>;

/** Whose requests a device makes, and in which space. */
export interface DemandPlace {
  readonly endpoint: number;
  readonly space: DemandSpace;
}

/** Requests of groups that are not whole yet, and groups that wait for the guest, at most; beyond, groups are refused. */
const LIMIT = 4096;

/** A group that the guest was asked for. */
interface AskedGroup {
  readonly endpoint: number;
  readonly pasid: number;
  readonly cookie: number;
  readonly unmapped: readonly PageRequest[];
}

/**
 * Fills spaces as devices ask for pages: a page that the guest has mapped is the hardware's before its device hears that it is there. Of others the
 * guest hears as of its own hardware's: by its page requests where the target has them, and else by a fault.
 */
export class PageService {
  readonly #queue: PageRequestQueue;
  readonly #target: FaultingTarget;
  readonly #placeOf: (device: HostDevice) => DemandPlace | null;
  /** Groups whose last request has not come, and how many requests that are. */
  readonly #open = new Map<string, PageRequest[]>();
  #held = 0;
  readonly #asked = new Map<string, AskedGroup>();

  /** `placeOf`: null for a device whose pages nobody fills on demand any more. */
  constructor(queue: PageRequestQueue, target: FaultingTarget, placeOf: (device: HostDevice) => DemandPlace | null) {
    this.#queue = queue;
    this.#target = target;
    this.#placeOf = placeOf;
  }

  get queue(): PageRequestQueue {
    return this.#queue;
  }

  /** One reading of the queue. @throws HostError */
  poll(): void {
    for (const request of this.#queue.read()) this.#hear(request);
  }

  #hear(request: PageRequest): void {
    const place = this.#placeOf(request.device);
    if (place === null) {
      if (request.last) this.#queue.respond(request.cookie, false);
      return;
    }
    const key = keyOf(place.endpoint, request);
    const group = this.#open.get(key) ?? [];
    if (request.last) {
      this.#open.delete(key);
      this.#held -= group.length;
      this.#serve(place, [...group, request], request.cookie);
    } else if (this.#held < LIMIT) {
      // One that is forgotten is asked for again: its device meets the same fault.
      this.#held++;
      group.push(request);
      this.#open.set(key, group);
    }
  }

  #serve(place: DemandPlace, group: readonly PageRequest[], cookie: number): void {
    const answers = group.map(({ address, access }) => place.space.admit(pfnOf(address), access));
    const isSettled = place.space.path?.settle() ?? false;
    const unmapped = group.filter((_, i) => answers[i] === 'unmapped');
    if (unmapped.length === 0) this.#queue.respond(cookie, isSettled && !answers.includes('unreachable'));
    else if (this.#target.report === undefined) this.#fault(place.endpoint, unmapped, cookie);
    else this.#ask({ endpoint: place.endpoint, pasid: unmapped[0].pasid, cookie, unmapped });
  }

  /** As of the same access of an emulated device. */
  #fault(endpoint: number, unmapped: readonly PageRequest[], cookie: number): void {
    for (const { pasid, address, access } of unmapped) this.#target.translate?.(endpoint, pasid, hiOf(address), loOf(address), access);
    this.#queue.respond(cookie, false);
  }

  #ask(asked: AskedGroup): void {
    const { endpoint, cookie, unmapped } = asked;
    const key = keyOf(endpoint, unmapped[0]);
    const superseded = this.#asked.get(key);
    if (superseded !== undefined) this.#queue.respond(superseded.cookie, false);
    else if (this.#asked.size >= LIMIT) {
      this.#queue.respond(cookie, false);
      return;
    }
    this.#asked.set(key, asked);
    for (const [i, { pasid, group, access, address }] of unmapped.entries())
      this.#target.report?.({ kind: 'page-request', endpoint, pasid, group, last: i === unmapped.length - 1, access, address });
  }

  /** The guest's answer: pages that it says are there are the hardware's before the device hears it. */
  answered(endpoint: number, pasid: number, group: number, answer: PageAnswer): void {
    const key = keyOf(endpoint, { pasid, group });
    const asked = this.#asked.get(key);
    if (asked === undefined) return;
    this.#asked.delete(key);
    const place = this.#placeOf(asked.unmapped[0].device);
    if (answer === 'success' && place !== null) {
      for (const { address, access } of asked.unmapped) place.space.admit(pfnOf(address), access);
      place.space.path?.settle();
    }
    this.#queue.respond(asked.cookie, answer === 'success');
  }

  /** The requests of the endpoint that carry this PASID, or none, go elsewhere: the kernel has answered for them. */
  forget(endpoint: number, pasid: number): void {
    for (const [key, asked] of this.#asked) if (asked.endpoint === endpoint && asked.pasid === pasid) this.#asked.delete(key);
    for (const [key, requests] of this.#open) {
      if (!key.startsWith(`${endpoint}/${pasid}/`)) continue;
      this.#open.delete(key);
      this.#held -= requests.length;
    }
  }

  /** What the host does not free, because something that it could not free names it, goes with the host. */
  close(): void {
    try {
      this.#queue.close();
    } catch (error) {
      hostErrorOf(error);
    }
  }
}

function keyOf(endpoint: number, { pasid, group }: Pick<PageRequest, 'pasid' | 'group'>): string {
  return `${endpoint}/${pasid}/${group}`;
}
