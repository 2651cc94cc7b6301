import type { HostDevice } from '../../../src/host/host.ts';
import { IommufdHost } from '../../../src/host/iommufd/index.ts';
import { type SimDevice, type SimKernel, simKernel, vtd } from '../../../src/host/sim/index.ts';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf, pfnOfHiLo } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { X86Table } from '../../../src/pagetable/x86.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { Machine } from '../../../src/vmm/machine.ts';
import { contextDevice, type Descriptor, EVERYTHING, Guest, pasidSelective, wait } from '../../target/vtd/guest.ts';

const RAM_PAGES = 2048;
export const DEVICES = [0x20, 0x21] as const;
/** IOVA page of the first mapping, and how many are looked at. */
export const BASE = 0x2_0000;
export const PAGES = 32;
/** Guest page behind all tables. */
export const DATA = 1100;

export interface VtdMachineOptions {
  readonly nesting?: () => ReturnType<typeof vtd>;
  /** That the devices stand behind in turn. Default 1. */
  readonly iommus?: number;
  readonly path?: string;
  readonly devices?: number;
  readonly pageRequests?: boolean;
  /** Width of PASIDs; left out: the host knows of none. */
  readonly pasidLog2?: number;
}

/** A guest of VT-d in scalable mode, each device with a PASID of its own for requests without one, before simulated VT-d that forgets nothing by itself. */
export class VtdMachine {
  readonly kernel: SimKernel;
  readonly host: IommufdHost;
  readonly guest: Guest;
  readonly machine: Machine;
  readonly devices: readonly number[];
  readonly hostDevices: readonly HostDevice[];
  readonly ramPfn: number;

  constructor({ nesting = vtd, iommus = 1, path, devices = 2, pageRequests = false, pasidLog2 = 0 }: VtdMachineOptions = {}) {
    this.devices = Array.from({ length: devices }, (_, i) => DEVICES[0] + i);
    this.kernel = simKernel({
      iommus: Array.from({ length: iommus }, () => ({ nesting: nesting(), pasidLog2 })),
      devices: this.devices.map((_, i) => ({ name: `vfio${i}`, iommu: i % iommus, pageRequests })),
    });
    this.host = new IommufdHost(this.kernel);
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    this.ramPfn = pfnOf(ram.address);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.guest = new Guest({ ...EVERYTHING, deviceTlb: pageRequests, pageRequests }, RAM_PAGES, {}, memory);
    for (const device of this.devices) this.guest.iommu.addEndpoint(device);
    this.machine = new Machine({ memory, target: this.guest.iommu, host: this.host, ...(path !== undefined && { path }) });
    for (const device of this.devices) this.guest.setScalableContext(device, 0n, BigInt(device));
    this.hostDevices = this.devices.map((device, i) => this.machine.passThrough(device, this.kernel.devices[i].path));
  }

  /** A first stage for requests of the device; null: its entry is not present. */
  setStage(device: number, stage: { root: number; did?: number; flags?: bigint } | null): void {
    this.guest.setPasid(device, stage === null ? null : { pgtt: 1, did: stage.did ?? 8, first: stage.root, flags: stage.flags ?? 0n });
    this.submit(contextDevice(device), pasidSelective(0, device));
  }

  submit(...descriptors: readonly Descriptor[]): void {
    this.guest.submit(...descriptors, wait());
  }

  newStage(): { root: number; table: X86Table } {
    return this.guest.firstStage();
  }

  sim(index: number): SimDevice {
    return this.kernel.devices[index];
  }

  /** Every page that is looked at is really read and written, so that the hardware remembers all that it can. */
  touch(): void {
    const byte = new Uint8Array(1);
    for (const device of this.kernel.devices) {
      for (let i = 0; i < PAGES; i++) {
        device.dmaRead(BigInt(BASE + i) << 12n, byte);
        device.dmaWrite(BigInt(BASE + i) << 12n, byte);
      }
    }
  }

  software(index: number): (string | null)[] {
    const { iommu } = this.guest;
    return reached((pfn, access) => {
      const lg2 = iommu.translate(this.devices[index], NO_PASID, hiOfPfn(pfn), loOfPfn(pfn), access);
      return lg2 < 0 ? -1 : pfnOfHiLo(iommu.translated[1], iommu.translated[0]);
    }, RAM_PAGES);
  }

  hardware(index: number): (string | null)[] {
    return reached((pfn, access) => {
      const host = this.sim(index).hostPfn(pfn, access);
      return host < 0 ? -1 : host - this.ramPfn;
    }, RAM_PAGES);
  }

  /** Host calls by kind since the last time, without what is 0. */
  calls(): Record<string, number> {
    const counts = Object.fromEntries([...this.kernel.hooks.counts].filter(([, count]) => count > 0));
    this.kernel.hooks.counts.clear();
    return counts;
  }
}

/** Guest page and permission of each page; what lies outside RAM is reached by nobody. */
function reached(find: (pfn: number, access: number) => number, ramPages: number): (string | null)[] {
  return Array.from({ length: PAGES }, (_, i) => {
    const [read, write] = [READ, WRITE].map((access) => find(BASE + i, access)).map((page) => (page < ramPages ? page : -1));
    return read < 0 && write < 0 ? null : `${Math.max(read, write)}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
  });
}
