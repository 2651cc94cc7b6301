import { describe, expect, test } from 'vitest';
import { type IvrsDescription, ivrsTable } from '../../../../src/vmm/firmware/acpi/ivrs.ts';

const unit = { device: 0x18, capability: 0x40, registers: 0xfebf_4000n, efr: 0n, devices: [{ kind: 'select' as const, device: 0x28 }] };
const description: IvrsDescription = { physicalBits: 40, virtualBits: 48, units: [unit], types: [0x10] };
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

describe('IVRS, 48882 chapter 5', () => {
  test('the block that stock Linux boots on', () => {
    const table = ivrsTable(description);
    expect(table.reduce((sum, byte) => (sum + byte) & 0xff, 0)).toBe(0);
    expect(String.fromCharCode(...table.subarray(0, 4))).toBe('IVRS');
    expect(hex(table.subarray(36))).toBe('43281800000000000000000010001c00180040000040bffe00000000000000000000000002280000');
  });

  test('11h and 40h have the feature registers, 10h bits of them; entries of every kind', () => {
    const efr = (1n << 2n) | (2n << 14n) | (19n << 32n) | (2n << 10n);
    const devices = [
      { kind: 'all' as const },
      { kind: 'range' as const, first: 8, last: 0x10, setting: 7 },
      { kind: 'alias' as const, device: 0x20, alias: 0x21 },
      { kind: 'ioapic' as const, handle: 2, device: 0xa0 },
      { kind: 'hpet' as const, handle: 0, device: 0xa1 },
      { kind: 'acpi' as const, device: 0x98, hid: 'AMDI0020', uid: 'ID00' },
    ];
    const text = hex(ivrsTable({ physicalBits: 40, virtualBits: 48, units: [{ ...unit, efr, efr2: 8n, devices }] }));
    const eight = '01000000' + '03080007' + '04100000' + '4220000000210000' + '4800000002a00001' + '4800000000a10002';
    expect(text).toContain(`11130080${eight}`);
    expect(text).toContain(`04880000130000000800000000000000${eight}`);
    expect(text).toContain(
      `${eight}f0980000${Buffer.from('AMDI0020').toString('hex')}00000000000000000204${Buffer.from('ID00').toString('hex')}`,
    );
  });

  test('blocks say how long they are; entries by ACPI name stand in 40h alone, which is there for them (5.2.2)', () => {
    const devices = [{ kind: 'all' as const }, { kind: 'acpi' as const, device: 0x98, hid: 'AMDI0020', uid: 'ID00' }];
    const blocks = (types?: IvrsDescription['types']) => {
      const table = ivrsTable({ physicalBits: 40, virtualBits: 48, units: [{ ...unit, efr: 4n, devices }], ...(types && { types }) });
      const view = new DataView(table.buffer, table.byteOffset);
      const found: [number, number][] = [];
      for (let at = 48; at < table.length; at += view.getUint16(at + 2, true)) found.push([table[at], view.getUint16(at + 2, true)]);
      return found;
    };
    const all = [
      [0x10, 24 + 4],
      [0x11, 40 + 4],
      [0x40, 40 + 4 + 26],
    ];
    expect(blocks()).toEqual(all);
    expect(blocks([0x11])).toEqual([all[1]]);
  });

  // Table 96 and EFR (3.4.7): field, its bits of the register, where they are in 10h.
  test.each([
    ['XTSup', 2, 1, 0],
    ['NXSup', 3, 1, 1],
    ['GTSup', 4, 1, 2],
    ['GLXSup', 14, 2, 3],
    ['IASup', 6, 1, 5],
    ['GASup', 7, 1, 6],
    ['HESup', 8, 1, 7],
    ['PASmax', 32, 5, 8],
    ['GATS', 12, 2, 28],
    ['HATS', 10, 2, 30],
  ])('10h reports %s', (_, from, width, to) => {
    const ones = (1n << BigInt(width)) - 1n;
    const table = ivrsTable({ ...description, units: [{ ...unit, efr: ones << BigInt(from) }] });
    expect(new DataView(table.buffer, table.byteOffset).getUint32(48 + 20, true)).toBe(Number(ones) * 2 ** to);
  });

  test('IVMD: all devices, one, a range', () => {
    const memory = [
      { base: 0x7000_0000n, bytes: 0x2000n },
      { base: 0n, bytes: 0x1000n, devices: { first: 5, last: 5 }, write: false },
      { base: 0n, bytes: 0x1000n, devices: { first: 5, last: 9 } },
    ];
    const text = hex(ivrsTable({ ...description, memory }).subarray(36 + 12 + 28));
    expect(text).toBe(
      ['2007200000000000', '2103200005000000', '2207200005000900']
        .map((start, i) => start + '0'.repeat(16) + (i === 0 ? '00000070000000000020000000000000' : '00000000000000000010000000000000'))
        .join(''),
    );
  });

  test.each<[string, Partial<IvrsDescription>]>([
    ['no unit', { units: [] }],
    ['efr of unit 0x18 is 0', { types: [0x10, 0x11] }],
    ['not aligned', { units: [{ ...unit, registers: 0x1000n }] }],
    ['no range', { units: [{ ...unit, devices: [{ kind: 'range', first: 9, last: 8 }] }] }],
    ['no range of pages', { memory: [{ base: 1n, bytes: 0x1000n }] }],
    ['addresses of 20', { physicalBits: 20 }],
    ['no number of 16 bits', { units: [{ ...unit, device: 0x1_0000 }] }],
  ])('refused: %s', (what, change) => {
    expect(() => ivrsTable({ ...description, ...change })).toThrow(what);
  });
});
