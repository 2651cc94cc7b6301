import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import {
  FAULT_EXTENT,
  FAULT_PAGE,
  FAULT_PERMISSION,
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
  RTAS_HARDWARE_ERROR,
  RTAS_PARAMETER_ERROR,
  RTAS_SUCCESS,
} from '../../../src/target/spapr/index.ts';
import { bridges, Hardware, TestMachine, unit } from './machine.ts';

/*
 * The rules of LoPAR 2.9 for TCEs (3.2.2.2), their hypercalls (14.5.4.2) and the RTAS calls for windows (7.3.27), in its order, one test each, named
 * for section and parameter, or requirement. What is beyond them (peers, storage, sizes) is in hypercalls.test.ts and rtas.test.ts.
 */

const LIOBN = 0x80000000n;
const LIST = 0x3000n;
const OUTSIDE = 4096n << 12n;
const NO_RAM = 0x400003n;
const { buid } = bridges[0];

/** Parameters of a call that succeeds; a test spoils one of them. */
const right: Record<number, readonly bigint[]> = {
  [H_GET_TCE]: [LIOBN, 0x5000n],
  [H_PUT_TCE]: [LIOBN, 0x5000n, 0x7003n],
  [H_STUFF_TCE]: [LIOBN, 0x5000n, 0x7003n, 2n],
  [H_PUT_TCE_INDIRECT]: [LIOBN, 0x5000n, LIST, 2n],
};

function spoilt(opcode: number, place: number, value: bigint, machine = new TestMachine()): number {
  const parameters = [...right[opcode]];
  machine.list(LIST, [0x7003n, 0x8003n]);
  expect(machine.call(opcode, ...parameters)).toBe(H_SUCCESS);
  parameters[place] = value;
  const before = machine.iommu.save();
  const code = machine.call(opcode, ...parameters);
  if (code !== H_SUCCESS) expect(machine.iommu.save()).toEqual(before);
  return code;
}

describe('TCEs (3.2.2.2)', () => {
  test.each([
    ['0: page fault', 0n, [FAULT_PAGE, FAULT_PAGE, FAULT_PAGE]],
    ['1: read', 1n, [12, FAULT_PERMISSION, FAULT_PERMISSION]],
    ['2: write', 2n, [FAULT_PERMISSION, 12, FAULT_PERMISSION]],
    ['3: read and write', 3n, [12, 12, 12]],
  ])('page mapping and control %s', (_, control, answers) => {
    const machine = new TestMachine();
    machine.call(H_PUT_TCE, LIOBN, 0n, 0x7000n | control);
    expect([READ, WRITE, READ_WRITE].map((access) => machine.iommu.translate(0, -1, 0, 0x10, access))).toEqual(answers);
  });

  test('R2-3: an address outside every window is a TCE extent error', () => {
    expect(new TestMachine().translate(0, OUTSIDE, READ)).toBe(FAULT_EXTENT);
  });

  test('R2-5: each PE has TCEs of its own', () => {
    const machine = new TestMachine();
    machine.call(H_PUT_TCE, LIOBN, 0n, 3n);
    expect([machine.translate(0, 0n, READ), machine.translate(0x800, 0n, READ), machine.translate(0x10000, 0x8000_0000n, READ)]).toEqual([
      [0n, 12],
      [0n, 12],
      FAULT_PAGE,
    ]);
  });
});

describe.each([
  ['H_GET_TCE (14.5.4.2.1)', H_GET_TCE],
  ['H_PUT_TCE (14.5.4.2.2)', H_PUT_TCE],
  ['H_STUFF_TCE (14.5.4.2.3)', H_STUFF_TCE],
  ['H_PUT_TCE_INDIRECT (14.5.4.2.4)', H_PUT_TCE_INDIRECT],
])('%s', (_, opcode) => {
  test('LIOBN: one that is no window’s: H_PARAMETER', () => {
    expect([spoilt(opcode, 0, 0x80000007n), spoilt(opcode, 0, 0n), spoilt(opcode, 0, LIOBN | (1n << 32n))]).toEqual([
      H_PARAMETER,
      H_PARAMETER,
      H_PARAMETER,
    ]);
  });

  test('IOBA: outside the window: H_PARAMETER', () => {
    expect([spoilt(opcode, 1, OUTSIDE), spoilt(opcode, 1, 1n << 63n)]).toEqual([H_PARAMETER, H_PARAMETER]);
  });

  test('IOBA: inside an I/O page (not said by the section; as KVM): H_PARAMETER', () => {
    expect(spoilt(opcode, 1, 0x5008n)).toBe(H_PARAMETER);
  });
});

