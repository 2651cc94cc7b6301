import { describe, expect, test } from 'vitest';
import { openHost } from '../../src/host/registry.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { TceHost } from '../../src/host/vfio-spapr-tce/index.ts';
import { GuestMemory, type GuestRegion } from '../../src/memory/guest-memory.ts';
import { H_PUT_TCE, HypercallRegisters, SpaprIommu } from '../../src/target/spapr/index.ts';
import { VirtioIommu, type VirtioIommuOptions } from '../../src/target/virtio-iommu/index.ts';
import { S_INVAL, S_OK, S_UNSUPP } from '../../src/target/virtio-iommu/spec/requests.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { groupPaths } from '../host/sim-fixture.ts';

/** What a machine asks of a host beyond single mappings, and what the guest is told where the host cannot. */

const RAM = 64 * 4096;
const RW = 3;
const page = (at: number) => [BigInt(at) << 12n, (BigInt(at) << 12n) | 0xfffn] as const;

interface Setup {
  readonly kind: string;
  readonly kernel: SimKernel;
  readonly memory: GuestMemory;
  readonly options?: Partial<VirtioIommuOptions>;
}

/** A machine with endpoints 0, 1, …, one for each device of the kernel. */
function machineOf({ kind, kernel, memory, options }: Setup) {
  const host = openHost(kind, kernel);
  const target = new VirtioIommu({ memory, bootBypass: false, ...options });
  const machine = new Machine({ memory, target, host });
  const paths = kind === 'iommufd' ? kernel.devices.map(({ path }) => path) : groupPaths(kernel);
  const attached = paths.map((path, endpoint) => {
    target.addEndpoint(endpoint);
    return machine.passThrough(endpoint, path);
  });
  target.negotiate();
  return { host, target, machine, attached };
}

function ramOf(kernel: SimKernel, more: Partial<GuestRegion> = {}): GuestMemory {
  const ram = kernel.allocate(RAM);
  return new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address, ...more }]);
}

describe('GuestRegion.file (iommufd: IOMMU_IOAS_MAP_FILE)', () => {
  function fileMachine(file: string | null) {
    const kernel = simKernel();
    kernel.createFile('/dev/shm/ram', RAM + 4096);
    const fd = kernel.open('/dev/shm/ram');
    const all = kernel.mmap(fd, RAM + 4096, 0n);
    if (typeof all === 'number') throw new Error('no mmap');
    const behind = file === null ? fd : kernel.open(file);
    const region = { gpa: 0n, buffer: all.buffer, offset: 4096, hostAddress: all.address + 4096n, file: { fd: behind, offset: 4096n } };
    const made = machineOf({ kind: 'iommufd', kernel, memory: new GuestMemory([region]) });
    const calls = (name: string) => kernel.hooks.counts.get(name) ?? 0;
    return { ...made, kernel, bytes: new Uint8Array(all.buffer), calls };
  }

  test('RAM of a file is mapped by the file, at the right place in it; the account can move to another process', () => {
    const { target, kernel, bytes, calls, machine, host } = fileMachine(null);
    expect(target.attach(1, 0)).toBe(S_OK);
    expect(target.map(1, ...page(16), 5n << 12n, RW)).toBe(S_OK);
    expect([calls('IOMMU_IOAS_MAP_FILE'), calls('IOMMU_IOAS_MAP')]).toEqual([1, 0]);
    bytes[6 * 4096 + 7] = 0x5a;
    const byte = new Uint8Array(1);
    expect(kernel.device().dmaRead((16n << 12n) + 7n, byte)).toBe(0);
    expect(byte[0]).toBe(0x5a);
    machine.close();
    host.close();
  });

  test('a file that the kernel cannot map: by address, as without a file', () => {
    const { target, kernel, calls } = fileMachine('/dev/iommu');
    expect(target.attach(1, 0)).toBe(S_OK);
    expect(target.map(1, ...page(16), 5n << 12n, RW)).toBe(S_OK);
    expect(calls('IOMMU_IOAS_MAP')).toBe(1);
    expect(kernel.device().dmaRead(16n << 12n, new Uint8Array(1))).toBe(0);
  });
});

