import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { ArmTable } from '../../src/pagetable/arm.ts';
import type { PageTable } from '../../src/pagetable/page-table.ts';
import { RiscvTable } from '../../src/pagetable/riscv.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { RiscvIommu } from '../../src/target/riscv/index.ts';
import type { Target } from '../../src/target/target.ts';
import { VtdIommu } from '../../src/target/vtd/index.ts';
import * as riscv from '../target/riscv/guest.ts';
import * as smmu from '../target/smmuv3/guest.ts';
import * as vtd from '../target/vtd/guest.ts';
import type { GuestStores } from './guest-stores.ts';

export const RAM_PAGES = 2048;
export const DEVICE = 8;
/** Where a guest's pool for tables begins, above what its driver uses; how large it is; guest pages that are mapped lie above. */
export const POOL = 600;
export const POOL_PAGES = 64;
export const DATA = 1024;

/** A guest whose driver says what it unmaps, and never what it maps, as stock Linux does. */
export interface SilentGuest {
  readonly target: Target & { save(): unknown };
  readonly table: PageTable;
  /** A target of the same kind that has cached nothing. */
  fresh(): Target;
  invalidate(first: number, pages: number): void;
}

export type Make = (memory: GuestMemory, stores: GuestStores) => SilentGuest;

/** By name. */
export const guests: Readonly<Record<string, Make>> = {
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