describe('14.5.4.2.1 H_GET_TCE', () => {
  test('the TCE is in R4', () => {
    const machine = new TestMachine();
    machine.call(H_PUT_TCE, LIOBN, 0x5000n, 0x7003n);
    machine.call(H_GET_TCE, LIOBN, 0x5000n);
    expect(machine.registers.u64[4]).toBe(0x7003n);
  });
});

describe('14.5.4.2.2 H_PUT_TCE', () => {
  test('TCE: a page that is not the guest’s: H_PARAMETER', () => {
    expect(spoilt(H_PUT_TCE, 2, NO_RAM)).toBe(H_PARAMETER);
  });

  test('TCE: page fault, whatever page it names: stored', () => {
    expect(spoilt(H_PUT_TCE, 2, NO_RAM & ~3n)).toBe(H_SUCCESS);
  });
});

describe('14.5.4.2.3 H_STUFF_TCE', () => {
  test('count: more than 512: H_P4', () => {
    expect([spoilt(H_STUFF_TCE, 3, 513n), spoilt(H_STUFF_TCE, 3, 1n << 32n)]).toEqual([H_P4, H_P4]);
  });

  test('count: past the end of the window: H_PARAMETER', () => {
    const machine = new TestMachine();
    expect(machine.call(H_STUFF_TCE, LIOBN, OUTSIDE - 0x1000n, 0n, 2n)).toBe(H_PARAMETER);
  });

  test('TCE: a page that is not the guest’s: H_PARAMETER', () => {
    expect(spoilt(H_STUFF_TCE, 2, NO_RAM)).toBe(H_PARAMETER);
  });
});

describe('14.5.4.2.4 H_PUT_TCE_INDIRECT', () => {
  test('LIOBN: negative, the Multi-TCE-Table option, which is not there: H_FUNCTION', () => {
    expect(spoilt(H_PUT_TCE_INDIRECT, 0, 1n << 63n)).toBe(H_FUNCTION);
  });

  test('count: more than 512: H_PARAMETER', () => {
    expect([spoilt(H_PUT_TCE_INDIRECT, 3, 513n), spoilt(H_PUT_TCE_INDIRECT, 3, 1n << 32n)]).toEqual([H_PARAMETER, H_PARAMETER]);
  });

  test('count: past the end of the window: H_PARAMETER', () => {
    expect(new TestMachine().call(H_PUT_TCE_INDIRECT, LIOBN, OUTSIDE - 0x1000n, LIST, 2n)).toBe(H_PARAMETER);
  });

  test('list: not at the start of a page: H_PARAMETER', () => {
    expect(spoilt(H_PUT_TCE_INDIRECT, 2, LIST + 8n)).toBe(H_PARAMETER);
  });

  test('list: no RAM: H_PARAMETER', () => {
    expect(spoilt(H_PUT_TCE_INDIRECT, 2, 0x400000n)).toBe(H_PARAMETER);
  });

  test('TCEs: one of them names a page that is not the guest’s: H_PARAMETER, and none is stored', () => {
    const machine = new TestMachine();
    machine.list(0x9000n, [0x7003n, NO_RAM]);
    expect(spoilt(H_PUT_TCE_INDIRECT, 2, 0x9000n, machine)).toBe(H_PARAMETER);
  });
});

describe('return codes (14.5.3)', () => {
  function refused(opcode: number, ...parameters: bigint[]): number {
    const machine = new TestMachine();
    const hardware = new Hardware();
    machine.iommu.observe(hardware);
    machine.call(H_PUT_TCE, LIOBN, 0x5000n, 0x7003n);
    hardware.failAt = 2;
    const before = machine.iommu.save();
    const code = machine.call(opcode, ...parameters);
    // R1-13: the partition's state appears not to change.
    expect(machine.iommu.save()).toEqual(before);
    expect(hardware.runs.get(machine.iommu.spaceOf(0)!)).toEqual([{ iova: 5, gpa: 7, pages: 1, permission: 3 }]);
    return code;
  }

  test('R1-12: a clearing that the hardware refuses: H_HARDWARE', () => {
    expect(refused(H_STUFF_TCE, LIOBN, 0n, 0n, 512n)).toBe(H_HARDWARE);
  });

  test('R1-13: and nothing has changed, for a mapping neither (14.12.3.3.1: H_NOT_ENOUGH_RESOURCES)', () => {
    expect(refused(H_STUFF_TCE, LIOBN, 0n, 0x9003n, 512n)).toBe(H_NOT_ENOUGH_RESOURCES);
  });

  test('an opcode that is not there: H_FUNCTION', () => {
    expect(new TestMachine().call(0x24, LIOBN, 0n)).toBe(H_FUNCTION);
  });
});

