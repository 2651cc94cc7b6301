import { READ_WRITE } from '../../src/memory/access.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { AmdV1Table } from '../../src/pagetable/amd-v1.ts';
import { ArmTable } from '../../src/pagetable/arm.ts';
import type { PageTable } from '../../src/pagetable/page-table.ts';
import { VtdSecondStageTable } from '../../src/pagetable/vtd-second-stage.ts';
import { AmdIommu } from '../../src/target/amd/index.ts';
import { Smmuv3 } from '../../src/target/smmuv3/index.ts';
import { VtdIommu } from '../../src/target/vtd/index.ts';
import { putWords } from '../structures.ts';
import { TablePages } from '../table-pages.ts';
import { endpointOf, type Guest, RAM_PAGES } from './guest.ts';

/** Guests that own tables in memory: one of each device's own, of 3 levels, and structures that say which are whose. */

/** Where the structures lie, where the queue does, and from which page on tables are allocated. */
const STRUCTURES = 0x10_0000;
const QUEUE = 0x1000;
const FIRST_TABLE = RAM_PAGES / 2;
const QUEUE_BYTES = 4096;

/** Pages for tables above the structures. */
function allocatorIn(memory: GuestMemory): TablePages {
  const { buffer, bytes } = memory.regions[0];
  const ram = new Uint8Array(buffer, 0, bytes ?? buffer.byteLength);
  return new TablePages(ram, FIRST_TABLE, ram.length / 4096);
}

/** A ring of 16-byte commands; `tell` is how the unit hears of the next one's place. */
class Commands {
  readonly #memory: GuestMemory;
  readonly #tell: (tail: number) => void;
  #tail = 0;

  constructor(memory: GuestMemory, tell: (tail: number) => void) {
    this.#memory = memory;
    this.#tell = tell;
  }

