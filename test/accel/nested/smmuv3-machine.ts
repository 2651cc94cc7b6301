import type { TableWatch } from '../../../src/accel/table-watch.ts';
import type { HostDevice } from '../../../src/host/host.ts';
import { IommufdHost } from '../../../src/host/iommufd/index.ts';
import { type SimKernel, simKernel, smmuv3 } from '../../../src/host/sim/index.ts';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf, pfnOfHiLo } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { Machine } from '../../../src/vmm/machine.ts';
import { CONTEXTS, Guest, RAM_PAGES, type Table } from '../../target/smmuv3/guest.ts';
import { cfgiCd, cfgiSte, SYNC } from './smmuv3-commands.ts';

export const STREAMS = [0x20, 0x21] as const;
/** IOVA page of the first mapping, and how many are looked at. */
export const BASE = 0x1_2340;
export const PAGES = 24;
/** Guest page behind all tables. */
export const DATA = 300;

export interface SmmuMachineOptions {
  readonly nesting?: () => ReturnType<typeof smmuv3>;
  /** That the streams stand behind in turn. Default 1. */
  readonly iommus?: number;
  readonly path?: string;
  readonly watch?: TableWatch;
}

/** A guest of an SMMUv3, each stream with a table of context descriptors of its own, before a simulated SMMUv3 that forgets nothing by itself. */
export class SmmuMachine {
  readonly kernel: SimKernel;
  readonly host: IommufdHost;
  readonly guest: Guest;
  readonly machine: Machine;
  readonly hostDevices: readonly HostDevice[];
  readonly ramPfn: number;

  constructor({ nesting = smmuv3, iommus = 1, path, watch }: SmmuMachineOptions = {}) {
    this.kernel = simKernel({
      iommus: Array.from({ length: iommus }, () => ({ nesting: nesting(), pasidLog2: 16 })),
      devices: STREAMS.map((_, i) => ({ name: `vfio${i}`, iommu: i % iommus })),
    });
    this.host = new IommufdHost(this.kernel);
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    this.ramPfn = pfnOf(ram.address);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.guest = new Guest({}, memory);
    for (const stream of STREAMS) this.guest.smmu.addEndpoint(stream);
    this.machine = new Machine({
      memory,
      target: this.guest.smmu,
      host: this.host,
      ...(path !== undefined && { path }),
      ...(watch !== undefined && { watch }),
    });
    this.hostDevices = STREAMS.map((stream, i) => this.machine.passThrough(stream, this.kernel.devices[i].path));
    this.guest.start();
  }

  /** Where the descriptors of a stream are: 16 for each. */
  contexts(stream: number): number {
    return CONTEXTS + 1024 * (stream - STREAMS[0]);
  }

  /** A stream's descriptor for a substream, and the command that makes it count. */
  setContext(stream: number, table: Table, asid: number, substream = 0): void {
    const { inputBits, root } = table.config;
    const values = { T0SZ: 64 - inputBits, EPD1: 1, V: 1, IPS: 5, AA64: 1, R: 1, A: 1, AFFD: 1, ASID: asid, TTB0: Number(root >> 4n) };
    this.guest.setContext(substream, values, this.contexts(stream));
    this.guest.command(cfgiCd(stream, substream), SYNC);
  }

  /** `config`: 0 abort, 4 bypass, 5 stage 1 with 2^`substreams` descriptors. */
  setStream(stream: number, config: number, substreams = 0): void {
    const pointer = this.contexts(stream) / 64;
    this.guest.setStream(stream, { CONFIG: config, S1CONTEXT_PTR: pointer, S1CDMAX: substreams, S1DSS: substreams > 0 ? 2 : 0 });
    this.guest.command(cfgiSte(stream), SYNC);
  }

  touch(): void {
    const byte = new Uint8Array(1);
    for (const device of this.kernel.devices) {
      for (let i = 0; i < PAGES; i++) {
        device.dmaRead(BigInt(BASE + i) << 12n, byte);
        device.dmaWrite(BigInt(BASE + i) << 12n, byte);
      }
    }
  }

  software(index: number, substream = -1): (string | null)[] {
    const { smmu } = this.guest;
    return reached((pfn, access) => {
      const lg2 = smmu.translate(STREAMS[index], substream, hiOfPfn(pfn), loOfPfn(pfn), access);
      return lg2 < 0 ? -1 : pfnOfHiLo(smmu.translated[1], smmu.translated[0]);
    });
  }

  hardware(index: number, substream = -1): (string | null)[] {
    return reached((pfn, access) => {
      const host = this.kernel.devices[index].hostPfn(pfn, access, substream);
      return host < 0 ? -1 : host - this.ramPfn;
    });
  }

  /** Host calls by kind since the last time, without what is 0. */
  calls(): Record<string, number> {
    const counts = Object.fromEntries([...this.kernel.hooks.counts].filter(([, count]) => count > 0));
    this.kernel.hooks.counts.clear();
    return counts;
  }
}

function reached(find: (pfn: number, access: number) => number): (string | null)[] {
  return Array.from({ length: PAGES }, (_, i) => {
    const [read, write] = [READ, WRITE].map((access) => find(BASE + i, access)).map((page) => (page < RAM_PAGES ? page : -1));
    return read < 0 && write < 0 ? null : `${Math.max(read, write)}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
  });
}
