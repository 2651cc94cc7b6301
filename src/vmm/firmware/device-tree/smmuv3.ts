import { requireInteger, requireObject } from '../../../memory/arguments.ts';
import { DeviceNode } from './device-tree.ts';

const PAGE = 0x1_0000n;
/** Bytes of registers where nothing else is said: pages 0 and 1 of 64 KiB (Arm IHI 0070, 6.1). */
const REGISTER_BYTES = 0x2_0000;

/** An SMMUv3 in a device tree, beneath a node with two address and two size cells: Linux's binding `arm,smmu-v3`. */
export interface Smmuv3Description {
  /** Guest-physical address of its registers, a multiple of 64 KiB. */
  readonly registers: bigint;
  /** `Smmuv3.registerBytes`; the driver finds a VATOS page in them by IDR2. Default 0x2_0000. */
  readonly registerBytes?: number;
  /** The number by which other nodes name it. */
  readonly phandle: number;
  /** Its wires, each in the cells that the interrupt controller takes. */
  readonly event?: readonly number[];
  readonly gerror?: readonly number[];
  readonly pri?: readonly number[];
  readonly sync?: readonly number[];
  /** Where its own messages go: an ITS by its phandle, and the SMMU's DeviceID there. */
  readonly messages?: { readonly its: number; readonly device: number };
  /** It sees memory as processors do (IDR0.COHACC). Default true. */
  readonly coherent?: boolean;
}

/**
 * The node of an SMMUv3.
 *
 * @example
 * const node = smmuv3Node({ registers: 0x905_0000n, phandle: 7, event: [0, 74, 1], gerror: [0, 77, 1] });
 * node.name; // 'iommu@9050000'
 * node.cells('interrupts'); // [0, 74, 1, 0, 77, 1]
 *
 * @throws RangeError when the registers are not aligned to 64 KiB, or a number does not fit a cell; TypeError for what is no description.
 */
export function smmuv3Node(description: Smmuv3Description): DeviceNode {
  requireObject('smmuv3Node', 'description', description);
  const { registers, phandle, event, gerror, pri, sync, messages, registerBytes = REGISTER_BYTES, coherent = true } = description;
  if (typeof registers !== 'bigint') throw new TypeError(`smmuv3Node: registers ${String(registers)} is no bigint`);
  if (registers < 0n || registers >> 64n !== 0n || registers % PAGE !== 0n)
    throw new RangeError(`smmuv3Node: registers 0x${registers.toString(16)} are not aligned to 64 KiB`);
  const wires = [
    { name: 'eventq', cells: event },
    { name: 'gerror', cells: gerror },
    { name: 'priq', cells: pri },
    { name: 'cmdq-sync', cells: sync },
  ].flatMap(({ name, cells }) => (cells === undefined ? [] : [{ name, cells }]));
  const node = new DeviceNode(`iommu@${registers.toString(16)}`)
    .set('compatible', 'arm,smmu-v3')
    .set('reg', [Number(registers >> 32n), Number(registers & 0xffff_ffffn), 0, cell('registerBytes', registerBytes)])
    .set('#iommu-cells', [1])
    .set('phandle', [cell('phandle', phandle)]);
  if (wires.length > 0) {
    node.set(
      'interrupts',
      wires.flatMap(({ name, cells }) => cells.map((value) => cell(name, value))),
    );
    node.set(
      'interrupt-names',
      wires.map(({ name }) => name),
    );
  }
  if (messages !== undefined) node.set('msi-parent', [cell('messages.its', messages.its), cell('messages.device', messages.device)]);
  return coherent ? node.set('dma-coherent', []) : node;
}

function cell(name: string, value: number): number {
  requireInteger('smmuv3Node', name, value, 0, 0xffff_ffff);
  return value;
}
