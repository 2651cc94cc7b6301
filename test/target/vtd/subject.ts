import { fc } from '@fast-check/vitest';
import { hiOf, loOf } from '../../../src/memory/address.ts';
import type { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { PageTable } from '../../../src/pagetable/page-table.ts';
import type { VtdIommu, VtdIommuOptions } from '../../../src/target/vtd/index.ts';
import type { TargetFixture, TargetSubject } from '../suite.ts';
import { coveringLg2, type TableEdit, tableEdits } from '../table-edits.ts';
import {
  Cmd,
  contextDevice,
  contextGlobal,
  type Descriptor,
  EVERYTHING,
  Guest,
  iotlbDomain,
  iotlbGlobal,
  iotlbPages,
  pasidGlobal,
  pasidPages,
  pasidSelective,
  Reg,
  wait,
} from './guest.ts';

const RAM_PAGES = 1024;
const DEVICES = [8, 16] as const;

type Flush = 'all' | 'domain' | 'pages' | 'range' | 'registers';

/** What the driver does: edits of its tables with the invalidations that they need, entries, modes. Tables 0 and 1 are second stages, 2 and 3 first ones. */
export type Step =
  | TableEdit<Flush>
  | { readonly do: 'entry'; readonly device: number; readonly second: number; readonly first: number; readonly wrong: bigint }
  | { readonly do: 'translation'; readonly on: boolean };

class VtdFixture implements TargetFixture<Step> {
  readonly guest: Guest;
  readonly tables: readonly { root: number; table: PageTable }[];
  readonly memory: GuestMemory;
  readonly endpoints = DEVICES;
  /** Each is what the other device's requests without one go by (RID_PASID); its own a request may not name (SCT.9). */
  readonly pasids = DEVICES;

  constructor(options: VtdIommuOptions, like?: VtdFixture) {
    this.guest = new Guest({ iotlbEntries: 64, ...options }, RAM_PAGES, {}, like?.memory);
    this.memory = this.guest.memory;
    for (const device of DEVICES) this.guest.iommu.addEndpoint(device);
    if (like !== undefined) {
      this.tables = like.tables;
      this.guest.tail = like.guest.tail;
      return;
    }
    const second = [this.guest.secondStage(4), this.guest.secondStage(3)];
    // What first stages are read through, behind what the steps map.
    for (const { table } of second) table.map(0x1_0000, 0, RAM_PAGES, 3);
    this.tables = [...second, this.guest.firstStage(), this.guest.firstStage()];
    for (const device of DEVICES) this.#setEntry(device, device === 8 ? 0 : 1, -1, 0n);
    this.guest.start();
  }

  get target(): VtdIommu {
    return this.guest.iommu;
  }

  get later(): (() => void)[] {
    return this.guest.later;
  }

  /** Domain: 1 and the second stage's number; 8 and more for first stages, each PASID and domain its tables. */
  #setEntry(device: number, second: number, first: number, wrong: bigint): void {
    const { guest } = this;
    if (!guest.scalable) {
      const { root } = this.tables[Math.max(second, 0)];
      guest.setContext(device, { root, did: second + 1, levels: second === 1 ? 3 : 4, tt: second < 0 ? 2 : 0, low: wrong });
      return;
    }
    guest.setScalableContext(device, 0n, BigInt(device));
    if (first < 0 && second < 0) guest.setPasid(device, { pgtt: 4, did: 9, low: wrong });
    else if (first < 0)
      guest.setPasid(device, { pgtt: 2, did: second + 1, second: this.tables[second].root, levels: 4 - second, low: wrong });
    else guest.setPasid(device, { pgtt: 1, did: first + 8, first: this.tables[first].root, low: wrong });
  }

  run(step: Step): unknown {
    const { guest } = this;
    const { iommu } = guest;
    if (step.do === 'translation') {
      guest.global(Cmd.te, step.on);
    } else if (step.do === 'entry') {
      this.#setEntry(step.device, step.second, step.first, step.wrong);
      guest.submit(contextDevice(step.device), ...(guest.scalable ? [pasidSelective(0, step.device)] : []), iotlbGlobal, wait());
    } else {
      const { table } = this.tables[step.table];
      if (step.do === 'map') table.map(step.pfn, step.to, step.pages, step.permission);
      else table.unmap(step.pfn, step.pages);
      this.#invalidate(step.table, step.pfn, step.pages, step.flush);
    }
    return [Reg.gsts, Reg.fsts, Reg.iqh, Reg.iqt].map((offset) => iommu.read(offset, 4));
  }

  #invalidate(table: number, pfn: number, pages: number, flush: Flush): void {
    const { guest } = this;
    const registers = flush === 'registers' && !guest.scalable;
    if (registers) {
      guest.iommu.write(Reg.iva, 8, 0n);
      guest.iommu.write(Reg.iotlb, 8, (1n << 63n) | (2n << 60n) | (BigInt(table + 1) << 32n));
      return;
    }
    guest.submit(...this.#descriptors(table, pfn, pages, flush), wait());
  }

  #descriptors(table: number, pfn: number, pages: number, flush: Flush): Descriptor[] {
    const domain = table < 2 ? table + 1 : table + 8;
    if (flush === 'all' || flush === 'registers') return [iotlbGlobal];
    if (flush === 'domain') return [iotlbDomain(domain)];
    const selective = (at: number, am: number) =>
      table < 2 ? [iotlbPages(domain, at, am)] : DEVICES.map((device) => pasidPages(domain, device, at, am));
    if (flush === 'pages') return Array.from({ length: Math.min(pages, 24) }, (_, i) => selective(pfn + i, 0)).flat();
    return selective(pfn, coveringLg2(pfn, pages));
  }
}

