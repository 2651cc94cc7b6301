import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { StoreWatch } from '../../src/accel/store-watch.ts';
import { openHost } from '../../src/host/registry.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf, pfnOfHiLo } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { ArmTable } from '../../src/pagetable/arm.ts';
import type { PageTable } from '../../src/pagetable/page-table.ts';
import { RiscvTable } from '../../src/pagetable/riscv.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { RiscvIommu } from '../../src/target/riscv/index.ts';
import { NO_PASID, type Target } from '../../src/target/target.ts';
import { VtdIommu } from '../../src/target/vtd/index.ts';
import { Machine } from '../../src/vmm/machine.ts';
import * as riscv from '../target/riscv/guest.ts';
import * as smmu from '../target/smmuv3/guest.ts';
import * as vtd from '../target/vtd/guest.ts';
import { hardwares } from './equivalence.ts';
import { GuestStores } from './guest-stores.ts';

const RAM_PAGES = 2048;
const DEVICE = 8;
/** Where a guest's pool for tables begins, above what its driver uses; how large it is; guest pages that are mapped lie above. */
const POOL = 600;
const POOL_PAGES = 64;
const DATA = 1024;
/** IOVA page of the first mapping: the end of a 2 MiB block, so that programs reach over it. */
const BASE = 0x3f0;
const PAGES = Array.from({ length: 48 }, (_, i) => BASE - 8 + i);

/** A guest whose driver says what it unmaps, and never what it maps, as stock Linux does. */
interface SilentGuest {
  readonly target: Target & { save(): unknown };
  readonly table: PageTable;
  /** A target of the same kind that has cached nothing. */
  fresh(): Target;
  invalidate(first: number, pages: number): void;
}

type Make = (memory: GuestMemory, stores: GuestStores) => SilentGuest;

const guests: Readonly<Record<string, Make>> = {
  'RISC-V, first stage': (memory, stores) => {
    const guest = new riscv.Guest({}, RAM_PAGES, {}, memory);
    guest.iommu.addEndpoint(DEVICE);
    guest.start();
    const { root } = guest.table('sv39');
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: 1 } });
    guest.command(riscv.invalDdt(DEVICE), riscv.fence());
    return {
      target: guest.iommu,
      table: new RiscvTable({ mode: 'sv39', secondStage: false, memory: stores, root, allocator: stores, svpbmt: true }),
      fresh: () => new RiscvIommu(guest.config, { memory }),
      invalidate: () => guest.command(riscv.invalVma({ pscid: 1 }), riscv.fence()),
    };
  },
  'RISC-V, first stage behind a second': (memory, stores) => {
    const guest = new riscv.Guest({}, RAM_PAGES, {}, memory);
    guest.iommu.addEndpoint(DEVICE);
    guest.start();
    const { root } = guest.table('sv39');
    const second = guest.table('sv48', true);
    second.table.map(0, 0, RAM_PAGES, 7);
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: 1 }, second: { mode: 9, root: second.root, gscid: 3 } });
    guest.command(riscv.invalDdt(DEVICE), riscv.fence());
    return {
      target: guest.iommu,
      table: new RiscvTable({ mode: 'sv39', secondStage: false, memory: stores, root, allocator: stores, svpbmt: true }),
      fresh: () => new RiscvIommu(guest.config, { memory }),
      invalidate: () => guest.command(riscv.invalVma({ gscid: 3, pscid: 1 }), riscv.fence()),
    };
  },
  'RISC-V, second stage': (memory, stores) => {
    const guest = new riscv.Guest({}, RAM_PAGES, {}, memory);
    guest.iommu.addEndpoint(DEVICE);
    guest.start();
    const { root } = guest.table('sv39', true);
    guest.setContext(DEVICE, { second: { mode: 8, root, gscid: 3 } });
    guest.command(riscv.invalDdt(DEVICE), riscv.fence());
    return {
      target: guest.iommu,
      table: new RiscvTable({ mode: 'sv39', secondStage: true, memory: stores, root, allocator: stores, svpbmt: true }),
      fresh: () => new RiscvIommu(guest.config, { memory }),
      invalidate: () => guest.command(riscv.invalGvma(3), riscv.fence()),
    };
  },
  'SMMUv3, stage 1': (memory, stores) => {
    const guest = new smmu.Guest({}, memory);
    guest.smmu.addEndpoint(DEVICE);
    const made = guest.table();
    guest.start();
    guest.setContext(0, smmu.contextOf(1, made));
    guest.setStream(DEVICE, { CONFIG: 5, S1CONTEXT_PTR: smmu.CONTEXTS / 64 });
    guest.command(smmu.cfgiSte(DEVICE), smmu.cfgiCd(DEVICE), smmu.sync());
    return {
      target: guest.smmu,
      table: new ArmTable(stores, { ...made.config, allocator: stores }),
      fresh: () => new smmu.Guest({}, memory).smmu,
      invalidate: () => guest.command(smmu.tlbiAsid(1), smmu.sync()),
    };
  },
  'VT-d, first stage': (memory, stores) => {
    const guest = new vtd.Guest({ ...vtd.EVERYTHING, deviceTlb: false, pageRequests: false }, RAM_PAGES, {}, memory);
    guest.iommu.addEndpoint(DEVICE);
    guest.start();
    const { root } = guest.firstStage();
    guest.setScalableContext(DEVICE, 0n, BigInt(DEVICE));
    guest.setPasid(DEVICE, { pgtt: 1, did: 8, first: root });
    guest.submit(vtd.contextDevice(DEVICE), vtd.pasidSelective(8, DEVICE), vtd.wait());
    return {
      target: guest.iommu,
      table: new X86Table(stores, { levels: 4, root, allocator: stores }),
      fresh: () => new VtdIommu(guest.options, { memory }),
      invalidate: (first, pages) => {
        const all = Array.from({ length: pages }, (_, i) => vtd.pasidPages(8, DEVICE, first + i));
        guest.submit(...all, vtd.wait());
      },
    };
  },
};

