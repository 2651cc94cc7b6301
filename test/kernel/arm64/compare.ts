import { simKernel, smmuv3 } from '../../../src/host/sim/index.ts';
import { smmuOperations } from './operations.ts';
import { PATTERN } from './smmu-guest.ts';

/** What QEMU's SMMUv3 says of itself to the VM's kernel: IDR0 to IDR5. */
const IDR = [0x0d44_101b, 0x0273_0010, 0, 0x1414, 0, 0x74];

/** The operations on the simulated kernel, with the hardware of the VM. */
export function simulatedOperations(): string[] {
  const reserved = [{ first: 0x800_0000n, last: 0x80f_ffffn }];
  const port = simKernel({ iommus: [{ nesting: smmuv3({ idr: IDR }), reserved }], devices: [{ name: 'vfio0' }] });
  const pattern = new Uint8Array(Uint32Array.of(PATTERN).buffer);
  const write = (_: unknown, iova: bigint) => port.device().dmaWrite(iova, pattern) === 0;
  return smmuOperations({ port, path: '/dev/vfio/devices/vfio0', write, patience: 0 });
}

const WALK =
  'QEMU 11.1 records a stage-2 fault of a first-stage walk with S2 0, CLASS TT, so that Linux takes it for the guest’s; 7.3 has S2 1 there, which stays with the host';

/** Operations whose results may differ, and why. */
const differences: Readonly<Record<string, string>> = {
  'a table that the parent has not': WALK,
  'the parent unmaps': WALK,
};

/** The lines of one transcript that are not in the other, or differ without a reason: `operation: real | simulated`. */
export function unexplained(real: readonly string[], simulated: readonly string[]): string[] {
  const found: string[] = [];
  for (let index = 0; index < Math.max(real.length, simulated.length); index++) {
    const [there, here] = [real[index] ?? '(nothing)', simulated[index] ?? '(nothing)'];
    if (there !== here && differences[there.slice(0, there.indexOf(':'))] === undefined) found.push(`${there} | ${here}`);
  }
  return found;
}