const edit = tableEdits<Flush>({
  tables: 2,
  pfn: fc.oneof(
    fc.nat(40),
    fc.nat(40).map((page) => 0xfedf0 + page),
  ),
  to: fc.oneof(
    fc.nat(RAM_PAGES + 8),
    fc.nat(24).map((page) => 0xfedf0 + page),
  ),
  pages: 24,
  permissions: [1, 3, 3, 2],
  flushes: ['all', 'domain', 'pages', 'range', 'registers'],
});
const firstStageEdit = edit.map((step) => ({ ...step, table: step.table + 2, permission: step.permission === 2 ? 3 : step.permission }));
const wrong = fc.constantFrom(0n, 0n, 0n, 0n, 0n, 1n << 11n, 1n << 10n, 1n << 5n);
const translation = fc.record({ do: fc.constant('translation' as const), on: fc.constantFrom(true, true, false) });
const legacyEntry = fc.record({
  do: fc.constant('entry' as const),
  device: fc.constantFrom(...DEVICES),
  second: fc.constantFrom(0, 1, -1),
  first: fc.constant(-1),
  wrong,
});
const scalableEntry = fc.record({
  do: fc.constant('entry' as const),
  device: fc.constantFrom(...DEVICES),
  second: fc.constantFrom(0, 1, -1),
  first: fc.constantFrom(-1, 2, 3),
  wrong,
});

const word = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.bigInt({ min: 0n, max: BigInt(RAM_PAGES * 4096) }),
  fc.constantFrom(0n, 1n, 3n, 2n ** 64n - 1n),
);
const place = fc.oneof(
  fc.nat(RAM_PAGES * 512).map((doubleword) => doubleword * 8),
  fc.nat(9 * 512).map((doubleword) => doubleword * 8),
);

type Act = { readonly what: string; readonly act: (fixture: TargetFixture<Step>) => void };

