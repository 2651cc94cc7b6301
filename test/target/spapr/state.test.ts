import { describe, expect, it } from 'vitest';
import { H_GET_TCE, H_PUT_TCE, H_STUFF_TCE } from '../../../src/target/spapr/index.ts';
import { runsOf } from '../hardware.ts';
import { bridges, Hardware, TestMachine, unit } from './machine.ts';

const [{ buid }] = bridges;

/** A machine with something in its default window, and a dynamic one of 64 KiB pages. */
function busyMachine(): { machine: TestMachine; hardware: Hardware } {
  const machine = new TestMachine();
  const hardware = new Hardware();
  machine.iommu.observe(hardware);
  machine.rtas('ibm,create-pe-dma-window', [...unit(buid), 16, 30], 4);
  machine.call(H_STUFF_TCE, 0x80000000n, 0x5000n, 0x7003n, 3n);
  machine.call(H_PUT_TCE, 0x80000001n, 0x800000000030000n, 0x10001n);
  machine.call(H_PUT_TCE, 0x80000001n, 0x800000000040000n, 0xffff_ffff_ffff_fff0n);
  return { machine, hardware };
}

describe('reset', () => {
  it('is power-on: the default windows, empty, on both sides', () => {
    const { machine, hardware } = busyMachine();
    machine.iommu.reset();
    expect(machine.iommu.save()).toEqual(new TestMachine().iommu.save());
    expect(hardware.runs.get(machine.iommu.spaceOf(0)!)).toEqual([]);
    expect(machine.iommu.spaceOf(0)?.apertures).toEqual([{ first: 0, last: 4095 }]);
  });

  it('that the host cannot follow throws, and nothing has changed', () => {
    const { machine, hardware } = busyMachine();
    const before = machine.iommu.save();
    hardware.failAt = hardware.flushes + 1;
    expect(() => machine.iommu.reset()).toThrow(/host/);
    expect(machine.iommu.save()).toEqual(before);
    const space = machine.iommu.spaceOf(0)!;
    expect(hardware.runs.get(space)).toEqual(runsOf(space));
  });
});

describe('save and load', () => {
  it('keeps windows and every TCE, through JSON, and tells the hardware', () => {
    const state = JSON.parse(JSON.stringify(busyMachine().machine.iommu.save())) as unknown;
    const machine = new TestMachine();
    const hardware = new Hardware();
    machine.iommu.observe(hardware);
    machine.call(H_PUT_TCE, 0x80000000n, 0n, 0x1003n);
    machine.iommu.load(state);
    expect(machine.iommu.save()).toEqual(state);
    const space = machine.iommu.spaceOf(0)!;
    expect(runsOf(space)).toHaveLength(4);
    expect(hardware.runs.get(space)).toEqual(runsOf(space));
    machine.call(H_GET_TCE, 0x80000001n, 0x800000000040000n);
    expect(machine.registers.u64[4]).toBe(0xffff_ffff_ffff_fff0n);
  });

  it('a host that cannot follow: an error, and the old state stands', () => {
    const state = new TestMachine().iommu.save();
    const { machine, hardware } = busyMachine();
    const before = machine.iommu.save();
    hardware.failAt = hardware.flushes + 1;
    expect(() => machine.iommu.load(state)).toThrow(/host/);
    expect(machine.iommu.save()).toEqual(before);
  });

  it('storage counts once: a state loads again and again over itself, and what was full stays so', () => {
    const machine = new TestMachine({ tableBytes: 4096 * 8 });
    machine.call(H_PUT_TCE, 0x80000000n, 0n, 0x1003n);
    const state = machine.iommu.save();
    for (let i = 0; i < 3; i++) machine.iommu.load(state);
    expect(machine.call(H_PUT_TCE, 0x80010000n, 0x80000000n, 0x10003n)).toBe(-44);
    machine.iommu.reset();
    expect(() => machine.iommu.load(busyMachine().machine.iommu.save())).toThrow(TypeError);
    expect(machine.call(H_PUT_TCE, 0x80000000n, 0n, 0x1003n)).toBe(0);
  });

  /** A saved state with one thing changed; `any`, for what is wrong has no type. */
  // biome-ignore lint/suspicious/noExplicitAny: damage is done to plain data
  const damage: readonly [string, (state: any) => unknown][] = [
    ['nothing', () => undefined],
    ['null', () => null],
    ['a number', () => 7],
    ['no bridges', () => ({})],
    ['a bridge too few', (state) => ({ bridges: state.bridges.slice(1) })],
    ['another BUID', (state) => set(state.bridges[0], 'buid', '7')],
    ['a bridge that is none', (state) => set(state.bridges, 0, 'bridge')],
    ['no windows', (state) => set(state.bridges[0], 'windows', undefined)],
    ['a window that is none', (state) => set(state.bridges[0].windows, 0, [])],
    ['a LIOBN of another bridge', (state) => set(state.bridges[0].windows[1], 'liobn', 0x80010000)],
    ['a LIOBN twice', (state) => state.bridges[0].windows.push({ ...state.bridges[0].windows[1], start: '900000000000000' })],
    ['windows that overlap', (state) => set(state.bridges[0].windows[1], 'start', '0')],
    ['a start that is no number', (state) => set(state.bridges[0].windows[0], 'start', '0x0')],
    ['a default window of another size', (state) => set(state.bridges[0].windows[0], 'pages', 4095)],
    [
      'a default window by the LIOBN of another',
      (state) => set(state.bridges[0].windows.splice(1) && state.bridges[0].windows[0], 'liobn', 0x80000001),
    ],
    ['a page size that the guest cannot have asked for', (state) => set(state.bridges[0].windows[1], 'pageLg2', 24)],
    ['a size that it cannot have asked for', (state) => set(state.bridges[0].windows[1], 'pages', 2 ** 16 - 1)],
    ['a window larger than the largest block', (state) => set(state.bridges[0].windows[1], 'pages', 2 ** 17)],
    ['a dynamic window where there are none', (state) => set(state.bridges[1].windows[0], 'isDefault', false)],
    ['TCEs that are none', (state) => set(state.bridges[0].windows[0], 'tces', 'tces')],
    ['half a TCE', (state) => state.bridges[0].windows[0].tces.pop()],
    ['a TCE of 65 bits', (state) => set(state.bridges[0].windows[0].tces, 1, 2 ** 32)],
    ['an index beyond the window', (state) => set(state.bridges[0].windows[0].tces, 6, 4096)],
    ['a negative index', (state) => set(state.bridges[0].windows[0].tces, 0, -1)],
    ['indices that go back', (state) => set(state.bridges[0].windows[0].tces, 3, 5)],
    ['a TCE to no RAM', (state) => set(state.bridges[0].windows[0].tces, 2, 0x400003)],
  ];

  it.each(damage)('%s: TypeError, and nothing has changed', (what, harm) => {
    const { machine, hardware } = busyMachine();
    const before = machine.iommu.save();
    const flushes = hardware.flushes;
    const state = structuredClone(before);
    const harmed = harm(state);
    const whole = ['nothing', 'null', 'a number', 'no bridges', 'a bridge too few'].includes(what);
    expect(() => machine.iommu.load(whole ? harmed : state)).toThrow(TypeError);
    expect(machine.iommu.save()).toEqual(before);
    expect(hardware.flushes).toBe(flushes);
  });
});

function set(object: Record<PropertyKey, unknown>, key: PropertyKey, value: unknown): void {
  object[key] = value;
}
