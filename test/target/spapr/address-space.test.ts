import { describe, expect, it } from 'vitest';
import { EXECUTE, READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import {
  FAULT_ENDPOINT,
  FAULT_EXTENT,
  FAULT_PAGE,
  FAULT_PERMISSION,
  H_PARAMETER,
  H_PUT_TCE,
  H_PUT_TCE_INDIRECT,
  H_STUFF_TCE,
  H_SUCCESS,
  type HostBridgeOptions,
  SpaprIommu,
} from '../../../src/target/spapr/index.ts';
import { runsOf } from '../hardware.ts';
import { bridges, Hardware, TestMachine } from './machine.ts';

const LIOBN = 0x80000000n;

describe('translation (LoPAR 2.9, 3.2.2.2)', () => {
  it.each([
    [0, FAULT_PAGE, FAULT_PAGE, FAULT_PAGE],
    [1, 12, FAULT_PERMISSION, FAULT_PERMISSION],
    [2, FAULT_PERMISSION, 12, FAULT_PERMISSION],
    [3, 12, 12, 12],
  ])('page mapping and control %i', (control, read, write, both) => {
    const machine = new TestMachine();
    machine.call(H_PUT_TCE, LIOBN, 0x5000n, 0x7000n | BigInt(control));
    const answers = [READ, WRITE, READ_WRITE].map((access) => machine.iommu.translate(0, -1, 0, 0x5123, access));
    expect(answers).toEqual([read, write, both]);
  });

  it('an address in no window: TCE extent error (R2-3)', () => {
    const machine = new TestMachine();
    for (const address of [4096n << 12n, 0x8000_0000n, 0x800000000000000n, 0xffff_ffff_ffff_ffffn])
      expect(machine.translate(0, address, READ)).toBe(FAULT_EXTENT);
    expect(machine.translate(0x10000, 0x7fff_ffffn, READ)).toBe(FAULT_EXTENT);
    expect(machine.translate(0x10000, 0x8000_0000n, READ)).toBe(FAULT_PAGE);
  });

  it('an endpoint of no bridge, and a request with a PASID', () => {
    const machine = new TestMachine();
    machine.call(H_PUT_TCE, LIOBN, 0n, 3n);
    expect(machine.translate(0x900, 0n, READ)).toBe(FAULT_ENDPOINT);
    expect(machine.iommu.translate(0, 0, 0, 0, READ)).toBe(FAULT_ENDPOINT);
    expect(machine.iommu.spaceOf(0x900)).toBeNull();
    expect(machine.translate(0, 0n, READ | EXECUTE)).toEqual([0n, 12]);
  });

  it('all endpoints of a bridge share its space, and no other', () => {
    const machine = new TestMachine();
    machine.call(H_PUT_TCE, LIOBN, 0n, 3n);
    expect(machine.iommu.spaceOf(0)).toBe(machine.iommu.spaceOf(0x800));
    expect(machine.iommu.spaceOf(0)).not.toBe(machine.iommu.spaceOf(0x10000));
    expect(machine.translate(0x800, 0n, READ)).toEqual([0n, 12]);
    expect(machine.translate(0x10000, 0n, READ)).toBe(FAULT_EXTENT);
    expect(machine.translate(0x800, 0n, READ)).toEqual([0n, 12]);
  });

  it('a page of 16 GiB reaches above 4 GiB', () => {
    // No machine has that much RAM to test with: the buffer is 4 KiB long as far as anyone reads it.
    const buffer = new ArrayBuffer(0);
    Object.defineProperty(buffer, 'byteLength', { value: 2 ** 35 });
    const list = new DataView(new ArrayBuffer(4096));
    const read = (_hi: number, _lo: number, to: Uint8Array) => to.set(new Uint8Array(list.buffer)) ?? 0;
    const memory = { regions: [{ gpa: 0n, buffer }], read, observe: () => () => undefined } as never;
    const bridge = { buid: 1n, endpoints: [0], windows: [{ liobn: 1, start: 1n << 40n, pageLg2: 34, pages: 4 }] };
    const machine = new TestMachine({ memory, bridges: [bridge] });
    machine.call(H_PUT_TCE, 1n, (1n << 40n) + (1n << 34n), (1n << 34n) | 0x3_1234_5001n);
    expect(machine.translate(0, (1n << 40n) + (1n << 34n) + 0x2_3456_789an, READ)).toEqual([(1n << 34n) + 0x2_3456_789an, 34]);
    expect(runsOf(machine.iommu.spaceOf(0)!)).toEqual([{ iova: 2 ** 28 + 2 ** 22, gpa: 2 ** 22, pages: 2 ** 22, permission: 1 }]);
    list.setBigUint64(0, 3n);
    list.setBigUint64(8, (1n << 34n) | 3n);
    list.setBigUint64(16, (1n << 35n) | 3n);
    expect(machine.call(H_PUT_TCE_INDIRECT, 1n, 1n << 40n, 0n, 3n)).toBe(H_PARAMETER);
    expect(machine.call(H_PUT_TCE_INDIRECT, 1n, 1n << 40n, 0n, 2n)).toBe(H_SUCCESS);
    expect(runsOf(machine.iommu.spaceOf(0)!)).toEqual([{ iova: 2 ** 28, gpa: 0, pages: 2 ** 23, permission: 3 }]);
  });
});

describe('enumerate', () => {
  it('what is too much for one call goes on behind it, and nothing is lost between', () => {
    const [{ buid, endpoints }] = bridges;
    const windows = [{ liobn: 0x80000000, start: 0n, pageLg2: 12, pages: 2 ** 20 }];
    const machine = new TestMachine({ bridges: [{ buid, endpoints, windows }] });
    const mapped = 2 ** 19 + 2048;
    for (let page = 0; page < mapped; page += 512) machine.call(H_STUFF_TCE, LIOBN, BigInt(page) << 12n, 0x7003n, 512n);
    const space = machine.iommu.spaceOf(0)!;
    const [{ last }] = space.apertures;
    let [parts, next] = [0, 0];
    for (let at = 0; at <= last; parts++) {
      at = space.enumerate(at, last, (iova, _gpa, pages) => {
        if (iova !== next) expect(iova, 'a gap').toBe(next);
        next = iova + pages;
        return true;
      });
    }
    expect([parts, next]).toEqual([3, mapped]);
  });

  const neighbours: HostBridgeOptions = {
    buid: 1n,
    endpoints: [0],
    windows: [
      { liobn: 2, start: 0x10000n, pageLg2: 16, pages: 2 },
      { liobn: 1, start: 0n, pageLg2: 12, pages: 16 },
      { liobn: 3, start: 0x40000n, pageLg2: 12, pages: 40000 },
    ],
  };

  it('coalesces within a window, over pieces of storage and from one window to the next', () => {
    const machine = new TestMachine({ bridges: [neighbours] });
    machine.call(H_PUT_TCE, 1n, 0xe000n, 0xe003n);
    machine.call(H_PUT_TCE, 1n, 0xf000n, 0xf003n);
    machine.call(H_PUT_TCE, 2n, 0x10000n, 0x10003n);
    machine.call(H_PUT_TCE, 2n, 0x20000n, 0x20001n);
    machine.call(H_PUT_TCE, 3n, 0x40000n + (32767n << 12n), 0x1002n);
    machine.call(H_PUT_TCE, 3n, 0x40000n + (32768n << 12n), 0x2002n);
    const space = machine.iommu.spaceOf(0)!;
    expect(runsOf(space)).toEqual([
      { iova: 14, gpa: 14, pages: 18, permission: 3 },
      { iova: 32, gpa: 32, pages: 16, permission: 1 },
      { iova: 0x40 + 32767, gpa: 1, pages: 2, permission: 2 },
    ]);
    expect(space.apertures).toEqual([
      { first: 0, last: 47 },
      { first: 64, last: 64 + 39999 },
    ]);
    expect(space.granuleLg2).toBe(12);
  });

  it('clips to the range, inside a large page too', () => {
    const machine = new TestMachine({ bridges: [neighbours] });
    machine.call(H_PUT_TCE, 2n, 0x10000n, 0x30003n);
    const space = machine.iommu.spaceOf(0)!;
    expect(runsOf(space, 20, 22)).toEqual([{ iova: 20, gpa: 0x34, pages: 3, permission: 3 }]);
    expect(runsOf(space, 0, 15)).toEqual([]);
    expect(runsOf(space, 32, 100)).toEqual([]);
  });

  it('says how far it went when it is stopped', () => {
    const machine = new TestMachine();
    machine.call(H_STUFF_TCE, LIOBN, 0n, 0x1003n, 3n);
    const space = machine.iommu.spaceOf(0)!;
    let runs = 0;
    expect(space.enumerate(0, 9, () => ++runs < 2)).toBe(2);
    expect(space.enumerate(0, 2, () => false)).toBe(1);
    expect(space.enumerate(2, 9, () => false)).toBe(3);
    expect(space.enumerate(0, 9, () => true)).toBe(10);
  });
});

describe('construction', () => {
  const { memory } = new TestMachine();
  const window = { liobn: 1, start: 0n, pageLg2: 12, pages: 16 };
  const bridge: HostBridgeOptions = { buid: 1n, endpoints: [0], windows: [window] };
  const ddw = { liobns: [2], pageSizeMask: 1 };

  it.each<[string, HostBridgeOptions[]]>([
    ['LIOBN 0', [{ ...bridge, windows: [{ ...window, liobn: 0 }] }]],
    ['a LIOBN of 33 bits', [{ ...bridge, ddw: { ...ddw, liobns: [2 ** 32] } }]],
    ['pages of 2 KiB', [{ ...bridge, windows: [{ ...window, pageLg2: 11 }] }]],
    ['pages of 32 GiB', [{ ...bridge, windows: [{ ...window, pageLg2: 35 }] }]],
    ['no page', [{ ...bridge, windows: [{ ...window, pages: 0 }] }]],
    ['2^31 + 1 pages', [{ ...bridge, windows: [{ ...window, pages: 2 ** 31 + 1 }] }]],
    ['a start within a page', [{ ...bridge, windows: [{ ...window, start: 0x800n }] }]],
    ['a negative start', [{ ...bridge, windows: [{ ...window, start: -0x1000n }] }]],
    ['an end above 2^64', [{ ...bridge, windows: [{ ...window, start: (1n << 64n) - 0x1000n }] }]],
    ['windows that overlap', [{ ...bridge, windows: [window, { ...window, liobn: 2, start: 0xf000n }] }]],
    ['a LIOBN twice', [{ ...bridge, ddw: { ...ddw, liobns: [1] } }]],
    ['no page size', [{ ...bridge, ddw: { ...ddw, pageSizeMask: 0 } }]],
    ['an unknown page size', [{ ...bridge, ddw: { ...ddw, pageSizeMask: 0x201 } }]],
    ['blocks of 2^32 TCEs', [{ ...bridge, ddw: { ...ddw, largestBlock: 2 ** 32 } }]],
    ['dynamic windows that start within a page', [{ ...bridge, ddw: { ...ddw, start: 1n } }]],
    ['no window, ever', [{ ...bridge, windows: [] }]],
    ['a BUID twice', [bridge, { ...bridge, endpoints: [1], windows: [{ ...window, liobn: 9 }] }]],
    ['an endpoint twice', [bridge, { ...bridge, buid: 2n, windows: [{ ...window, liobn: 9 }] }]],
  ])('%s: RangeError', (_, options) => {
    expect(() => new SpaprIommu({ memory, bridges: options })).toThrow(RangeError);
  });

  it('storage of no bytes: RangeError', () => {
    expect(() => new SpaprIommu({ memory, bridges, tableBytes: 0 })).toThrow(RangeError);
  });

  it('takes one observer, and lets it go', () => {
    const machine = new TestMachine();
    const dispose = machine.iommu.observe(new Hardware());
    expect(() => machine.iommu.observe(new Hardware())).toThrow(TypeError);
    dispose();
    const hardware = new Hardware();
    machine.iommu.observe(hardware);
    dispose();
    machine.call(H_PUT_TCE, LIOBN, 0n, 3n);
    expect(hardware.flushes).toBe(1);
  });
});
