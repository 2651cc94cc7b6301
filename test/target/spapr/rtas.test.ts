import { describe, expect, it } from 'vitest';
import {
  type DmaWindowCall,
  FAULT_EXTENT,
  H_PARAMETER,
  H_PUT_TCE,
  H_SUCCESS,
  type HostBridgeOptions,
  RTAS_HARDWARE_ERROR,
  RTAS_PARAMETER_ERROR,
  RTAS_SUCCESS,
} from '../../../src/target/spapr/index.ts';
import { runsOf } from '../hardware.ts';
import { bridges, Hardware, TestMachine, unit } from './machine.ts';

/** LoPAR 2.9, 7.3.27: DMA Window Manipulation Calls. */
const [{ buid }, { buid: buidWithoutDdw }] = bridges;
const QUERY = 'ibm,query-pe-dma-window';
const CREATE = 'ibm,create-pe-dma-window';
const REMOVE = 'ibm,remove-pe-dma-window';
const RESET = 'ibm,reset-pe-dma-windows';

/** A machine whose bridge may have `extra` windows more than the default one, of every page size. */
function machineWith(extra: number, ddw: Partial<HostBridgeOptions['ddw']> = {}): TestMachine {
  const liobns = Array.from({ length: extra }, (_, i) => 0x80000001 + i);
  const [{ windows, endpoints }] = bridges;
  return new TestMachine({ bridges: [{ buid, endpoints, windows, ddw: { liobns, pageSizeMask: 0x1ff, ...ddw } }] });
}

function create(machine: TestMachine, pageLg2: number, windowLg2: number): { status: number; liobn: number; start: bigint } {
  const { status, cells } = machine.rtas(CREATE, [...unit(buid), pageLg2, windowLg2], 4);
  return { status, liobn: cells[1], start: (BigInt(cells[2]) << 32n) | BigInt(cells[3]) };
}

function available(machine: TestMachine): number {
  return machine.rtas(QUERY, unit(buid), 5).cells[1];
}

describe('ibm,query-pe-dma-window (7.3.27.1)', () => {
  it('answers five cells, and six where TCEs take two', () => {
    const machine = new TestMachine();
    expect(machine.rtas(QUERY, unit(buid, 0x800), 5)).toEqual({ status: 0, cells: [0, 1, 0x10000, 0x103, 0] });
    expect(machine.rtas(QUERY, unit(buid), 6)).toEqual({ status: 0, cells: [0, 1, 0, 0x10000, 0x103, 0] });
  });

  it('counts the windows that can still be created', () => {
    const machine = machineWith(2);
    expect(available(machine)).toBe(2);
    create(machine, 12, 20);
    expect(available(machine)).toBe(1);
    machine.rtas(REMOVE, [0x80000000], 1);
    expect(available(machine)).toBe(2);
  });
});

