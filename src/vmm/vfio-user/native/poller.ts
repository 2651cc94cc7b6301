import type { PortMemory } from '../../../host/port.ts';
import type { Libc } from './libc.ts';

/** Bits of poll(2). */
export const POLLIN = 1;
export const POLLOUT = 4;
const POLLFD_BYTES = 8;
const LIMIT = 512;

/** How long the thread itself waits for the next request: a guest that touches one register mostly touches another at once. */
const WAIT_MILLISECONDS = 1;
/** How long the other thread does; nothing depends on it, as everything that changes wakes it. */
const ASIDE_MILLISECONDS = 1000;

interface Watched {
  readonly fd: number;
  events: number;
  readonly ready: (events: number) => void;
}

/** One descriptor that is watched. */
export interface Watch {
  /** Which bits of poll(2) are waited for. */
  setEvents(events: number): void;
  close(): void;
}

/**
 * Watches descriptors and calls who waits for them, on Node's own thread. While requests come it waits for the next by a short poll of its
 * own, between the turns of Node's loop; once none comes a thread of libuv waits, and Node is free.
 */
export class Poller {
  readonly #libc: Libc;
  readonly #watched = new Set<Watched>();
  readonly #fds: PortMemory;
  readonly #asideFds: PortMemory;
  readonly #wake: number;
  readonly #word: PortMemory;
  #running = false;
  #aside = false;

  constructor(libc: Libc) {
    this.#libc = libc;
    const { port } = libc;
    this.#fds = port.allocate(LIMIT * POLLFD_BYTES);
    this.#asideFds = port.allocate(LIMIT * POLLFD_BYTES);
    this.#word = port.allocate(8);
    this.#wake = port.eventfd();
    if (this.#wake < 0) throw new Error(`vfio-user: no eventfd can be had (errno ${-this.#wake})`);
  }

  /** @throws RangeError when too many are watched. */
  watch(fd: number, ready: (events: number) => void): Watch {
    if (this.#watched.size + 1 >= LIMIT) throw new RangeError(`vfio-user: more than ${LIMIT} descriptors are watched`);
    const watched: Watched = { fd, events: POLLIN, ready };
    this.#watched.add(watched);
    this.#start();
    return {
      setEvents: (events) => {
        watched.events = events;
        this.#interrupt();
      },
      close: () => {
        this.#watched.delete(watched);
        this.#interrupt();
      },
    };
  }

  #start(): void {
    if (this.#running) this.#interrupt();
    else {
      this.#running = true;
      setImmediate(() => this.#turn());
    }
  }

  /** The thread that waits looks again. */
  #interrupt(): void {
    if (!this.#aside) return;
    new BigUint64Array(this.#word.buffer)[0] = 1n;
    this.#libc.port.write(this.#wake, this.#word, 8);
  }

  #turn(): void {
    if (this.#watched.size === 0) {
      this.#running = false;
      return;
    }
    const watched = [...this.#watched];
    this.#fill(this.#fds, watched);
    const ready = this.#libc.poll(this.#fds, watched.length, WAIT_MILLISECONDS);
    if (ready > 0) {
      // Whatever one of them throws is its own affair: the others are served.
      setImmediate(() => this.#turn());
      this.#dispatch(watched);
    } else this.#waitAside();
  }

  #dispatch(watched: readonly Watched[]): void {
    const view = new DataView(this.#fds.buffer);
    watched.forEach((one, i) => {
      const events = view.getInt16(i * POLLFD_BYTES + 6, true);
      // One that was called before may have closed another.
      if (events !== 0 && this.#watched.has(one)) one.ready(events);
    });
  }

  #waitAside(): void {
    const watched = [...this.#watched];
    this.#fill(this.#asideFds, watched);
    const view = new DataView(this.#asideFds.buffer);
    view.setInt32(watched.length * POLLFD_BYTES, this.#wake, true);
    view.setInt16(watched.length * POLLFD_BYTES + 4, POLLIN, true);
    this.#aside = true;
    this.#libc.pollAside(this.#asideFds, watched.length + 1, ASIDE_MILLISECONDS, () => {
      this.#aside = false;
      this.#libc.port.read(this.#wake, this.#word, 8);
      this.#turn();
    });
  }

  #fill(memory: PortMemory, watched: readonly Watched[]): void {
    const view = new DataView(memory.buffer);
    watched.forEach(({ fd, events }, i) => {
      view.setInt32(i * POLLFD_BYTES, fd, true);
      view.setInt16(i * POLLFD_BYTES + 4, events, true);
      view.setInt16(i * POLLFD_BYTES + 6, 0, true);
    });
  }
}
