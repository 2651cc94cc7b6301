import { describe, expect, it } from 'vitest';
import {
  H_FUNCTION,
  H_GET_TCE,
  H_HARDWARE,
  H_NOT_ENOUGH_RESOURCES,
  H_P4,
  H_PARAMETER,
  H_PUT_TCE,
  H_PUT_TCE_INDIRECT,
  H_STUFF_TCE,
  H_SUCCESS,
} from '../../../src/target/spapr/index.ts';
import { runsOf } from '../hardware.ts';
import { Hardware, TestMachine } from './machine.ts';

/** LoPAR 2.9, 14.5.4.2: Translation Control Entry Access. */
const LIOBN = 0x80000000n;
const LIOBN_64K = 0x80010000n;
const WINDOW_PAGES = 4096n;
const LIST = 0x3000n;

function observed(): { machine: TestMachine; hardware: Hardware } {
  const machine = new TestMachine();
  const hardware = new Hardware();
  machine.iommu.observe(hardware);
  return { machine, hardware };
}

function get(machine: TestMachine, ioba: bigint, liobn = LIOBN): bigint {
  expect(machine.call(H_GET_TCE, liobn, ioba)).toBe(H_SUCCESS);
  return machine.registers.u64[4];
}

const opcodes = [
  ['H_GET_TCE', H_GET_TCE],
  ['H_PUT_TCE', H_PUT_TCE],
  ['H_STUFF_TCE', H_STUFF_TCE],
  ['H_PUT_TCE_INDIRECT', H_PUT_TCE_INDIRECT],
] as const;

describe.each(opcodes)('%s: the window and the place in it', (_, opcode) => {
  /** A third parameter that is right for each: a TCE of nothing, a list in RAM. */
  const call = (machine: TestMachine, liobn: bigint, ioba: bigint, count = 1n) => machine.call(opcode, liobn, ioba, 0n, count);

  it('accepts the first and the last page', () => {
    const machine = new TestMachine();
    expect(call(machine, LIOBN, 0n)).toBe(H_SUCCESS);
    expect(call(machine, LIOBN, (WINDOW_PAGES - 1n) << 12n)).toBe(H_SUCCESS);
    expect(call(machine, LIOBN_64K, 0x80000000n)).toBe(H_SUCCESS);
    expect(call(machine, LIOBN_64K, 0x80000000n + (32999n << 16n))).toBe(H_SUCCESS);
  });

  it.each([0n, 1n, 0x80000001n, 0x7fffffffn, 0x180000000n])('unknown LIOBN %s: H_PARAMETER', (liobn) => {
    expect(call(new TestMachine(), liobn, 0n)).toBe(H_PARAMETER);
  });

  it.each([WINDOW_PAGES << 12n, 1n << 32n, 0x800000000000000n, 0xfffffffffffff000n])('IOBA %s outside the window: H_PARAMETER', (ioba) => {
    expect(call(new TestMachine(), LIOBN, ioba)).toBe(H_PARAMETER);
  });

  it('an IOBA below a window that does not start at 0: H_PARAMETER', () => {
    expect(call(new TestMachine(), LIOBN_64K, 0x7fff0000n)).toBe(H_PARAMETER);
  });

  it.each([1n, 8n, 0xfffn, 0x1800n])('IOBA %s inside a page: H_PARAMETER, as KVM says', (ioba) => {
    expect(call(new TestMachine(), LIOBN, ioba)).toBe(H_PARAMETER);
    expect(call(new TestMachine(), LIOBN_64K, 0x80001000n)).toBe(H_PARAMETER);
  });
});

