import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { hiOf, loOf } from '../../src/memory/address.ts';
import { AHEAD } from '../../src/memory/ahead.ts';
import { GuestMemory, MEM_FAULT } from '../../src/memory/guest-memory.ts';
import type { PageTable } from '../../src/pagetable/page-table.ts';
import { CommandsAhead } from '../../src/target/commands-ahead.ts';
import { NO_PASID, type Target } from '../../src/target/target.ts';
import * as amd from './amd/guest.ts';
import * as riscv from './riscv/guest.ts';
import * as smmuv3 from './smmuv3/guest.ts';
import * as vtd from './vtd/guest.ts';

/* Usual commands in a straight line do what each of them does alone: of two guests that do the same one has memory that reads nothing ahead. */

class NothingAhead extends GuestMemory {
  override loadRun64(): number {
    return MEM_FAULT;
  }
}

type Command = readonly [bigint, bigint];
/** A guest with a device for each of three tags, which translations carry. */
interface Subject {
  readonly target: Target;
  readonly tables: readonly { readonly table: PageTable }[];
  /** The command that invalidates 2^lg2 pages of a tag; those of `lg2` 0 are usual. */
  pages(tag: number, page: number, lg2: number): Command;
  submit(commands: readonly Command[]): void;
  /** How far the queue is, and its errors. */
  state(): unknown;
}

const TAGS = [1, 2, 3];
const PAGES = 16;
const RAM_PAGES = 1024;

const SUBJECTS: Readonly<Record<string, (memory: GuestMemory) => Subject>> = {
  'VT-d': (memory) => vtdSubject(new vtd.Guest({}, RAM_PAGES, {}, memory)),
  'VT-d, 256-bit descriptors': (memory) => vtdSubject(new vtd.Guest(vtd.EVERYTHING, RAM_PAGES, {}, memory)),
  SMMUv3: (memory) => {
    const guest = new smmuv3.Guest({}, memory);
    const tables = TAGS.map(() => guest.table());
    TAGS.forEach((tag, i) => {
      guest.setContext(tag, smmuv3.contextOf(tag, tables[i]));
      guest.setStream(tag, { CONFIG: 5, S1CONTEXT_PTR: smmuv3.CONTEXTS / 64 + tag });
    });
    guest.start();
    return {
      target: guest.smmu,
      tables,
      pages: (tag, page, lg2) =>
        lg2 === 0 && page % 2 === 0
          ? smmuv3.tlbiVa(tag, page)
          : smmuv3.tlbiRange(tag, page, { num: 0, scale: lg2, ttl: lg2 === 0 ? 3 : 0 }),
      submit: (commands) => guest.command(...commands),
      state: () => [guest.smmu.read(0x9c, 4), guest.error],
    };
  },
  'AMD-Vi': (memory) => {
    const guest = new amd.Guest({}, memory);
    const tables = TAGS.map(() => guest.v1());
    TAGS.forEach((tag, i) => {
      guest.setDevice(tag, { mode: 3, root: tables[i].root, domain: tag });
    });
    guest.start();
    return {
      target: guest.iommu,
      tables,
      pages: (tag, page, lg2) => amd.invalidatePages(tag, page, 12 + lg2),
      submit: (commands) => guest.command(...commands),
      state: () => [guest.read(amd.Reg.commandHead), guest.read(amd.Reg.status)],
    };
  },
  'RISC-V': (memory) => {
    const guest = new riscv.Guest({}, RAM_PAGES, {}, memory);
    const tables = TAGS.map(() => guest.table('sv39'));
    TAGS.forEach((tag, i) => {
      guest.setContext(tag, { first: { mode: 8, root: tables[i].root, pscid: tag } });
    });
    guest.start();
    return {
      target: guest.iommu,
      tables,
      pages: (pscid, pfn, lg2) =>
        lg2 === 0 ? riscv.invalVma({ pscid, pfn }) : riscv.invalVmaRange({ pscid, pfn: pfn & (-1 << lg2), pages: 2 ** lg2 }),
      submit: (commands) => guest.command(...commands),
      state: () => [guest.iommu.read(riscv.Reg.cqh, 4), guest.iommu.read(riscv.Reg.cqcsr, 4)],
    };
  },
};

/** Of scalable mode first stages, whose descriptors carry PASIDs. */
function vtdSubject(guest: vtd.Guest): Subject {
  const tables = TAGS.map(() => (guest.scalable ? guest.firstStage() : guest.secondStage()));
  TAGS.forEach((tag, i) => {
    const { root } = tables[i];
    if (!guest.scalable) guest.setContext(tag, { root, did: tag });
    else {
      guest.setScalableContext(tag, 0n, BigInt(tag));
      guest.setPasid(tag, { pgtt: 1, did: tag, first: root });
    }
  });
  guest.start();
  return {
    target: guest.iommu,
    tables,
    pages: (tag, page, lg2) =>
      (guest.scalable ? vtd.pasidPages(tag, tag, page, lg2) : vtd.iotlbPages(tag, page, lg2)) as unknown as Command,
    submit: (commands) => guest.submit(...commands),
    state: () => [guest.iommu.read(vtd.Reg.iqh, 8), guest.iommu.read(vtd.Reg.fsts, 4) & 0x70n, guest.iommu.read(vtd.Reg.iqercd, 8)],
  };
}

const command = fc.record({
  tag: fc.constantFrom(1, 2, 3),
  page: fc.nat(PAGES - 1),
  lg2: fc.constantFrom(0, 0, 0, 0, 1, 2, 60),
  /** A bit that is another one; most of them are none. */
  wrong: fc.oneof({ weight: 12, arbitrary: fc.constant(-1) }, { weight: 1, arbitrary: fc.nat(127) }),
});