const hostile = fc.oneof<fc.Arbitrary<Act>[]>(
  fc
    .tuple(
      fc.oneof(fc.nat(0x300), fc.constantFrom(...Object.values(Reg)), fc.integer({ min: -8, max: 9000 })),
      fc.constantFrom(1, 2, 4, 8, 8, 4),
      word,
    )
    .map(([offset, bytes, value]) => ({
      what: `write 0x${offset.toString(16)} ${bytes} 0x${value.toString(16)}`,
      act: ({ target }) => {
        (target as VtdIommu).write(offset, bytes, value);
        (target as VtdIommu).read(offset, bytes);
      },
    })),
  fc.tuple(word, fc.nat(0x7fff0)).map(([base, tail]) => ({
    what: `queue at 0x${base.toString(16)}, tail ${tail}`,
    act: (fixture) => {
      const { guest } = fixture as VtdFixture;
      guest.iommu.write(Reg.fsts, 4, 0x7fn);
      guest.iommu.write(Reg.iqa, 8, base);
      guest.global(Cmd.qie);
      guest.iommu.write(Reg.iqt, 8, BigInt(tail));
    },
  })),
  fc.tuple(place, word).map(([at, value]) => ({
    what: `store 0x${at.toString(16)} 0x${value.toString(16)}`,
    act: ({ memory }) => void memory.store64(0, at, hiOf(value), loOf(value)),
  })),
  fc.tuple(fc.nat(10), word, word, word).map(([type, low, high, top]) => ({
    what: `descriptor ${type} 0x${low.toString(16)} 0x${high.toString(16)}`,
    act: (fixture) => {
      const { guest } = fixture as VtdFixture;
      const named = (low & ~0xe0fn) | BigInt(type);
      guest.iommu.write(Reg.fsts, 4, 0x7fn);
      guest.submit([named & 0xfffff_ffff_01ffn, high & ~0xfc0n], [named, high, top], contextGlobal, pasidGlobal, wait());
      guest.iommu.write(Reg.fsts, 4, 0x7fn);
    },
  })),
  fc.tuple(fc.constantFrom(...DEVICES, 63, 0x10000), word, fc.integer({ min: -2, max: 300 })).map(([device, iova, pasid]) => ({
    what: `access of ${device} ${pasid} at 0x${iova.toString(16)}`,
    act: ({ target }) => {
      const iommu = target as VtdIommu;
      for (const access of [0, 1, 2, 3, 4, 15]) iommu.translate(device, pasid, hiOf(iova), loOf(iova), access);
      iommu.translationRequest({ device, pasid: pasid < 0 ? null : pasid, address: iova });
      iommu.translatedRequest(device, iova, 2);
      iommu.remap(device, loOf(iova), hiOf(iova));
      iommu.remapIoapic(device, loOf(iova), hiOf(iova));
      iommu.pageRequest({
        device,
        pasid: pasid < 0 ? null : pasid,
        address: iova,
        read: true,
        write: false,
        group: pasid & 0x1ff,
        last: true,
      });
      iommu.invalidationCompletion(device, pasid & 31);
      iommu.invalidationTimeout(device);
    },
  })),
);

const mapping: Step[] = [{ do: 'map', table: 0, pfn: 5, to: 32, pages: 4, permission: 3, flush: 'all' }];
const unmapping: Step[] = [
  { do: 'unmap', table: 0, pfn: 6, to: 0, pages: 2, permission: 3, flush: 'pages' },
  { do: 'unmap', table: 0, pfn: 8, to: 0, pages: 1, permission: 3, flush: 'all' },
];

export const legacySubject: TargetSubject<Step> = {
  name: 'VT-d, legacy mode',
  make: (like) => new VtdFixture({}, like as VtdFixture | undefined),
  step: fc.oneof(
    { weight: 8, arbitrary: edit as fc.Arbitrary<Step> },
    { weight: 3, arbitrary: legacyEntry },
    { weight: 1, arbitrary: translation },
  ),
  mapping,
  unmapping,
  hostile,
  numRuns: 25,
};

export const scalableSubject: TargetSubject<Step> = {
  name: 'VT-d, scalable mode',
  make: (like) => new VtdFixture(EVERYTHING, like as VtdFixture | undefined),
  step: fc.oneof(
    { weight: 5, arbitrary: edit as fc.Arbitrary<Step> },
    { weight: 5, arbitrary: firstStageEdit as fc.Arbitrary<Step> },
    { weight: 4, arbitrary: scalableEntry },
    { weight: 1, arbitrary: translation },
  ),
  mapping,
  unmapping,
  processes: [
    { do: 'translation', on: true },
    ...DEVICES.map((device) => ({ do: 'entry', device, second: 0, first: -1, wrong: 0n }) as const),
  ],
  hostile,
  numRuns: 25,
};
