import { applyPatches, type Patch } from 'immer';
import { describe, expect, test } from 'vitest';
import { HostError } from '../../src/host/errno.ts';
import { openHost } from '../../src/host/registry.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { H_PUT_TCE, HypercallRegisters, SpaprIommu } from '../../src/target/spapr/index.ts';
import { HypercallDispatcher } from '../../src/vmm/hypercalls.ts';
import { Machine } from '../../src/vmm/machine.ts';

function pseries() {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
  const ram = kernel.allocate(64 * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const window = { liobn: 0x80000000, start: 0n, pageLg2: 12, pages: 64 };
  const target = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [0, 8, 16], windows: [window] }] });
  const host = openHost('iommufd', kernel);
  return { kernel, memory, target, host };
}

function put(target: SpaprIommu, ioba: bigint, tce: bigint): number {
  const registers = new HypercallRegisters();
  registers.u64.set([0x80000000n, ioba, tce], 4);
  return target.hypercall(H_PUT_TCE, registers);
}

describe('Machine', () => {
  test('an endpoint that is no 32-bit number is refused, emulated or passed through', () => {
    const { memory, target, host } = pseries();
    const machine = new Machine({ memory, target, host });
    for (const endpoint of [-1, 0.5, Number.NaN, 2 ** 32, 'a', '8', undefined] as number[]) {
      expect(() => machine.emulate(endpoint)).toThrow(RangeError);
      expect(() => machine.passThrough(endpoint, '/dev/vfio/devices/vfio0')).toThrow(/^Machine: endpoint .* is no 32-bit number$/);
    }
    expect(machine.state.endpoints).toEqual({});
    machine.close();
    host.close();
  });

  test('an emulated device reads and writes what the TCEs say, across pages, and faults where they forbid', () => {
    const { memory, target } = pseries();
    const machine = new Machine({ memory, target });
    const device = machine.emulate(0);
    expect(put(target, 0x0n, 0x5003n)).toBe(0);
    expect(put(target, 0x1000n, 0x3003n)).toBe(0);
    expect(put(target, 0x2000n, 0x7001n)).toBe(0);
    const bytes = Uint8Array.from({ length: 200 }, (_, i) => i);
    expect(device.write(0xfa0n, bytes)).toBe(0);
    const back = new Uint8Array(200);
    expect(device.read(0xfa0n, back)).toBe(0);
    expect(back).toEqual(bytes);
    const [first, second] = [new Uint8Array(96), new Uint8Array(104)];
    memory.read(0, 0x5fa0, first, 0, 96);
    memory.read(0, 0x3000, second, 0, 104);
    expect([...first, ...second]).toEqual([...bytes]);
    expect(device.write(0x2000n, bytes)).toBeLessThan(0);
    expect(device.read(0x3000n, back)).toBeLessThan(0);
  });

  test('the state is frozen, and its patches rebuild it', () => {
    const { kernel, memory, target, host } = pseries();
    const machine = new Machine({ memory, target, host });
    const initial = machine.state;
    const recorded: Patch[] = [];
    const undo: Patch[][] = [];
    const dispose = machine.onChange((patches, inverse) => {
      recorded.push(...patches);
      undo.unshift([...inverse]);
    });
    machine.emulate(0);
    machine.passThrough(8, kernel.device('vfio0').path);
    machine.remove(0);
    expect(machine.state.endpoints).toEqual({
      8: {
        kind: 'pass-through',
        device: kernel.device('vfio0').path,
        space: 'PHB 0x1',
        path: 'shadow',
        refused: [
          { path: 'nested-queue', reason: expect.stringContaining('no first stage') },
          { path: 'nested', reason: expect.stringContaining('no first stage') },
          { path: 'user-owned-queue', reason: expect.stringContaining('IOMMU_GET_HW_INFO') },
          { path: 'user-owned', reason: expect.stringContaining('IOMMU_GET_HW_INFO') },
        ],
      },
    });
    expect(applyPatches(initial, recorded)).toEqual(machine.state);
    expect(applyPatches(machine.state, undo.flat())).toEqual(initial);
    expect(() => Object.assign(machine.state, { host: 'x' })).toThrow(TypeError);
    dispose();
    machine.remove(8);
    expect(applyPatches(initial, recorded)).not.toEqual(machine.state);
  });

  test('endpoints of one bridge share one host address space, and nothing is left when they go', () => {
    const { kernel, memory, target, host } = pseries();
    const machine = new Machine({ memory, target, host });
    const before = { ...kernel.live() };
    machine.passThrough(0, kernel.device('vfio0').path);
    put(target, 0n, 0x3003n);
    const maps = host.calls.map;
    machine.passThrough(8, kernel.device('vfio1').path);
    put(target, 0x1000n, 0x4003n);
    expect(host.calls.map - maps).toBe(1);
    for (const device of kernel.devices) expect(device.dmaWrite(0x1000n, Uint8Array.of(1))).toBe(0);
    expect(machine.counters()).toHaveLength(1);
    machine.close();
    expect(kernel.live()).toEqual(before);
  });

  test('misuse is refused at once', () => {
    const { kernel, memory, target, host } = pseries();
    const alone = new Machine({ memory, target });
    expect(() => alone.passThrough(0, '/dev/vfio/devices/vfio0')).toThrow(TypeError);
    alone.close();
    const machine = new Machine({ memory, target, host });
    machine.emulate(0);
    expect(() => machine.emulate(0)).toThrow(RangeError);
    expect(() => machine.passThrough(0, kernel.device().path)).toThrow(RangeError);
    expect(() => machine.remove(99)).toThrow(RangeError);
    expect(() => machine.passThrough(8, '/dev/vfio/devices/vfio9')).toThrow(HostError);
    expect(machine.state.endpoints[8]).toBeUndefined();
  });

  test('what is left out or of the wrong kind is named at once', () => {
    const { memory, target, host } = pseries();
    type Parts = ConstructorParameters<typeof Machine>[0];
    expect(() => new Machine({} as Parts)).toThrow(/^Machine: memory /);
    expect(() => new Machine({ memory } as Parts)).toThrow(/^Machine: target /);
    expect(() => new Machine({ memory, target, host: {} } as unknown as Parts)).toThrow(/^Machine: host /);
    expect(() => new Machine({ memory, target, host, schedule: 1 } as unknown as Parts)).toThrow(/^Machine: schedule /);
    // Without a host as well.
    expect(() => new Machine({ memory, target, path: 'teleport' })).toThrow(RangeError);
  });

  test('an endpoint that the target does not have is refused', () => {
    const { kernel, memory, target, host } = pseries();
    const machine = new Machine({ memory, target, host });
    expect(() => machine.emulate(99)).toThrow(/^Machine: .* has no endpoint 0x63$/);
    expect(() => machine.passThrough(99, kernel.device().path)).toThrow(RangeError);
    expect(kernel.hooks.counts.get('VFIO_DEVICE_BIND_IOMMUFD')).toBeUndefined();
  });

  test('a device that cannot be attached is given back, and can be had when it can', () => {
    const { kernel, memory, target, host } = pseries();
    const machine = new Machine({ memory, target, host });
    const before = kernel.live();
    kernel.hooks.fail({ kind: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', nth: 1, errno: 12 });
    expect(() => machine.passThrough(0, '/dev/vfio/devices/vfio0')).toThrow(/ATTACH.*ENOMEM/);
    expect([kernel.live(), machine.state.endpoints]).toEqual([before, {}]);
    expect(machine.passThrough(0, '/dev/vfio/devices/vfio0').closed).toBe(false);
    machine.close();
    host.close();
  });

  test('a closed machine refuses everything, and no device keeps a translation', () => {
    const { kernel, memory, target, host } = pseries();
    const machine = new Machine({ memory, target, host });
    machine.passThrough(0, kernel.device().path);
    put(target, 0n, 0x3003n);
    machine[Symbol.dispose]();
    machine.close();
    expect(kernel.device().translation).toBe(null);
    expect(machine.state.endpoints).toEqual({});
    for (const call of [
      () => machine.passThrough(8, kernel.device().path),
      () => machine.emulate(8),
      () => machine.remove(0),
      () => machine.onChange(() => {}),
      () => machine.counters(),
    ])
      expect(call).toThrow(/^Machine: it is closed$/);
    // The target is free for another one.
    new Machine({ memory, target, host }).close();
  });

  test('closing goes on past a device that cannot be detached, closes it, and says so', () => {
    const { kernel, memory, target, host } = pseries();
    const machine = new Machine({ memory, target, host });
    const before = kernel.live();
    machine.passThrough(0, kernel.device('vfio0').path);
    machine.passThrough(8, kernel.device('vfio1').path);
    for (let nth = 1; nth <= 4; nth++) kernel.hooks.fail({ kind: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', nth, errno: 5 });
    expect(() => machine.close()).toThrow(/DETACH.*EIO.*DETACH.*EIO/);
    expect(kernel.live()).toEqual(before);
    machine.close();
  });

  test('a host that was closed first leaves nothing for the machine to close', () => {
    const { kernel, memory, target, host } = pseries();
    const machine = new Machine({ memory, target, host });
    machine.passThrough(0, kernel.device().path);
    host.close();
    machine.close();
    expect(kernel.live()).toMatchObject({ descriptors: 0, domains: 0, pinnedBytes: 0 });
  });

  test('a path that is no path is refused, with the names that there are', () => {
    const { memory, target, host } = pseries();
    expect(() => new Machine({ memory, target, host, path: 'teleport' })).toThrow(
      /auto, nested-queue, nested, user-owned-queue, user-owned, shadow/,
    );
    // Nothing was observed: the target takes the next machine.
    new Machine({ memory, target, host }).close();
  });
});

describe('HypercallDispatcher', () => {
  test('sends opcodes to whoever serves them, and answers H_FUNCTION for the rest (LoPAR 14.5.3)', () => {
    const dispatcher = new HypercallDispatcher<number>();
    const dispose = dispatcher.serve([0x20, 0x24], (opcode, registers) => opcode + registers);
    expect(dispatcher.call(0x20, 5)).toBe(0x25);
    expect(dispatcher.call(0x28, 5)).toBe(-2);
    expect(() => dispatcher.serve([0x28, 0x24], () => 0)).toThrow(RangeError);
    expect(dispatcher.call(0x28, 5)).toBe(-2);
    dispose();
    expect(dispatcher.call(0x20, 5)).toBe(-2);
  });
});
