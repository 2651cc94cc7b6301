import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import type { Host } from '../../src/host/host.ts';
import { openHost } from '../../src/host/registry.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import { WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { IdentitySpace } from '../../src/target/identity-space.ts';
import { FAULT_PAGE, H_PUT_TCE, HypercallRegisters, SpaprIommu } from '../../src/target/spapr/index.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { type DeviceFault, type GuestOperation, Machine, type MachineHooks, type PathChange } from '../../src/vmm/index.ts';
import { Observation } from '../../src/vmm/observation.ts';

function pseries() {
  const kernel = simKernel();
  const ram = kernel.allocate(1 << 18);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const window = { liobn: 0x80000000, start: 0n, pageLg2: 12, pages: 64 };
  const target = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [0, 8], windows: [window] }] });
  const host = openHost('iommufd', kernel);
  const machine = new Machine({ memory, target, host });
  const registers = new HypercallRegisters();
  const put = (page: number, tce: bigint) => {
    registers.u64.set([0x80000000n, BigInt(page) << 12n, tce], 4);
    return target.hypercall(H_PUT_TCE, registers);
  };
  return { kernel, memory, target, host, machine, put };
}

test('the same hooks twice are told twice, and each registration ends by itself; what stays what it was is no change', () => {
  const observation = new Observation(null);
  const changes: PathChange[] = [];
  const hooks: MachineHooks = { pathChange: (change) => changes.push(change) };
  const ends = [observation.add(hooks), observation.add(hooks)];
  observation.pathChange(1, 'shadow', 'shadow');
  expect(changes).toEqual([]);
  observation.pathChange(1, null, 'shadow');
  ends[0]?.();
  observation.pathChange(1, 'shadow', null);
  expect(changes.map(({ to }) => to)).toEqual(['shadow', 'shadow', null]);
  ends[1]?.();
  expect(observation.active).toBe(false);
});

describe('Machine.observe', () => {
  test('what nobody saw begin is told to nobody who comes later; host calls are those since the last operation', () => {
    const host = { calls: { map: 3, unmap: 0, copy: 0, attach: 1, control: 9 } };
    const observation = new Observation(host as unknown as Host);
    let result = 0;
    const around = observation.around({
      attach: () => 0,
      changed: () => {},
      flush: () => {
        host.calls.map += 2;
        return result;
      },
    });
    const { memory } = pseries();
    const space = new IdentitySpace(memory);
    const end = observation.add({});
    around.changed(space, 1, 1);
    end();
    const told: unknown[] = [];
    observation.add({ guestOperation: (operation) => void told.push(operation), hostCall: (calls) => void told.push(calls) });
    around.flush();
    expect(told).toEqual([]);
    for (result of [0, -12]) {
      around.changed(space, 2, 3);
      around.flush();
    }
    const change = (answer: number) => ({ kind: 'change', changed: [{ space, first: 2, last: 3 }], result: answer });
    const calls = (map: number) => ({ map, unmap: 0, copy: 0, attach: 0, control: 0 });
    expect(told).toEqual([change(0), calls(4), change(-12), calls(2)]);
  });

  test('guest operations with their ranges and results, host calls, refused accesses and other paths', () => {
    const { kernel, machine, put, target } = pseries();
    const operations: GuestOperation[] = [];
    const faults: DeviceFault[] = [];
    const calls: number[] = [];
    const paths: PathChange[] = [];
    const dispose = machine.observe({
      guestOperation: (operation) => void operations.push(operation),
      fault: (fault) => void faults.push(fault),
      hostCall: ({ map }) => void calls.push(map),
      pathChange: (change) => void paths.push(change),
    });
    machine.passThrough(0, kernel.device().path);
    const nic = machine.emulate(8);
    expect(put(5, 0x3003n)).toBe(0);
    const space = target.spaceOf(0);
    expect(operations).toEqual([{ kind: 'change', changed: [{ space, first: 5, last: 5 }], result: 0 }]);
    expect(calls).toEqual([1]);
    expect(nic.write(0x6123n, new Uint8Array(4))).toBe(FAULT_PAGE);
    expect(faults).toEqual([{ endpoint: 8, pasid: -1, iova: 0x6123n, access: WRITE, code: FAULT_PAGE }]);
    // The host refuses the next: the old state is put back, and both flushes are told.
    kernel.hooks.fail({ kind: 'IOMMU_IOAS_MAP', nth: 1, errno: 12 });
    expect(put(6, 0x4003n)).not.toBe(0);
    expect(operations.slice(1).map((operation) => operation.result)).toEqual([-12, 0]);
    machine.remove(8);
    expect(paths).toEqual([
      { endpoint: 0, from: null, to: 'shadow' },
      { endpoint: 8, from: null, to: 'emulated' },
      { endpoint: 8, from: 'emulated', to: null },
    ]);
    dispose();
    const before = operations.length;
    put(7, 0x3003n);
    machine.close();
    expect([operations.length, paths.length]).toEqual([before, 3]);
  });

  test('two who look on are told each; closing tells that the paths are gone', () => {
    const { machine, put } = pseries();
    const seen: string[] = [];
    const hooks = (name: string): MachineHooks => ({
      guestOperation: () => void seen.push(name),
      pathChange: ({ to }) => void seen.push(`${name} ${to}`),
    });
    machine.observe(hooks('a'));
    const second = machine.observe(hooks('b'));
    machine.emulate(0);
    put(1, 0x3003n);
    second();
    machine.close();
    expect(seen).toEqual(['a emulated', 'b emulated', 'a', 'b', 'a null']);
  });

  test('hooks that are none are refused at once', () => {
    const { machine } = pseries();
    for (const hooks of [undefined, null, 7]) expect(() => machine.observe(hooks as never)).toThrow(/^Machine: hooks is no object$/);
    expect(() => machine.observe({ hostcall: () => {} } as never)).toThrow(/^Machine: there is no hook hostcall$/);
    expect(() => machine.observe({ fault: 7 } as never)).toThrow(/^Machine: fault is no function$/);
    machine.close();
    expect(() => machine.observe({})).toThrow(/it is closed$/);
  });
});

