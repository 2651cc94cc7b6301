import { StoreWatch } from '../../src/accel/index.ts';
import { openHost } from '../../src/host/registry.ts';
import { type IommuConfig, type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { hiOf, loOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { RiscvTable } from '../../src/pagetable/riscv.ts';
import { RiscvIommu } from '../../src/target/riscv/index.ts';
import { H_PUT_TCE, HypercallRegisters, SpaprIommu } from '../../src/target/spapr/index.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { Machine } from '../../src/vmm/index.ts';
import { TablePages } from '../table-pages.ts';
import { endpointOf, type Guest, RAM_PAGES } from './guest.ts';
import type { SCALE_TARGETS } from './parts.ts';
import { amd, smmuv3, vtd } from './table-guests.ts';

/** A machine of which the guest has as many address spaces as devices that are passed through. */
export interface ScaleGuest {
  readonly machine: Machine;
  readonly kernel: SimKernel;
  readonly operate: Guest['operate'];
  /** The device of a space is taken out of the machine, and comes back. */
  replug(space: number): void;
  readonly move: Guest['move'];
  /** A CPU's store to the entry of a page, and nothing else: who watches has followed. */
  store(space: number, map: boolean): void;
}

/** What the devices are behind. */
export interface ScaleHardware {
  readonly path: string;
  readonly nesting: Exclude<IommuConfig['nesting'], undefined>;
}

export type ScaleTarget = (typeof SCALE_TARGETS)[number];
const GUESTS: Readonly<Record<ScaleTarget, (memory: GuestMemory, spaces: number) => Guest>> = {
  spapr,
  'virtio-iommu': virtio,
  riscv,
  vtd,
  amd,
  smmuv3,
};

const PLAIN: ScaleHardware = { path: 'auto', nesting: null };

export function scaleGuest(target: ScaleTarget, spaces: number, { path, nesting }: ScaleHardware = PLAIN): ScaleGuest {
  const kernel = simKernel({ iommus: [{ nesting }], devices: Array.from({ length: spaces }, (_, i) => ({ name: `vfio${i}` })) });
  const ram = kernel.allocate((RAM_PAGES + 8 * spaces) * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const guest = GUESTS[target](memory, spaces);
  const watch = new StoreWatch();
  const machine = new Machine({ memory, target: guest.target, host: openHost('iommufd', kernel), path, watch, schedule: () => {} });
  const plug = (space: number) => machine.passThrough(endpointOf(space), `/dev/vfio/devices/vfio${space}`);
  for (let space = 0; space < spaces; space++) plug(space);
  const replug = (space: number) => {
    machine.remove(endpointOf(space));
    plug(space);
  };
  const store = (space: number, map: boolean) => {
    if (guest.store === undefined) throw new TypeError(`${target}: its guest announces what it maps`);
    if (!watch.stored(guest.store(space, map), 8)) throw new Error('nobody watches the table');
  };
  return { machine, kernel, operate: guest.operate, replug, move: guest.move, store };
}

function spapr(memory: GuestMemory, spaces: number): Guest {
  const liobn = (space: number) => 0x8000_0000 + space;
  const bridges = Array.from({ length: spaces }, (_, i) => ({
    buid: BigInt(i + 1),
    endpoints: [endpointOf(i)],
    windows: [{ liobn: liobn(i), start: 0n, pageLg2: 12, pages: 1 << 12 }],
  }));
  const target = new SpaprIommu({ memory, bridges });
  const registers = new HypercallRegisters();
  const r = registers.i32;
  const operate = (space: number, map: boolean) => {
    r[8] = liobn(space) | 0;
    r[10] = 0x5000;
    r[12] = map ? 0x7003 : 0;
    if (target.hypercall(H_PUT_TCE, registers) !== 0) throw new Error('H_PUT_TCE is refused');
  };
  return { target, operate, move: null };
}

function virtio(memory: GuestMemory, spaces: number): Guest {
  const target = new VirtioIommu({ memory, bootBypass: false });
  target.negotiate(target.device.offeredFeatures);
  const domainOf = (space: number) => space + 1;
  for (let space = 0; space < spaces; space++) {
    target.addEndpoint(endpointOf(space));
    target.attach(domainOf(space), endpointOf(space));
    target.map(domainOf(space), 0n, 0xfffn, 0n, READ_WRITE);
  }
  const operate = (space: number, map: boolean) => {
    const status = map
      ? target.map(domainOf(space), 0x5000n, 0x5fffn, 0x7000n, READ_WRITE)
      : target.unmap(domainOf(space), 0x5000n, 0x5fffn);
    if (status !== 0) throw new Error('the request is refused');
  };
  const move = (space: number, away: boolean) => {
    const status = target.attach(domainOf(space) + (away ? spaces : 0), endpointOf(space));
    if (status !== 0) throw new Error('ATTACH is refused');
  };
  return { target, operate, move };
}

/** Registers of the RISC-V IOMMU ("Register layout"). */
const DDTP = 16;
const CQB = 24;
const CQT = 36;
const CQCSR = 72;

/** Sv39 tables of each device's own, device contexts in a directory of two levels (base format, 32 bytes each). */
function riscv(memory: GuestMemory, spaces: number): Guest {
  const ram = new Uint8Array(memory.regions[0].buffer, 0, Number(memory.regions[0].bytes ?? memory.regions[0].buffer.byteLength));
  const allocator = new TablePages(ram, RAM_PAGES / 2, ram.length / 4096);
  const store = (at: number, value: bigint) => memory.store64(hiOf(BigInt(at)), loOf(BigInt(at)), hiOf(value), loOf(value));
  const directory = allocator.allocate(1);
  const leaves = new Map<number, number>();
  const roots = Array.from({ length: spaces }, () => allocator.allocate(1));
  const tables = roots.map((root, space) => {
    const table = new RiscvTable({ mode: 'sv39', memory, root, allocator });
    table.map(9, 7, 1, READ_WRITE);
    const endpoint = endpointOf(space);
    const upper = endpoint >>> 7;
    if (!leaves.has(upper)) {
      leaves.set(upper, allocator.allocate(1));
      store(directory * 4096 + upper * 8, (BigInt(leaves.get(upper)!) << 10n) | 1n);
    }
    const words = [1n, 0n, BigInt(space + 1) << 12n, (8n << 60n) | BigInt(root)];
    for (const [i, word] of words.entries()) store(leaves.get(upper)! * 4096 + (endpoint & 127) * 32 + 8 * i, word);
    return table;
  });
  // No MSI translation, so that the contexts have their base format.
  const target = new RiscvIommu({ capabilities: 0x10n | (7n << 9n) | (46n << 32n) }, { memory });
  for (let space = 0; space < spaces; space++) target.addEndpoint(endpointOf(space));
  const queue = 4096;
  target.write(CQB, 8, (BigInt(queue >>> 12) << 10n) | 6n);
  target.write(CQCSR, 4, 1n);
  target.write(DDTP, 8, (BigInt(directory) << 10n) | 3n);
  let tail = 0;
  const operate = (space: number, map: boolean) => {
    if (map) tables[space].map(5, 7, 1, READ_WRITE);
    else tables[space].unmap(5, 1);
    // IOTINVAL.VMA with AV and PSCV, then IOFENCE.C.
    store(queue + tail * 16, 1n | (1n << 10n) | (BigInt(space + 1) << 12n) | (1n << 32n));
    store(queue + tail * 16 + 8, 5n << 10n);
    store(queue + (tail + 1) * 16, 2n);
    store(queue + (tail + 1) * 16 + 8, 0n);
    tail = (tail + 2) & 127;
    target.write(CQT, 4, BigInt(tail));
  };
  // RAM ends below 4 GiB, and so page numbers of tables fit the low half of an entry.
  const first = (table: number) => {
    memory.load64(0, table << 12);
    return memory.word[0] >>> 10;
  };
  const entries = tables.map((_, space) => first(first(roots[space])) * 4096 + 5 * 8);
  const stored = (space: number, map: boolean) => {
    // V, R, W, U, A, D (Privileged ISA, "Sv39").
    store(entries[space], map ? (7n << 10n) | 0xd7n : 0n);
    return BigInt(entries[space]);
  };
  return { target, operate, move: null, store: stored };
}
