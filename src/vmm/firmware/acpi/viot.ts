import { requireArray, requireObject } from '../../../memory/arguments.ts';
import { acpiTable, Bytes, type TableMaker } from './table.ts';

/** The Virtual I/O Translation table: ACPI 6.5, 5.2.30. */

/** The virtio-iommu that translates: a PCI function, or registers in memory (5.2.30.3, 5.2.30.4). */
export type ViotIommu =
  | { readonly kind: 'pci'; readonly segment?: number; readonly device: number }
  | { readonly kind: 'mmio'; readonly base: bigint };

/** Whose DMA it translates, by which endpoint numbers (5.2.30.1, 5.2.30.2). */
export type ViotEndpoints =
  /** PCI functions from `first` to `last` have the endpoint numbers from `endpoint` on. */
  | { readonly kind: 'pci'; readonly segment?: number; readonly first: number; readonly last: number; readonly endpoint: number }
  | { readonly kind: 'mmio'; readonly base: bigint; readonly endpoint: number };

/** What a machine says of one virtio-iommu. */
export interface ViotDescription {
  readonly iommu: ViotIommu;
  readonly endpoints: readonly ViotEndpoints[];
  readonly maker?: TableMaker;
}

/** Types of nodes. */
const Node = { pciRange: 1, mmioEndpoint: 2, pciIommu: 3, mmioIommu: 4 } as const;
const HEADER_BYTES = 36;
/** Behind the node count, the nodes' offset and 8 reserved bytes. */
const NODES_AT = HEADER_BYTES + 12;
const IOMMU_BYTES = 16;
const ENDPOINTS_BYTES = 24;

/**
 * The table's bytes.
 *
 * @example
 * const viot = viotTable({ iommu: { kind: 'pci', device: 0x18 }, endpoints: [{ kind: 'pci', first: 0x28, last: 0x30, endpoint: 0x28 }] });
 * String.fromCharCode(...viot.subarray(0, 4)); // 'VIOT'
 *
 * @throws RangeError when something does not fit its field, or a range is none; the line names it.
 */
export function viotTable(description: ViotDescription): Uint8Array {
  requireObject('VIOT', 'description', description);
  const { iommu, endpoints, maker } = description;
  requireObject('VIOT', 'iommu', iommu);
  requireArray('VIOT', 'endpoints', endpoints);
  const body = new Bytes()
    .u16('node count', 1 + endpoints.length)
    .u16('node offset', NODES_AT)
    .zeros(8);
  if (iommu.kind === 'pci')
    node(body, Node.pciIommu, IOMMU_BYTES)
      .u16('segment', iommu.segment ?? 0)
      .u16('device', iommu.device)
      .zeros(8);
  else node(body, Node.mmioIommu, IOMMU_BYTES).zeros(4).u64('base', iommu.base);
  for (const one of endpoints) {
    if (one.kind === 'mmio')
      node(body, Node.mmioEndpoint, ENDPOINTS_BYTES)
        .u32('endpoint', one.endpoint)
        .u64('base', one.base)
        .u16('output node', NODES_AT)
        .zeros(6);
    else pciRange(body, one);
  }
  return acpiTable('VIOT', 0, body, maker);
}

function pciRange(body: Bytes, { segment = 0, first, last, endpoint }: Extract<ViotEndpoints, { kind: 'pci' }>): void {
  if (last < first) throw new RangeError(`VIOT: devices 0x${first.toString(16)} to 0x${last.toString(16)} are no range`);
  node(body, Node.pciRange, ENDPOINTS_BYTES)
    .u32('endpoint', endpoint)
    .u16('first segment', segment)
    .u16('last segment', segment)
    .u16('first', first)
    .u16('last', last)
    .u16('output node', NODES_AT)
    .zeros(6);
}

function node(body: Bytes, type: number, bytes: number): Bytes {
  return body.u8('type', type).u8('reserved', 0).u16('length', bytes);
}