describe('H_PUT_TCE and H_GET_TCE (14.5.4.2.2, 14.5.4.2.1)', () => {
  it.each([0n, 0x1001n, 0x2002n, 0x3003n, 0x1_0000_0003n, 0x8ff003n])('TCE %s is stored and read back', (tce) => {
    const machine = new TestMachine();
    expect(machine.call(H_PUT_TCE, LIOBN, 0x5000n, tce)).toBe(H_SUCCESS);
    expect(get(machine, 0x5000n)).toBe(tce);
    expect(get(machine, 0x4000n)).toBe(0n);
    expect(get(machine, 0x6000n)).toBe(0n);
  });

  it('a page-fault TCE may hold anything else', () => {
    const machine = new TestMachine();
    expect(machine.call(H_PUT_TCE, LIOBN, 0n, 0xffff_ffff_ffff_fffcn)).toBe(H_SUCCESS);
    expect(get(machine, 0n)).toBe(0xffff_ffff_ffff_fffcn);
    expect(runsOf(machine.iommu.spaceOf(0)!)).toEqual([]);
  });

  it.each([0x400003n, 0x7fe001n, 0x901002n, 0xffff_f003n, 0x1_0020_0003n, 0xffff_ffff_ffff_f003n])(
    'TCE %s names no guest RAM: H_PARAMETER, and the old TCE stays',
    (tce) => {
      const machine = new TestMachine();
      machine.call(H_PUT_TCE, LIOBN, 0n, 0x1003n);
      expect(machine.call(H_PUT_TCE, LIOBN, 0n, tce)).toBe(H_PARAMETER);
      expect(get(machine, 0n)).toBe(0x1003n);
    },
  );

  it('a large page must be all RAM: 0x900000 has one page of RAM, 0x8f0000 sixteen', () => {
    const machine = new TestMachine();
    expect(machine.call(H_PUT_TCE, LIOBN_64K, 0x80000000n, 0x8f0003n)).toBe(H_SUCCESS);
    expect(machine.call(H_PUT_TCE, LIOBN_64K, 0x80000000n, 0x900003n)).toBe(H_PARAMETER);
    expect(machine.call(H_PUT_TCE, LIOBN_64K, 0x80000000n, 0x7f0003n)).toBe(H_PARAMETER);
    for (const tces of [
      [0x810003n, 0x7f0003n],
      [0x8f0003n, 0x900003n],
      [0x800003n, 0x13n, 0x8f0003n],
    ]) {
      machine.list(LIST, tces);
      expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN_64K, 0x80000000n, LIST, BigInt(tces.length))).toBe(
        tces.length === 3 ? H_SUCCESS : H_PARAMETER,
      );
    }
  });

  it('address bits below a large page are no part of its number', () => {
    const machine = new TestMachine();
    expect(machine.call(H_PUT_TCE, LIOBN_64K, 0x80000000n, 0x13003n)).toBe(H_SUCCESS);
    expect(runsOf(machine.iommu.spaceOf(0x10000)!)).toEqual([{ iova: 0x80000, gpa: 0x10, pages: 16, permission: 3 }]);
  });

  it('tells of one page, and nothing of a TCE that stays as it was', () => {
    const { machine, hardware } = observed();
    machine.call(H_PUT_TCE, LIOBN, 0x5000n, 0x1003n);
    expect(hardware.flushes).toBe(1);
    expect(hardware.runs.get(machine.iommu.spaceOf(0)!)).toEqual([{ iova: 5, gpa: 1, pages: 1, permission: 3 }]);
    machine.call(H_PUT_TCE, LIOBN, 0x5000n, 0x1003n);
    machine.call(H_PUT_TCE, LIOBN, 0x6000n, 0n);
    expect(hardware.flushes).toBe(1);
  });

  it('other opcodes: H_FUNCTION', () => {
    expect(new TestMachine().call(0x24, LIOBN, 0n)).toBe(H_FUNCTION);
  });
});

