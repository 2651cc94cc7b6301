import { hiOf, joinHiLo, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import {
  type DmaWindowCall,
  type HostBridgeOptions,
  HypercallRegisters,
  SpaprIommu,
  type SpaprIommuOptions,
} from '../../../src/target/spapr/index.ts';
import { type AddressSpace, NO_PASID, type TargetObserver } from '../../../src/target/target.ts';
import { type Run, runsOf } from '../hardware.ts';

/** 4 MiB at 0, a hole, 1 MiB at 8 MiB with a page more at either end, and 2 MiB at 4 GiB. */
export const ram: readonly (readonly [start: bigint, bytes: number])[] = [
  [0n, 0x400000],
  [0x7ff000n, 0x102000],
  [0x1_0000_0000n, 0x200000],
];

export const bridges: readonly [HostBridgeOptions, HostBridgeOptions] = [
  {
    buid: 0x800000020000000n,
    endpoints: [0x0, 0x800],
    windows: [{ liobn: 0x80000000, start: 0n, pageLg2: 12, pages: 4096 }],
    ddw: { liobns: [0x80000001], pageSizeMask: 0x103, largestBlock: 2 ** 16 },
  },
  { buid: 0x800000020000001n, endpoints: [0x10000], windows: [{ liobn: 0x80010000, start: 0x8000_0000n, pageLg2: 16, pages: 33000 }] },
];

/** A target with its memory, and hypercalls and RTAS calls on `bigint` and `number`. */
export class TestMachine {
  readonly memory: GuestMemory;
  readonly iommu: SpaprIommu;
  readonly registers = new HypercallRegisters();

  constructor(options: Partial<SpaprIommuOptions> = {}) {
    this.memory = options.memory ?? new GuestMemory(ram.map(([gpa, bytes]) => ({ gpa, buffer: new SharedArrayBuffer(bytes) })));
    this.iommu = new SpaprIommu({ bridges, ...options, memory: this.memory });
  }

  call(opcode: number, ...parameters: bigint[]): number {
    for (let i = 0; i < parameters.length; i++) this.registers.u64[4 + i] = parameters[i];
    return this.iommu.hypercall(opcode, this.registers);
  }

  /** Writes a TCE list where there is RAM, as a big-endian guest would. */
  list(address: bigint, tces: readonly bigint[]): void {
    for (let i = 0; i < tces.length; i++) {
      const at = BigInt.asUintN(64, address + 8n * BigInt(i));
      this.memory.store64BE(hiOf(at), loOf(at), hiOf(tces[i]), loOf(tces[i]));
    }
  }

  /** Status and outputs. */
  rtas(name: DmaWindowCall, inputs: readonly number[], outputs: number): { status: number; cells: number[] } {
    const cells = new Uint32Array(outputs);
    return { status: this.iommu.rtas(name, Uint32Array.from(inputs), cells), cells: [...cells] };
  }

  /** [address, lg2 of what it holds for], or the fault. */
  translate(endpoint: number, address: bigint, access: number): [bigint, number] | number {
    const lg2 = this.iommu.translate(endpoint, NO_PASID, hiOf(address), loOf(address), access);
    const { translated } = this.iommu;
    return lg2 < 0 ? lg2 : [joinHiLo(translated[1], translated[0]), lg2];
  }
}

/** The three cells that name a PE: LoPAR 7.3.27. */
export function unit(buid: bigint, configAddress = 0): number[] {
  return [configAddress, Number(buid >> 32n), Number(buid & 0xffffffffn)];
}

/**
 * Hardware that does what a path would do: at a flush it takes over what the ranges that changed mean now. Flush number `failAt`
 * fails: nothing is done, and what was to be done stays to be done (TargetObserver.flush).
 */
export class Hardware implements TargetObserver {
  failAt = Number.POSITIVE_INFINITY;
  flushes = 0;
  failures = 0;
  changes: { space: AddressSpace; first: number; last: number }[] = [];
  readonly runs = new Map<AddressSpace, Run[]>();

  attach(): number {
    throw new Error('endpoints of a bridge never move');
  }

  changed(space: AddressSpace, first: number, last: number): void {
    this.changes.push({ space, first, last });
  }

  flush(): number {
    this.flushes++;
    if (this.flushes === this.failAt) {
      this.failures++;
      return -28;
    }
    for (const { space, first, last } of this.changes) {
      const kept = (this.runs.get(space) ?? []).flatMap((run) => outside(run, first, last));
      this.runs.set(
        space,
        [...kept, ...runsOf(space, first, last)].sort((a, b) => a.iova - b.iova),
      );
    }
    this.changes = [];
    return 0;
  }

  /** Guest page that a bus page reaches, and the permission; null when the hardware has nothing there. */
  lookUp(space: AddressSpace, pfn: number): readonly [number, number] | null {
    const run = this.runs.get(space)?.find(({ iova, pages }) => pfn >= iova && pfn < iova + pages);
    return run === undefined ? null : [run.gpa + pfn - run.iova, run.permission];
  }
}

function outside(run: Run, first: number, last: number): Run[] {
  const end = run.iova + run.pages;
  const below = { ...run, pages: Math.min(end, first) - run.iova };
  const start = Math.max(run.iova, last + 1);
  const above = { ...run, iova: start, gpa: run.gpa + start - run.iova, pages: end - start };
  return [below, above].filter(({ pages }) => pages > 0);
}
