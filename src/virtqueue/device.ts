import { require64, requireInteger, requireNumber, requireObject } from '../memory/arguments.ts';
import { requireMemory } from '../memory/loaded.ts';
import { PackedQueue } from './packed.ts';
import type { QueueMemory } from './queue-memory.ts';
import {
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_RING_PACKED,
  F_VERSION_1,
  STATUS_DRIVER_OK,
  STATUS_FEATURES_OK,
  STATUS_NEEDS_RESET,
  STATUS_SUSPEND,
} from './spec.ts';
import { SplitQueue } from './split.ts';
import type { QueueSetup, Virtqueue } from './virtqueue.ts';

/** What `interrupt` is called with for a change of the configuration; otherwise the number of a queue. */
export const CONFIG_INTERRUPT = -1;

/** Whom the device tells. */
export interface VirtioDeviceEvents {
  /** Sends a used buffer notification of a queue, or a configuration change notification. */
  interrupt(source: number): void;
  /** The driver has agreed on features. */
  negotiated(): void;
  /** The driver has reset the device (2.4). */
  reset(): void;
}

interface SavedQueue {
  readonly size: number;
  readonly descriptors: string;
  readonly driver: string;
  readonly device: string;
  readonly positions: readonly number[];
}

/** As plain data; addresses and features as decimal strings. */
export interface VirtioDeviceState {
  readonly status: number;
  readonly features: string;
  readonly queues: readonly (SavedQueue | null)[];
}

interface LiveQueue {
  readonly setup: QueueSetup;
  readonly ring: Virtqueue;
}

/**
 * What every virtio device has (2.1 to 2.4, 3.1): status, features, queues. The transport's registers are the VMM's matter.
 *
 * @example
 * const events = { interrupt: () => {}, negotiated: () => {}, reset: () => {} };
 * const device = new VirtioDevice(GuestMemory.ofBytes(1 << 16), 1n << 32n, 1, 256, events);
 * device.driverFeatures = 1n << 32n; // VERSION_1
 * device.status = 11; // ACKNOWLEDGE, DRIVER, FEATURES_OK
 * device.setQueue(0, { size: 8, descriptors: 0n, driver: 0x1000n, device: 0x2000n }); // true
 * device.queue(0); // null: not before DRIVER_OK
 */
export class VirtioDevice {
  readonly #memory: QueueMemory;
  readonly #offered: bigint;
  readonly #events: VirtioDeviceEvents;
  readonly #queues: (LiveQueue | null)[];
  /** Largest size of a queue. */
  readonly queueSize: number;
  #features = 0n;
  #status = 0;

  constructor(memory: QueueMemory, offered: bigint, queues: number, queueSize: number, events: VirtioDeviceEvents) {
    requireMemory('VirtioDevice', memory, ['load64', 'read', 'write']);
    require64('VirtioDevice', 'offered', offered);
    requireInteger('VirtioDevice', 'queues', queues, 1, 0xffff);
    requireInteger('VirtioDevice', 'queueSize', queueSize, 1, 0x8000);
    requireObject('VirtioDevice', 'events', events);
    this.#memory = memory;
    this.#offered = offered;
    this.#events = events;
    this.queueSize = queueSize;
    this.#queues = new Array(queues).fill(null);
  }

  /** Features that the device offers. */
  get offeredFeatures(): bigint {
    return this.#offered;
  }