describe('ibm,create-pe-dma-window (7.3.27.2)', () => {
  it.each([12, 16, 21, 24, 25, 26, 27, 28, 34])('a window of pages of 2^%i bytes, the 64-bit one where it belongs', (pageLg2) => {
    const machine = machineWith(1);
    expect(create(machine, pageLg2, 40)).toEqual({ status: 0, liobn: 0x80000001, start: 0x800000000000000n });
    const last = 0x800000000000000n + (1n << 40n) - (1n << BigInt(pageLg2));
    expect(machine.call(H_PUT_TCE, 0x80000001n, last, 0n)).toBe(H_SUCCESS);
    expect(machine.call(H_PUT_TCE, 0x80000001n, last + (1n << BigInt(pageLg2)), 0n)).toBe(H_PARAMETER);
    expect(machine.iommu.spaceOf(0)?.apertures).toEqual([
      { first: 0, last: 4095 },
      { first: 2 ** 47, last: 2 ** 47 + 2 ** 28 - 1 },
    ]);
  });

  it('maps, in a window of 64 KiB pages', () => {
    const machine = new TestMachine();
    const { start } = create(machine, 16, 30);
    expect(machine.call(H_PUT_TCE, 0x80000001n, start + 0x20000n, 0x30003n)).toBe(H_SUCCESS);
    expect(machine.translate(0x800, start + 0x2abcdn, 3)).toEqual([0x3abcdn, 16]);
  });

  it.each([
    ['a page size that was not offered', 24, 30],
    ['no page size at all', 0, 30],
    ['a page size beyond 32 bits of shift', 44, 50],
    ['a window smaller than a page', 16, 15],
    ['more TCEs than the largest block', 12, 29],
    ['2^(2^32 - 1) bytes', 12, 0xffffffff],
  ])('%s: parameter error', (_, pageLg2, windowLg2) => {
    const machine = new TestMachine();
    expect(create(machine, pageLg2, windowLg2).status).toBe(RTAS_PARAMETER_ERROR);
    expect(available(machine)).toBe(1);
  });

  it('a window that would end above 2^64: parameter error', () => {
    expect(create(machineWith(1), 34, 64).status).toBe(RTAS_PARAMETER_ERROR);
    expect(create(machineWith(1), 34, 65).status).toBe(RTAS_PARAMETER_ERROR);
    expect(create(machineWith(1, { start: (1n << 63n) + (1n << 34n) }), 34, 63).status).toBe(RTAS_PARAMETER_ERROR);
    expect(create(machineWith(1, { start: 1n << 63n }), 34, 63)).toMatchObject({ status: 0, start: 1n << 63n });
  });

  it('a place for them that is aligned to 4 KiB only: windows of such pages, and no others', () => {
    const machine = machineWith(2, { start: 0x800000000001000n });
    expect(create(machine, 16, 24).status).toBe(RTAS_PARAMETER_ERROR);
    expect(available(machine)).toBe(2);
    expect(create(machine, 12, 24)).toEqual({ status: 0, liobn: 0x80000001, start: 0x800000000001000n });
    // What does not fit there goes above, and there to a place of its own size.
    expect(create(machine, 16, 24)).toEqual({ status: 0, liobn: 0x80000002, start: 0x800000002000000n });
  });

  it('a place that ends where another window begins is one', () => {
    const ddw = { liobns: [2], pageSizeMask: 1, start: (1n << 32n) - (1n << 24n) };
    const windows = [{ liobn: 1, start: 1n << 32n, pageLg2: 12, pages: 4096 }];
    const machine = new TestMachine({ bridges: [{ buid, endpoints: [0], windows, ddw }] });
    expect(create(machine, 12, 24)).toEqual({ status: 0, liobn: 2, start: ddw.start });
    expect(machine.iommu.spaceOf(0)?.apertures).toEqual([{ first: 2 ** 20 - 2 ** 12, last: 2 ** 20 + 2 ** 12 - 1 }]);
  });

  it('a window that is gone is reached by no LIOBN, nor by that of none', () => {
    const machine = machineWith(1);
    const { start } = create(machine, 12, 20);
    expect(machine.call(H_PUT_TCE, 0x80000001n, start, 0x1003n)).toBe(H_SUCCESS);
    machine.rtas(REMOVE, [0x80000001], 1);
    for (const liobn of [0x80000001n, 0n]) expect(machine.call(H_PUT_TCE, liobn, start, 0x2003n)).toBe(H_PARAMETER);
  });

  it('more windows than there can be: parameter error', () => {
    const machine = machineWith(1);
    expect(create(machine, 12, 20).status).toBe(RTAS_SUCCESS);
    expect(create(machine, 12, 20).status).toBe(RTAS_PARAMETER_ERROR);
  });

  it('windows never overlap, and each LIOBN is given once', () => {
    const machine = machineWith(3);
    const made = [create(machine, 12, 21), create(machine, 16, 40), create(machine, 12, 12)];
    expect(made.map(({ status, liobn }) => [status, liobn])).toEqual([
      [0, 0x80000001],
      [0, 0x80000002],
      [0, 0x80000003],
    ]);
    expect(made.map(({ start }) => start)).toEqual([
      0x800000000000000n,
      0x800000000000000n + (1n << 40n),
      0x800000000000000n + (1n << 21n),
    ]);
  });

  it("after the default window's removal its LIOBN and its place serve again, as on QEMU", () => {
    const machine = machineWith(1);
    expect(machine.rtas(REMOVE, [0x80000000], 1).status).toBe(RTAS_SUCCESS);
    expect(available(machine)).toBe(2);
    expect(create(machine, 24, 34)).toEqual({ status: 0, liobn: 0x80000000, start: 0n });
    expect(create(machine, 24, 34)).toEqual({ status: 0, liobn: 0x80000001, start: 0x800000000000000n });
  });

  it('tells the observer, whose refusal is a hardware error and leaves no window', () => {
    const machine = machineWith(1);
    const hardware = new Hardware();
    machine.iommu.observe(hardware);
    hardware.failAt = 1;
    expect(create(machine, 12, 20).status).toBe(RTAS_HARDWARE_ERROR);
    expect(available(machine)).toBe(1);
    expect(machine.call(H_PUT_TCE, 0x80000001n, 0x800000000000000n, 0n)).toBe(H_PARAMETER);
    expect(create(machine, 12, 20).status).toBe(RTAS_SUCCESS);
    expect(hardware.flushes).toBe(3);
  });
});