describe('H_PUT_TCE_INDIRECT (14.5.4.2.4)', () => {
  const tces = Array.from({ length: 512 }, (_, i) => (BigInt(i) << 12n) | 3n);

  it('stores 512 big-endian TCEs', () => {
    const { machine, hardware } = observed();
    machine.list(LIST, tces);
    expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN, 0x100000n, LIST, 512n)).toBe(H_SUCCESS);
    expect(get(machine, 0x100000n + (511n << 12n))).toBe(tces[511]);
    expect(hardware.runs.get(machine.iommu.spaceOf(0)!)).toEqual([{ iova: 0x100, gpa: 0, pages: 512, permission: 3 }]);
    expect(hardware.flushes).toBe(1);
    expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN, 0x100000n, LIST, 512n)).toBe(H_SUCCESS);
    expect(hardware.flushes).toBe(1);
  });

  it('tells of no more than the TCEs that differ', () => {
    const { machine, hardware } = observed();
    machine.list(LIST, tces);
    machine.call(H_PUT_TCE_INDIRECT, LIOBN, 0n, LIST, 512n);
    machine.list(LIST + 80n, [0n, tces[11], 0n]);
    const told: number[][] = [];
    hardware.changed = (_, from, to) => told.push([from, to]);
    machine.call(H_PUT_TCE_INDIRECT, LIOBN, 0n, LIST, 512n);
    expect(told).toEqual([[10, 12]]);
  });

  it('no TCE: nothing is stored, H_SUCCESS (QEMU says H_PARAMETER)', () => {
    expect(new TestMachine().call(H_PUT_TCE_INDIRECT, LIOBN, 0n, LIST, 0n)).toBe(H_SUCCESS);
  });

  it.each([513n, 1n << 32n, 0xffff_ffff_ffff_ffffn])('%s TCEs: H_PARAMETER', (count) => {
    expect(new TestMachine().call(H_PUT_TCE_INDIRECT, LIOBN, 0n, LIST, count)).toBe(H_PARAMETER);
  });

  it('more TCEs than the window has from there on: H_PARAMETER', () => {
    const machine = new TestMachine();
    expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN, (WINDOW_PAGES - 2n) << 12n, LIST, 2n)).toBe(H_SUCCESS);
    expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN, (WINDOW_PAGES - 2n) << 12n, LIST, 3n)).toBe(H_PARAMETER);
  });

  it.each([LIST + 8n, LIST + 1n, LIST + 0xff8n])('a list at %s is no page: H_PARAMETER', (list) => {
    expect(new TestMachine().call(H_PUT_TCE_INDIRECT, LIOBN, 0n, list, 1n)).toBe(H_PARAMETER);
  });

  it.each([0x400000n, 0x7fe000n, 0x901000n, 0x1_0020_0000n, 0xffff_ffff_ffff_f000n])('a list at %s is no RAM: H_PARAMETER', (list) => {
    expect(new TestMachine().call(H_PUT_TCE_INDIRECT, LIOBN, 0n, list, 1n)).toBe(H_PARAMETER);
  });

  it.each([0x3ff000n, 0x7ff000n, 0x900000n, 0x1_0000_0000n, 0x1_001f_f000n])('a list in the page at %s, beside a hole', (list) => {
    const machine = new TestMachine();
    machine.list(list, tces);
    expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN, 0n, list, 512n)).toBe(H_SUCCESS);
    expect(get(machine, 511n << 12n)).toBe(tces[511]);
  });

  it('one TCE that is refused: none is stored', () => {
    const { machine, hardware } = observed();
    machine.list(LIST, [...tces.slice(0, 9), 0x400003n]);
    expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN, 0n, LIST, 10n)).toBe(H_PARAMETER);
    expect(runsOf(machine.iommu.spaceOf(0)!)).toEqual([]);
    expect(hardware.flushes).toBe(0);
  });

  it('a negative LIOBN asks for several tables, an option that is not there: H_FUNCTION', () => {
    expect(new TestMachine().call(H_PUT_TCE_INDIRECT, 0xffff_ffff_ffff_fffen, 0n, LIST, 513n)).toBe(H_FUNCTION);
  });
});