  /** Features that the driver wants; the ones in force once FEATURES_OK stands. */
  get driverFeatures(): bigint {
    return this.#features;
  }
  set driverFeatures(features: bigint) {
    if ((this.#status & STATUS_FEATURES_OK) === 0) this.#features = BigInt.asUintN(64, features);
  }

  get status(): number {
    return this.#status;
  }
  /** What the driver writes; 0 resets the device. SUSPEND is not negotiated, and stays 0 (3.4). FEATURES_OK does not stay when the features are not acceptable (2.2.2). */
  set status(value: number) {
    if ((value & 0xff) === 0) {
      this.clear();
      this.#events.reset();
      return;
    }
    let status = (value & 0xff & ~(STATUS_NEEDS_RESET | STATUS_SUSPEND)) | (this.#status & STATUS_NEEDS_RESET);
    const decided = (this.#status & STATUS_FEATURES_OK) !== 0;
    if (decided) status |= STATUS_FEATURES_OK;
    else if (!this.#acceptable()) status &= ~STATUS_FEATURES_OK;
    this.#status = status;
    if (!decided && (status & STATUS_FEATURES_OK) !== 0) this.#events.negotiated();
  }

  /**
   * Enables a queue (`queue_enable` of 4.1.4.3), or takes it out of use (null). Whether its size and addresses are possible; never
   * before FEATURES_OK, for the features say what a ring is (3.1.1).
   * @throws RangeError when there is no such queue.
   */
  setQueue(index: number, setup: QueueSetup | null): boolean {
    requireNumber('VirtioDevice', 'index', index);
    if (setup !== null) requireObject('VirtioDevice', 'setup', setup);
    if (!(index in this.#queues)) throw new RangeError(`VirtioDevice: no queue ${index}`);
    const queue = setup && (this.#status & STATUS_FEATURES_OK) !== 0 ? this.#open(setup) : null;
    this.#queues[index] = queue;
    return queue !== null || setup === null;
  }

  /** The queue, while the driver is ready and the device not broken; otherwise null. */
  queue(index: number): Virtqueue | null {
    requireNumber('VirtioDevice', 'index', index);
    const live = STATUS_FEATURES_OK | STATUS_DRIVER_OK;
    return (this.#status & (live | STATUS_NEEDS_RESET)) === live ? (this.#queues[index]?.ring ?? null) : null;
  }

  interrupt(source: number): void {
    requireNumber('VirtioDevice', 'source', source);
    this.#events.interrupt(source);
  }

  /** Only a reset helps: the driver is told (2.1.2), the queues rest. */
  breakDown(): void {
    if ((this.#status & STATUS_NEEDS_RESET) !== 0) return;
    const told = (this.#status & STATUS_DRIVER_OK) !== 0;
    this.#status |= STATUS_NEEDS_RESET;
    if (told) this.#events.interrupt(CONFIG_INTERRUPT);
  }

  /** As before any driver came. */
  clear(): void {
    this.#status = 0;
    this.#features = 0n;
    this.#queues.fill(null);
  }

  save(): VirtioDeviceState {
    const queues = this.#queues.map((queue) => queue && saveQueue(queue));
    return { status: this.#status, features: `${this.#features}`, queues };
  }

  /** @throws TypeError when no driver can have brought the device there; nothing has changed then. */
  load(state: VirtioDeviceState): void {
    requireObject('VirtioDevice', 'state', state);
    const check = (good: boolean, what: string) => {
      if (!good) throw new TypeError(`VirtioDevice: not a saved state: ${what}`);
    };
    const { status } = state;
    check(Number.isInteger(status) && (status & (0xff & ~STATUS_SUSPEND)) === status, 'status');
    check(isWord(state.features), 'features');
    check(Array.isArray(state.queues) && state.queues.length === this.#queues.length, 'queues');
    const features = this.#features;
    this.#features = BigInt(state.features);
    const isDecided = (status & STATUS_FEATURES_OK) !== 0;
    const isPossible = isDecided ? this.#acceptable() : state.queues.every((queue) => queue === null);
    const queues = isPossible ? state.queues.map((saved) => (saved === null ? null : this.#reopen(saved))) : [];
    if (!isPossible || queues.includes(undefined)) {
      this.#features = features;
      check(isPossible, isDecided ? 'features that were not offered' : 'queues before FEATURES_OK');
      check(false, 'a queue that is not possible');
    }
    this.#status = status;
    queues.forEach((queue, index) => {
      this.#queues[index] = queue ?? null;
    });
  }

  #open(setup: QueueSetup): LiveQueue | null {
    const possible = Number.isInteger(setup.size) && setup.size >= 1 && setup.size <= this.queueSize;
    const Ring = this.#has(F_RING_PACKED) ? PackedQueue : SplitQueue;
    if (!possible || !Ring.accepts(setup)) return null;
    const features = { indirect: this.#has(F_INDIRECT_DESC), eventIdx: this.#has(F_EVENT_IDX) };
    return { setup, ring: new Ring(this.#memory, setup, features) };
  }

  /** undefined: not a queue that `save` made. */
  #reopen(saved: SavedQueue): LiveQueue | undefined {
    const { size, descriptors, driver, device, positions }: Partial<SavedQueue> = saved ?? {};
    if (size === undefined || !isWord(descriptors) || !isWord(driver) || !isWord(device)) return undefined;
    if (!Array.isArray(positions) || !positions.every((position) => Number.isInteger(position) && position >= 0)) return undefined;
    const setup = { size, descriptors: BigInt(descriptors), driver: BigInt(driver), device: BigInt(device) };
    const queue = this.#open(setup);
    return queue?.ring.restore(positions) ? queue : undefined;
  }

  #has(feature: bigint): boolean {
    return (this.#features & feature) !== 0n;
  }

  #acceptable(): boolean {
    return (this.#features & ~this.#offered) === 0n && this.#has(F_VERSION_1);
  }
}

/** 64 bits as `save` writes them. */
function isWord(text: unknown): text is string {
  return typeof text === 'string' && /^\d{1,20}$/.test(text) && BigInt(text) < 1n << 64n;
}

function saveQueue({ setup, ring }: LiveQueue): SavedQueue {
  const { size, descriptors, driver, device } = setup;
  return { size, descriptors: `${descriptors}`, driver: `${driver}`, device: `${device}`, positions: ring.save() };
}
