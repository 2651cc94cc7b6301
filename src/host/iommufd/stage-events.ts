import { hostErrorOf } from '../errno.ts';
import type { StageEvent } from '../host.ts';
import type { IommufdContext } from './context.ts';
import { FaultQueue } from './fault-queue.ts';
import type { EventQueue, Viommu } from './viommu.ts';

/** enum iommu_veventq_type: records of 32 bytes (IHI 0070, 7.3). */
const VEVENTQ_SMMUV3 = 1;
const RECORD_BYTES = 32;
/** Records that wait until somebody reads them; more are lost. */
const DEPTH = 1024;

/** What the kernel has to say of the devices of one guest: records of its vIOMMUs, page requests of its first stages. */
export class StageEvents {
  /** Guest's numbers by the kernel's handles. */
  readonly names = new Map<number, number>();
  readonly #context: IommufdContext;
  readonly #records = new Map<Viommu, EventQueue>();
  #faults: FaultQueue | null = null;

  constructor(context: IommufdContext) {
    this.#context = context;
  }

  /** From now on the vIOMMU's records are kept. @throws HostError */
  listen(viommu: Viommu): void {
    if (!this.#records.has(viommu)) this.#records.set(viommu, viommu.createEventQueue(VEVENTQ_SMMUV3, RECORD_BYTES, DEPTH));
  }

  /** The vIOMMU goes. @throws HostError */
  ignore(viommu: Viommu): void {
    this.#records.get(viommu)?.close();
    this.#records.delete(viommu);
  }

  /** The queue of page requests, made when a stage wants one. @throws HostError */
  faults(): FaultQueue {
    this.#faults ??= new FaultQueue(this.#context);
    return this.#faults;
  }

  get descriptors(): readonly number[] {
    return [...this.#records.values(), ...(this.#faults === null ? [] : [this.#faults])].map(({ fd }) => fd);
  }

  /** One reading of each queue; more is waited for. @throws HostError */
  read(): StageEvent[] {
    const events: StageEvent[] = [];
    for (const records of this.#records.values()) {
      if (!records.wait(0)) continue;
      for (const { lost, data } of records.read()) {
        if (lost > 0) events.push({ kind: 'lost' });
        if (data !== null) events.push({ kind: 'record', words: new Int32Array(data.buffer, data.byteOffset, RECORD_BYTES / 4) });
      }
    }
    if (this.#faults?.wait(0) === true) {
      for (const { device, ...request } of this.#faults.read()) {
        const id = this.names.get(device);
        if (id !== undefined) events.push({ kind: 'page-request', id, ...request });
        else if (request.last) this.respond(request.cookie, false);
      }
    }
    return events;
  }

  respond(cookie: number, resolved: boolean): void {
    try {
      this.#faults?.respond(cookie, resolved);
    } catch (error) {
      // The device has left the stage, and the kernel has answered for it.
      hostErrorOf(error);
    }
  }

  /** @throws HostError */
  close(): void {
    for (const viommu of this.#records.keys()) this.ignore(viommu);
    this.#faults?.close();
  }
}