describe('guest RAM on POWER hosts (VFIO_IOMMU_SPAPR_REGISTER_MEMORY)', () => {
  const power = () => simKernel({ iommus: [{ tce: {} }] });
  const options = { inputRange: { start: 0n, last: 0x7fff_ffffn } };

  test('is registered once, when the first device comes, and not with maps and unmaps', () => {
    const kernel = power();
    const { target, host } = machineOf({ kind: 'vfio-spapr-tce', kernel, memory: ramOf(kernel), options });
    const registrations = () => kernel.hooks.counts.get('VFIO_IOMMU_SPAPR_REGISTER_MEMORY') ?? 0;
    expect(target.attach(1, 0)).toBe(S_OK);
    expect(registrations()).toBe(1);
    const control = host.calls.control;
    for (let i = 0; i < 32; i++) expect(target.map(1, ...page(i), BigInt(2 * (i % 16)) << 12n, RW)).toBe(S_OK);
    for (let i = 0; i < 32; i++) expect(target.unmap(1, ...page(i))).toBe(S_OK);
    expect([registrations(), kernel.hooks.counts.get('VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY') ?? 0]).toEqual([1, 0]);
    expect(host.calls.control, 'no call beside maps and unmaps').toBe(control);
  });

  test('RAM that is plugged in is registered too, RAM that is removed is let go', () => {
    const kernel = power();
    const memory = ramOf(kernel);
    const { target } = machineOf({ kind: 'vfio-spapr-tce', kernel, memory, options });
    target.attach(1, 0);
    const more = kernel.allocate(RAM);
    memory.add({ gpa: 0x100_0000n, buffer: more.buffer, hostAddress: more.address });
    expect(kernel.live()['registrations']).toBe(2);
    expect(target.map(1, ...page(3), 0x100_0000n, RW)).toBe(S_OK);
    memory.remove(0x100_0000n);
    expect(kernel.live()['registrations']).toBe(1);
  });

  test('where the kernel will not have all of it, what is mapped is registered', () => {
    const kernel = power();
    const made = machineOf({ kind: 'vfio-spapr-tce', kernel, memory: ramOf(kernel), options });
    kernel.hooks.fail({ kind: 'VFIO_IOMMU_SPAPR_REGISTER_MEMORY', nth: 1, errno: 12 });
    expect(made.target.attach(1, 0)).toBe(S_OK);
    expect(made.target.map(1, ...page(3), 0n, RW)).toBe(S_OK);
    expect(kernel.device().dmaRead(3n << 12n, new Uint8Array(1))).toBe(0);
  });
});

describe.each(['iommufd', 'vfio-type1'])('an endpoint whose IOMMU reaches less, over %s', (kind) => {
  test('ATTACH to a domain that maps where it cannot reach: UNSUPP (5.13.6.3.2), and both stand where they stood', () => {
    const narrow = { aperture: { first: 0n, last: 0x7f_ffffn } };
    const wide = { aperture: { first: 0n, last: 0xff_ffffn } };
    const kernel = simKernel({
      iommus: [wide, narrow],
      devices: [
        { name: 'vfio0', iommu: 0 },
        { name: 'vfio1', iommu: 1 },
      ],
    });
    const options = { inputRange: { start: 0n, last: 0xff_ffffn } };
    const { target } = machineOf({ kind, kernel, memory: ramOf(kernel), options });
    expect(target.attach(1, 0)).toBe(S_OK);
    expect(target.map(1, ...page(0xfff), 0n, RW)).toBe(S_OK);
    expect(target.attach(1, 1)).toBe(S_UNSUPP);
    expect(kernel.device('vfio0').dmaRead(0xff_f000n, new Uint8Array(1))).toBe(0);
    expect(kernel.device('vfio1').dmaRead(0xff_f000n, new Uint8Array(1))).not.toBe(0);
  });
});

