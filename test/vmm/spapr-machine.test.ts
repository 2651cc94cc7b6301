import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { openHost } from '../../src/host/registry.ts';
import { type SimDevice, type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { READ, WRITE } from '../../src/memory/access.ts';
import { hiOf, loOf, pfnOf, pfnOfHiLo } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import {
  H_GET_TCE,
  H_PUT_TCE,
  H_PUT_TCE_INDIRECT,
  H_STUFF_TCE,
  H_SUCCESS,
  HypercallRegisters,
  SpaprIommu,
} from '../../src/target/spapr/index.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { HypercallDispatcher } from '../../src/vmm/hypercalls.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { reaching } from '../reaching.ts';

const BUID = 0x800000020000000n;
const LIOBN = 0x80000000;
const LIOBN_64 = 0x80000001;
const START_64 = 0x800000000000000n;
const WINDOW_PAGES = 64;
const RAM_PAGES = 256;
const ENDPOINTS = [0x800, 0x1000];

/** A pseries machine on the simulated kernel with two passed-through devices behind one bridge. */
class Pseries {
  readonly kernel: SimKernel;
  readonly memory: GuestMemory;
  readonly target: SpaprIommu;
  readonly machine: Machine;
  readonly registers = new HypercallRegisters();
  readonly hypercalls = new HypercallDispatcher<HypercallRegisters>();
  readonly ramHostPfn: number;

  constructor() {
    this.kernel = simKernel({
      iommus: [{ aperture: { first: 0n, last: 0xffff_ffff_ffff_ffffn } }],
      devices: [{ name: 'vfio0' }, { name: 'vfio1' }],
    });
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    this.ramHostPfn = pfnOf(ram.address);
    this.memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.target = new SpaprIommu({
      memory: this.memory,
      bridges: [
        {
          buid: BUID,
          endpoints: ENDPOINTS,
          windows: [{ liobn: LIOBN, start: 0n, pageLg2: 12, pages: WINDOW_PAGES }],
          ddw: { liobns: [LIOBN_64], pageSizeMask: 0x3 },
        },
      ],
    });
    this.hypercalls.serve([H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, H_GET_TCE], (opcode, registers) =>
      this.target.hypercall(opcode, registers),
    );
    this.machine = new Machine({ memory: this.memory, target: this.target, host: openHost('iommufd', this.kernel) });
    ENDPOINTS.forEach((endpoint, i) => {
      this.machine.passThrough(endpoint, this.kernel.devices[i].path);
    });
  }

  hypercall(opcode: number, ...parameters: readonly bigint[]): number {
    parameters.forEach((value, i) => {
      this.registers.u64[4 + i] = value;
    });
    return this.hypercalls.call(opcode, this.registers);
  }

  /** Creates the 64-bit window: 16 I/O pages of 64 KiB. */
  createWindow(): number {
    const inputs = Uint32Array.of(0, Number(BUID >> 32n), Number(BUID & 0xffff_ffffn), 16, 20);
    return this.target.rtas('ibm,create-pe-dma-window', inputs, new Uint32Array(4));
  }

  /** Guest page that software translation finds for each direction, as text; null: a fault. */
  software(bus: bigint): string | null {
    return reached((access) => {
      const lg2 = this.target.translate(ENDPOINTS[0], NO_PASID, hiOf(bus), loOf(bus), access);
      const [lo, hi] = this.target.translated;
      return lg2 < 0 ? -1 : pfnOfHiLo(hi, lo);
    });
  }

  hardware(device: SimDevice, bus: bigint): string | null {
    return reached((access) => {
      const host = device.hostPfn(pfnOf(bus), access);
      return host < 0 ? -1 : host - this.ramHostPfn;
    });
  }

  /** Every page of both windows, as software sees it. */
  picture(): (string | null)[] {
    return this.buses().map((bus) => this.software(bus));
  }

  buses(): bigint[] {
    const low = Array.from({ length: WINDOW_PAGES }, (_, i) => BigInt(i) << 12n);
    return [...low, ...Array.from({ length: 256 }, (_, i) => START_64 + (BigInt(i) << 12n))];
  }

  expectAgreement(): void {
    const software = this.picture();
    for (const device of this.kernel.devices) expect(this.buses().map((bus) => this.hardware(device, bus))).toEqual(software);
  }
}

function reached(find: (access: number) => number): string | null {
  const read = find(READ);
  const write = find(WRITE);
  return read < 0 && write < 0 ? null : `${Math.max(read, write)}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
}

const hostile = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });
const liobn = fc.oneof({ weight: 6, arbitrary: fc.constantFrom(BigInt(LIOBN), BigInt(LIOBN_64)) }, { weight: 1, arbitrary: hostile });
const ioba = fc.oneof(
  { weight: 4, arbitrary: fc.nat(WINDOW_PAGES - 1).map((page) => BigInt(page) << 12n) },
  { weight: 4, arbitrary: fc.nat(15).map((page) => START_64 + (BigInt(page) << 16n)) },
  { weight: 1, arbitrary: hostile },
);
const tce = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.tuple(fc.nat(RAM_PAGES - 1), fc.nat(3)).map(([page, permission]) => (BigInt(page) << 12n) | BigInt(permission)),
  },
  { weight: 2, arbitrary: fc.constant(0n) },
  { weight: 1, arbitrary: hostile },
);
const npages = fc.oneof({ weight: 5, arbitrary: fc.nat(20).map(BigInt) }, { weight: 1, arbitrary: hostile });
/** Lists lie anywhere in the last two pages of RAM, at its end, or somewhere else altogether. */
const list = fc.oneof(
  { weight: 5, arbitrary: fc.constant(BigInt(RAM_PAGES - 1) << 12n) },
  { weight: 1, arbitrary: fc.constantFrom(BigInt(RAM_PAGES) << 12n, (BigInt(RAM_PAGES - 1) << 12n) + 8n) },
  { weight: 1, arbitrary: hostile },
);
const call = fc.oneof(
  fc.record({ opcode: fc.constant(H_PUT_TCE), parameters: fc.tuple(liobn, ioba, tce) }),
  fc.record({ opcode: fc.constant(H_PUT_TCE_INDIRECT), parameters: fc.tuple(liobn, ioba, list, npages) }),
  fc.record({ opcode: fc.constant(H_STUFF_TCE), parameters: fc.tuple(liobn, ioba, tce, npages) }),
  fc.record({ opcode: fc.constant(H_GET_TCE), parameters: fc.tuple(liobn, ioba) }),
  fc.record({ opcode: fc.integer(), parameters: fc.tuple(hostile, hostile, hostile, hostile) }),
);
const program = fc.array(call, { minLength: 1, maxLength: 12 });
/** What the list page holds: TCEs that continue each other, mostly. */
const listed = fc.tuple(fc.nat(RAM_PAGES - 32), fc.array(tce, { maxLength: 3 }));

function fillList(pseries: Pseries, [start, odd]: [number, bigint[]]): void {
  const at = (RAM_PAGES - 1) << 12;
  for (let i = 0; i < 512; i++) pseries.memory.store64BE(0, at + 8 * i, 0, ((start + (i % 32)) << 12) | 3);
  odd.forEach((value, i) => {
    pseries.memory.store64BE(0, at + 40 * i, hiOf(value), loOf(value));
  });
}

/** A page is mapped, by another TCE, and not any more. */
const EXAMPLE = [3n, 3n | (5n << 12n), 0n].map((value) => ({
  opcode: H_PUT_TCE as typeof H_PUT_TCE,
  parameters: [BigInt(LIOBN), 0n, value] as [bigint, bigint, bigint],
}));

describe('a pseries machine with passed-through devices', () => {
  const followed = reaching('random hypercalls', 'a mapped page', 'a page that goes', 'a moment within a hypercall');
  test.prop([program, listed, fc.boolean()], { numRuns: 80, examples: [[EXAMPLE, [0, []], true]] })(
    'random hypercalls: hardware = software after each, nothing unchanged goes away',
    (calls, page, wide) => {
      followed();
      const pseries = new Pseries();
      if (wide) expect(pseries.createWindow()).toBe(0);
      fillList(pseries, page);
      const [device] = pseries.kernel.devices;
      for (const { opcode, parameters } of calls) {
        const before = pseries.picture();
        const probes: (string | null)[][] = [];
        const dispose = pseries.kernel.hooks.observe({
          after: () => probes.push(pseries.buses().map((bus) => pseries.hardware(device, bus))),
        });
        pseries.hypercall(opcode, ...parameters);
        dispose();
        pseries.expectAgreement();
        const after = pseries.picture();
        const splits = pseries.machine.counters().reduce((sum, { counters }) => sum + counters.splits, 0);
        expect(splits).toBe(0);
        if (after.some((found) => found !== null)) followed('a mapped page');
        if (before.some((found, i) => found !== null && after[i] === null)) followed('a page that goes');
        followed('a moment within a hypercall', probes.length);
        for (const probe of probes) {
          probe.forEach((found, i) => {
            if (before[i] === after[i]) expect(found).toBe(after[i]);
          });
        }
      }
    },
  );

  const failed = reaching('hypercalls of a host that fails', 'a failed call', 'a refused hypercall');
  test.prop([program, listed, fc.integer({ min: 1, max: 10 })], { numRuns: 80, examples: [[EXAMPLE, [0, []], 1]] })(
    'the nth host call fails: a guest told of failure has the old state, on both sides',
    (calls, page, nth) => {
      failed();
      const pseries = new Pseries();
      pseries.createWindow();
      fillList(pseries, page);
      pseries.kernel.hooks.observe({ after: (_, result) => void (result === -errno.ENOMEM && failed('a failed call')) });
      pseries.kernel.hooks.fail({ nth, errno: errno.ENOMEM });
      for (const { opcode, parameters } of calls) {
        const before = pseries.picture();
        if (pseries.hypercall(opcode, ...parameters) !== H_SUCCESS) {
          failed('a refused hypercall');
          expect(pseries.picture()).toEqual(before);
        }
        pseries.expectAgreement();
      }
    },
  );

  test('512 contiguous TCEs by one H_PUT_TCE_INDIRECT, again, stuffed with 0, again: 1, 0, 1, 0 host calls', () => {
    const kernel = simKernel();
    const ram = kernel.allocate(1024 * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const window = { liobn: LIOBN, start: 0n, pageLg2: 12, pages: 1024 };
    const target = new SpaprIommu({ memory, bridges: [{ buid: BUID, endpoints: [0], windows: [window] }] });
    const host = openHost('iommufd', kernel);
    const machine = new Machine({ memory, target, host });
    machine.passThrough(0, kernel.device().path);
    const listAt = 1023 * 4096;
    for (let i = 0; i < 512; i++) memory.store64BE(0, listAt + 8 * i, 0, (i << 12) | 3);
    const registers = new HypercallRegisters();
    const calls = (opcode: number, third: bigint): number => {
      const before = { ...host.calls };
      registers.u64.set([BigInt(LIOBN), 0n, third, 512n], 4);
      expect(target.hypercall(opcode, registers)).toBe(H_SUCCESS);
      expect(host.calls.control).toBe(before.control);
      return host.calls.map - before.map + host.calls.unmap - before.unmap;
    };
    expect([
      calls(H_PUT_TCE_INDIRECT, BigInt(listAt)),
      calls(H_PUT_TCE_INDIRECT, BigInt(listAt)),
      calls(H_STUFF_TCE, 0n),
      calls(H_STUFF_TCE, 0n),
    ]).toEqual([1, 0, 1, 0]);
  });

  test('a window that the host cannot reach is refused when the guest creates it, and everything stays as it was', () => {
    const kernel = simKernel();
    const ram = kernel.allocate(64 * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const window = { liobn: LIOBN, start: 0n, pageLg2: 12, pages: 64 };
    const bridge = { buid: BUID, endpoints: [0], windows: [window], ddw: { liobns: [LIOBN_64], pageSizeMask: 0x1 } };
    const target = new SpaprIommu({ memory, bridges: [bridge] });
    const machine = new Machine({ memory, target, host: openHost('iommufd', kernel) });
    machine.passThrough(0, kernel.device().path);
    const outputs = new Uint32Array(4);
    const inputs = Uint32Array.of(0, Number(BUID >> 32n), Number(BUID & 0xffff_ffffn), 12, 20);
    // 48 bits of IOVA on the host, a window at 2^59.
    expect(target.rtas('ibm,create-pe-dma-window', inputs, outputs)).toBe(-1);
    expect(machine.hostError?.message).toContain('outside what the host can map');
    expect(target.rtas('ibm,query-pe-dma-window', inputs.subarray(0, 3), new Uint32Array(5))).toBe(0);
    const registers = new HypercallRegisters();
    registers.u64.set([BigInt(LIOBN), 0n, 0x3003n], 4);
    expect(target.hypercall(H_PUT_TCE, registers)).toBe(H_SUCCESS);
    expect(kernel.device().hostPfn(0, WRITE)).toBe(pfnOf(ram.address) + 3);
  });
});
