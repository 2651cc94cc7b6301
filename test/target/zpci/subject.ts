import { fc } from '@fast-check/vitest';
import { hiOf, loOf } from '../../../src/memory/address.ts';
import type { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { Target, TargetObserver } from '../../../src/target/target.ts';
import { FAULT_ENDPOINT, type ZpciIommu } from '../../../src/target/zpci/index.ts';
import type { TargetFixture, TargetSubject } from '../suite.ts';
import { FIRST, Guest, GuestTables, handleOf, PAGES, PROTECTED, RAM_PAGES } from './guest.ts';

const FUNCTIONS = [1, 2] as const;

type Step =
  | {
      readonly do: 'map';
      readonly table: number;
      readonly pfn: number;
      readonly to: number;
      readonly pages: number;
      readonly flags: bigint;
    }
  | { readonly do: 'unmap'; readonly table: number; readonly pfn: number; readonly pages: number }
  | { readonly do: 'frame'; readonly table: number; readonly pfn: number; readonly to: number | null; readonly flags: bigint }
  | { readonly do: 'register'; readonly fid: number; readonly table: number; readonly operation: number; readonly last: number }
  | { readonly do: 'modify'; readonly fid: number; readonly operation: number }
  | { readonly do: 'set'; readonly fid: number; readonly operation: 0 | 1 }
  | { readonly do: 'refreshOutside'; readonly fid: number }
  | { readonly do: 'configure'; readonly fid: number; readonly configured: boolean };

/** A guest that takes a function out of the error state as soon as it is in it, as often as the host needs: the suite asks for faults. */
class Recovering implements Target {
  readonly name = 'zpci';
  readonly guest: Guest;

  constructor(guest: Guest) {
    this.guest = guest;
  }

  get iommu(): ZpciIommu {
    return this.guest.iommu;
  }
  get translated(): Int32Array {
    return this.iommu.translated;
  }
  get iotlbHits(): number {
    return this.iommu.iotlbHits;
  }
  get iotlbMisses(): number {
    return this.iommu.iotlbMisses;
  }
  observe(observer: TargetObserver): () => void {
    return this.iommu.observe(observer);
  }
  spaceOf(endpoint: number, pasid?: number) {
    return this.iommu.spaceOf(endpoint, pasid);
  }
  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    const lg2 = this.iommu.translate(endpoint, pasid, hi, lo, access);
    if (lg2 < 0 && lg2 > FAULT_ENDPOINT) for (let i = 0; i < 3 && this.guest.modify(endpoint, 7)[0] !== 0; i++);
    return lg2;
  }
  reset(): void {
    this.iommu.reset();
  }
  save(): unknown {
    return this.iommu.save();
  }
  load(state: unknown): void {
    this.iommu.load(state);
  }
}

class ZpciFixture implements TargetFixture<Step> {
  readonly guest: Guest;
  readonly target: Recovering;
  readonly memory: GuestMemory;
  readonly tables: readonly GuestTables[];
  readonly endpoints = FUNCTIONS;

  constructor(like?: ZpciFixture) {
    this.guest = new Guest({ relaxedTranslation: true, iotlbEntries: 64 }, like?.memory);
    this.memory = this.guest.memory;
    this.target = new Recovering(this.guest);
    this.tables =
      like?.tables ??
      (['segment', 'regionThird', 'regionFirst'] as const).map(
        (type, i) => new GuestTables(this.memory, BigInt(0x10000 + i * 0x20000), type),
      );
    if (like === undefined) this.guest.start();
  }

  run(step: Step): unknown {
    const { guest } = this;
    switch (step.do) {
      case 'map':
      case 'unmap':
      case 'frame': {
        const table = this.tables[step.table];
        if (step.do === 'map') table.map(step.pfn, step.to, step.pages, step.flags);
        else if (step.do === 'unmap') table.unmap(step.pfn, step.pages);
        else table.frame(step.pfn, step.to, step.flags);
        const first = step.do === 'frame' ? step.pfn & ~0xff : step.pfn;
        return FUNCTIONS.map((fid) => guest.refresh(fid, first, step.do === 'frame' ? 256 : step.pages));
      }
      case 'register':
        return guest.register(step.fid, step.table < 3 ? this.tables[step.table].iota : 0n, step.operation, step.last);
      case 'modify':
        return guest.modify(step.fid, step.operation);
      case 'set':
        return guest.set(step.operation === 0 ? handleOf(step.fid) & 0x7fff_ffff : handleOf(step.fid), step.operation);
      case 'refreshOutside':
        return guest.refresh(step.fid, FIRST + PAGES, 1);
      case 'configure':
        return guest.iommu.configure(step.fid, step.configured);
    }
  }
}

