import { fc } from '@fast-check/vitest';
import { hiOf, loOf } from '../../../src/memory/address.ts';
import type { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { RiscvIommu } from '../../../src/target/riscv/index.ts';
import type { TargetFixture, TargetSubject } from '../suite.ts';
import { coveringLg2, type TableEdit, tableEdits } from '../table-edits.ts';
import { type Context, fence, Guest, type GuestTable, invalDdt, invalGvma, invalPdt, invalVma, invalVmaRange, Reg } from './guest.ts';

const RAM_PAGES = 512;
const DEVICES = [8, 16] as const;

const PD8 = 1;
const PDTV = 1 << 5;
const DPE = 1 << 9;
const SBE = 1 << 10;
/** What a device-context's first stage can be beside the tables 0 and 1: none, a process directory, big-endian tables. */
const BARE = 2;
const PROCESSES = 3;
const BIG_ENDIAN = 4;
/** The second stage of a virtual machine with interrupt files; a GSCID has them in all its contexts or in none. */
const WITH_FILES = 3;
/** The page of addresses that is an interrupt file, and where its MSIs go: outside RAM. */
const MSI_PAGE = 0x20;
const FILE = 0x9000;

type Flush = 'all' | 'process' | 'pages' | 'range';

/** What the driver does: edits of its tables with the invalidations that they need, contexts, modes. */
type Step =
  | TableEdit<Flush>
  | {
      readonly do: 'context';
      readonly device: number;
      readonly first: number;
      readonly second: number;
      readonly valid: boolean;
      readonly tc: number;
    }
  | { readonly do: 'process'; readonly process: number; readonly first: number; readonly valid: boolean }
  | { readonly do: 'endpoint'; readonly there: boolean }
  | { readonly do: 'mode'; readonly mode: number };

/** First stages 0, 1 and 4 (big-endian), second stages 2 and 3; PSCIDs and GSCIDs are their numbers. */
class RiscvFixture implements TargetFixture<Step> {
  readonly guest: Guest;
  readonly tables: readonly GuestTable[];
  /** Root of the process directory, of two processes, and of the MSI page table. */
  readonly directory: number;
  readonly files: number;
  readonly memory: GuestMemory;
  readonly endpoints = DEVICES;
  readonly pasids = [0, 1];

  constructor(like?: RiscvFixture) {
    this.guest =
      like === undefined ? new Guest({ iotlbEntries: 64 }, RAM_PAGES) : new Guest({ iotlbEntries: 64 }, RAM_PAGES, {}, like.memory);
    this.memory = this.guest.memory;
    for (const device of DEVICES) this.guest.iommu.addEndpoint(device);
    if (like !== undefined) {
      this.tables = like.tables;
      this.directory = like.directory;
      this.files = like.files;
      return;
    }
    this.tables = [0, 1, 2, 3, BIG_ENDIAN].map((n) => {
      const second = n === 2 || n === 3;
      return this.guest.table(second ? 'sv48' : 'sv39', second, n === BIG_ENDIAN);
    });
    this.directory = this.guest.pool.allocate(1);
    this.files = this.guest.pool.allocate(1);
    // MSI PTE 0: valid, basic translate mode.
    this.memory.store64(0, this.files * 4096, 0, (FILE << 10) | 7);
    // The first stages' tables lie in guest-physical memory, one to one; what lies above is the steps'.
    for (const { table } of this.tables.slice(2, 4)) table.map(0, 0, RAM_PAGES, 7);
    this.guest.start();
    for (const device of DEVICES) this.guest.setContext(device, this.#context(device === 8 ? 0 : 1, 0));
  }

  get target(): RiscvIommu {
    return this.guest.iommu;
  }

  get later(): (() => void)[] {
    return this.guest.later;
  }

  #context(first: number, second: number): Context {
    return {
      ...(first === PROCESSES && { first: { mode: PD8, root: this.directory, pscid: 0 } }),
      ...((first < 2 || first === BIG_ENDIAN) && { first: { mode: 8, root: this.tables[first].root, pscid: first } }),
      ...(second >= 2 && { second: { mode: 9, root: this.tables[second].root, gscid: second } }),
    };
  }

  run(step: Step): unknown {
    const { guest } = this;
    if (step.do === 'mode') {
      guest.setMode(step.mode);
    } else if (step.do === 'context') {
      const { device, first, second, valid } = step;
      const tc = step.tc | (first === PROCESSES ? PDTV : first === BIG_ENDIAN ? SBE : 0);
      const files = second === WITH_FILES && { msi: { root: this.files, pattern: MSI_PAGE } };
      guest.setContext(device, { ...this.#context(first, second), ...files, valid, tc });
      guest.command(invalDdt(device), fence());
    } else if (step.do === 'process') {
      this.#setProcess(step.process, step.first, step.valid);
      guest.command(...DEVICES.map((device) => invalPdt(device, step.process)), fence());
    } else if (step.do === 'endpoint') {
      if (step.there) guest.iommu.addEndpoint(DEVICES[1]);
      else guest.iommu.removeEndpoint(DEVICES[1]);
    } else {
      const { table } = this.tables[step.table];
      // Second stages keep what first stages are read through.
      const pfn = step.table === 2 || step.table === 3 ? step.pfn + RAM_PAGES : step.pfn;
      if (step.do === 'map') table.map(pfn, step.to, step.pages, step.permission);
      else table.unmap(pfn, step.pages);
      guest.command(...this.#invalidations(step.table, pfn, step.pages, step.flush), fence());
    }
    const { iommu } = guest;
    return [Reg.cqh, Reg.cqcsr, Reg.ddtp, Reg.ipsr].map((offset) => iommu.read(offset, 4));
  }

  /** A process-context: V and PSCID in ta, the first stage or Bare in fsc; V last. */
  #setProcess(process: number, first: number, valid: boolean): void {
    const at = this.directory * 4096 + process * 16;
    const mode = first < 2 ? 8 << 28 : 0;
    this.memory.store64(0, at + 8, mode, first < 2 ? this.tables[first].root : 0);
    this.memory.store64(0, at, 0, valid ? ((first < 2 ? first : 0) << 12) | 1 : 0);
  }

  /** A first stage may stand before any second one, or none. */
  #invalidations(table: number, pfn: number, pages: number, flush: Flush): [bigint, bigint][] {
    if (table === 2 || table === 3) return [invalGvma(table)];
    return [undefined, 2, 3].flatMap((gscid) => {
      const space = gscid === undefined ? {} : { gscid };
      if (flush === 'all') return [invalVma(space)];
      if (flush === 'process') return [invalVma({ ...space, pscid: table })];
      if (flush === 'pages') return Array.from({ length: pages }, (_, i) => invalVma({ ...space, pscid: table, pfn: pfn + i }));
      const size = 2 ** Math.max(1, coveringLg2(pfn, pages));
      return [invalVmaRange({ ...space, pscid: table, pfn: Math.floor(pfn / size) * size, pages: size })];
    });
  }
}

const edit = tableEdits<Flush>({
  tables: 5,
  pfn: fc.oneof(
    fc.nat(40),
    fc.nat(40).map((page) => 0x3ff_ffe0 + page),
  ),
  to: fc.nat(RAM_PAGES + 8),
  pages: 24,
  permissions: [1, 3, 7, 5],
  flushes: ['all', 'process', 'pages', 'range'],
});

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: edit as fc.Arbitrary<Step> },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('context' as const),
      device: fc.constantFrom(...DEVICES),
      first: fc.constantFrom(0, 0, 1, 1, BARE, PROCESSES, PROCESSES, BIG_ENDIAN),
      second: fc.constantFrom(0, 2, 3),
      valid: fc.constantFrom(true, true, true, false),
      tc: fc.constantFrom(0, 0, 0, DPE, DPE, 1 << 12, PDTV, 3 << 7),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('process' as const),
      process: fc.nat(1),
      first: fc.nat(BARE),
      valid: fc.constantFrom(true, true, false),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('endpoint' as const), there: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('mode' as const), mode: fc.constantFrom(0, 1, 2, 2, 2) }) },
);

