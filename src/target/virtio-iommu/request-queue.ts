import type { GuestMemory } from '../../memory/guest-memory.ts';
import { Chain } from '../../virtqueue/chain.ts';
import type { VirtioDevice } from '../../virtqueue/device.ts';
import { TAKEN, type Virtqueue } from '../../virtqueue/virtqueue.ts';
import { get } from '../fields.ts';
import { BATCH_LIMIT, type Batch } from './batch.ts';
import type { Endpoint } from './endpoint.ts';
import { probeProperties } from './probe.ts';
import { REQUEST_QUEUE } from './spec/features.ts';
import { PROBE, PROBE_BYTES, S_INVAL, S_NOENT, S_OK, TAIL_BYTES } from './spec/requests.ts';
import { S_NONE } from './status.ts';

/** What every request has, as spec/requests.ts and status.ts declare it; here because the compiler folds a module's own constants only. */
const REQUEST_SIZE = 72;
const HEAD_SIZE = 4;
const TAIL_SIZE = 4;
const TYPE_MASK = 0xff;
const PROBE_TYPE = 5;
const UNANSWERED = -1;
/** For the test that compares them with their declaration. */
export const REPEATED = { REQUEST_SIZE, HEAD_SIZE, TAIL_SIZE, TYPE_MASK, PROBE_TYPE, UNANSWERED } as const;

/** What PROBE needs; `bytes` 0: the feature was not offered. */
export interface ProbeSource {
  readonly bytes: number;
  readonly endpoints: ReadonlyMap<number, Endpoint>;
}

/** The request queue (5.13.6): takes what a kick brought, has it done as one batch, answers. */
export class RequestQueue {
  readonly #memory: GuestMemory;
  readonly #device: VirtioDevice;
  readonly #batch: Batch;
  readonly #probe: ProbeSource;
  readonly #chains: Chain[] = [];
  /** Bytes of PROBE's properties. */
  readonly #written = new Int32Array(BATCH_LIMIT);

  constructor(memory: GuestMemory, device: VirtioDevice, batch: Batch, probe: ProbeSource) {
    this.#memory = memory;
    this.#device = device;
    this.#batch = batch;
    this.#probe = probe;
  }

  /**
   * Serves at most `queueSize` requests, in batches of BATCH_LIMIT at most. True: more are waiting, and the driver will not
   * say so again; call once more, from another turn, so that a guest cannot hold the caller.
   */
  serve(): boolean {
    for (let left = this.#device.queueSize; left > 0; ) {
      const ring = this.#device.queue(REQUEST_QUEUE);
      if (ring === null) return false;
      const count = this.#serveBatch(ring, Math.min(left, BATCH_LIMIT));
      if (count < 0) {
        this.#device.breakDown();
        return false;
      }
      left -= Math.max(count, 1);
      if (count === 0 && !ring.rearm()) return false;
    }
    return true;
  }

  /** How many requests it served, or negative: the ring is broken. What came before the breakage is answered all the same. */
  #serveBatch(ring: Virtqueue, limit: number): number {
    this.#batch.clear();
    let count = 0;
    let state = TAKEN;
    while (count < limit) {
      this.#chains[count] ??= new Chain();
      state = ring.take(this.#chains[count]);
      if (state !== TAKEN) break;
      this.#execute(count++);
    }
    this.#batch.settle();
    for (let index = 0; index < count; index++) if (this.#answer(ring, index) < 0) state = -1;
    if (count > 0 && ring.publish()) this.#device.interrupt(REQUEST_QUEUE);
    return state < 0 ? state : count;
  }

  #execute(index: number): void {
    const chain = this.#chains[index];
    const batch = this.#batch;
    const length = chain.read(this.#memory, batch.bytes, index * REQUEST_SIZE, REQUEST_SIZE);
    if (length < HEAD_SIZE || chain.writable < TAIL_SIZE) batch.addAnswered(S_NONE);
    else if ((batch.requests[index][0] & TYPE_MASK) === PROBE_TYPE) batch.addAnswered(this.#executeProbe(chain, length, index));
    else {
      this.#written[index] = 0;
      batch.add(length);
    }
  }

  /** The properties go out now, `#written` says where the tail follows. PROBE.n: the requirements of 5.13.6.7.2, the first being to ignore `reserved`. */
  #executeProbe(chain: Chain, length: number, index: number): number {
    const { bytes, endpoints } = this.#probe;
    // PROBE.3.
    if (bytes === 0) return S_NONE;
    const room = Math.min(bytes, chain.writable - TAIL_BYTES);
    this.#written[index] = room;
    const endpoint = endpoints.get(get(this.#batch.requests[index], PROBE.ENDPOINT) >>> 0);
    // PROBE.7, before PROBE.2: no list, no property.
    const status = length < PROBE_BYTES || room < bytes ? S_INVAL : endpoint === undefined ? S_NOENT : S_OK;
    // PROBE.8: the rest is 0.
    const properties = status === S_OK ? probeProperties(endpoint!.reserved.regions, bytes) : new Uint8Array(room);
    return chain.write(this.#memory, 0, properties, 0, room) < 0 ? S_NONE : status;
  }

  /** Writes the tail (5.13.6) and gives the buffer back; one that has no status comes back with nothing written. */
  #answer(ring: Virtqueue, index: number): number {
    const chain = this.#chains[index];
    const status = this.#batch.statuses[index];
    const offset = this.#written[index];
    const answered = status !== UNANSWERED && chain.store32(this.#memory, offset, status) >= 0;
    return ring.give(chain, answered ? offset + TAIL_SIZE : 0);
  }
}