const table = fc.nat(2);
const fid = fc.constantFrom(...FUNCTIONS);
const pfn = fc.integer({ min: FIRST, max: FIRST + PAGES - 1 });
const pages = fc.integer({ min: 1, max: 300 });
const flags = fc.constantFrom(0n, 0n, PROTECTED);
// From page 1 on: an entry of all zeros is no entry.
const to = fc.integer({ min: 1, max: RAM_PAGES + 8 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('map' as const), table, pfn, to, pages, flags }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('unmap' as const), table, pfn, pages }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('frame' as const), table, pfn, to: fc.constantFrom(null, 1, 2, 9), flags }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('register' as const),
      fid,
      table: fc.nat(3),
      operation: fc.constantFrom(4, 4, 5, 6),
      last: fc.constantFrom(FIRST + PAGES - 1, FIRST + 77, FIRST - 1),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('modify' as const), fid, operation: fc.constantFrom(7, 9, 10, 2, 3, 99) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('set' as const), fid, operation: fc.constantFrom(0 as const, 1 as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('refreshOutside' as const), fid }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('configure' as const), fid, configured: fc.boolean() }) },
);

const word = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.bigInt({ min: 0n, max: BigInt(RAM_PAGES * 4096) }),
  fc.constantFrom(0n, 1n, 2n ** 63n, 2n ** 64n - 1n, BigInt(handleOf(1)) << 32n, (BigInt(handleOf(2)) << 32n) | 4n, 0x10800n, 0x10804n),
);
const words = fc.tuple(word, word, word, word);
const register = fc.nat(12);

const hostile = fc.oneof(
  fc.tuple(fc.nat(6), words, register, register, word).map(([which, values, r1, r2, address]) => ({
    what: `instruction ${which} ${values} at 0x${address.toString(16)}`,
    act: (fixture: TargetFixture<Step>) => {
      const { guest } = fixture as ZpciFixture;
      const { iommu, registers } = guest;
      values.forEach((value, i) => {
        registers.u64[r1 + i < 16 ? r1 + i : i] = value;
      });
      if (which === 0) iommu.mpcifc(registers, r1, address);
      if (which === 1) iommu.stpcifc(registers, r1, address);
      if (which === 2) iommu.rpcit(registers, r1, r2);
      if (which === 3) iommu.pcilg(registers, r1, r2);
      if (which === 4) iommu.pcistg(registers, r1, r2);
      if (which === 5) iommu.pcistb(registers, r1, r2, address);
      if (which === 6) iommu.message(1, loOf(values[0]));
    },
  })),
  fc.tuple(fc.uint8Array({ maxLength: 8192 }), fc.nat(6)).map(([block, command]) => ({
    what: `CLP of ${block.length} bytes`,
    act: (fixture: TargetFixture<Step>) => {
      (fixture as ZpciFixture).guest.iommu.clp(block);
      if (block.length > 100) block.set([0, 32, 0, command], 0);
      if (block.length > 100) block.set([0, block.length & 0xf8], 32);
      (fixture as ZpciFixture).guest.iommu.clp(block);
    },
  })),
  fc.tuple(fc.constantFrom(...FUNCTIONS), words).map(([fid, [pba, pal, iota, fmb]]) => ({
    what: `registration 0x${iota.toString(16)}`,
    act: (fixture: TargetFixture<Step>) => {
      const { guest } = fixture as ZpciFixture;
      for (const operation of [5, 4, 2, 10]) guest.modify(fid, operation, { 16: pba, 24: pal, 32: iota, 48: fmb, 56: iota, 64: fmb });
      guest.refresh(fid, 0, 2 ** 40);
      guest.iommu.measure();
    },
  })),
  fc.tuple(fc.nat(RAM_PAGES * 512 - 1), word).map(([at, value]) => ({
    what: `store 0x${(8 * at).toString(16)} 0x${value.toString(16)}`,
    act: ({ memory }: TargetFixture<Step>) => void memory.store64BE(0, 8 * at, hiOf(value), loOf(value)),
  })),
  fc.tuple(fc.nat(3), word).map(([device, iova]) => ({
    what: `access of ${device} at 0x${iova.toString(16)}`,
    act: ({ target }: TargetFixture<Step>) => {
      for (const access of [1, 2, 4, 15]) (target as Recovering).iommu.translate(device, -1, hiOf(iova), loOf(iova), access);
    },
  })),
);

export const zpciSubject: TargetSubject<Step> = {
  name: 'zPCI',
  make: (like) => new ZpciFixture(like as ZpciFixture | undefined),
  step,
  mapping: [
    { do: 'register', fid: 1, table: 1, operation: 4, last: FIRST + PAGES - 1 },
    { do: 'map', table: 1, pfn: FIRST + 5, to: 32, pages: 4, flags: 0n },
  ],
  unmapping: [{ do: 'unmap', table: 1, pfn: FIRST + 6, pages: 2 }],
  hostile,
  numRuns: 25,
};