describe('H_STUFF_TCE (14.5.4.2.3)', () => {
  it('stores one TCE everywhere', () => {
    const { machine, hardware } = observed();
    expect(machine.call(H_STUFF_TCE, LIOBN, 0x1000n, 0x7001n, 512n)).toBe(H_SUCCESS);
    expect(get(machine, 512n << 12n)).toBe(0x7001n);
    expect(get(machine, 513n << 12n)).toBe(0n);
    expect(runsOf(machine.iommu.spaceOf(0)!)).toHaveLength(512);
    expect(machine.call(H_STUFF_TCE, LIOBN, 0x1000n, 0n, 512n)).toBe(H_SUCCESS);
    expect(hardware.runs.get(machine.iommu.spaceOf(0)!)).toEqual([]);
    expect(hardware.flushes).toBe(2);
    expect(machine.call(H_STUFF_TCE, LIOBN, 0x1000n, 0n, 512n)).toBe(H_SUCCESS);
    expect(hardware.flushes).toBe(2);
  });

  it.each([513n, 4097n, 1n << 32n, 0xffff_ffff_ffff_ffffn])('%s TCEs: H_P4, even where the TCE is wrong too', (count) => {
    expect(new TestMachine().call(H_STUFF_TCE, LIOBN, 0n, 0x400003n, count)).toBe(H_P4);
  });

  it('over the end of the window, or to no RAM: H_PARAMETER', () => {
    const machine = new TestMachine();
    expect(machine.call(H_STUFF_TCE, LIOBN, (WINDOW_PAGES - 2n) << 12n, 0n, 3n)).toBe(H_PARAMETER);
    expect(machine.call(H_STUFF_TCE, LIOBN, 0n, 0x400003n, 3n)).toBe(H_PARAMETER);
    expect(runsOf(machine.iommu.spaceOf(0)!)).toEqual([]);
  });
});

describe('a host that does not follow (14.5.3 R1-13; 14.12.3.3.1)', () => {
  it('a mapping: H_NOT_ENOUGH_RESOURCES; a clearing: H_HARDWARE; the old TCEs stand on both sides', () => {
    const { machine, hardware } = observed();
    const space = machine.iommu.spaceOf(0)!;
    machine.call(H_STUFF_TCE, LIOBN, 0x1000n, 0x7001n, 4n);
    const before = runsOf(space);
    hardware.failAt = 2;
    expect(machine.call(H_PUT_TCE, LIOBN, 0x2000n, 0x8003n)).toBe(H_NOT_ENOUGH_RESOURCES);
    expect(runsOf(space)).toEqual(before);
    expect(hardware.runs.get(space)).toEqual(before);
    hardware.failAt = 4;
    expect(machine.call(H_STUFF_TCE, LIOBN, 0n, 0n, 512n)).toBe(H_HARDWARE);
    expect(runsOf(space)).toEqual(before);
    expect(hardware.runs.get(space)).toEqual(before);
    expect(hardware.flushes).toBe(5);
  });

  it('one mapping in a list is enough to be a mapping, and it may be the first or the last', () => {
    const { machine, hardware } = observed();
    machine.call(H_PUT_TCE, LIOBN, 0x2000n, 0x8003n);
    machine.list(LIST, [0x7003n, 0n, 0n]);
    hardware.failAt = 2;
    expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN, 0x1000n, LIST, 3n)).toBe(H_NOT_ENOUGH_RESOURCES);
    machine.list(LIST, [0n, 0n, 0n]);
    hardware.failAt = 4;
    expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN, 0x1000n, LIST, 3n)).toBe(H_HARDWARE);
    machine.list(LIST, [0n, 0n, 0x7003n]);
    hardware.failAt = 6;
    expect(machine.call(H_PUT_TCE_INDIRECT, LIOBN, 0x1000n, LIST, 3n)).toBe(H_NOT_ENOUGH_RESOURCES);
  });

  it('pages larger than 4 KiB are told whole', () => {
    const hardware = new Hardware();
    const machine = new TestMachine({
      bridges: [{ buid: 1n, endpoints: [0], windows: [{ liobn: 1, start: 0n, pageLg2: 16, pages: 16 }] }],
    });
    machine.iommu.observe(hardware);
    const space = machine.iommu.spaceOf(0)!;
    expect(machine.call(H_PUT_TCE, 1n, 0x30000n, 0x1_0003n)).toBe(H_SUCCESS);
    expect(hardware.runs.get(space)).toEqual([{ iova: 0x30, gpa: 0x10, pages: 16, permission: 3 }]);
    expect(machine.call(H_STUFF_TCE, 1n, 0x30000n, 0n, 2n)).toBe(H_SUCCESS);
    expect(hardware.runs.get(space)).toEqual([]);
  });
});

