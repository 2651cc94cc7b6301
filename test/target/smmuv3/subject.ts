import { fc } from '@fast-check/vitest';
import { hiOf, loOf } from '../../../src/memory/address.ts';
import type { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { Smmuv3 } from '../../../src/target/smmuv3/index.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG } from '../../../src/target/smmuv3/spec/ste.ts';
import type { TargetFixture, TargetSubject } from '../suite.ts';
import { type TableEdit, tableEdits } from '../table-edits.ts';
import {
  CONTEXTS,
  type Command,
  cfgiAll,
  cfgiCd,
  cfgiSte,
  contextOf,
  Guest,
  PAGE_1,
  RAM_PAGES,
  STREAM_TABLE,
  stage2Of,
  sync,
  type Table,
  tlbiAll,
  tlbiAsid,
  tlbiIpa,
  tlbiRange,
  tlbiVa,
  tlbiVmid,
} from './guest.ts';

const STREAMS = [8, 16] as const;

type Flush = 'all' | 'asid' | 'pages' | 'range';
/** Tables 0 and 1 are stage 1 tables, 2 and 3 stage 2 tables. */
type Step =
  | TableEdit<Flush>
  | {
      readonly do: 'stream';
      readonly stream: number;
      readonly config: number;
      readonly first: number;
      readonly second: number;
      readonly spoilt: number;
    }
  | { readonly do: 'context'; readonly first: number; readonly wxn: number; readonly valid: number }
  | { readonly do: 'power'; readonly on: boolean; readonly abort: boolean };

class SmmuFixture implements TargetFixture<Step> {
  readonly guest: Guest;
  readonly memory: GuestMemory;
  readonly endpoints = STREAMS;
  readonly tables: readonly Table[];

  constructor(like?: SmmuFixture) {
    this.guest = new Guest({ iotlbEntries: 64 }, like?.memory);
    this.memory = this.guest.memory;
    for (const stream of STREAMS) this.guest.smmu.addEndpoint(stream);
    if (like !== undefined) {
      this.tables = like.tables;
      return;
    }
    this.tables = [
      this.guest.table(),
      this.guest.table({ inputBits: 30 }),
      this.guest.table({ stage: 2, inputBits: 39, startLevel: 1 }),
      this.guest.table({ stage: 2, inputBits: 40, startLevel: 1 }),
    ];
    // Stage 1 tables and descriptors lie one to one; what lies above is the steps'.
    for (const { table } of this.tables.slice(2)) table.map(0, 0, RAM_PAGES, 7);
    this.guest.start();
    for (const first of [0, 1]) this.guest.setContext(0, contextOf(1 + first, this.tables[first]), CONTEXTS + 64 * first);
    for (const stream of STREAMS) this.guest.setStream(stream, { CONFIG: CONFIG.bypass });
    this.guest.command(cfgiAll(), tlbiAll(), sync());
  }

  get target(): Smmuv3 {
    return this.guest.smmu;
  }

  get later(): (() => void)[] {
    return this.guest.later;
  }

  run(step: Step): unknown {
    const { guest } = this;
    if (step.do === 'power') {
      guest.write(REG.GBPA, (1 << 31) | (Number(step.abort) << 20) | (1 << 12));
      guest.write(REG.CR0, step.on ? 0b1101 : 0b1100);
    } else if (step.do === 'stream') {
      const { stream, config, first, second } = step;
      const vmid = config & 2 ? 2 + second : 0;
      const stage2 = config & 2 ? stage2Of(vmid, this.tables[2 + second]) : {};
      guest.setStream(stream, { CONFIG: config, S1CONTEXT_PTR: CONTEXTS / 64 + first, ...stage2, STRW: step.spoilt });
      guest.command(cfgiSte(stream), sync());
    } else if (step.do === 'context') {
      guest.setContext(
        0,
        { ...contextOf(1 + step.first, this.tables[step.first]), WXN: step.wxn, V: step.valid },
        CONTEXTS + 64 * step.first,
      );
      guest.command(...STREAMS.map((stream) => cfgiCd(stream)), ...this.#asids(step.first), sync());
    } else {
      const { table } = this.tables[step.table];
      const pfn = step.table < 2 ? step.pfn : step.pfn + RAM_PAGES;
      if (step.do === 'map') table.map(pfn, step.to, step.pages, step.table < 2 ? step.permission | 1 : step.permission);
      else table.unmap(pfn, step.pages);
      guest.command(...this.#invalidations(step, pfn), sync());
    }
    return [REG.CMDQ_CONS, REG.GERROR, REG.CR0ACK].map((offset) => guest.read(offset));
  }

  /** Every VMID under which the descriptor may have been used. */
  #asids(first: number): Command[] {
    return [0, 2, 3].map((vmid) => tlbiAsid(1 + first, vmid));
  }

  #invalidations({ table, pages, flush }: Extract<Step, { pages: number }>, pfn: number): Command[] {
    if (flush === 'all') return [tlbiAll()];
    const each = Array.from({ length: pages }, (_, i) => pfn + i);
    if (table >= 2) {
      // What stands behind stage 1 is invalidated by VMID (4.4.3.1).
      return flush === 'pages' ? [...each.map((page) => tlbiIpa(table, page)), [0x10n | (BigInt(table) << 32n), 0n]] : [tlbiVmid(table)];
    }
    const asid = 1 + table;
    if (flush === 'asid') return this.#asids(table);
    if (flush === 'range')
      return [0, 2, 3].map((vmid) => withVmid(tlbiRange(asid, pfn, { num: Math.ceil(pages / 2) - 1, scale: 1 }), vmid));
    return [0, 2, 3].flatMap((vmid) => each.map((page) => tlbiVa(asid, page, vmid)));
  }
}

function withVmid([low, high]: Command, vmid: number): Command {
  return [low | (BigInt(vmid) << 32n), high];
}

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: tableEdits<Flush>({
      tables: 4,
      pfn: fc.nat(60),
      to: fc.nat(RAM_PAGES + 80),
      pages: 40,
      permissions: [1, 3, 3, 2, 7],
      flushes: ['all', 'asid', 'pages', 'range'],
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('stream' as const),
      stream: fc.constantFrom(...STREAMS),
      config: fc.constantFrom(0, 3, 4, 5, 5, 6, 7, 7),
      first: fc.nat(1),
      second: fc.nat(1),
      spoilt: fc.constantFrom(0, 0, 0, 1),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('context' as const), first: fc.nat(1), wxn: fc.nat(1), valid: fc.constantFrom(1, 1, 0) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('power' as const), on: fc.constantFrom(true, true, false), abort: fc.boolean() }) },
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
      fc.oneof(
        fc.constantFrom(...Object.values(REG)),
        fc.integer({ min: -8, max: 0x1a0 }),
        fc.integer({ min: PAGE_1, max: PAGE_1 + 0xe0 }),
      ),
      fc.constantFrom(1, 4, 8, 8),
      fc.oneof(
        word,
        word.map((value) => value | 0b1101n),
      ),
    )
    .map(([offset, bytes, value]) => ({
      what: `write ${offset} ${bytes} 0x${value.toString(16)}`,
      act: ({ target }) => {
        (target as Smmuv3).write(offset, bytes, value);
        (target as Smmuv3).read(offset, bytes);
      },
    })),
  fc.tuple(fc.nat(RAM_PAGES * 512 - 1), word).map(([at, value]) => ({
    what: `store 0x${(8 * at).toString(16)} 0x${value.toString(16)}`,
    act: ({ memory }) => void memory.store64(0, 8 * at, hiOf(value), loOf(value)),
  })),
  fc.tuple(fc.nat(0x7f), word, word).map(([code, low, high]) => ({
    what: `command ${code} 0x${low.toString(16)} 0x${high.toString(16)}`,
    act: (fixture) => {
      const { guest } = fixture as SmmuFixture;
      guest.command([(low & ~0xffn) | BigInt(code), high], [(low & 0xff_ffff_f000n) | BigInt(code), high & 0xfffn]);
      guest.write(REG.GERRORN, guest.read(REG.GERROR));
    },
  })),
  fc.tuple(fc.constantFrom(...STREAMS), fc.array(word, { minLength: 8, maxLength: 8 }), fc.boolean()).map(([stream, words, isContext]) => ({
    what: `${isContext ? 'descriptor' : 'entry'} ${words}`,
    act: (fixture) => {
      const { guest } = fixture as SmmuFixture;
      const at = isContext ? CONTEXTS : STREAM_TABLE + 64 * stream;
      // Most random ones are valid at least.
      words.forEach((value, i) => {
        guest.store(at + 8 * i, i === 0 ? value | (isContext ? 0x8000_0000n : 9n) : value);
      });
      guest.command(cfgiSte(stream), tlbiAll(), sync());
    },
  })),
  fc.tuple(fc.constantFrom(...STREAMS, 63, 9999, 70000), word, fc.integer({ min: -1, max: 2 ** 20 })).map(([stream, iova, substream]) => ({
    what: `access of ${stream} ${substream} at 0x${iova.toString(16)}`,
    act: ({ target }) => {
      for (const access of [1, 2, 4, 15]) target.translate(stream, substream, hiOf(iova), loOf(iova), access);
    },
  })),
);

