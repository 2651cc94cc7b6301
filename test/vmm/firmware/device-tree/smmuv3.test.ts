import { expect, test } from 'vitest';
import { GuestMemory } from '../../../../src/memory/guest-memory.ts';
import { Smmuv3 } from '../../../../src/target/smmuv3/index.ts';
import { DeviceNode, readDeviceTree, writeDeviceTree } from '../../../../src/vmm/firmware/device-tree/device-tree.ts';
import { type Smmuv3Description, smmuv3Node } from '../../../../src/vmm/firmware/device-tree/smmuv3.ts';

/* Linux's binding arm,smmu-v3. */

const registers = 0x9_0905_0000n;
const texts = (node: DeviceNode, name: string) => new TextDecoder().decode(node.properties.get(name)).split('\0').slice(0, -1);

test('registers, wires by name, messages; read back from a blob', () => {
  const wires = { event: [0, 74, 1], pri: [0, 75, 1], sync: [0, 76, 1], gerror: [0, 77, 1] };
  const tree = new DeviceNode('').add(smmuv3Node({ registers, phandle: 7, ...wires, messages: { its: 3, device: 0x1_0000 } }));
  const node = readDeviceTree(writeDeviceTree(tree)).find('iommu@909050000');
  expect(texts(node, 'compatible')).toEqual(['arm,smmu-v3']);
  expect(['reg', '#iommu-cells', 'phandle', 'msi-parent'].map((name) => node.cells(name))).toEqual([
    [9, 0x905_0000, 0, 0x2_0000],
    [1],
    [7],
    [3, 0x1_0000],
  ]);
  expect(texts(node, 'interrupt-names')).toEqual(['eventq', 'gerror', 'priq', 'cmdq-sync']);
  expect(node.cells('interrupts')).toEqual([0, 74, 1, 0, 77, 1, 0, 75, 1, 0, 76, 1]);
  expect(node.properties.get('dma-coherent')).toHaveLength(0);
});

test('a unit with a VATOS page has three pages', () => {
  const smmu = new Smmuv3({ memory: GuestMemory.ofBytes(4096), features: { VATOS: 1 } });
  const { registerBytes } = smmu;
  expect(smmuv3Node({ registers, registerBytes, phandle: 7 }).cells('reg')).toEqual([9, 0x905_0000, 0, 0x3_0000]);
});

test('what it has not is not there', () => {
  const node = smmuv3Node({ registers, phandle: 7, event: [0, 74, 1], coherent: false });
  expect(texts(node, 'interrupt-names')).toEqual(['eventq']);
  expect([...node.properties.keys()]).toEqual(['compatible', 'reg', '#iommu-cells', 'phandle', 'interrupts', 'interrupt-names']);
  expect(smmuv3Node({ registers, phandle: 7 }).properties.has('interrupts')).toBe(false);
});

test.each<[string, Partial<Smmuv3Description>, ErrorConstructor]>([
  ['not aligned to 64 KiB', { registers: 0x1000n }, RangeError],
  ['registers', { registers: 5 as unknown as bigint }, TypeError],
  ['phandle', { phandle: 2 ** 32 }, RangeError],
  ['eventq', { event: [-1] }, RangeError],
  ['messages.device', { messages: { its: 1, device: 0.5 } }, RangeError],
])('refused: %s', (what, change, error) => {
  const make = () => smmuv3Node({ registers, phandle: 7, ...change });
  expect(make).toThrow(error);
  expect(make).toThrow(what);
});
