import { fc } from '@fast-check/vitest';
import { hiOf, loOf } from '../../../src/memory/address.ts';
import type { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { PageTable } from '../../../src/pagetable/page-table.ts';
import type { AmdIommu } from '../../../src/target/amd/index.ts';
import type { TargetFixture, TargetSubject } from '../suite.ts';
import { coveringLg2, type TableEdit, tableEdits } from '../table-edits.ts';
import { completionWait, Guest, invalidateAll, invalidateDevice, invalidatePages, ON, RAM_PAGES, Reg } from './guest.ts';

const DEVICES = [8, 16] as const;

type Flush = 'all' | 'domain' | 'pages' | 'range';
/** Tables 0 and 1 are host tables, table 2 is the guest table of PASID 0; domains are table and nesting. */
type Step =
  | TableEdit<Flush>
  | {
      readonly do: 'device';
      readonly device: number;
      readonly host: number;
      readonly guest: boolean;
      readonly permission: number;
      readonly v: boolean;
      readonly tv: boolean;
      readonly spoilt: bigint;
    }
  | { readonly do: 'control'; readonly value: bigint }
  | { readonly do: 'exclude'; readonly base: bigint };

class AmdFixture implements TargetFixture<Step> {
  readonly guest: Guest;
  readonly memory: GuestMemory;
  readonly endpoints = DEVICES;
  readonly tables: readonly { readonly root: number; readonly table: PageTable }[];
  readonly gcr3: number;

  constructor(like?: AmdFixture) {
    this.guest = new Guest({ iotlbEntries: 64 }, like?.memory);
    this.memory = this.guest.memory;
    for (const device of DEVICES) this.guest.iommu.addEndpoint(device);
    if (like !== undefined) {
      this.tables = like.tables;
      this.gcr3 = like.gcr3;
      return;
    }
    this.tables = [this.guest.v1(3), this.guest.v1(4), this.guest.v2(4)];
    this.gcr3 = this.guest.pool.allocate(1);
    this.guest.store(BigInt(this.gcr3) << 12n, (BigInt(this.tables[2].root) << 12n) | 1n);
    // Guest tables lie in guest-physical memory, one to one; what lies above is the steps'.
    for (const { table } of this.tables.slice(0, 2)) table.map(0, 0, RAM_PAGES, 3);
    this.guest.start();
    for (const device of DEVICES) this.guest.setDevice(device, {});
    this.guest.command(invalidateAll());
  }

  get target(): AmdIommu {
    return this.guest.iommu;
  }

  get later(): (() => void)[] {
    return this.guest.later;
  }

  run(step: Step): unknown {
    const { guest } = this;
    if (step.do === 'control') guest.write(Reg.control, step.value);
    else if (step.do === 'exclude') {
      guest.write(Reg.exclusionLimit, 0x30_0000n);
      guest.write(Reg.exclusionBase, step.base);
    } else if (step.do === 'device') {
      const { device, host, v, tv, permission } = step;
      const mode = host < 2 ? 3 + host : 0;
      const root = host < 2 ? this.tables[host].root : 0;
      guest.setDevice(device, {
        v,
        tv,
        permission,
        mode,
        root,
        domain: 1 + host + (step.guest ? 4 : 0),
        ...(step.guest && { gcr3: this.gcr3, giov: true }),
        bits: [step.spoilt, 0n, 0n, 0n],
      });
      guest.command(invalidateDevice(device), completionWait());
    } else {
      const { table } = this.tables[step.table];
      const pfn = step.table < 2 ? step.pfn + RAM_PAGES : step.pfn;
      if (step.do === 'map') table.map(pfn, step.to, step.pages, step.table === 2 ? step.permission | 1 : step.permission);
      else table.unmap(pfn, step.pages);
      guest.command(...this.#invalidations(step.table, pfn, step.pages, step.flush), completionWait());
    }
    return [Reg.commandHead, Reg.status, Reg.control].map((offset) => guest.read(offset));
  }

  #invalidations(table: number, pfn: number, pages: number, flush: Flush): [bigint, bigint][] {
    if (flush === 'all') return [invalidateAll()];
    const domains = table === 2 ? [5, 6, 7] : [1 + table, 5 + table];
    return domains.flatMap((domain) => {
      const pasid = table === 2 ? 0 : -1;
      if (flush === 'domain') return [invalidatePages(domain, 0, 64, pasid)];
      if (flush === 'pages') return Array.from({ length: pages }, (_, i) => invalidatePages(domain, pfn + i, 12, pasid));
      const lg2 = Math.max(13, 12 + coveringLg2(pfn, pages));
      return [invalidatePages(domain, Math.floor(pfn / 2 ** (lg2 - 12)) * 2 ** (lg2 - 12), lg2, pasid)];
    });
  }
}

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: tableEdits<Flush>({
      tables: 3,
      pfn: fc.oneof(
        fc.nat(60),
        fc.nat(60).map((page) => 0xfedf0 + page),
      ),
      to: fc.nat(RAM_PAGES + 8),
      pages: 40,
      permissions: [1, 3, 3, 2],
      flushes: ['all', 'domain', 'pages', 'range'],
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('device' as const),
      device: fc.constantFrom(...DEVICES),
      host: fc.nat(2),
      guest: fc.boolean(),
      permission: fc.constantFrom(3, 3, 1, 2, 0),
      v: fc.constantFrom(true, true, true, false),
      tv: fc.constantFrom(true, true, true, false),
      spoilt: fc.constantFrom(0n, 0n, 0n, 4n, 7n << 9n),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('control' as const), value: fc.constantFrom(ON, ON, 0n, ON & ~(1n << 16n)) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('exclude' as const), base: fc.constantFrom(0n, 0x20_0003n, 0x20_0001n) }) },
);