describe('windows (7.3.27)', () => {
  const QUERY = 'ibm,query-pe-dma-window';
  const CREATE = 'ibm,create-pe-dma-window';
  const REMOVE = 'ibm,remove-pe-dma-window';
  const RESET = 'ibm,reset-pe-dma-windows';
  const create = (machine: TestMachine, pageLg2 = 12, windowLg2 = 20) => machine.rtas(CREATE, [...unit(buid), pageLg2, windowLg2], 4);
  const available = (machine: TestMachine) => machine.rtas(QUERY, unit(buid), 5).cells[1];

  test('R1: calls for a bridge without "ibm,ddw-applicable": parameter error', () => {
    const machine = new TestMachine();
    const other = unit(bridges[1].buid);
    expect([
      machine.rtas(QUERY, other, 5).status,
      machine.rtas(CREATE, [...other, 12, 20], 4).status,
      machine.rtas(RESET, other, 1).status,
    ]).toEqual(Array(3).fill(RTAS_PARAMETER_ERROR));
  });

  test('7.3.27.1: windows available, TCEs of the largest, page sizes, migration mask', () => {
    expect(new TestMachine().rtas(QUERY, unit(buid), 5).cells).toEqual([RTAS_SUCCESS, 1, 2 ** 16, 0x103, 0]);
  });

  test('7.3.27.2: page size that was not offered: parameter error', () => {
    expect(create(new TestMachine(), 24, 30).status).toBe(RTAS_PARAMETER_ERROR);
  });

  test('7.3.27.2: window larger than the largest block, or smaller than a page: parameter error', () => {
    expect([create(new TestMachine(), 12, 29).status, create(new TestMachine(), 16, 15).status]).toEqual([
      RTAS_PARAMETER_ERROR,
      RTAS_PARAMETER_ERROR,
    ]);
  });

  test('7.3.27.2, note: no window left: parameter error', () => {
    const machine = new TestMachine();
    expect([create(machine).status, create(machine).status]).toEqual([RTAS_SUCCESS, RTAS_PARAMETER_ERROR]);
  });

  test('7.3.27.2: the platform cannot: hardware error, and there is no window', () => {
    const machine = new TestMachine();
    const hardware = new Hardware();
    hardware.failAt = 1;
    machine.iommu.observe(hardware);
    expect([create(machine).status, available(machine)]).toEqual([RTAS_HARDWARE_ERROR, 1]);
  });

  test('7.3.27.3: a LIOBN without window: parameter error', () => {
    expect(new TestMachine().rtas(REMOVE, [0x80000001], 1).status).toBe(RTAS_PARAMETER_ERROR);
  });

  test('7.3.27.3 R1-2: TCEs of a window that goes are gone with it', () => {
    const machine = new TestMachine();
    create(machine);
    machine.call(H_PUT_TCE, 0x80000001n, 1n << 59n, 0x7003n);
    machine.rtas(REMOVE, [0x80000001], 1);
    create(machine);
    expect(machine.translate(0, 1n << 59n, READ)).toBe(FAULT_PAGE);
  });

  test('7.3.27.3 R1-3: the last window goes, and it was no default one: the default ones are back', () => {
    const machine = new TestMachine();
    create(machine);
    machine.rtas(REMOVE, [Number(LIOBN)], 1);
    machine.rtas(REMOVE, [0x80000001], 1);
    expect(machine.iommu.spaceOf(0)?.apertures).toEqual([{ first: 0, last: 4095 }]);
  });

  test('7.3.27.3 R1-4: as they were at boot, empty', () => {
    const machine = new TestMachine();
    machine.call(H_PUT_TCE, LIOBN, 0n, 0x7003n);
    create(machine);
    machine.rtas(REMOVE, [Number(LIOBN)], 1);
    machine.rtas(REMOVE, [0x80000001], 1);
    expect(machine.translate(0, 0n, READ)).toBe(FAULT_PAGE);
  });

  test('7.3.27.4.1: a reset brings the windows of the boot', () => {
    const machine = new TestMachine();
    create(machine);
    machine.call(H_PUT_TCE, LIOBN, 0n, 0x7003n);
    expect(machine.rtas(RESET, unit(buid), 1).status).toBe(RTAS_SUCCESS);
    expect([available(machine), machine.translate(0, 0n, READ)]).toEqual([1, FAULT_PAGE]);
  });
});
