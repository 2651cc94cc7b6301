import { fc, test as property } from '@fast-check/vitest';
import { expect, test } from 'vitest';
import { DeviceNode, readDeviceTree, writeDeviceTree } from '../../../../src/vmm/firmware/device-tree/device-tree.ts';

function sample(): DeviceNode {
  return new DeviceNode('')
    .set('#address-cells', [2])
    .set('compatible', ['linux,dummy-virt', 'arm,virt'])
    .add(new DeviceNode('chosen').set('bootargs', 'quiet'))
    .add(
      new DeviceNode('pcie@10000000')
        .set('dma-coherent', [])
        .set('ranges', [0x0200_0000, 0, 0x1000_0000, 0, 0x1000_0000, 0, 0x2eff_0000])
        .add(new DeviceNode('iommu@4,0').set('reg', Uint8Array.of(0, 0, 0x20, 0))),
    );
}

test('the blob begins as the specification says (5.2)', () => {
  const blob = writeDeviceTree(sample());
  const view = new DataView(blob.buffer);
  expect([view.getUint32(0), view.getUint32(4), view.getUint32(20), view.getUint32(24)]).toEqual([0xd00dfeed, blob.length, 17, 16]);
  expect(view.getUint32(view.getUint32(8))).toBe(1);
  // Memory reservations end with a pair of zeros, at a multiple of 8.
  expect([view.getUint32(16) % 8, view.getBigUint64(view.getUint32(16)), view.getBigUint64(view.getUint32(16) + 8)]).toEqual([0, 0n, 0n]);
});

test('what was written is read: nodes by name, with and without unit address', () => {
  const tree = readDeviceTree(writeDeviceTree(sample()));
  expect(tree.find('pcie').cells('ranges')[6]).toBe(0x2eff_0000);
  expect(tree.find('pcie@10000000', 'iommu').cells('reg')).toEqual([0x2000]);
  expect(tree.find('pcie').properties.get('dma-coherent')).toEqual(new Uint8Array(0));
  expect(new TextDecoder().decode(tree.properties.get('compatible'))).toBe('linux,dummy-virt\0arm,virt\0');
  expect([...tree.all()].map(({ name }) => name)).toEqual(['', 'chosen', 'pcie@10000000', 'iommu@4,0']);
  expect(() => tree.find('memory')).toThrow(/has no memory/);
  expect(() => tree.cells('model')).toThrow(RangeError);
});

test('nodes in nodes, 64 deep and no deeper; a token that there is not', () => {
  const nested = (depth: number) => {
    let tree = new DeviceNode('n');
    for (let i = 2; i < depth; i++) tree = new DeviceNode('n').add(tree);
    return new DeviceNode('').add(tree);
  };
  expect([...readDeviceTree(writeDeviceTree(nested(64))).all()].length).toBe(64);
  expect(() => readDeviceTree(writeDeviceTree(nested(65)))).toThrow(/too deep/);
  const blob = writeDeviceTree(new DeviceNode(''));
  const view = new DataView(blob.buffer);
  const end = view.getUint32(8) + 12;
  expect(view.getUint32(end)).toBe(9);
  view.setUint32(end, 8);
  expect(() => readDeviceTree(blob)).toThrow(/token 8/);
});

test('NOPs between tokens are none of the tree (5.4.1)', () => {
  const blob = writeDeviceTree(new DeviceNode('').set('model', 'm'));
  const view = new DataView(blob.buffer);
  const at = view.getUint32(8);
  const structure = view.getUint32(36);
  const grown = new Uint8Array(blob.length + 4);
  grown.set(blob.subarray(0, at + 8));
  grown.set(blob.subarray(at + 8), at + 12);
  const header = new DataView(grown.buffer);
  header.setUint32(at + 8, 4);
  header.setUint32(4, grown.length);
  header.setUint32(12, view.getUint32(12) + 4);
  header.setUint32(36, structure + 4);
  expect(readDeviceTree(grown)).toEqual(readDeviceTree(blob));
});

const name = fc.stringMatching(/^[a-z][a-z0-9,@-]{0,12}$/);
const properties = fc.dictionary(name, fc.uint8Array({ maxLength: 20 }), { maxKeys: 4 });
const { tree: arbitraryNode } = fc.letrec<{ tree: DeviceNode }>((tie) => ({
  tree: fc
    .record({ name, properties, children: fc.oneof({ maxDepth: 3 }, fc.constant([]), fc.array(tie('tree'), { maxLength: 3 })) })
    .map((made) => {
      const node = new DeviceNode(made.name);
      for (const [key, value] of Object.entries(made.properties)) node.set(key, value);
      for (const child of made.children) node.add(child);
      return node;
    }),
}));

property.prop([arbitraryNode])('any tree comes back as it was', (tree) => {
  const root = new DeviceNode('').add(tree);
  expect(readDeviceTree(writeDeviceTree(root))).toEqual(root);
});

property.prop([fc.uint8Array({ maxLength: 200 })])('what is no tree is refused, not taken', (bytes) => {
  const blob = writeDeviceTree(sample());
  blob.set(bytes.subarray(0, blob.length - 40), 40);
  try {
    readDeviceTree(blob);
  } catch (error) {
    expect(error).toBeInstanceOf(RangeError);
  }
  expect(() => readDeviceTree(bytes)).toThrow(RangeError);
});
