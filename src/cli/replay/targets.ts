import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { RecordedLine } from '../recording.ts';
import { recordedAmd, recordedRiscv, recordedSmmuv3, recordedVtd } from './register-unit.ts';
import type { RecordedTarget, RecordedTargetFactory } from './replayer.ts';
import { recordedSpaces } from './spaces.ts';
import { recordedSpapr } from './spapr.ts';
import { recordedVirtioIommu } from './virtio-iommu.ts';
import { recordedZpci } from './zpci.ts';

/** One line a kind of recorded guest: what a machine line's `target` can say. */
const targets: Readonly<Record<string, RecordedTargetFactory>> = {
  amd: recordedAmd,
  riscv: recordedRiscv,
  smmuv3: recordedSmmuv3,
  spaces: recordedSpaces,
  spapr: recordedSpapr,
  'virtio-iommu': recordedVirtioIommu,
  vtd: recordedVtd,
  zpci: recordedZpci,
};

/** @throws RecordingError when there is no such target, or the machine line contradicts itself. */
export function recordedTarget(machine: RecordedLine, memory: GuestMemory, end: bigint | null): RecordedTarget {
  const name = machine.text('target');
  const make = Object.hasOwn(targets, name) ? targets[name] : undefined;
  if (make === undefined) machine.fail(`target '${name}' cannot be replayed; there are ${Object.keys(targets).join(', ')}`);
  return make(machine, memory, end);
}
