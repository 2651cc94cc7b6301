import { fc } from '@fast-check/vitest';
import { expect } from 'vitest';
import { smmuv3 } from '../../../src/host/sim/index.ts';
import { READ, READ_WRITE } from '../../../src/memory/access.ts';
import type { Command, Table } from '../../target/smmuv3/guest.ts';
import type { RandomGuest } from './random-guests.ts';
import { SYNC, tlbiAll, tlbiAsid, tlbiPage } from './smmuv3-commands.ts';
import { BASE, DATA, PAGES, SmmuMachine, STREAMS } from './smmuv3-machine.ts';

/* Random guests of an SMMUv3 whose tables hardware walks. */

const [FIRST, SECOND] = STREAMS;
export const [ABORT, BYPASS, STAGE_1] = [0, 4, 5];
export const ASIDS = [7, 8, 9];
export const hardwares = {
  nested: () => smmuv3(),
  'nested-queue': () => smmuv3({ tegra241: {} }),
};

export type Step =
  | {
      readonly do: 'map' | 'unmap';
      readonly table: number;
      readonly page: number;
      readonly to: number;
      readonly pages: number;
      readonly permission: number;
      readonly name: 'each' | 'asid' | 'all';
    }
  | { readonly do: 'stream'; readonly stream: number; readonly config: number }
  | { readonly do: 'context'; readonly stream: number; readonly table: number };

const stream = fc.constantFrom(FIRST, SECOND);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constantFrom('map' as const, 'map' as const, 'unmap' as const),
      table: fc.nat(2),
      page: fc.nat(PAGES - 1),
      to: fc.nat(150).map((page) => DATA + page),
      pages: fc.integer({ min: 1, max: 8 }),
      permission: fc.constantFrom(READ, READ_WRITE, READ_WRITE),
      name: fc.constantFrom('each' as const, 'asid' as const, 'all' as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('stream' as const), stream, config: fc.constantFrom(ABORT, BYPASS, STAGE_1, STAGE_1) }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('context' as const), stream, table: fc.nat(2) }) },
);
export const program = fc.array(step, { minLength: 1, maxLength: 14 });

/** One step of each kind, the device reaching something at the end. */
export const kinds: Step[] = [
  { do: 'map', table: 0, page: 0, to: DATA, pages: 4, permission: READ_WRITE, name: 'each' },
  { do: 'unmap', table: 0, page: 1, to: DATA, pages: 2, permission: READ_WRITE, name: 'asid' },
  { do: 'context', stream: FIRST, table: 1 },
  { do: 'stream', stream: FIRST, config: ABORT },
  { do: 'context', stream: FIRST, table: 0 },
  { do: 'stream', stream: FIRST, config: STAGE_1 },
];

export class Program implements RandomGuest<Step> {
  readonly smmu: SmmuMachine;
  readonly tables: readonly Table[];

  /** `iommus`: that the streams stand behind in turn. */
  constructor(path: keyof typeof hardwares = 'nested', iommus = 1) {
    this.smmu = new SmmuMachine({ nesting: hardwares[path], iommus });
    this.tables = ASIDS.map(() => this.smmu.guest.table());
    for (const each of STREAMS) {
      this.smmu.setContext(each, this.tables[0], ASIDS[0]);
      this.smmu.setStream(each, STAGE_1);
    }
  }

  get machine(): SmmuMachine {
    return this.smmu;
  }

  edit(step: Extract<Step, { table: number; page: number }>): readonly Command[] {
    const pages = Math.min(step.pages, PAGES - step.page);
    const { table } = this.tables[step.table];
    // Break before make: an entry goes through invalid, and the hardware hears of that.
    table.unmap(BASE + step.page, pages);
    const each = Array.from({ length: pages }, (_, i) => tlbiPage(ASIDS[step.table], BASE + step.page + i));
    const forget = step.name === 'each' ? each : [step.name === 'asid' ? tlbiAsid(ASIDS[step.table]) : tlbiAll];
    this.smmu.guest.command(...forget, SYNC);
    if (step.do === 'map') table.map(BASE + step.page, step.to, pages, step.permission);
    return forget;
  }

  run(step: Step): void {
    if (step.do === 'stream') this.smmu.setStream(step.stream, step.config);
    else if (step.do === 'context') this.smmu.setContext(step.stream, this.tables[step.table], ASIDS[step.table]);
    else this.edit(step);
  }

  again(): void {
    this.smmu.guest.command(tlbiAll, SYNC);
    for (const each of STREAMS) {
      this.smmu.setStream(each, ABORT);
      this.smmu.setStream(each, STAGE_1);
    }
  }

  agrees(): void {
    for (const index of [0, 1]) expect(this.smmu.hardware(index)).toEqual(this.smmu.software(index));
  }
}
