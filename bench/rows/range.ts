import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { hiOfPfn, loOfPfn } from '../../src/memory/index.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import type { Row, Variant, Work } from '../row.ts';
import { TablePages } from '../table-pages.ts';

/** As in bench/baseline/range.c. */
const IOVA = 0x3_4120_0000;
const TABLE_PAGES = 4096;

/** Maps or unmaps pages of 2^lg2 bytes in a row, the largest that fit; an operation is one such page. A batch of 4 KiB pages maps 256 MiB, for short ones. */
function work(unmapping: boolean, lg2: 12 | 21): Work {
  const memory = GuestMemory.ofBytes(TABLE_PAGES * 4096);
  const allocator = new TablePages(new Uint8Array(memory.regions[0].buffer), 0, TABLE_PAGES);
  const table = new X86Table(memory, { levels: 4, root: allocator.allocate(1), allocator, gigabytePages: false });
  const output = 0x4000_0000 + (lg2 === 12 ? 1 : 0);
  const pages = lg2 === 12 ? 1 << 16 : 1 << 20;
  const operations = pages >> (lg2 - 12);
  const map = () => table.map(IOVA, output, pages, READ_WRITE);
  const unmap = () => table.unmap(IOVA, pages);
  if (unmapping) return { operations, before: map, batch: unmap };
  const batch = () => {
    let sum = map();
    for (let page = 0; page < pages; page += pages >> 4) {
      const found = table.walk(hiOfPfn(IOVA + page), loOfPfn(IOVA + page), READ);
      if (found < 0) throw new Error(`page ${page} is not mapped`);
      sum = (sum + table.out[0] + table.out[1]) | 0;
    }
    return sum;
  };
  map();
  return { operations, before: unmap, batch };
}

function variants(operation: 'map' | 'unmap'): Variant[] {
  const sizes = [
    ['256 MiB by 4K', 12, operation === 'map' ? 3 : 2.5],
    ['4 GiB by 2M', 21, 5],
  ] as const;
  return sizes.map(([name, lg2, goal]) => ({
    name,
    goal,
    baseline: { program: 'range', arguments: [operation, String(lg2)] },
    setup: () => work(operation === 'unmap', lg2),
  }));
}

export const mapRange: Row = { name: 'map-range', baseline: 'the same table in C', variants: variants('map') };
export const unmapRange: Row = { name: 'unmap-range', baseline: 'the same table in C', variants: variants('unmap') };