/** Three flushes: the space's first, and one a hypercall. */
test('totals are plain data: accesses and faults, those of removed devices too, host calls, what the paths counted', () => {
  const { kernel, machine, put } = pseries();
  machine.passThrough(0, kernel.device().path);
  const nic = machine.emulate(8);
  put(0, 0x3003n);
  put(1, 0x5003n);
  expect(nic.write(0xffcn, new Uint8Array(8))).toBe(0);
  nic.read(0x2000n, new Uint8Array(8));
  machine.remove(8);
  const totals = machine.totals();
  expect(totals).toMatchObject({
    accesses: 3,
    faults: 1,
    iotlbHits: null,
    iotlbMisses: null,
    flushes: 3,
    splits: 0,
    hostCalls: { map: 2, unmap: 0 },
  });
  expect(JSON.parse(JSON.stringify(totals))).toEqual(totals);
  put(0, 0n);
  expect(totals.hostCalls?.unmap).toBe(0);
  machine.close();
  expect(() => machine.totals()).toThrow(/it is closed$/);
});

test('totals: neighbours that became one, as the paths count them', () => {
  const kernel = simKernel({ dmaEntryLimit: 4, devices: [{ name: 'vfio0' }] });
  const ram = kernel.allocate(1 << 18);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const target = new VirtioIommu({ memory, bootBypass: false, inputRange: { start: 0n, last: 0x7fff_ffffn } });
  target.addEndpoint(0);
  const host = openHost('vfio-type1', kernel);
  const machine = new Machine({ memory, target, host });
  machine.passThrough(0, `/dev/vfio/${kernel.device().group.number}#vfio0`);
  target.negotiate();
  target.attach(1, 0);
  for (const page of [0n, 1n, 2n, 3n, 16n]) expect(target.map(1, page << 12n, (page << 12n) + 0xfffn, page << 12n, 3)).toBe(0);
  expect([machine.totals().merges, machine.counters().map(({ counters }) => counters.merges)]).toEqual([1, [1]]);
  machine.close();
  host.close();
});

