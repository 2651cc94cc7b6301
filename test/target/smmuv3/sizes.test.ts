import { expect, test } from 'vitest';
import { READ } from '../../../src/memory/access.ts';
import { CONFIG } from '../../../src/target/smmuv3/spec/ste.ts';
import { CONTEXTS, contextOf, Guest, tlbiRange, tlbiVa } from './guest.ts';

/* 3.21.1.3, BBML 2: sizes of translations change in one store, with the old ones still cached. */

const STREAM = 8;
const ASID = 7;
const ADDRESS = 0xf_ffff_f000n;

/** A stream behind one 2 MiB block, and a table of 512 pages that say the same. */
function machine() {
  const guest = new Guest();
  const table = guest.table();
  table.table.map(0, 0x400, 512, 3);
  guest.setContext(0, contextOf(ASID, table));
  guest.start().setStream(STREAM, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 });
  const blockAt = Number(guest.load(table.root * 4096) & ADDRESS);
  const block = guest.load(blockAt);
  const pages = guest.pool.allocate(1) * 4096;
  for (let i = 0; i < 512; i++) guest.store(pages + 8 * i, (block | 2n) + BigInt(i << 12));
  const landing = (page: number) => Number(guest.access(STREAM, BigInt(page) << 12n, READ) >> 12n);
  const setPage = (page: number, to: number) => guest.store(pages + 8 * page, (block & ~ADDRESS) | 2n | BigInt(to << 12));
  return { guest, block, landing, setPage, put: (word: bigint) => guest.store(blockAt, word), table: BigInt(pages) | 3n };
}

test('a block becomes pages: no fault, the same addresses; the page that changes then is new after its invalidation, whatever was cached', () => {
  const { guest, block, landing, setPage, put, table } = machine();
  expect(block & 3n).toBe(1n);
  expect([landing(0), landing(9)]).toEqual([0x400, 0x409]);
  put(table);
  expect([landing(0), landing(9), landing(511)]).toEqual([0x400, 0x409, 0x5ff]);
  guest.command(tlbiRange(ASID, 0, { num: 0, scale: 9 }));
  expect([landing(0), landing(9), landing(511)]).toEqual([0x400, 0x409, 0x5ff]);
  setPage(9, 0x81);
  guest.command(tlbiVa(ASID, 9));
  expect([landing(8), landing(9), landing(10)]).toEqual([0x408, 0x81, 0x40a]);
});

test('pages become a block, with some of them cached; an address then takes every size that covers it', () => {
  const { guest, block, landing, setPage, put, table } = machine();
  put(table);
  expect([landing(3), landing(9)]).toEqual([0x403, 0x409]);
  put(block);
  // Page 9 is cached as a page, and by its neighbour as a part of the block.
  expect([landing(3), landing(4), landing(9)]).toEqual([0x403, 0x404, 0x409]);
  put(table);
  setPage(9, 0x81);
  guest.command(tlbiVa(ASID, 9));
  expect([landing(3), landing(9), landing(4)]).toEqual([0x403, 0x81, 0x404]);
});