const word = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.bigInt({ min: 0n, max: BigInt(RAM_PAGES * 4096) }),
  fc.constantFrom(0n, 1n, 3n, 2n ** 64n - 1n),
);
const place = fc.nat(RAM_PAGES * 512).map((doubleword) => doubleword * 8);
/** Queue bases and directories anywhere: on each other, at the edge of RAM, beyond it; sizes up to 2^32 entries. */
const base = fc
  .tuple(fc.constantFrom(0n, 1n, 2n, 3n, 16n, BigInt(RAM_PAGES - 1), BigInt(RAM_PAGES), 2n ** 34n, 2n ** 44n - 1n), fc.nat(31))
  .map(([pfn, low]) => (pfn << 10n) | BigInt(low));

type Act = { readonly what: string; readonly act: (fixture: TargetFixture<Step>) => void };

const hostile = fc.oneof<fc.Arbitrary<Act>[]>(
  fc
    .tuple(
      fc.oneof(fc.nat(1100), fc.constantFrom(...Object.values(Reg)), fc.integer({ min: -8, max: 5000 })),
      fc.constantFrom(1, 2, 4, 8, 8, 4),
      fc.oneof(word, base),
    )
    .map(([offset, bytes, value]) => ({
      what: `write ${offset} ${bytes} 0x${value.toString(16)}`,
      act: ({ target }) => {
        (target as RiscvIommu).write(offset, bytes, value);
        (target as RiscvIommu).read(offset, bytes);
      },
    })),
  fc.tuple(fc.constantFrom(Reg.cqb, Reg.fqb, Reg.pqb), base).map(([offset, value]) => ({
    what: `queue ${offset} at 0x${value.toString(16)}`,
    act: ({ target }) => {
      const iommu = target as RiscvIommu;
      const csr = Reg.cqcsr + (offset - Reg.cqb) / 4;
      iommu.write(csr, 4, 0n);
      iommu.write(offset, 8, value);
      iommu.write(csr, 4, 3n);
      iommu.write(offset + 12, 4, 2n ** 32n - 1n);
    },
  })),
  fc.tuple(place, word).map(([at, value]) => ({
    what: `store 0x${at.toString(16)} 0x${value.toString(16)}`,
    act: ({ memory }) => void memory.store64(0, at, hiOf(value), loOf(value)),
  })),
  fc.tuple(word, word).map(([low, high]) => ({
    what: `command 0x${low.toString(16)} 0x${high.toString(16)}`,
    act: (fixture) => (fixture as RiscvFixture).guest.command([low & ~0x78n, high], [low & 0xfff0_0000_ffff_f783n, high & ~0x1ffn]),
  })),
  fc.tuple(fc.constantFrom(...DEVICES, 63, 64), word, fc.integer({ min: -1, max: 300 })).map(([device, iova, process]) => ({
    what: `access of ${device} ${process} at 0x${iova.toString(16)}`,
    act: ({ target }) => {
      for (const access of [1, 2, 4, 15]) target.translate(device, process, hiOf(iova), loOf(iova), access);
      (target as RiscvIommu).translationRequest({ device, pasid: process < 0 ? null : process, iova });
    },
  })),
  fc.tuple(word, fc.nat(0xff), fc.boolean()).map(([payload, requester, last]) => ({
    what: `messages of ${requester}`,
    act: ({ target }) => {
      const message = { code: 4, tag: 0, requester, segment: null, pasid: null, privileged: false, execute: false };
      (target as RiscvIommu).pageRequest({ ...message, payload: last ? payload | 7n : payload });
      (target as RiscvIommu).invalidationCompletion({ ...message, code: 2, payload });
      (target as RiscvIommu).invalidationTimeout(loOf(payload));
    },
  })),
);

export const riscvSubject: TargetSubject<Step> = {
  name: 'RISC-V IOMMU',
  make: (like) => new RiscvFixture(like as RiscvFixture | undefined),
  step,
  mapping: [{ do: 'map', table: 0, pfn: 5, to: 32, pages: 4, permission: 3, flush: 'all' }],
  unmapping: [
    { do: 'unmap', table: 0, pfn: 6, to: 0, pages: 2, permission: 3, flush: 'pages' },
    { do: 'unmap', table: 0, pfn: 8, to: 0, pages: 1, permission: 3, flush: 'all' },
  ],
  processes: [
    { do: 'process', process: 0, first: 0, valid: true },
    { do: 'mode', mode: 2 },
    ...DEVICES.map((device) => ({ do: 'context', device, first: PROCESSES, second: 0, valid: true, tc: 0 }) as const),
    { do: 'process', process: 1, first: 0, valid: true },
  ],
  hostile,
  numRuns: 25,
};