describe('ibm,remove-pe-dma-window (7.3.27.3)', () => {
  it('takes the window and its mappings away', () => {
    const machine = machineWith(1);
    const hardware = new Hardware();
    machine.iommu.observe(hardware);
    const { start } = create(machine, 12, 20);
    machine.call(H_PUT_TCE, 0x80000001n, start, 0x1003n);
    expect(machine.rtas(REMOVE, [0x80000001], 1)).toEqual({ status: 0, cells: [0] });
    expect(machine.call(H_PUT_TCE, 0x80000001n, start, 0x1003n)).toBe(H_PARAMETER);
    expect(machine.translate(0, start, 1)).toBe(FAULT_EXTENT);
    expect(hardware.runs.get(machine.iommu.spaceOf(0)!)).toEqual([]);
    create(machine, 12, 20);
    expect(machine.translate(0, start, 1)).not.toEqual([0x1000n, 12]);
  });

  it.each([0, 0x80000001, 0x80010000, 0x12345678])('LIOBN %i has no window to remove: parameter error', (liobn) => {
    expect(new TestMachine().rtas(REMOVE, [liobn], 1).status).toBe(RTAS_PARAMETER_ERROR);
  });

  it('the last window gone, and not a default one: the default window is back, empty (R1-3, R1-4)', () => {
    const machine = machineWith(1);
    machine.call(H_PUT_TCE, 0x80000000n, 0n, 0x1003n);
    create(machine, 12, 20);
    machine.rtas(REMOVE, [0x80000000], 1);
    expect(machine.rtas(REMOVE, [0x80000001], 1).status).toBe(RTAS_SUCCESS);
    expect(machine.iommu.spaceOf(0)?.apertures).toEqual([{ first: 0, last: 4095 }]);
    expect(runsOf(machine.iommu.spaceOf(0)!)).toEqual([]);
    expect(machine.call(H_PUT_TCE, 0x80000000n, 0n, 0x1003n)).toBe(H_SUCCESS);
  });

  it('the last window gone, the default one: no window is left (R1-3)', () => {
    const machine = machineWith(1);
    machine.rtas(REMOVE, [0x80000000], 1);
    expect(machine.iommu.spaceOf(0)?.apertures).toEqual([]);
    expect(machine.translate(0, 0n, 1)).toBe(FAULT_EXTENT);
  });

  it('a host that cannot let go: hardware error, and the window stands with what is in it', () => {
    const machine = new TestMachine();
    const hardware = new Hardware();
    machine.iommu.observe(hardware);
    machine.call(H_PUT_TCE, 0x80000000n, 0n, 0x1003n);
    hardware.failAt = 2;
    expect(machine.rtas(REMOVE, [0x80000000], 1).status).toBe(RTAS_HARDWARE_ERROR);
    expect(machine.translate(0, 0x10n, 3)).toEqual([0x1010n, 12]);
    expect(hardware.runs.get(machine.iommu.spaceOf(0)!)).toEqual([{ iova: 0, gpa: 1, pages: 1, permission: 3 }]);
  });
});

