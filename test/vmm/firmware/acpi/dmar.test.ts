import { describe, expect, test } from 'vitest';
import { type DmarDescription, dmarTable } from '../../../../src/vmm/firmware/acpi/dmar.ts';
import { acpiTable, Bytes } from '../../../../src/vmm/firmware/acpi/table.ts';

const one = { hostAddressWidth: 48, interruptRemapping: false, units: [{ registers: 0xfebf_c000n }] };
const endpoint = { kind: 'endpoint', startBus: 0, path: [{ device: 5, function: 0 }] } as const;

function hex(table: Uint8Array, from: number): string {
  return Buffer.from(table.subarray(from)).toString('hex');
}

test('every table: signature, length, makers padded with spaces, bytes that add up to 0 (ACPI 6.5, 5.2.6)', () => {
  const table = acpiTable('TEST', 3, new Bytes().u32('word', 0x1234_5678).u64('wide', 0xffff_0000_ffff_0000n), { oemId: 'ME' });
  expect(Buffer.from(table.subarray(0, 4)).toString()).toBe('TEST');
  expect(new DataView(table.buffer).getUint32(4, true)).toBe(table.length);
  expect(table[8]).toBe(3);
  expect(Buffer.from(table.subarray(10, 24)).toString()).toBe('ME    VIOMMU  ');
  expect(table.reduce((sum, byte) => (sum + byte) & 0xff, 0)).toBe(0);
  expect(hex(table, 36)).toBe('785634120000ffff0000ffff');
});

describe('DMAR (VT-d, chapter 8)', () => {
  test('what a stock Linux guest was booted with: one unit, one endpoint', () => {
    const table = dmarTable({ ...one, units: [{ registers: 0xfebf_c000n, scope: [endpoint] }] });
    expect(hex(table, 36)).toBe(`2f00${'00'.repeat(10)}0000180000000000${'00c0bffe00000000'}0108000000000500`);
  });

  test('all kinds of structures, in numerical order, the unit with INCLUDE_PCI_ALL after the others', () => {
    const all: DmarDescription = {
      hostAddressWidth: 39,
      interruptRemapping: true,
      x2apicOptOut: true,
      dmaOptIn: true,
      units: [
        { registers: 0xfed9_0000n, includeAll: true, scope: [{ ...endpoint, kind: 'ioapic', enumerationId: 2 }] },
        { registers: 0xfed9_2000n, registerBytes: 8192, segment: 1, scope: [{ ...endpoint, kind: 'bridge' }] },
      ],
      reservedMemory: [{ base: 0x1000n, limit: 0x2fffn, scope: [endpoint] }],
      atsPorts: [{ allPorts: true }],
      affinities: [{ registers: 0xfed9_2000n, proximityDomain: 3 }],
      namespaceDevices: [{ deviceNumber: 9, objectName: '\\_SB.I2C0' }],
      translationCaches: [{ atcRequired: true, scope: [endpoint] }],
      properties: [{ scope: [{ ...endpoint, flags: 0x18 }] }],
    };
    const table = dmarTable(all);
    const view = new DataView(table.buffer);
    expect([table[36], table[37]]).toEqual([38, 7]);
    const structures: number[][] = [];
    for (let at = 48; at < table.length; at += view.getUint16(at + 2, true))
      structures.push([view.getUint16(at, true), table[at + 4], table[at + 5]]);
    expect(structures).toEqual([
      [0, 0, 1],
      [0, 1, 0],
      [1, 0, 0],
      [2, 1, 0],
      [3, 0, 0],
      [4, 0, 0],
      [5, 1, 0],
      [6, 0, 0],
    ]);
    expect(hex(table, table.length - 8)).toBe('0108180000000500');
  });

  test('a unit of the most pages; root ports that are all of them name none (8.3, 8.5)', () => {
    expect(dmarTable({ ...one, units: [{ registers: 0n, registerBytes: 2 ** 27 }] })[48 + 5]).toBe(15);
    const ports = (allPorts: boolean) => dmarTable({ ...one, atsPorts: [{ allPorts, scope: [endpoint] }] }).length;
    expect(ports(false) - ports(true)).toBe(8);
  });

  test('RHSA (8.6): the unit by its registers, and its proximity domain; ANDD (8.7): number and name, which ends with a 0', () => {
    const tail = { affinities: [{ registers: 0xfebf_c000n, proximityDomain: 0x102 }] };
    expect(hex(dmarTable({ ...one, ...tail }), 64)).toBe('03001400' + '00000000' + '00c0bffe00000000' + '02010000');
    const named = { namespaceDevices: [{ deviceNumber: 7, objectName: '\\_SB' }] };
    expect(hex(dmarTable({ ...one, ...named }), 64)).toBe('04000d00' + '000000' + '07' + '5c5f534200');
  });

  test.each<[string, Partial<DmarDescription>]>([
    ["are no unit's", { affinities: [{ registers: 0n, proximityDomain: 0 }] }],
    ['deviceNumber', { namespaceDevices: [{ deviceNumber: 0, objectName: 'X' }] }],
    ['deviceNumber', { namespaceDevices: [{ deviceNumber: 256, objectName: 'X' }] }],
    ['has no name', { namespaceDevices: [{ deviceNumber: 1, objectName: '' }] }],
    ['objectName', { namespaceDevices: [{ deviceNumber: 1, objectName: 'Ä' }] }],
    ['two namespace devices', { namespaceDevices: [1, 1].map((deviceNumber) => ({ deviceNumber, objectName: 'X' })) }],
    ['there is no unit', { units: [] }],
    ['are not aligned', { units: [{ registers: 0x800n }] }],
    ['registerBytes', { units: [{ registers: 0n, registerBytes: 6000 }] }],
    // SIZE (8.3): 2^0 to 2^15 pages.
    ['registerBytes', { units: [{ registers: 0n, registerBytes: 2 ** 28 }] }],
    ['names no endpoints', { units: [{ registers: 0n, includeAll: true, scope: [endpoint] }] }],
    ['is no range of pages', { reservedMemory: [{ base: 1n, limit: 0xfffn, scope: [] }] }],
    ['is empty', { units: [{ registers: 0n, scope: [{ ...endpoint, path: [] }] }] }],
    ['no device and function', { units: [{ registers: 0n, scope: [{ ...endpoint, path: [{ device: 32, function: 0 }] }] }] }],
    ['hostAddressWidth', { hostAddressWidth: 0 }],
    ['oemId', { maker: { oemId: 'TOO LONG' } }],
  ])('RangeError: %s', (message, change) => {
    expect(() => dmarTable({ ...one, ...change })).toThrow(RangeError);
    expect(() => dmarTable({ ...one, ...change })).toThrow(message);
  });
});
