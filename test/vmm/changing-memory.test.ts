import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { openHost } from '../../src/host/registry.ts';
import { simKernel, vtd } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { H_PUT_TCE, HypercallRegisters, SpaprIommu } from '../../src/target/spapr/index.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { reaching } from '../reaching.ts';

const HOSTS = ['iommufd', 'vfio-type1'] as const;
const RAM = 16 * 4096;
const HIGH = 0x10_0000n;

/** 16 pages of RAM at 0, a device behind an sPAPR window of 64 pages, and one that is emulated. */
function pseries(hostKind: string) {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }] });
  const piece = () => kernel.allocate(RAM);
  const ram = piece();
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const window = { liobn: 1, start: 0n, pageLg2: 12, pages: 64 };
  const target = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [0, 8], windows: [window] }] });
  const host = openHost(hostKind, kernel);
  const machine = new Machine({ memory, target, host });
  const device = kernel.device('vfio0');
  machine.passThrough(0, hostKind === 'iommufd' ? device.path : `/dev/vfio/${device.group.number}#vfio0`);
  const emulated = machine.emulate(8);
  const put = (ioba: bigint, tce: bigint) => {
    const registers = new HypercallRegisters();
    registers.u64.set([1n, ioba, tce], 4);
    return target.hypercall(H_PUT_TCE, registers);
  };
  return { kernel, memory, target, host, machine, device, emulated, put, piece };
}

const byte = () => new Uint8Array(1);

describe.each(HOSTS)('guest memory that changes, over %s', (hostKind) => {
  test('RAM that is plugged in can be mapped; RAM that is removed is reached by nobody any more', () => {
    const { memory, machine, host, device, emulated, put, piece } = pseries(hostKind);
    expect(put(0n, HIGH | 3n)).not.toBe(0);
    const plugged = piece();
    memory.add({ gpa: HIGH, buffer: plugged.buffer, hostAddress: plugged.address });
    expect(put(0n, HIGH | 3n)).toBe(0);
    expect(put(0x1000n, 0x1003n)).toBe(0);
    expect(device.dmaWrite(0n, Uint8Array.of(7))).toBe(0);
    expect(new Uint8Array(plugged.buffer)[0]).toBe(7);
    memory.remove(HIGH);
    expect(device.dmaRead(0n, byte())).not.toBe(0);
    expect(emulated.read(0n, byte())).toBeLessThan(0);
    // What the change does not concern goes on, and so does the guest.
    expect(device.dmaRead(0x1000n, byte())).toBe(0);
    expect(put(0x2000n, 0x2003n)).toBe(0);
    expect(device.dmaRead(0x2000n, byte())).toBe(0);
    machine.close();
    host.close();
  });

  test('other memory in the same place: the device reaches the new one, not the old one', () => {
    const { memory, machine, host, device, put, piece } = pseries(hostKind);
    expect(put(0n, 0x3003n)).toBe(0);
    const other = piece();
    memory.replace({ gpa: 0n, buffer: other.buffer, hostAddress: other.address });
    expect(device.dmaWrite(5n, Uint8Array.of(9))).toBe(0);
    expect(new Uint8Array(other.buffer)[0x3005]).toBe(9);
    machine.close();
    host.close();
  });

  test('ROM is read and not written, by either kind of device', () => {
    const { memory, machine, host, device, emulated, put, piece } = pseries(hostKind);
    const rom = piece();
    new Uint8Array(rom.buffer)[0] = 0x55;
    memory.add({ gpa: HIGH, buffer: rom.buffer, hostAddress: rom.address, readOnly: true });
    expect(put(0n, HIGH | 3n)).toBe(0);
    const read = byte();
    expect(device.dmaRead(0n, read)).toBe(0);
    expect(read[0]).toBe(0x55);
    expect(device.dmaWrite(0n, Uint8Array.of(1))).not.toBe(0);
    expect(emulated.read(0n, read)).toBe(0);
    expect(emulated.write(0n, Uint8Array.of(1))).toBeLessThan(0);
    expect(new Uint8Array(rom.buffer)[0]).toBe(0x55);
    machine.close();
    host.close();
  });

  test('memory that the host does not let go is reached by no device', () => {
    const { kernel, memory, machine, host, device, put } = pseries(hostKind);
    expect(put(0n, 0x3003n)).toBe(0);
    const kind = hostKind === 'iommufd' ? 'IOMMU_IOAS_UNMAP' : 'VFIO_IOMMU_UNMAP_DMA';
    const disposers = [1, 2, 3].map((nth) => kernel.hooks.fail({ kind, nth, errno: 5 }));
    memory.remove(0n);
    expect(device.dmaRead(0n, byte())).not.toBe(0);
    expect(machine.state.endpoints[0].path).toBe('blocked');
    for (const dispose of disposers) dispose();
    machine.close();
    host.close();
  });
});

/** Three slots of four pages, two of which touch. */
const SLOTS = [0n, 0x4000n, HIGH] as const;
const slot = fc.integer({ min: 0, max: 2 });
const change: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ op: fc.constantFrom('add' as const, 'remove' as const, 'replace' as const), slot }),
  fc.record({ op: fc.constant('put' as const), slot, page: fc.integer({ min: 0, max: 15 }), at: fc.integer({ min: 0, max: 3 }) }),
);