describe('ibm,reset-pe-dma-windows (7.3.27.4.1)', () => {
  it('leaves the default window, empty, of the boot time', () => {
    const machine = machineWith(1);
    create(machine, 16, 30);
    machine.call(H_PUT_TCE, 0x80000000n, 0n, 0x1003n);
    machine.rtas(REMOVE, [0x80000000], 1);
    expect(machine.rtas(RESET, unit(buid), 1)).toEqual({ status: 0, cells: [0] });
    expect(machine.iommu.spaceOf(0)?.apertures).toEqual([{ first: 0, last: 4095 }]);
    expect(runsOf(machine.iommu.spaceOf(0)!)).toEqual([]);
    expect(available(machine)).toBe(1);
  });

  it('gives storage back', () => {
    const machine = new TestMachine({ tableBytes: 4096 * 8 });
    for (let i = 0; i < 3; i++) {
      expect(machine.call(H_PUT_TCE, 0x80000000n, 0n, 0x1003n)).toBe(H_SUCCESS);
      expect(machine.rtas(RESET, unit(buid), 1).status).toBe(RTAS_SUCCESS);
    }
  });
});

describe('argument buffers', () => {
  const forms: [DmaWindowCall, number[], number][] = [
    [QUERY, unit(buid), 5],
    [CREATE, [...unit(buid), 12, 20], 4],
    [REMOVE, [0x80000000], 1],
    [RESET, unit(buid), 1],
  ];

  it.each(forms)('%s with another number of inputs or outputs: parameter error', (name, inputs, outputs) => {
    const machine = new TestMachine();
    expect(machine.rtas(name, inputs.slice(1), outputs).status).toBe(RTAS_PARAMETER_ERROR);
    expect(machine.rtas(name, [...inputs, 0], outputs).status).toBe(RTAS_PARAMETER_ERROR);
    expect(machine.rtas(name, inputs, outputs + 2).status).toBe(RTAS_PARAMETER_ERROR);
    expect(machine.rtas(name, inputs, 0).status).toBe(RTAS_PARAMETER_ERROR);
    expect(machine.rtas(name, inputs, outputs)).toMatchObject({ status: RTAS_SUCCESS, cells: { 0: 0 } });
  });

  it.each([buidWithoutDdw, 0n, buid ^ (1n << 32n)])(
    'bridge %s is not there, or has no dynamic windows: parameter error (R1-3)',
    (other) => {
      const machine = new TestMachine();
      expect(machine.rtas(QUERY, unit(other), 5)).toEqual({ status: -3, cells: [0xfffffffd, 0, 0, 0, 0] });
      expect(machine.rtas(CREATE, [...unit(other), 12, 20], 4).status).toBe(RTAS_PARAMETER_ERROR);
      expect(machine.rtas(RESET, unit(other), 1).status).toBe(RTAS_PARAMETER_ERROR);
      expect(machine.rtas(REMOVE, [0x80010000], 1).status).toBe(RTAS_PARAMETER_ERROR);
    },
  );

  it('a name that is no DMA window call is misuse', () => {
    expect(() => new TestMachine().rtas('ibm,query-eeh' as DmaWindowCall, [], 1)).toThrow(TypeError);
    expect(() => new TestMachine().rtas('toString' as DmaWindowCall, [], 1)).toThrow(TypeError);
  });
});