const word = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.bigInt({ min: 0n, max: BigInt(RAM_PAGES * 4096) }),
  fc.constantFrom(0n, 1n, 3n, 2n ** 64n - 1n),
);

type Act = { readonly what: string; readonly act: (fixture: TargetFixture<Step>) => void };
const hostile = fc.oneof<fc.Arbitrary<Act>[]>(
  fc
    .tuple(
      fc.oneof(fc.constantFrom(...Object.values(Reg)), fc.integer({ min: -8, max: 0x4008 })),
      fc.constantFrom(1, 4, 8, 8),
      fc.oneof(
        word,
        word.map((value) => value | ON),
      ),
    )
    .map(([offset, bytes, value]) => ({
      what: `write ${offset} ${bytes} 0x${value.toString(16)}`,
      act: ({ target }) => {
        (target as AmdIommu).write(offset, bytes, value);
        (target as AmdIommu).read(offset, bytes);
      },
    })),
  fc.tuple(fc.nat(RAM_PAGES * 512 - 1), word).map(([at, value]) => ({
    what: `store 0x${(8 * at).toString(16)} 0x${value.toString(16)}`,
    act: ({ memory }) => void memory.store64(0, 8 * at, hiOf(value), loOf(value)),
  })),
  fc.tuple(fc.nat(15), word, word).map(([code, low, high]) => ({
    what: `command ${code} 0x${low.toString(16)} 0x${high.toString(16)}`,
    act: (fixture) =>
      (fixture as AmdFixture).guest.command([(BigInt(code) << 60n) | (low & 0xfff_ffff_ffffn), high], [BigInt(code) << 60n, high & 7n]),
  })),
  fc.tuple(fc.constantFrom(...DEVICES), fc.tuple(word, word, word, word)).map(([device, bits]) => ({
    what: `device table entry ${bits}`,
    act: (fixture) => {
      const { guest } = fixture as AmdFixture;
      guest.setDevice(device, { bits });
      guest.command(invalidateDevice(device), invalidatePages(Number(bits[1] & 0xffffn)));
      guest.iommu.remap(device, 0xfee00000 | 0, loOf(bits[0]));
    },
  })),
  fc.tuple(fc.constantFrom(...DEVICES, 63, 9999, 70000), word, fc.integer({ min: -1, max: 2 ** 20 })).map(([device, iova, pasid]) => ({
    what: `access of ${device} ${pasid} at 0x${iova.toString(16)}`,
    act: ({ target }) => {
      for (const access of [1, 2, 4, 15]) target.translate(device, pasid, hiOf(iova), loOf(iova), access);
      const request = { page: Number(iova >> 12n), read: true, write: true, execute: true, user: true, group: device, last: true };
      (target as AmdIommu).pageRequest({ device: device & 0xffff, pasid: pasid < 0 ? null : pasid, ...request });
      (target as AmdIommu).remap(device & 0xffff, loOf(iova), pasid);
    },
  })),
);

export const amdSubject: TargetSubject<Step> = {
  name: 'AMD IOMMU',
  make: (like) => new AmdFixture(like as AmdFixture | undefined),
  step,
  mapping: [
    { do: 'device', device: 8, host: 0, guest: false, permission: 3, v: true, tv: true, spoilt: 0n },
    { do: 'map', table: 0, pfn: 5, to: 32, pages: 4, permission: 3, flush: 'all' },
  ],
  unmapping: [
    { do: 'unmap', table: 0, pfn: 6, to: 0, pages: 2, permission: 3, flush: 'pages' },
    { do: 'unmap', table: 0, pfn: 8, to: 0, pages: 1, permission: 3, flush: 'all' },
  ],
  hostile,
  numRuns: 25,
};
