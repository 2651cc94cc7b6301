import { requireBytes, requireObject, requireString } from '../../../memory/arguments.ts';

/** Flattened device trees: Devicetree Specification 0.4, chapter 5. */

const MAGIC = 0xd00d_feed;
const VERSION = 17;
const COMPATIBLE_VERSION = 16;
/** Ten 32-bit fields (5.2). */
const HEADER_BYTES = 40;
const Token = { BEGIN_NODE: 1, END_NODE: 2, PROP: 3, NOP: 4, END: 9 } as const;
/** Nodes within nodes that are followed; the specification has no limit, and no tree comes near. */
const DEPTH_LIMIT = 64;

/** A value of a property: cells of 32 bits, a text or several, or bytes as they are. */
export type PropertyValue = readonly number[] | string | readonly string[] | Uint8Array;

/**
 * A node: its properties as bytes, and the nodes below it.
 *
 * @example
 * const node = new DeviceNode('iommu@10000').set('reg', [0, 0x10000, 0, 0x1000]).set('#iommu-cells', [1]);
 * node.properties.get('reg').length; // 16
 */
export class DeviceNode {
  readonly name: string;
  readonly properties = new Map<string, Uint8Array>();
  readonly children: DeviceNode[] = [];

  constructor(name: string) {
    requireString('DeviceNode', 'name', name);
    this.name = name;
  }

  /** Sets a property; an empty list of cells is one without a value, which says yes by being there. */
  set(name: string, value: PropertyValue): this {
    requireString('DeviceNode', 'name', name);
    if (typeof value !== 'string' && !(value instanceof Uint8Array) && !Array.isArray(value))
      throw new TypeError('DeviceNode: value is no text, list or Uint8Array');
    this.properties.set(name, bytesOf(value));
    return this;
  }

  /** Takes a property away. */
  delete(name: string): this {
    requireString('DeviceNode', 'name', name);
    this.properties.delete(name);
    return this;
  }

  /** A property as 32-bit cells. @throws RangeError when it is not there. */
  cells(name: string): number[] {
    const bytes = this.properties.get(name);
    if (bytes === undefined) throw new RangeError(`device tree: ${this.name} has no ${name}`);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    return Array.from({ length: bytes.length >> 2 }, (_, i) => view.getUint32(4 * i));
  }

  /** The node at a path below this one; a name may leave out its unit address: `chosen`, `pcie`. @throws RangeError when there is none. */
  find(...path: readonly string[]): DeviceNode {
    return path.reduce<DeviceNode>((node, name) => {
      const found = node.children.find((child) => child.name === name || child.name.split('@')[0] === name);
      if (found === undefined) throw new RangeError(`device tree: ${node.name || '/'} has no ${name}`);
      return found;
    }, this);
  }

  /** Every node from this one down. */
  *all(): Generator<DeviceNode> {
    yield this;
    for (const child of this.children) yield* child.all();
  }

  add(child: DeviceNode): this {
    requireObject('DeviceNode', 'child', child, 'DeviceNode', ['all']);
    this.children.push(child);
    return this;
  }
}

function bytesOf(value: PropertyValue): Uint8Array {
  if (value instanceof Uint8Array) return value;
  if (typeof value === 'string') return new TextEncoder().encode(`${value}\0`);
  if (value.length > 0 && typeof value[0] === 'string') return new TextEncoder().encode(value.map((text) => `${text}\0`).join(''));
  const view = new DataView(new ArrayBuffer(4 * value.length));
  value.forEach((cell, i) => {
    view.setUint32(4 * i, cell as number);
  });
  return new Uint8Array(view.buffer);
}

/**
 * The tree that a blob holds.
 *
 * @example
 * const tree = readDeviceTree(writeDeviceTree(new DeviceNode('').add(new DeviceNode('chosen').set('bootargs', 'quiet'))));
 * new TextDecoder().decode(tree.find('chosen').properties.get('bootargs')); // 'quiet\0'
 *
 * @throws RangeError for what is no device tree.
 */
export function readDeviceTree(blob: Uint8Array): DeviceNode {
  requireBytes('readDeviceTree', 'blob', blob);
  const view = new DataView(blob.buffer, blob.byteOffset, blob.length);
  if (blob.length < HEADER_BYTES || view.getUint32(0) !== MAGIC) throw new RangeError('device tree: no blob of one');
  const strings = view.getUint32(12);
  const text = (at: number) => {
    const end = blob.indexOf(0, at);
    if (end < 0) throw new RangeError('device tree: a name does not end');
    return { value: new TextDecoder().decode(blob.subarray(at, end)), end: end + 1 };
  };
  const root = new DeviceNode('');
  const path: DeviceNode[] = [];
  for (let at = view.getUint32(8); ; ) {
    const token = view.getUint32(at);
    at += 4;
    if (token === Token.BEGIN_NODE) {
      const { value, end } = text(at);
      const parent = path.at(-1);
      const node = parent === undefined ? root : new DeviceNode(value);
      parent?.add(node);
      path.push(node);
      if (path.length > DEPTH_LIMIT) throw new RangeError('device tree: too deep');
      at = (end + 3) & ~3;
    } else if (token === Token.END_NODE) path.pop();
    else if (token === Token.PROP) {
      const bytes = view.getUint32(at);
      path.at(-1)?.properties.set(text(strings + view.getUint32(at + 4)).value, blob.slice(at + 8, at + 8 + bytes));
      at = (at + 8 + bytes + 3) & ~3;
    } else if (token === Token.END) return root;
    else if (token !== Token.NOP) throw new RangeError(`device tree: token ${token}`);
  }
}

/** The blob of a tree, with no memory reservations. */
export function writeDeviceTree(root: DeviceNode): Uint8Array {
  requireObject('writeDeviceTree', 'root', root, 'DeviceNode', ['all']);
  const names = new Map<string, number>();
  let strings = '';
  const nameOf = (name: string) => {
    const known = names.get(name);
    if (known !== undefined) return known;
    const at = strings.length;
    strings += `${name}\0`;
    names.set(name, at);
    return at;
  };
  const structure: number[] = [];
  const word = (value: number) => structure.push(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff);
  const bytes = (value: Uint8Array) => {
    for (const byte of value) structure.push(byte);
    while (structure.length % 4 !== 0) structure.push(0);
  };
  const visit = (node: DeviceNode) => {
    word(Token.BEGIN_NODE);
    bytes(new TextEncoder().encode(`${node.name}\0`));
    for (const [name, value] of node.properties) {
      word(Token.PROP);
      word(value.length);
      word(nameOf(name));
      bytes(value);
    }
    for (const child of node.children) visit(child);
    word(Token.END_NODE);
  };
  visit(root);
  word(Token.END);
  const reservations = HEADER_BYTES;
  const structureAt = reservations + 16;
  const stringsAt = structureAt + structure.length;
  const total = stringsAt + strings.length;
  const blob = new Uint8Array(total);
  const header = new DataView(blob.buffer);
  const fields = [MAGIC, total, structureAt, stringsAt, reservations, VERSION, COMPATIBLE_VERSION, 0, strings.length, structure.length];
  fields.forEach((field, i) => {
    header.setUint32(4 * i, field);
  });
  blob.set(structure, structureAt);
  blob.set(new TextEncoder().encode(strings), stringsAt);
  return blob;
}
