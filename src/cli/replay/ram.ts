import type { Port } from '../../host/port.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import type { GuestRegion } from '../../memory/guest-region.ts';
import type { RecordedLine } from '../recording.ts';

/** Guest RAM as the machine line of a recording describes it. */
export interface RecordedRam {
  readonly gpa: bigint;
  readonly bytes: bigint;
}

export function recordedRam(line: RecordedLine): RecordedRam[] {
  const regions = line.objects('ram').map((region) => ({ gpa: region.u64('gpa'), bytes: region.u64('bytes') }));
  return regions.length > 0 ? regions : line.fail("'ram' has no region");
}

/** Guest RAM in memory that the port's kernel can map for DMA. @throws RangeError when there is not that much. */
export function allocateRam(port: Port, regions: readonly RecordedRam[]): GuestMemory {
  return new GuestMemory(regions.map((region) => allocated(port, region)));
}

/** Makes the guest's RAM what a later line says of it: what has gone first, then what has come. @throws as `allocateRam` */
export function changeRam(memory: GuestMemory, port: Port, regions: readonly RecordedRam[]): void {
  const isSame = (there: GuestRegion, { gpa, bytes }: RecordedRam) => there.gpa === gpa && there.bytes === Number(bytes);
  for (const there of memory.regions) if (!regions.some((region) => isSame(there, region))) memory.remove(there.gpa);
  for (const region of regions) if (!memory.regions.some((there) => isSame(there, region))) memory.add(allocated(port, region));
}

function allocated(port: Port, { gpa, bytes }: RecordedRam): GuestRegion {
  const memory = port.allocate(Number(bytes));
  return { gpa, buffer: memory.buffer, bytes: Number(bytes), hostAddress: memory.address };
}