test('totals: hits of the IOTLB are the accesses that it answered, misses those that walked; what passes, or is refused before, is neither', () => {
  const memory = GuestMemory.ofBytes(1 << 20);
  const target = new VirtioIommu({ memory });
  target.addEndpoint(8);
  const machine = new Machine({ memory, target });
  const nic = machine.emulate(8);
  const counts = () => {
    const { accesses, faults, iotlbHits, iotlbMisses } = machine.totals();
    return [accesses, faults, iotlbHits, iotlbMisses];
  };
  target.negotiate();
  nic.read(0x5000n, new Uint8Array(4));
  expect(counts(), 'bypass').toEqual([1, 0, 0, 0]);
  target.attach(1, 8);
  target.map(1, 0x1000n, 0x1fffn, 0x5000n, 3);
  target.map(1, 0x3000n, 0x3fffn, 0x7000n, 1);
  for (let time = 0; time < 5; time++) expect(nic.write(0x1000n, new Uint8Array(4))).toBe(0);
  expect(counts(), 'one page five times').toEqual([6, 0, 4, 1]);
  expect(nic.read(0x3ffcn, new Uint8Array(4))).toBe(0);
  expect(nic.write(0x3ffcn, new Uint8Array(4))).toBeLessThan(0);
  expect(nic.read(0x9000n, new Uint8Array(4))).toBeLessThan(0);
  expect(nic.read(0x1000n, new Uint8Array(4), 3)).toBeLessThan(0);
  expect(counts(), 'a miss, a permission and a hole that are walked to, and a PASID that nobody looks up').toEqual([10, 3, 4, 4]);
  target.unmap(1, 0x1000n, 0x1fffn);
  target.map(1, 0x1000n, 0x1fffn, 0x6000n, 3);
  expect(nic.write(0x1000n, new Uint8Array(4))).toBe(0);
  expect(counts(), 'forgotten by the unmap').toEqual([11, 3, 4, 5]);
});

describe('Machine.save and load', () => {
  const step = fc.tuple(fc.nat(63), fc.nat(63), fc.nat(3));

  property.prop([fc.array(step, { maxLength: 30 })], { numRuns: 25 })(
    'a machine that was made alike, with the same RAM, has the same mappings, in software and on the hardware',
    (steps) => {
      const [first, second] = [pseries(), pseries()];
      for (const { machine, kernel } of [first, second]) {
        machine.passThrough(0, kernel.device().path);
        machine.emulate(8);
      }
      for (const [page, to, permission] of steps) first.put(page, BigInt((to << 12) | permission));
      second.machine.load(JSON.parse(JSON.stringify(structuredClone(first.machine.save()))));
      expect(second.machine.save()).toEqual(first.machine.save());
      for (let page = 0; page < 64; page++) {
        const iova = BigInt(page) << 12n;
        const [a, b] = [first, second].map(({ kernel }) => kernel.device().dmaWrite(iova, Uint8Array.of(page)));
        expect(b).toBe(a);
      }
      for (const { machine } of [first, second]) machine.close();
    },
  );

  test('a state that is none is not the fault of a host that failed before', () => {
    const { kernel, machine, put } = pseries();
    machine.passThrough(0, kernel.device().path);
    kernel.hooks.fail({ kind: 'IOMMU_IOAS_MAP', nth: 1, errno: 12 });
    expect(put(6, 0x4003n)).not.toBe(0);
    const saved = machine.save();
    expect(machine.hostError?.message).toContain('ENOMEM');
    expect(() => machine.load({ ...saved, state: 7 })).toThrow(TypeError);
    machine.close();
  });

  test('what is of another machine is refused, and nothing has changed', () => {
    const { machine, put } = pseries();
    for (const endpoint of [0, 8]) machine.emulate(endpoint);
    put(3, 0x3003n);
    const saved = machine.save();
    for (const wrong of [
      undefined,
      {},
      { ...saved, target: 'vtd' },
      { ...saved, endpoints: [] },
      { ...saved, endpoints: saved.endpoints.slice(1) },
      { ...saved, endpoints: [...saved.endpoints, { endpoint: 16, kind: 'emulated' }] },
      { ...saved, endpoints: [saved.endpoints[0], { endpoint: 8, kind: 'pass-through' }] },
      { ...saved, endpoints: [saved.endpoints[0], saved.endpoints[0]] },
      { ...saved, endpoints: [saved.endpoints[0], null] },
      { ...saved, state: 7 },
    ])
      expect(() => machine.load(wrong as never)).toThrow(TypeError);
    expect(machine.save()).toEqual(saved);
    machine.close();
    expect(() => machine.save()).toThrow(/it is closed$/);
    expect(() => machine.load(saved)).toThrow(/it is closed$/);
  });
});