/** A machine whose guest's stores to tables all go through the watch, over simulated hardware that forgets nothing by itself. */
class WatchedMachine {
  readonly kernel: SimKernel;
  readonly watch: StoreWatch;
  readonly stores: GuestStores;
  readonly guest: SilentGuest;
  readonly machine: Machine;
  readonly #ramPfn: number;
  readonly #reference: Target;

  constructor(make: Make, hardware: string, path: string, watch = new StoreWatch()) {
    const { host: kind, nesting } = hardwares[hardware];
    this.watch = watch;
    this.kernel = simKernel({ iommus: [{ nesting: nesting() }], devices: [{ name: 'vfio0' }] });
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    this.#ramPfn = pfnOf(ram.address);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.stores = new GuestStores(memory, watch, POOL, POOL + POOL_PAGES);
    this.guest = make(memory, this.stores);
    const host = openHost(kind, this.kernel);
    this.machine = new Machine({ memory, target: this.guest.target, host, path, watch, schedule: () => {} });
    const { path: node, group, name } = this.kernel.devices[0];
    this.machine.passThrough(DEVICE, kind === 'iommufd' ? node : `/dev/vfio/${group.number}#${name}`);
    this.#reference = this.guest.fresh();
    (this.#reference as unknown as { addEndpoint(endpoint: number): void }).addEndpoint(DEVICE);
  }

  hardware(): (string | null)[] {
    return reached((pfn, access) => {
      const host = this.kernel.devices[0].hostPfn(pfn, access);
      return host < 0 ? -1 : host - this.#ramPfn;
    });
  }

  /** As an IOMMU translates that has cached nothing. */
  walked(): (string | null)[] {
    const reference = this.#reference;
    reference.load(this.guest.target.save());
    return translated(reference);
  }

  touch(): void {
    const byte = new Uint8Array(1);
    for (const pfn of PAGES)
      if (this.kernel.devices[0].dmaRead(BigInt(pfn) << 12n, byte) === 0) this.kernel.devices[0].dmaWrite(BigInt(pfn) << 12n, byte);
  }
}

function translated(target: Target): (string | null)[] {
  return reached((pfn, access) => {
    const lg2 = target.translate(DEVICE, NO_PASID, hiOfPfn(pfn), loOfPfn(pfn), access);
    return lg2 < 0 ? -1 : pfnOfHiLo(target.translated[1], target.translated[0]);
  });
}

function reached(find: (pfn: number, access: number) => number): (string | null)[] {
  return PAGES.map((pfn) => {
    const [read, write] = [find(pfn, READ), find(pfn, WRITE)];
    return read < 0 && write < 0 ? null : `${Math.max(read, write)}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
  });
}

const edit = fc.record({
  map: fc.boolean(),
  pfn: fc.nat(24),
  to: fc.constantFrom(DATA, DATA + 7, DATA + 0x1f0),
  pages: fc.integer({ min: 1, max: 12 }),
  permission: fc.constantFrom(READ, READ_WRITE),
});

const rows = [
  ['shadow', 'type1, plain hardware'],
  ['user-owned', 'iommufd, VT-d'],
  ['user-owned', 'iommufd, SMMUv3'],
] as const;

for (const [name, make] of Object.entries(guests)) {
  describe(`${name}: a guest that never announces a map`, () => {
    for (const [path, hardware] of rows) {
      test.prop([fc.array(edit, { minLength: 3, maxLength: 8 })], { numRuns: 5 })(
        `${path} over ${hardware}: after every store to its tables the hardware has what a walk finds, and after every invalidation what software does`,
        (program) => {
          const made = new WatchedMachine(make, hardware, path);
          expect(made.machine.state.endpoints[DEVICE].path).toBe(`${path}, watched`);
          let followed = 0;
          const edits = [{ map: true, pfn: 0, to: DATA, pages: 4, permission: READ_WRITE }, ...program];
          for (const { map, pfn, to, pages, permission } of edits) {
            made.touch();
            const { table } = made.guest;
            if (map) table.map(BASE + pfn, to + pfn, pages, permission);
            else table.unmap(BASE + pfn, pages);
            made.stores.commit(() => {
              followed++;
              expect(made.hardware()).toEqual(made.walked());
            });
            if (!map) made.guest.invalidate(BASE + pfn, pages);
            expect(made.hardware()).toEqual(translated(made.guest.target));
          }
          expect(followed).toBeGreaterThan(0);
          // Tables of the guest, and nothing else; a page that is none any more is left at the next store to it.
          expect(made.watch.size).toBeLessThanOrEqual(POOL_PAGES + 8);
          made.machine.close();
          expect(made.watch.size).toBe(0);
        },
      );
    }
  });
}

describe('a watch that has no pages left', () => {
  test('blocks the device, and the machine says why', () => {
    const made = new WatchedMachine(guests['RISC-V, first stage'], 'type1, plain hardware', 'shadow', new StoreWatch(2));
    expect(made.machine.state.endpoints[DEVICE].path).toBe('shadow, watched');
    made.guest.table.map(BASE, DATA, 32, READ_WRITE);
    made.stores.commit(() => {});
    const { path, refused } = made.machine.state.endpoints[DEVICE];
    expect(path).toBe('blocked');
    expect(refused.at(-1)?.reason).toMatch(/not all of its tables can be watched/);
    expect(made.hardware().every((page) => page === null)).toBe(true);
  });

  test('finds pages that are tables no more', () => {
    const made = new WatchedMachine(guests['RISC-V, first stage'], 'type1, plain hardware', 'shadow', new StoreWatch(4));
    const { table } = made.guest;
    for (let round = 0; round < 8; round++) {
      table.map(BASE + 0x10000 * round, DATA, 1, READ_WRITE);
      made.stores.commit(() => {});
      table.unmap(BASE + 0x10000 * round, 1);
      // A driver that gives no table back, so that each round has others.
      made.stores.commit(() => {});
      made.guest.invalidate(BASE, 1);
      expect(made.machine.state.endpoints[DEVICE].path).toBe('shadow, watched');
    }
    expect(made.watch.size).toBeLessThanOrEqual(4);
  });
});