const devices = fc
  .tuple(
    fc.constantFrom('ask', 'use', 'page', 'record', 'lost') as fc.Arbitrary<string>,
    fc.constantFrom(...STREAMS, 63, 9999, 70000),
    fc.integer({ min: -1, max: 2 ** 20 }),
    word,
  )
  .map(
    ([kind, stream, substream, value]): Act => ({
      what: `${kind} of ${stream} ${substream} 0x${value.toString(16)}`,
      act: ({ target }) => {
        const smmu = target as Smmuv3;
        const access = Number(value & 15n);
        if (kind === 'ask') smmu.translationRequest(stream, substream, value, access);
        else if (kind === 'use') smmu.translateTranslated(stream, hiOf(value), loOf(value), access);
        else if (kind === 'record')
          smmu.report({ kind, words: Int32Array.from({ length: access }, (_, i) => loOf(value >> BigInt(4 * i))) });
        else if (kind === 'lost') smmu.report({ kind });
        else {
          smmu.report({
            kind: 'page-request',
            endpoint: stream,
            pasid: substream,
            group: loOf(value),
            last: value % 2n === 0n,
            access,
            address: value,
          });
          const [read, write, execute, privileged, last] = [1n, 2n, 4n, 8n, 16n].map((bit) => (value & bit) !== 0n);
          const pasid = substream < 0 ? null : substream;
          smmu.pageRequest({ stream, pasid, page: Number(value >> 12n), read, write, execute, privileged, group: loOf(value), last });
        }
      },
    }),
  );

export const smmuSubject: TargetSubject<Step> = {
  name: 'Arm SMMUv3',
  make: (like) => new SmmuFixture(like as SmmuFixture | undefined),
  step,
  mapping: [
    { do: 'stream', stream: 8, config: CONFIG.stage1, first: 0, second: 0, spoilt: 0 },
    { do: 'map', table: 0, pfn: 5, to: 32, pages: 4, permission: 3, flush: 'all' },
  ],
  unmapping: [
    { do: 'unmap', table: 0, pfn: 6, to: 0, pages: 2, permission: 3, flush: 'pages' },
    { do: 'unmap', table: 0, pfn: 8, to: 0, pages: 1, permission: 3, flush: 'all' },
  ],
  hostile: fc.oneof({ weight: 5, arbitrary: hostile }, { weight: 1, arbitrary: devices }),
  numRuns: 25,
};
