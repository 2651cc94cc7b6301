import { READ, WRITE } from '../../memory/access.ts';
import { PAGE_BYTES, pfnOf } from '../../memory/address.ts';
import type { SimIommu } from './iommu.ts';
import type { PhysicalMemory, ProcessMemory } from './memory.ts';
import { DMA_BLOCKED, DMA_PENDING, type Translation } from './translation.ts';

/** Devices that the IOMMU cannot tell apart; the kernel gives them to one owner and one domain. */
export class SimGroup {
  readonly number: number;
  readonly devices: SimDevice[] = [];
  /** Whoever has claimed DMA ownership: an iommufd context, a VFIO container. */
  owner: object | null = null;
  /** Its own node is open. */
  isOpen = false;
  /** Devices that are bound by their own nodes: the group's node cannot be opened then, nor these be bound while it is. */
  cdevs = 0;

  constructor(number: number) {
    this.number = number;
  }
}

/** What a device is made of. */
export interface SimDeviceParts {
  readonly name: string;
  readonly iommu: SimIommu;
  readonly group: SimGroup;
  readonly physical: PhysicalMemory;
  readonly process: ProcessMemory;
  /** It can ask for pages that are not there (PCI PRI). */
  readonly pageRequests: boolean;
  /** Width of its PASIDs, and whether its IOMMU tracks what it dirties: default as the IOMMU says. */
  readonly pasidLog2?: number;
  readonly dirtyTracking?: boolean;
  /** It is a PCI function, as all that VFIO shows here. Default true. */
  readonly isPci?: boolean;
  /** Lets other hardware go on before a DMA. */
  readonly step: () => void;
}

/** A device that does DMA through what the simulated hardware has for it. */
export class SimDevice {
  readonly name: string;
  readonly iommu: SimIommu;
  readonly group: SimGroup;
  readonly pageRequests: boolean;
  readonly pasidLog2: number;
  readonly dirtyTracking: boolean;
  readonly isPci: boolean;
  readonly #physical: PhysicalMemory;
  readonly #process: ProcessMemory;
  readonly #step: () => void;
  #files = 0;
  #end: () => void = () => {};
  /** What requests without PASID go through; null: blocked, as VFIO leaves a device that is not attached. */
  translation: Translation | null = null;
  /** What requests with a PASID go through that was attached for itself. */
  readonly pasids = new Map<number, Translation>();
  /** Response codes to the device's page requests, oldest first. */
  readonly responses: number[] = [];

  constructor(parts: SimDeviceParts) {
    this.name = parts.name;
    this.iommu = parts.iommu;
    this.group = parts.group;
    this.pageRequests = parts.pageRequests;
    this.pasidLog2 = parts.pasidLog2 ?? parts.iommu.config.pasidLog2;
    this.isPci = parts.isPci ?? true;
    this.dirtyTracking = parts.dirtyTracking ?? parts.iommu.config.dirtyTracking;
    this.#physical = parts.physical;
    this.#process = parts.process;
    this.#step = parts.step;
    parts.group.devices.push(this);
  }

  /** VFIO has a file of it open. */
  get isOpen(): boolean {
    return this.#files > 0;
  }

  /** vfio_df_open: the first file of it wants `begin`, which answers what ends with the last file, or a negative errno. */
  open(begin: () => (() => void) | number): number {
    if (this.#files === 0) {
      const end = begin();
      if (typeof end === 'number') return end;
      this.#end = end;
    }
    this.#files++;
    return 0;
  }

  /** One of its files is closed. */
  close(): void {
    if (--this.#files === 0) this.#end();
  }

  /** Where VFIO shows the device. */
  get path(): string {
    return `/dev/vfio/devices/${this.name}`;
  }

  #translation(pasid: number): Translation | null {
    if (pasid < 0) return this.translation;
    return this.pasids.get(pasid) ?? (this.translation?.pasids === true ? this.translation : null);
  }

  /**
   * Which page of the process (its virtual page number) a DMA to the IOVA page would reach, without doing it; a negative
   * fault (DMA_*) when it would be refused, and -1 too when the process has the page no more. `pasid` -1: none.
   */
  hostPfn(pfn: number, access: number, pasid = -1): number {
    if (pasid < 0 && this.iommu.isForInterrupts(pfn)) return DMA_BLOCKED;
    const physical = this.#translation(pasid)?.translate(pfn, access, pasid, false) ?? DMA_BLOCKED;
    if (physical < 0) return physical;
    return Math.floor(this.#process.addressOf(physical * PAGE_BYTES) / PAGE_BYTES);
  }

  /** Physical page that the IOVA page reaches, or a negative fault, which is told to whoever wants to hear of it. */
  #reach(pfn: number, access: number, pasid: number): number {
    const translation = this.#translation(pasid);
    if (translation === null || (pasid < 0 && this.iommu.isForInterrupts(pfn))) return DMA_BLOCKED;
    const code = translation.translate(pfn, access, pasid, true);
    if (code >= 0) return code;
    const respond = (response: number) => this.responses.push(response);
    return translation.fault?.({ device: this.name, pfn, access, pasid, code, respond }) === true ? DMA_PENDING : code;
  }

  /** Reads from the IOVA on into `into`. 0, or a negative fault (DMA_*) at the first page that is refused; what lies before it was read. */
  dmaRead(iova: bigint, into: Uint8Array, pasid = -1): number {
    return this.#dma(iova, into, READ, pasid);
  }

  /** Writes `from` to the IOVA on. 0, or a negative fault (DMA_*) at the first page that is refused; what lies before it was written. */
  dmaWrite(iova: bigint, from: Uint8Array, pasid = -1): number {
    return this.#dma(iova, from, WRITE, pasid);
  }

  #dma(iova: bigint, bytes: Uint8Array, access: number, pasid: number): number {
    this.#step();
    for (let done = 0; done < bytes.length; ) {
      const at = iova + BigInt(done);
      const offset = Number(at & 0xfffn);
      const size = Math.min(bytes.length - done, PAGE_BYTES - offset);
      const page = this.#reach(pfnOf(at), access, pasid);
      if (page < 0) return page;
      const frames = this.#physical.find(page * PAGE_BYTES);
      if (frames === undefined)
        throw new Error(`simulated IOMMU let ${this.name} reach memory that nobody pins: page 0x${page.toString(16)}`);
      const memory = new Uint8Array(frames.buffer, page * PAGE_BYTES - frames.first + offset, size);
      const part = bytes.subarray(done, done + size);
      if (access === READ) part.set(memory);
      else memory.set(part);
      done += size;
    }
    return 0;
  }
}
