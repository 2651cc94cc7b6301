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