/** What of each tag is cached yet after each of the bursts. */
function run(subject: Subject, bursts: readonly (readonly Command[])[]): unknown[] {
  const cached = () =>
    TAGS.flatMap((tag) => Array.from({ length: PAGES }, (_, page) => subject.target.translate(tag, NO_PASID, 0, page << 12, READ) >= 0));
  // Downwards, so that no leaf is larger than a page.
  for (const { table } of subject.tables) for (let page = 0; page < PAGES; page++) table.map(page, 0x100 - page, 1, READ_WRITE);
  expect(cached()).not.toContain(false);
  for (const { table } of subject.tables) table.unmap(0, PAGES);
  return bursts.map((burst) => {
    subject.submit(burst);
    return [subject.state(), cached()];
  });
}

describe.each(Object.entries(SUBJECTS))('%s', (_, make) => {
  const regions = () => [{ gpa: 0n, buffer: new SharedArrayBuffer(RAM_PAGES * 4096) }];
  property.prop([fc.array(fc.array(command, { minLength: 1, maxLength: 20 }), { minLength: 1, maxLength: 8 })], { numRuns: 12 })(
    'what is cached, the head and the errors are as without reading ahead',
    (bursts) => {
      const [one, other] = [make(new GuestMemory(regions())), make(new NothingAhead(regions()))];
      const said = bursts.map((burst) =>
        burst.map(({ tag, page, lg2, wrong }): Command => {
          const [low, high = 0n] = one.pages(tag, page, lg2);
          if (wrong < 0) return [low, high];
          return wrong < 64 ? [low ^ (1n << BigInt(wrong)), high] : [low, high ^ (1n << BigInt(wrong - 64))];
        }),
      );
      const answers = run(one, said);
      expect(answers).toEqual(run(other, said));
    },
  );
  test('one of those commands alone takes one page', () => {
    const subject = make(new GuestMemory(regions()));
    const [[, cached]] = run(subject, [[subject.pages(2, 5, 0), subject.pages(3, 6, 0)]]) as [unknown, boolean[]][];
    expect(cached.flatMap((is, i) => (is ? [] : [i]))).toEqual([PAGES + 5, 2 * PAGES + 6]);
  });
});

describe('the queue', () => {
  /** Commands of 16 bytes whose first word says which one they are; those of which it is odd are not usual. */
  function ahead(memory: GuestMemory) {
    const done: number[] = [];
    let read = 0;
    const usual = {
      run(count: number) {
        read += count;
        for (let i = 0; i < count; i++) {
          if ((AHEAD[0][4 * i] & 1) !== 0) return i;
          done.push(AHEAD[0][4 * i]);
        }
        return count;
      },
    };
    return { done, commands: new CommandsAhead(memory, usual, 4), read: () => read };
  }
  const store = (memory: GuestMemory, address: bigint, value: number) => memory.store64(hiOf(address), loOf(address), 0, value);

  property.prop([fc.array(fc.integer({ min: 0, max: 2 ** 20 }), { minLength: 8, maxLength: 8 }), fc.nat(7), fc.nat(12)])(
    'usual ones from an index on, round its end, in order, up to another one or the limit',
    (values, from, limit) => {
      const memory = GuestMemory.ofBytes(4096);
      for (const [i, value] of values.entries()) store(memory, BigInt(256 + 16 * i), value);
      const { done, commands, read } = ahead(memory);
      const inOrder = Array.from({ length: limit }, (_, i) => values[(from + i) % 8]);
      const end = inOrder.findIndex((value) => value % 2 === 1);
      const expected = end < 0 ? inOrder : inOrder.slice(0, end);
      expect(commands.run(0, 256, 7, from, limit)).toBe(expected.length);
      expect(done).toEqual(expected);
      expect(read()).toBeLessThanOrEqual(2 * expected.length + 2);
    },
  );

  test.each([
    ['within one', 0xffff_e000n, 0],
    ['across a multiple of 4 GiB', 0xffff_f000n, 0],
    ['above 2^32 entries', 0x1_0000_0000n, 0x1000_0010],
    ['whose index is negative as int32', 0x1_0000_0000n, 0xf000_0010 | 0],
  ])('its address: %s', (_, base, from) => {
    const at = (index: number) => base + BigInt(index >>> 0) * 16n;
    const memory = new GuestMemory([
      { gpa: (at(from) >> 12n) << 12n, buffer: new SharedArrayBuffer(3 * 4096) },
      // Where the queue would go on if its addresses came round at 4 GiB.
      { gpa: 0n, buffer: new SharedArrayBuffer(3 * 4096) },
    ]);
    for (let i = 0; i < 400; i++) store(memory, BigInt(16 * i), 0x1000);
    for (let i = 0; i < 400; i++) store(memory, at(from + i), 2 * i);
    const { done, commands } = ahead(memory);
    let answered = 0;
    // What lies on both sides of 4 GiB, or cannot be read ahead, is the caller's to read.
    while (answered < 400) {
      const some = commands.run(hiOf(base), loOf(base), -1, from + answered, 400 - answered);
      if (some === 0) done.push(2 * answered);
      answered += Math.max(some, 1);
    }
    expect(done).toEqual(Array.from({ length: 400 }, (_, i) => 2 * i));
  });

  test('no memory, nothing done', () => {
    const { done, commands } = ahead(GuestMemory.ofBytes(4096));
    expect([commands.run(0, 4096, 7, 0, 7), commands.run(0, 0, 7, 0, 0), done.length]).toEqual([0, 0, 0]);
  });
});
