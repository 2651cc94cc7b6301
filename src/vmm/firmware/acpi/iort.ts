import { requireArray, requireObject } from '../../../memory/arguments.ts';
import { acpiTable, Bytes, type TableMaker } from './table.ts';

/** The I/O Remapping Table: Arm DEN0049E. */

/** Input IDs that a node hands on: `count` of them from `first` on become those from `output` on (table 4, "ID mapping"). */
export interface IdRange {
  readonly first: number;
  readonly count: number;
  readonly output: number;
}

/** An interrupt translation service group (3.1.1.1). */
export interface ItsGroup {
  /** Identifiers of the ITSs, as MADT has them. */
  readonly its: readonly number[];
}

/** An SMMUv3 (3.1.1.2). */
export interface Smmuv3Node {
  /** Guest-physical address of its registers. */
  readonly registers: bigint;
  /** Its wires, as global system interrupts; left out: none. */
  readonly event?: number;
  readonly pri?: number;
  readonly gerror?: number;
  readonly sync?: number;
  /** Guest-physical address of its VATOS page; left out: none. */
  readonly vatos?: bigint;
  /** IDR0.COHACC is to be taken as 1. */
  readonly coherent?: boolean;
  /** StreamIDs that become DeviceIDs of the ITS group `its`, and the DeviceID of its own messages. */
  readonly its?: number;
  readonly messages?: readonly IdRange[];
  readonly ownDevice?: number;
}

/** A PCI root complex (3.1.1.5). */
export interface RootComplex {
  readonly segment: number;
  /** Requester IDs that become StreamIDs of the SMMU, by its place in the list. */
  readonly smmu: number;
  readonly streams: readonly IdRange[];
  readonly ats?: boolean;
  /** Bits of addresses that its functions have. Default 64. */
  readonly addressBits?: number;
}

/** Memory that streams reach one to one whatever the guest's tables say (3.1.1.7): where messages go when the host chose the place. */
export interface ReservedMemory {
  readonly smmu: number;
  readonly streams: IdRange;
  /** Whole granules of 64 KiB. */
  readonly ranges: readonly { readonly base: bigint; readonly bytes: bigint }[];
  /** The operating system may map it elsewhere. */
  readonly remappable?: boolean;
}

export interface IortDescription {
  readonly its?: readonly ItsGroup[];
  readonly smmus: readonly Smmuv3Node[];
  readonly roots: readonly RootComplex[];
  readonly reserved?: readonly ReservedMemory[];
  readonly maker?: TableMaker;
}

/** Types and revisions of nodes. */
const Node = { its: 0, root: 2, smmuv3: 4, reserved: 6 } as const;
const Revision = { table: 5, its: 1, root: 3, smmuv3: 4, reserved: 3 } as const;
const HEADER_BYTES = 36;
const NODES_AT = HEADER_BYTES + 12;
const NODE_BYTES = 16;
const IDENTIFIER_AT = 4;
const SMMU_BYTES = 68;
const ROOT_BYTES = 36;
const RESERVED_BYTES = 28;
const RANGE_BYTES = 20;
const MAPPING_BYTES = 20;
const SINGLE = 1;
const COHERENT = 1;
const DEVICE_ID_VALID = 1 << 4;
const GRANULE = 0x1_0000n;

/**
 * The table's bytes.
 *
 * @example
 * const smmu = { registers: 0x905_0000n, event: 106 };
 * const root = { segment: 0, smmu: 0, streams: [{ first: 0, count: 0x1_0000, output: 0 }] };
 * const iort = iortTable({ smmus: [smmu], roots: [root] });
 * String.fromCharCode(...iort.subarray(0, 4)); // 'IORT'
 *
 * @throws RangeError when a node names one that there is not, or something does not fit its field or is not aligned; the line names it.
 */
export function iortTable(description: IortDescription): Uint8Array {
  requireObject('IORT', 'description', description);
  const { its = [], smmus, roots, reserved = [], maker } = description;
  requireArray('IORT', 'its', its);
  requireArray('IORT', 'smmus', smmus);
  requireArray('IORT', 'roots', roots);
  requireArray('IORT', 'reserved', reserved);
  const nodes = new Bytes();
  let count = 0;
  /** Where the node is; its identifier is nobody else's (table 3, "Identifier"). */
  const add = (bytes: Uint8Array): number => {
    const at = NODES_AT + nodes.length;
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(IDENTIFIER_AT, count++, true);
    nodes.append(bytes);
    return at;
  };
  const groups = its.map((group) => add(itsGroup(group)));
  const units = smmus.map((unit) => add(smmuv3(unit, unit.its === undefined ? 0 : placeOf('ITS group', groups, unit.its))));
  for (const root of roots) add(rootComplex(root, placeOf('SMMU', units, root.smmu)));
  for (const memory of reserved) add(reservedMemory(memory, placeOf('SMMU', units, memory.smmu)));
  const body = new Bytes().u32('nodes', count).u32('offset', NODES_AT).zeros(4).append(nodes.toUint8Array());
  return acpiTable('IORT', Revision.table, body, maker);
}

