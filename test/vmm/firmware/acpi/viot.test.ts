import { expect, test } from 'vitest';
import { viotTable } from '../../../../src/vmm/firmware/acpi/viot.ts';

const hex = (bytes: Uint8Array, from: number) => Buffer.from(bytes.subarray(from)).toString('hex');

test('a virtio-iommu on PCI and a range of functions (ACPI 6.5, 5.2.30.1, 5.2.30.3)', () => {
  const table = viotTable({ iommu: { kind: 'pci', device: 0x20 }, endpoints: [{ kind: 'pci', first: 0x28, last: 0x30, endpoint: 0x28 }] });
  expect(Buffer.from(table.subarray(0, 4)).toString()).toBe('VIOT');
  expect(table.reduce((sum, byte) => (sum + byte) & 0xff, 0)).toBe(0);
  expect(hex(table, 36)).toBe(
    ['0200300000000000 00000000', '03001000 0000 2000 0000000000000000', '01001800 28000000 0000 0000 2800 3000 3000 000000000000']
      .join('')
      .replaceAll(' ', ''),
  );
});

test('registers in memory, and an endpoint there (5.2.30.2, 5.2.30.4)', () => {
  const table = viotTable({ iommu: { kind: 'mmio', base: 0x1000_0000n }, endpoints: [{ kind: 'mmio', base: 0x2000_0000n, endpoint: 7 }] });
  expect(hex(table, 48)).toBe('04001000000000000000001000000000' + '02001800070000000000002000000000' + '3000000000000000');
});

test('what is no range, or does not fit, is refused', () => {
  const iommu = { kind: 'pci', device: 0x20 } as const;
  expect(() => viotTable({ iommu, endpoints: [{ kind: 'pci', first: 9, last: 8, endpoint: 0 }] })).toThrow(RangeError);
  expect(() => viotTable({ iommu: { kind: 'pci', device: 0x10000 }, endpoints: [] })).toThrow(/device/);
});