describe('storage', () => {
  const bridge = (pages: number) => [{ buid: 1n, endpoints: [0], windows: [{ liobn: 1, start: 0n, pageLg2: 12, pages }] }];

  it('a window of 2^31 TCEs takes storage where TCEs are, and no more than it may', () => {
    const machine = new TestMachine({ bridges: bridge(2 ** 31), tableBytes: 4 * 2 ** 18 - 8 });
    const put = (index: bigint, tce: bigint) => machine.call(H_PUT_TCE, 1n, index << 12n, tce);
    expect(put(2n ** 31n - 1n, 0x1003n)).toBe(H_SUCCESS);
    expect(put(0n, 0x1003n)).toBe(H_SUCCESS);
    expect(put(1n << 30n, 0x1003n)).toBe(H_SUCCESS);
    expect(put(1n << 29n, 0x1003n)).toBe(H_NOT_ENOUGH_RESOURCES);
    expect(put(1n << 29n, 0n)).toBe(H_SUCCESS);
    expect(put(1n, 0x1003n)).toBe(H_SUCCESS);
    expect(get(machine, 1n << 41n, 1n)).toBe(0n);
    expect(runsOf(machine.iommu.spaceOf(0)!).map((run) => run.iova)).toEqual([0, 1, 2 ** 30, 2 ** 31 - 1]);
  });

  it('a list over the border of two pieces of storage is stored whole or not at all', () => {
    const border = 1n << 15n;
    for (const [tableBytes, code] of [
      [2 ** 18, H_NOT_ENOUGH_RESOURCES],
      [2 ** 19, H_SUCCESS],
    ]) {
      const machine = new TestMachine({ bridges: bridge(2 ** 16), tableBytes });
      machine.list(LIST, [0x1003n, 0x2003n]);
      expect(machine.call(H_PUT_TCE_INDIRECT, 1n, (border - 1n) << 12n, LIST, 2n)).toBe(code);
      expect(runsOf(machine.iommu.spaceOf(0)!)).toEqual(
        code === H_SUCCESS ? [{ iova: Number(border) - 1, gpa: 1, pages: 2, permission: 3 }] : [],
      );
    }
  });

  it('a list of which all that lies beyond the border is 0 needs no storage there', () => {
    const border = 1n << 15n;
    const machine = new TestMachine({ bridges: bridge(2 ** 16), tableBytes: 2 ** 18 });
    machine.list(LIST, [0x1003n, 0n, 0n]);
    expect(machine.call(H_PUT_TCE_INDIRECT, 1n, (border - 1n) << 12n, LIST, 3n)).toBe(H_SUCCESS);
    expect(runsOf(machine.iommu.spaceOf(0)!)).toEqual([{ iova: Number(border) - 1, gpa: 1, pages: 1, permission: 3 }]);
    expect(machine.call(H_PUT_TCE, 1n, border << 12n, 0x2003n)).toBe(H_NOT_ENOUGH_RESOURCES);
  });
});
