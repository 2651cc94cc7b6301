import { errno } from '../../errno.ts';
import type { ProcessMemory } from '../memory.ts';
import type { Span } from '../spans.ts';
import { readArgsz } from '../structs.ts';
import { capDmaAvail, capIovaRange, capMigration, iovaRange, type1Info } from './structs.ts';
import { BITMAP_BYTES_MAX } from './type1-dirty.ts';

const FLAG_PGSIZES = 1;
const FLAG_CAPS = 2;
const CAP_IOVA_RANGE = 1;
const CAP_MIGRATION = 2;
const CAP_DMA_AVAIL = 3;

/** What VFIO_IOMMU_GET_INFO tells. */
interface Facts {
  readonly pageSizes: bigint;
  readonly ranges: readonly Span<bigint>[];
  readonly available: number;
}

/** vfio_iommu_type1_get_info: the struct, and behind it the chain of capabilities if the caller has room for all of it. */
export function answerInfo(memory: ProcessMemory, address: number, facts: Facts): number {
  const command = readArgsz(type1Info, type1Info.endOf('iova_pgsizes'), memory, address);
  if (typeof command === 'number') return command;
  const chain = capabilities(facts);
  const wanted = type1Info.bytes + chain.length;
  const { argsz } = command.in;
  const answer = { flags: FLAG_PGSIZES | FLAG_CAPS, iova_pgsizes: facts.pageSizes, pad: 0 };
  const room = Math.min(argsz, type1Info.bytes);
  if (argsz < wanted) return command.respond({ ...answer, argsz: wanted, cap_offset: 0 }, room);
  if (!memory.copyOut(address + type1Info.bytes, chain)) return -errno.EFAULT;
  return command.respond({ ...answer, cap_offset: type1Info.bytes }, room);
}

function capabilities({ pageSizes, ranges, available }: Facts): Buffer {
  const migration = Buffer.alloc(capMigration.bytes);
  const dmaAvail = Buffer.alloc(capDmaAvail.bytes);
  const iovaRanges = Buffer.alloc(capIovaRange.bytes + ranges.length * iovaRange.bytes);
  const offsetOfAvail = type1Info.bytes + migration.length;
  const smallest = pageSizes & -pageSizes;
  const dirty = { pgsize_bitmap: smallest, max_dirty_bitmap_size: BITMAP_BYTES_MAX };
  capMigration.encode(migration, { id: CAP_MIGRATION, version: 1, next: offsetOfAvail, ...dirty });
  capDmaAvail.encode(dmaAvail, { id: CAP_DMA_AVAIL, version: 1, next: offsetOfAvail + dmaAvail.length, avail: available });
  capIovaRange.encode(iovaRanges, { id: CAP_IOVA_RANGE, version: 1, next: 0, nr_iovas: ranges.length });
  for (const [index, { first, last }] of ranges.entries()) {
    iovaRange.encode(iovaRanges.subarray(capIovaRange.bytes + index * iovaRange.bytes), { start: first, end: last });
  }
  return Buffer.concat([migration, dmaAvail, iovaRanges]);
}
