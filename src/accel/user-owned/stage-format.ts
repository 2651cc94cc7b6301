import type { NestingHardware, UserStage } from '../../host/host.ts';
import { hiOfPfn, loOfPfn } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { ArmTable } from '../../pagetable/arm.ts';
import type { PageTable, TableAllocator } from '../../pagetable/page-table.ts';
import { X86Table } from '../../pagetable/x86.ts';

/** A first stage of ours: its table, and how the hardware is told of it. */
export interface WrittenStage {
  readonly table: PageTable;
  readonly stage: UserStage;
}

/** Pages of the lower half, which is all that a table of ours maps: VT-d's addresses are canonical. */
export function inputPages({ kind, inputBits }: NestingHardware): number {
  return 2 ** (inputBits - 12 - (kind === 'vtd' ? 1 : 0));
}

/** An empty first stage in the hardware's format, or null: no memory for it. */
export function writeStage(hardware: NestingHardware, memory: GuestMemory, pages: TableAllocator, asid: number): WrittenStage | null {
  const root = pages.allocate(1);
  if (root < 0) return null;
  const { gigabytePages, outputBits } = hardware;
  if (hardware.kind === 'vtd') {
    const table = new X86Table(memory, { levels: 4, root, outputBits, gigabytePages, allocator: pages });
    return { table, stage: { kind: 'vtd', root: BigInt(root) << 12n, addressWidth: 48 } };
  }
  const descriptor = pages.allocate(1);
  if (descriptor < 0) return null;
  const ttb = BigInt(root) << 12n;
  const table = new ArmTable(memory, { stage: 1, granuleLg2: 12, inputBits: 48, outputBits, root: ttb, allocator: pages });
  contextDescriptor(outputBits, ttb, asid).forEach((word, i) => {
    memory.store64(hiOfPfn(descriptor), loOfPfn(descriptor) + 8 * i, Number(word >> 32n) | 0, Number(word & 0xffff_ffffn) | 0);
  });
  return { table, stage: { kind: 'smmuv3', ste: streamTableEntry(BigInt(descriptor) << 12n), asid } };
}

/** IHI 0070, 5.2: V, Config 0b101 (stage 1 translates), one linear descriptor; its fetches are cached and shared (S1CIR, S1COR, S1CSH). */
function streamTableEntry(descriptor: bigint): readonly [bigint, bigint] {
  return [1n | (5n << 1n) | descriptor, (1n << 2n) | (1n << 4n) | (3n << 6n)];
}

/** CD.IPS by width. */
const IPS: Readonly<Record<number, bigint>> = { 32: 0n, 36: 1n, 40: 2n, 42: 3n, 44: 4n, 48: 5n };
/** MAIR attribute 0: normal memory, write-back, which is the AttrIndx of all leaves. */
const MAIR = 0xffn;

/** IHI 0070, 5.4: T0SZ 16, 4 KiB granule, cached walks, EPD1, V, IPS, AFFD, AA64, R and A (faults are recorded and abort), ASET, ASID; TTB0; TTB1; MAIR. */
function contextDescriptor(outputBits: number, ttb: bigint, asid: number): readonly bigint[] {
  const walks = (1n << 8n) | (1n << 10n) | (3n << 12n);
  const flags = (1n << 30n) | (1n << 31n) | (1n << 35n) | (1n << 41n) | (1n << 45n) | (1n << 46n) | (1n << 47n);
  return [16n | walks | flags | (IPS[outputBits] << 32n) | (BigInt(asid) << 48n), ttb, 0n, MAIR];
}