function placeOf(what: string, places: readonly number[], index: number): number {
  const place = places[index];
  if (place === undefined) throw new RangeError(`IORT: there is no ${what} ${index}`);
  return place;
}

interface NodeHeader {
  readonly type: number;
  readonly revision: number;
  /** Bytes without the mappings. */
  readonly bytes: number;
  readonly mappings: readonly Uint8Array[];
}

function node({ type, revision, bytes, mappings }: NodeHeader, fill: (into: Bytes) => void): Uint8Array {
  const into = new Bytes()
    .u8('type', type)
    .u16('length', bytes + MAPPING_BYTES * mappings.length)
    .u8('revision', revision)
    .u32('identifier', 0)
    .u32('mappings', mappings.length)
    .u32('offset', mappings.length === 0 ? 0 : bytes);
  fill(into);
  for (const one of mappings) into.append(one);
  return into.toUint8Array();
}

/** The field holds one ID less than there are. */
function mapping({ first, count, output }: IdRange, reference: number, flags = 0): Uint8Array {
  if (!(count >= 1)) throw new RangeError(`IORT: ${count} IDs from 0x${first.toString(16)} on are no range`);
  return new Bytes()
    .u32('first ID', first)
    .u32('IDs', count - 1)
    .u32('output', output)
    .u32('reference', reference)
    .u32('flags', flags)
    .toUint8Array();
}

function itsGroup({ its }: ItsGroup): Uint8Array {
  const bytes = NODE_BYTES + 4 + 4 * its.length;
  return node({ type: Node.its, revision: Revision.its, bytes, mappings: [] }, (into) => {
    into.u32('ITSs', its.length);
    for (const one of its) into.u32('ITS', one);
  });
}

function smmuv3({ registers, event = 0, pri = 0, gerror = 0, sync = 0, coherent = true, ...rest }: Smmuv3Node, group: number): Uint8Array {
  if (registers % GRANULE !== 0n) throw new RangeError(`IORT: registers 0x${registers.toString(16)} are not aligned to 64 KiB`);
  const { messages = [], ownDevice, vatos = 0n } = rest;
  if (vatos % GRANULE !== 0n) throw new RangeError(`IORT: VATOS page 0x${vatos.toString(16)} is not aligned to 64 KiB`);
  if (rest.its === undefined && (messages.length > 0 || ownDevice !== undefined))
    throw new RangeError('IORT: messages without an ITS group');
  const mappings = messages.map((range) => mapping(range, group));
  const own = mappings.length;
  if (ownDevice !== undefined) mappings.push(mapping({ first: 0, count: 1, output: ownDevice }, group, SINGLE));
  return node({ type: Node.smmuv3, revision: Revision.smmuv3, bytes: SMMU_BYTES, mappings }, (into) => {
    into
      .u64('registers', registers)
      .u32('flags', (coherent ? COHERENT : 0) | (ownDevice === undefined ? 0 : DEVICE_ID_VALID))
      .zeros(4)
      .u64('vatos', vatos)
      // A generic model.
      .zeros(4)
      .u32('event', event)
      .u32('pri', pri)
      .u32('gerror', gerror)
      .u32('sync', sync)
      // Proximity domain: not said.
      .zeros(4)
      .u32('own mapping', ownDevice === undefined ? 0 : own);
  });
}

function rootComplex({ segment, streams, ats = false, addressBits = 64 }: RootComplex, smmu: number): Uint8Array {
  const mappings = streams.map((range) => mapping(range, smmu));
  return node({ type: Node.root, revision: Revision.root, bytes: ROOT_BYTES, mappings }, (into) => {
    // Memory access: coherent, no allocation hints, cacheable and inner shareable as it comes (CPM, DACS).
    into
      .u32('CCA', 1)
      .zeros(3)
      .u8('memory access', 3)
      .u32('ATS', Number(ats))
      .u32('segment', segment)
      .u8('address bits', addressBits)
      .zeros(3);
  });
}

function reservedMemory({ streams, ranges, remappable = false }: ReservedMemory, smmu: number): Uint8Array {
  const bytes = RESERVED_BYTES + RANGE_BYTES * ranges.length;
  const flags = Number(remappable);
  return node({ type: Node.reserved, revision: Revision.reserved, bytes, mappings: [mapping(streams, smmu)] }, (into) => {
    into.u32('flags', flags).u32('ranges', ranges.length).u32('offset', RESERVED_BYTES);
    for (const range of ranges) {
      if (range.base % GRANULE !== 0n || range.bytes % GRANULE !== 0n || range.bytes === 0n)
        throw new RangeError(`IORT: memory 0x${range.base.toString(16)} of ${range.bytes} bytes is no range of 64 KiB granules`);
      into.u64('base', range.base).u64('bytes', range.bytes).zeros(4);
    }
  });
}