type Change = { op: 'add' | 'remove' | 'replace'; slot: number } | { op: 'put'; slot: number; page: number; at: number };
/** Each of them once, so that no draw can miss any. */
const EACH: Change[] = [
  { op: 'add', slot: 0 },
  { op: 'put', slot: 0, page: 0, at: 1 },
  { op: 'replace', slot: 0 },
  { op: 'remove', slot: 0 },
];

describe.each([
  ['iommufd', 'shadow'],
  ['iommufd', 'user-owned'],
  ['vfio-type1', 'shadow'],
  ['vfio-spapr-tce', 'shadow'],
])('RAM that is replaced, over %s by the %s path', (hostKind, path) => {
  const reached = reaching(`${hostKind} ${path}`, 'replaced while it is mapped', 'removed while it is mapped', 'mapped');

  property.prop([fc.array(change, { minLength: 10, maxLength: 30 })], { numRuns: 12, examples: [[EACH]] })(
    'after every change the device reads what is at the guest’s address now, or nothing',
    (changes) => {
      reached();
      const iommu = hostKind === 'vfio-spapr-tce' ? { tce: {} } : path === 'user-owned' ? { nesting: vtd() } : {};
      const kernel = simKernel({ iommus: [iommu], devices: [{ name: 'vfio0' }] });
      const memory = new GuestMemory([]);
      const window = { liobn: 1, start: 0n, pageLg2: 12, pages: 64 };
      const target = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [0], windows: [window] }] });
      const host = openHost(hostKind, kernel);
      const machine = new Machine({ memory, target, host, path });
      const device = kernel.device('vfio0');
      machine.passThrough(0, hostKind === 'iommufd' ? device.path : `/dev/vfio/${device.group.number}#vfio0`);
      expect(machine.state.endpoints[0].path).toBe(path);
      let tag = 0;
      const tags = new Map<bigint, number>();
      const tces = new Map<number, bigint>();
      const isMapped = (gpa: bigint) => [...tces.values()].some((at) => at >= gpa && at < gpa + 0x4000n);
      for (const one of changes) {
        const gpa = SLOTS[one.slot];
        if (one.op === 'put') {
          const registers = new HypercallRegisters();
          const at = gpa + BigInt(one.at * 4096);
          registers.u64.set([1n, BigInt(one.page * 4096), at | 3n], 4);
          expect(target.hypercall(H_PUT_TCE, registers) === 0).toBe(tags.has(gpa));
          if (tags.has(gpa)) tces.set(one.page, at);
          if (tags.has(gpa)) reached('mapped');
        } else if (one.op === 'remove' ? tags.has(gpa) : tags.has(gpa) === (one.op === 'replace')) {
          if (isMapped(gpa) && one.op !== 'add')
            reached(one.op === 'replace' ? 'replaced while it is mapped' : 'removed while it is mapped');
          const ram = kernel.allocate(0x4000);
          new Uint8Array(ram.buffer).fill(++tag);
          const region = { gpa, buffer: ram.buffer, hostAddress: ram.address };
          if (one.op === 'remove') memory.remove(gpa);
          else memory[one.op](region);
          if (one.op === 'remove') tags.delete(gpa);
          else tags.set(gpa, tag);
        }
        for (let page = 0; page < 16; page++) {
          const read = byte();
          const at = tces.get(page);
          const expected = at === undefined ? undefined : tags.get(SLOTS.find((start) => at >= start && at < start + 0x4000n)!);
          const found = device.dmaRead(BigInt(page * 4096), read) === 0 ? read[0] : undefined;
          expect(found, `page ${page}`).toBe(expected);
        }
      }
      machine.close();
      host.close();
    },
  );
});

test('a replacement that cannot be leaves what is there', () => {
  const { memory, device, put, piece } = pseries('iommufd');
  const next = piece();
  memory.add({ gpa: BigInt(RAM), buffer: next.buffer, hostAddress: next.address });
  expect(put(0n, 0x3003n)).toBe(0);
  const larger = new SharedArrayBuffer(2 * RAM);
  expect(() => memory.replace({ gpa: 0n, buffer: larger })).toThrow('two regions hold 0x10000');
  expect(device.dmaRead(0n, byte())).toBe(0);
  expect(memory.regions).toHaveLength(2);
  expect(() => memory.replace({ gpa: HIGH, buffer: larger })).toThrow('no region begins at 1048576');
});

test('an endpoint that bypasses virtio-iommu reaches the RAM that there is', () => {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }] });
  const [low, high] = [kernel.allocate(RAM), kernel.allocate(RAM)];
  const memory = new GuestMemory([{ gpa: 0n, buffer: low.buffer, hostAddress: low.address }]);
  const target = new VirtioIommu({ memory });
  target.addEndpoint(1);
  const host = openHost('iommufd', kernel);
  const machine = new Machine({ memory, target, host });
  machine.passThrough(1, kernel.device('vfio0').path);
  const device = kernel.device('vfio0');
  expect(device.dmaRead(HIGH, byte())).not.toBe(0);
  memory.add({ gpa: HIGH, buffer: high.buffer, hostAddress: high.address });
  expect(device.dmaRead(HIGH, byte())).toBe(0);
  memory.remove(0n);
  expect(device.dmaRead(0n, byte())).not.toBe(0);
  expect(device.dmaRead(HIGH, byte())).toBe(0);
  machine.close();
  host.close();
});
