import type { Port } from '../../host/port.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import type { RecordedLine } from '../recording.ts';

/** Guest RAM as the machine line of a recording describes it. */
export interface RecordedRam {
  readonly gpa: bigint;
  readonly bytes: bigint;
}

export function recordedRam(machine: RecordedLine): RecordedRam[] {
  const regions = machine.objects('ram').map((region) => ({ gpa: region.u64('gpa'), bytes: region.u64('bytes') }));
  return regions.length > 0 ? regions : machine.fail("'ram' has no region");
}

/** Guest RAM in memory that the port's kernel can map for DMA. @throws RangeError when there is not that much. */
export function allocateRam(port: Port, regions: readonly RecordedRam[]): GuestMemory {
  return new GuestMemory(
    regions.map(({ gpa, bytes }) => {
      const memory = port.allocate(Number(bytes));
      return { gpa, buffer: memory.buffer, bytes: Number(bytes), hostAddress: memory.address };
    }),
  );
}