  give(...commands: readonly (readonly [bigint, bigint])[]): void {
    for (const command of commands) {
      putWords(this.#memory, QUEUE + this.#tail, command);
      this.#tail = (this.#tail + 16) % QUEUE_BYTES;
    }
    this.#tell(this.#tail);
  }
}

/** Maps or unmaps page 5 of a table. */
function change(table: PageTable, map: boolean): void {
  if (map) table.map(5, 7, 1, READ_WRITE);
  else table.unmap(5, 1);
}

interface Space {
  readonly table: PageTable;
  readonly root: bigint;
}

function spacesOf(memory: GuestMemory, count: number, make: (root: number, allocator: TablePages) => PageTable): readonly Space[] {
  const allocator = allocatorIn(memory);
  return Array.from({ length: count }, () => {
    const root = allocator.allocate(1);
    const table = make(root, allocator);
    table.map(9, 7, 1, READ_WRITE);
    return { table, root: BigInt(root) << 12n };
  });
}

/** Legacy mode with caching mode (D51397, 9.1, 9.3, 11.4). */
export function vtd(memory: GuestMemory, spaces: number): Guest {
  const tables = spacesOf(memory, spaces, (root, allocator) => new VtdSecondStageTable(memory, { levels: 3, root, allocator }));
  const contextOf = (space: number) => STRUCTURES + 4096 + endpointOf(space) * 16;
  for (let bus = 0; bus < 256; bus++) putWords(memory, STRUCTURES + bus * 16, [BigInt(STRUCTURES + 4096 + bus * 4096) | 1n, 0n]);
  const program = (space: number) => putWords(memory, contextOf(space), [tables[space].root | 1n, (BigInt(space + 1) << 8n) | 1n]);
  const target = new VtdIommu({}, { memory });
  for (let space = 0; space < spaces; space++) {
    program(space);
    target.addEndpoint(endpointOf(space));
  }
  const queue = new Commands(memory, (tail) => target.write(0x88, 8, BigInt(tail)));
  target.write(0x20, 8, BigInt(STRUCTURES));
  target.write(0x90, 8, BigInt(QUEUE));
  for (const command of [1n << 30n, 1n << 31n, (1n << 31n) | (1n << 26n)]) target.write(0x18, 4, command);
  // IOTLB: pages; then wait.
  const operate = (space: number, map: boolean) => {
    change(tables[space].table, map);
    queue.give([2n | (3n << 4n) | (BigInt(space + 1) << 16n), 5n << 12n], [5n | (1n << 6n), 0n]);
  };
  // Context-cache: device; IOTLB: domain; wait.
  const move = (space: number, away: boolean) => {
    if (away) putWords(memory, contextOf(space), [0n, 0n]);
    else program(space);
    const [source, domain] = [BigInt(endpointOf(space)), BigInt(space + 1)];
    queue.give([1n | (3n << 4n) | (domain << 16n) | (source << 32n), 0n], [2n | (2n << 4n) | (domain << 16n), 0n], [5n | (1n << 6n), 0n]);
  };
  return { target, operate, move };
}

/** Host tables with NpCache (48882, 2.2.2.1, 2.4, 3.4). */
export function amd(memory: GuestMemory, spaces: number): Guest {
  const tables = spacesOf(memory, spaces, (root, allocator) => new AmdV1Table(memory, { levels: 3, root, allocator }));
  const entryOf = (space: number) => STRUCTURES + endpointOf(space) * 32;
  const program = (space: number) =>
    putWords(memory, entryOf(space), [(3n << 61n) | (3n << 9n) | tables[space].root | 3n, BigInt(space + 1), 0n, 0n]);
  const target = new AmdIommu({ memory });
  for (let space = 0; space < spaces; space++) {
    program(space);
    target.addEndpoint(endpointOf(space));
  }
  const queue = new Commands(memory, (tail) => target.write(0x2008, 8, BigInt(tail)));
  target.write(0x00, 8, BigInt(STRUCTURES) | 0x1ffn);
  target.write(0x08, 8, BigInt(QUEUE) | (8n << 56n));
  target.write(0x18, 8, 1n | (1n << 12n));
  // INVALIDATE_IOMMU_PAGES of one page; COMPLETION_WAIT.
  const operate = (space: number, map: boolean) => {
    change(tables[space].table, map);
    queue.give([(3n << 60n) | (BigInt(space + 1) << 32n), 5n << 12n], [1n << 60n, 0n]);
  };
  // INVALIDATE_DEVTAB_ENTRY; INVALIDATE_IOMMU_PAGES of all; COMPLETION_WAIT.
  const move = (space: number, away: boolean) => {
    if (away) putWords(memory, entryOf(space), [3n, 0n, 0n, 0n]);
    else program(space);
    const all: [bigint, bigint] = [(3n << 60n) | (BigInt(space + 1) << 32n), 0x7fff_ffff_ffff_f003n];
    queue.give([(2n << 60n) | BigInt(endpointOf(space)), 0n], all, [1n << 60n, 0n]);
  };
  return { target, operate, move };
}

/** Tables of stage 1, an ASID each (IHI 0070, 3.3, 4.4, 5.2, 5.4, 6.3). */
export function smmuv3(memory: GuestMemory, spaces: number): Guest {
  const config = { stage: 1, granuleLg2: 12, inputBits: 39, outputBits: 48 } as const;
  const tables = spacesOf(memory, spaces, (root, allocator) => new ArmTable(memory, { ...config, root: BigInt(root) << 12n, allocator }));
  const contexts = STRUCTURES + 64 * 2 ** 13;
  const entryOf = (space: number) => STRUCTURES + endpointOf(space) * 64;
  for (const [space, { root }] of tables.entries()) {
    // T0SZ 25, EPD1, V; IPS 48, AA64, R, A; the ASID.
    putWords(memory, contexts + 64 * space, [(BigInt(space + 1) << 48n) | (0x6205n << 32n) | (1n << 31n) | (1n << 30n) | 25n, root]);
  }
  const program = (space: number) => putWords(memory, entryOf(space), [BigInt(contexts + 64 * space) | (5n << 1n) | 1n, 0n]);
  const target = new Smmuv3({ memory });
  for (let space = 0; space < spaces; space++) {
    program(space);
    target.addEndpoint(endpointOf(space));
  }
  // 256 entries, and a bit of the wrap above their number.
  let wrapped = 0;
  let before = 0;
  const queue = new Commands(memory, (tail) => {
    if (tail < before) wrapped ^= 256;
    before = tail;
    target.write(0x98, 4, BigInt((tail / 16) | wrapped));
  });
  target.write(0x80, 8, BigInt(STRUCTURES));
  target.write(0x88, 4, 13n);
  target.write(0x90, 8, BigInt(QUEUE) | 8n);
  target.write(0x20, 4, 9n);
  // TLBI_NH_VA; SYNC.
  const operate = (space: number, map: boolean) => {
    change(tables[space].table, map);
    queue.give([0x12n | (BigInt(space + 1) << 48n), (5n << 12n) | 1n], [0x46n, 0n]);
  };
  // CFGI_STE; TLBI_NH_ASID; SYNC.
  const move = (space: number, away: boolean) => {
    if (away) putWords(memory, entryOf(space), [1n, 0n]);
    else program(space);
    queue.give([3n | (BigInt(endpointOf(space)) << 32n), 1n], [0x11n | (BigInt(space + 1) << 48n), 0n], [0x46n, 0n]);
  };
  return { target, operate, move };
}
