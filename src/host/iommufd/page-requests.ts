import { hostErrorOf } from '../errno.ts';
import type { HostDevice, HostPageRequests, PageRequest, PageRequestQueue } from '../host.ts';
import type { IommufdContext } from './context.ts';
import { type Attachable, type IommufdDevice, own } from './device.ts';
import { FaultQueue } from './fault-queue.ts';
import { readHwInfo } from './hw-info.ts';

/** iommufd's fault queues, for whoever knows devices and not handles. */
export class IommufdPageRequests implements HostPageRequests {
  readonly #context: IommufdContext;
  readonly #devices: Iterable<IommufdDevice>;
  readonly #reasons = new WeakMap<HostDevice, string | null>();

  /** `devices`: all that are open. */
  constructor(context: IommufdContext, devices: Iterable<IommufdDevice>) {
    this.#context = context;
    this.#devices = devices;
  }

  /** The kernel says who has no ATS, without which there is no PRI; whether a device has PRI it says when the device is attached (ENODEV). */
  refuses(asked: HostDevice): string | null {
    const { device } = own(asked);
    let reason = this.#reasons.get(device);
    if (reason === undefined) {
      reason = this.#ask(device);
      this.#reasons.set(device, reason);
    }
    return reason;
  }

  #ask(device: IommufdDevice): string | null {
    try {
      return readHwInfo(this.#context, device, 0).ats ? null : `${device.name} has no ATS, without which it cannot wait for a page`;
    } catch (error) {
      return hostErrorOf(error).message;
    }
  }

  createQueue(): PageRequestQueue {
    return new RequestQueue(new FaultQueue(this.#context), this.#devices);
  }
}

/** Whom a cookie that is waited for concerns. */
interface Waiting {
  readonly device: Attachable;
  /** Attachable.moves when it was read. */
  readonly moves: number;
}

class RequestQueue implements PageRequestQueue {
  readonly faults: FaultQueue;
  readonly #devices: Iterable<IommufdDevice>;
  readonly #waiting = new Map<number, Waiting>();

  constructor(faults: FaultQueue, devices: Iterable<IommufdDevice>) {
    this.faults = faults;
    this.#devices = devices;
  }

  get descriptor(): number {
    return this.faults.fd;
  }

  read(): PageRequest[] {
    if (!this.faults.wait(0)) return [];
    const byId = new Map([...this.#devices].map((device) => [device.id, device]));
    const requests: PageRequest[] = [];
    for (const { device: id, ...request } of this.faults.read()) {
      const whole = byId.get(id);
      if (whole === undefined) continue;
      const device = whole.processes.get(request.pasid) ?? whole;
      if (request.last) this.#waiting.set(request.cookie, { device, moves: device.moves });
      requests.push({ device, ...request });
    }
    return requests;
  }

  /** The kernel gives a cookie that it has answered itself to somebody else. */
  respond(cookie: number, resolved: boolean): void {
    const waiting = this.#waiting.get(cookie);
    this.#waiting.delete(cookie);
    if (waiting === undefined || waiting.device.closed || waiting.device.moves !== waiting.moves) return;
    try {
      this.faults.respond(cookie, resolved);
    } catch (error) {
      // The device is gone, and the kernel has answered for it.
      hostErrorOf(error);
    }
  }

  close(): void {
    this.#waiting.clear();
    this.faults.close();
  }
}

/** @throws TypeError for a queue of another host. */
export function faultQueueOf(queue: PageRequestQueue): FaultQueue {
  if (queue instanceof RequestQueue) return queue.faults;
  throw new TypeError('pageRequests: the queue is not of this host');
}
