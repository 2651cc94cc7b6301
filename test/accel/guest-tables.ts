import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { ArmTable } from '../../src/pagetable/arm.ts';
import type { PageTable } from '../../src/pagetable/page-table.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { CD } from '../../src/target/smmuv3/spec/cd.ts';
import type { FirstStage, StageFormat } from '../../src/target/target.ts';
import { GuestPages } from '../target/guest-pages.ts';
import { contextOf, structure } from '../target/smmuv3/guest.ts';

/** A first stage in guest RAM, as a driver keeps it: for paths on which the hardware walks it. */
export class GuestTables {
  readonly format: StageFormat;
  readonly stage: FirstStage;
  readonly #table: PageTable;

  /** Pages [first, end) of guest RAM are the driver's. */
  constructor(format: 'vtd' | 'smmuv3', memory: GuestMemory, first: number, end: number) {
    this.format = format;
    const pool = new GuestPages(memory, first, end);
    const root = pool.allocate(1);
    if (format === 'vtd') {
      this.#table = new X86Table(memory, { levels: 4, root, allocator: pool });
      const flags = { supervisor: false, extendedAccess: false, writeProtect: false };
      this.stage = { kind: 'vtd', root: BigInt(root) << 12n, addressWidth: 48, ...flags };
      return;
    }
    const config = { stage: 1 as const, granuleLg2: 12 as const, inputBits: 39, outputBits: 48, root: BigInt(root) << 12n };
    const table = new ArmTable(memory, { ...config, allocator: pool });
    this.#table = table;
    const descriptor = pool.allocate(1);
    const words = structure(CD, { ...contextOf(ASID, { table, root, config }), AFFD: 1 });
    for (let i = 0; i < words.length; i += 2) memory.store64(0, descriptor * 4096 + 4 * i, words[i + 1], words[i]);
    // IHI 0070, 5.2: V, Config 0b101, one descriptor.
    this.stage = { kind: 'smmuv3', ste: [1n | (5n << 1n) | (BigInt(descriptor) << 12n), 0n] };
  }

  /** Stores: [first, first + pages) leads to guest pages from `gpa` on; permission 0: nowhere. */
  set(first: number, pages: number, gpa: number, permission: number): void {
    this.#table.unmap(first, pages);
    // First stages have no write-only pages.
    if (permission !== 0) this.#table.map(first, gpa, pages, permission | 1);
  }

  /** The commands for it that hardware has to hear word for word: Arm IHI 0070, 4.4.1 (CMD_TLBI_NH_VA); of VT-d's it need not. */
  commands(first: number, pages: number): Int32Array[] {
    if (this.format === 'vtd') return [];
    return Array.from({ length: pages }, (_, i) => Int32Array.of(0x12, ASID << 16, (first + i) << 12, 0));
  }
}

const ASID = 5;