describe('what a host cannot map is reserved for the guest (5.13.6.8.1)', () => {
  const all = { inputRange: { start: 0n, last: 2n ** 64n - 1n } };
  const reserved = (start: bigint, last: bigint) => ({ kind: 'reserved', start, last });
  const reads = (kernel: SimKernel, address: bigint, name = 'vfio0') => kernel.device(name).dmaRead(address, new Uint8Array(1)) === 0;

  test('64 bits of input on a POWER host: its windows can be mapped, what lies beside them is reserved', () => {
    const kernel = simKernel({ iommus: [{ tce: { bytes32: 0x4000_0000 } }] });
    const { target, machine, host } = machineOf({ kind: 'vfio-spapr-tce', kernel, memory: ramOf(kernel), options: all });
    const window = 1n << 59n;
    expect(target.probe(0)).toEqual([reserved(0x4000_0000n, window - 1n), reserved(window + (1n << 35n), 2n ** 64n - 1n)]);
    expect(target.attach(1, 0)).toBe(S_OK);
    for (const at of [0x3fff_f000n, window, window + (1n << 35n) - 0x1000n]) {
      expect(target.map(1, at, at + 0xfffn, 0n, RW)).toBe(S_OK);
      expect(reads(kernel, at)).toBe(true);
    }
    expect(target.map(1, 0x4000_0000n, 0x4000_0fffn, 0n, RW)).toBe(S_INVAL);
    machine.remove(0);
    expect(target.probe(0)).toEqual([]);
    machine.close();
    host.close();
  });

  test('version 1 of the interface has the default window alone', () => {
    const kernel = simKernel({ iommus: [{ tce: {} }] });
    const { memory, host } = { memory: ramOf(kernel), host: new TceHost(kernel, 1) };
    const target = new VirtioIommu({ memory, bootBypass: false, ...all });
    target.addEndpoint(0);
    new Machine({ memory, target, host }).passThrough(0, groupPaths(kernel)[0]);
    target.negotiate();
    expect(target.probe(0)).toEqual([reserved(0x8000_0000n, 2n ** 64n - 1n)]);
    expect(target.attach(1, 0)).toBe(S_OK);
    expect(target.map(1, ...page(3), 0n, RW)).toBe(S_OK);
    expect(reads(kernel, 3n << 12n)).toBe(true);
  });

  test('a window as large as the guest was promised is made where the platform can', () => {
    const kernel = simKernel({ iommus: [{ tce: { bytes32: 0x4000_0000 } }] });
    const options = { inputRange: { start: 0n, last: 0xffff_ffffn } };
    const { target } = machineOf({ kind: 'vfio-spapr-tce', kernel, memory: ramOf(kernel), options });
    expect(target.probe(0)).toEqual([]);
    expect(target.attach(1, 0)).toBe(S_OK);
    expect(target.map(1, 0xffff_f000n, 0xffff_ffffn, 0n, RW)).toBe(S_OK);
    expect(reads(kernel, 0xffff_f000n)).toBe(true);
  });

  test.each(['iommufd', 'vfio-type1'])('%s: the host’s own reserved ranges, and what is wider than its IOMMU', (kind) => {
    const kernel = simKernel();
    const { target, machine, attached } = machineOf({ kind, kernel, memory: ramOf(kernel), options: all });
    expect(target.probe(0)).toEqual([reserved(0xfee0_0000n, 0xfeef_ffffn), reserved(2n ** 48n, 2n ** 64n - 1n)]);
    expect(attached[0].attachment, 'asking leaves it where it was').toBeNull();
    expect(target.attach(1, 0)).toBe(S_OK);
    expect(target.map(1, 2n ** 48n - 0x1000n, 2n ** 48n - 1n, 0n, RW)).toBe(S_OK);
    expect(reads(kernel, 2n ** 48n - 0x1000n)).toBe(true);
    machine.close();
  });

  test.each(['iommufd', 'vfio-type1'])('%s: the second device of a group is told what the first one was', (kind) => {
    const devices = [
      { name: 'vfio0', group: 7 },
      { name: 'vfio1', group: 7 },
    ];
    const kernel = simKernel({ devices });
    const { target } = machineOf({ kind, kernel, memory: ramOf(kernel), options: { ...all, bootBypass: true } });
    expect(target.probe(1)).toEqual(target.probe(0));
    expect(target.probe(1)).toHaveLength(2);
  });

  test('ATTACH over TCE to a domain that maps where the other bridge has no window: UNSUPP (5.13.6.3.2), and both stand where they stood', () => {
    const kernel = simKernel({
      iommus: [{ tce: {} }, { tce: { start32: 0x4000_0000, bytes32: 0x4000_0000 } }],
      devices: [
        { name: 'vfio0', iommu: 0 },
        { name: 'vfio1', iommu: 1 },
      ],
    });
    const options = { inputRange: { start: 0n, last: 0x7fff_ffffn } };
    const { target } = machineOf({ kind: 'vfio-spapr-tce', kernel, memory: ramOf(kernel), options });
    expect(target.probe(1)).toEqual([reserved(0n, 0x3fff_ffffn)]);
    expect(target.attach(1, 0)).toBe(S_OK);
    expect(target.map(1, 0x3fff_f000n, 0x3fff_ffffn, 0n, RW)).toBe(S_OK);
    expect(target.attach(1, 1)).toBe(S_UNSUPP);
    expect([reads(kernel, 0x3fff_f000n), reads(kernel, 0x3fff_f000n, 'vfio1')]).toEqual([true, false]);
    expect(target.attach(2, 1)).toBe(S_OK);
  });

  test('a host that maps nothing of what the guest is offered: the device is refused, with the reason', () => {
    const kernel = simKernel({ iommus: [{ aperture: { first: 0n, last: 0x7f_ffffn } }] });
    const options = { inputRange: { start: 0x100_0000n, last: 0x1ff_ffffn } };
    expect(() => machineOf({ kind: 'iommufd', kernel, memory: ramOf(kernel), options })).toThrow(
      /reach \[0x1000000, 0x1ffffff\]: ERANGE \(.*the host can map nothing of it\)/,
    );
    expect(kernel.live()['devices'] ?? 0).toBe(0);
  });

  test.each([
    ['vfio-type1', 'VFIO_GROUP_SET_CONTAINER'],
    ['vfio-type1', 'VFIO_GROUP_UNSET_CONTAINER'],
    ['iommufd', 'VFIO_DEVICE_ATTACH_IOMMUFD_PT'],
    ['iommufd', 'VFIO_DEVICE_DETACH_IOMMUFD_PT'],
    ['iommufd', 'IOMMU_IOAS_IOVA_RANGES'],
  ])('%s: where %s fails as the host is asked, the device is refused, nothing is left, and it can be tried again', (kind, call) => {
    const kernel = simKernel();
    const memory = ramOf(kernel);
    const target = new VirtioIommu({ memory, bootBypass: false });
    target.addEndpoint(0);
    const machine = new Machine({ memory, target, host: openHost(kind, kernel) });
    const path = kind === 'iommufd' ? kernel.device().path : groupPaths(kernel)[0];
    kernel.hooks.fail({ kind: call, nth: 1, errno: 5 });
    expect(() => machine.passThrough(0, path)).toThrow(call);
    expect(target.probe(0)).toEqual([]);
    machine.passThrough(0, path);
    expect(target.probe(0)).toHaveLength(1);
  });
});

