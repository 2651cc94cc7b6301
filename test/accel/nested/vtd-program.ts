import { fc } from '@fast-check/vitest';
import { expect } from 'vitest';
import { READ, READ_WRITE } from '../../../src/memory/access.ts';
import type { X86Table } from '../../../src/pagetable/x86.ts';
import { Cmd, iotlbDomain, iotlbGlobal, pasidPages, pasidSelective, Reg } from '../../target/vtd/guest.ts';
import type { RandomGuest } from './random-guests.ts';
import { BASE, DATA, DEVICES, PAGES, VtdMachine } from './vtd-machine.ts';

/* Random guests of VT-d in scalable mode whose tables hardware walks. */

const [FIRST, SECOND] = DEVICES;

export type Step =
  | {
      readonly do: 'map' | 'unmap';
      readonly table: number;
      readonly page: number;
      readonly to: number;
      readonly pages: number;
      readonly permission: number;
      readonly name: 'pages' | 'each' | 'pasid' | 'domain' | 'all';
    }
  | { readonly do: 'entry'; readonly device: number; readonly table: number }
  | { readonly do: 'translation'; readonly on: boolean };

const edit = fc.record({
  do: fc.constantFrom('map' as const, 'map' as const, 'unmap' as const),
  table: fc.nat(2),
  page: fc.nat(PAGES - 1),
  to: fc.nat(400).map((page) => DATA + page),
  pages: fc.integer({ min: 1, max: 12 }),
  permission: fc.constantFrom(READ, READ_WRITE, READ_WRITE),
  name: fc.constantFrom('pages' as const, 'each' as const, 'pasid' as const, 'domain' as const, 'all' as const),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: edit },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('entry' as const),
      device: fc.constantFrom(FIRST, SECOND),
      table: fc.integer({ min: -2, max: 2 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('translation' as const), on: fc.boolean() }) },
);
export const program = fc.array(step, { minLength: 1, maxLength: 14 });

/** One step of each kind, the first device reaching something at the end. */
export const kinds: Step[] = [
  { do: 'map', table: 0, page: 0, to: DATA, pages: 4, permission: READ_WRITE, name: 'pages' },
  { do: 'unmap', table: 0, page: 1, to: DATA, pages: 2, permission: READ_WRITE, name: 'domain' },
  { do: 'entry', device: FIRST, table: -2 },
  { do: 'entry', device: FIRST, table: 0 },
  { do: 'translation', on: true },
];

export class Program implements RandomGuest<Step> {
  readonly vtd: VtdMachine;
  readonly tables: readonly { root: number; table: X86Table }[];
  readonly did = (table: number) => 8 + table;

  constructor(vtd = new VtdMachine()) {
    this.vtd = vtd;
    this.tables = [0, 1, 2].map(() => vtd.newStage());
    this.entry(FIRST, 0);
    this.entry(SECOND, 0);
    vtd.guest.start();
  }

  get machine(): VtdMachine {
    return this.vtd;
  }

  /** Table -1: passes through; -2: not present. */
  entry(device: number, table: number): void {
    const { guest } = this.vtd;
    if (table === -1) guest.setPasid(device, { pgtt: 4, did: 9 });
    else if (table === -2) guest.setPasid(device, null);
    else guest.setPasid(device, { pgtt: 1, did: this.did(table), first: this.tables[table].root });
    if ((guest.iommu.read(Reg.gsts, 4) & Cmd.qie) !== 0n) this.vtd.submit(pasidSelective(0, device));
  }

  run(step: Step): void {
    const { vtd } = this;
    if (step.do === 'entry') this.entry(step.device, step.table);
    else if (step.do === 'translation') vtd.guest.global(Cmd.te, step.on);
    else {
      const { table, page, to, permission, name } = step;
      const pages = Math.min(step.pages, PAGES - page);
      if (step.do === 'map') this.tables[table].table.map(BASE + page, to, pages, permission);
      else this.tables[table].table.unmap(BASE + page, pages);
      const did = this.did(table);
      const each = DEVICES.flatMap((device) => Array.from({ length: pages }, (_, i) => pasidPages(did, device, BASE + page + i)));
      const descriptors = {
        pages: DEVICES.map((device) => pasidPages(did, device, BASE, Math.log2(PAGES))),
        each,
        pasid: DEVICES.map((device) => pasidAll(did, device)),
        domain: [iotlbDomain(did)],
        all: [iotlbGlobal],
      };
      vtd.submit(...descriptors[name]);
    }
  }

  again(): void {
    this.vtd.submit(iotlbGlobal);
    for (const device of DEVICES) this.entry(device, 0);
  }

  agrees(): void {
    for (const index of [0, 1]) expect(this.vtd.hardware(index)).toEqual(this.vtd.software(index));
  }
}

/** PASID-based IOTLB invalidation, PASID-selective (6.5.2.4). */
const pasidAll = (did: number, pasid: number) => [0x26n | (BigInt(did) << 16n) | (BigInt(pasid) << 32n)];