test('bypass where the host IOMMU has 64 KiB pages and RAM is aligned to them (type1: iommufd takes no IOMMU with larger pages than the kernel’s)', () => {
  const kernel = simKernel({ iommus: [{ pageSizes: 0x1_0000n }] });
  const raw = kernel.allocate(RAM + 0x1_0000);
  const offset = Number(-raw.address & 0xffffn);
  const region = { gpa: 0n, buffer: raw.buffer, offset, bytes: RAM, hostAddress: raw.address + BigInt(offset) };
  machineOf({ kind: 'vfio-type1', kernel, memory: new GuestMemory([region]), options: { bootBypass: true } });
  new Uint8Array(raw.buffer)[offset + 0x3_1234] = 0x5a;
  const byte = new Uint8Array(1);
  expect(kernel.device().dmaRead(0x3_1234n, byte)).toBe(0);
  expect(byte[0]).toBe(0x5a);
});

describe('refusals name the range and the reason', () => {
  const bypassing = (kind: string, { gpa = 0n, mapped = true }: { gpa?: bigint; mapped?: boolean }) => {
    const kernel = simKernel();
    const memory = mapped ? ramOf(kernel, { gpa }) : new GuestMemory([{ gpa, buffer: new SharedArrayBuffer(RAM) }]);
    const target = new VirtioIommu({ memory, bootBypass: true });
    target.addEndpoint(0);
    const machine = new Machine({ memory, target, host: openHost(kind, kernel) });
    return () => machine.passThrough(0, kind === 'iommufd' ? kernel.device().path : groupPaths(kernel)[0]);
  };

  test('RAM over a range that the host has reserved, in bypass', () => {
    expect(bypassing('vfio-type1', { gpa: 0xfee0_0000n })).toThrow(
      'VFIO_IOMMU_MAP_DMA [0xfee00000, 0xfee3ffff]: EINVAL (the host can map only [0x0, 0xfee00000), [0xfef00000, 0x1000000000000))',
    );
    expect(bypassing('iommufd', { gpa: 0xfee0_0000n })).toThrow(/0xfee00000|cannot reach what the space maps/);
  });

  test.each(['iommufd', 'vfio-type1'])('RAM without hostAddress, over %s', (kind) => {
    expect(bypassing(kind, { mapped: false })).toThrow(
      'identity [0x0, 0x3ffff]: EFAULT (guest RAM at 0x0 has no hostAddress, which a passed-through device needs)',
    );
  });

  test('a state with TCEs of RAM that is not here', () => {
    const bridges = [{ buid: 1n, endpoints: [0], windows: [{ liobn: 1, start: 0n, pageLg2: 12, pages: 64 }] }];
    const saved = new SpaprIommu({ memory: GuestMemory.ofBytes(1 << 20), bridges });
    const registers = new HypercallRegisters();
    registers.u64.set([1n, 0x5000n, 0x80003n], 4);
    expect(saved.hypercall(H_PUT_TCE, registers)).toBe(0);
    const smaller = new SpaprIommu({ memory: GuestMemory.ofBytes(1 << 16), bridges });
    expect(() => smaller.load(saved.save())).toThrow(
      'not a saved state: TCE 5 of LIOBN 0x1 names [0x80000, 0x80fff], which is no guest RAM here',
    );
  });
});
