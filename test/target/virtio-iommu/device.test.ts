import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { type AddressSpace, NO_PASID } from '../../../src/target/target.ts';
import { CONFIG_INTERRUPT, VirtioIommu, type VirtioIommuOptions, type VirtioIommuState } from '../../../src/target/virtio-iommu/index.ts';
import { FAULT_R_DOMAIN } from '../../../src/target/virtio-iommu/spec/fault.ts';
import { F_BYPASS, F_BYPASS_CONFIG, F_PROBE, REQUEST_QUEUE } from '../../../src/target/virtio-iommu/spec/features.ts';
import { S_DEVERR, S_OK, S_UNSUPP } from '../../../src/target/virtio-iommu/spec/requests.ts';
import { F_VERSION_1, STATUS_DRIVER_OK, STATUS_FEATURES_OK, STATUS_NEEDS_RESET } from '../../../src/virtqueue/spec.ts';
import { EP, OTHER, start } from './fixture.ts';
import { map } from './requests.ts';

const BYPASS = 36;

function make(options: Partial<VirtioIommuOptions> = {}): VirtioIommu {
  const iommu = new VirtioIommu({ memory: GuestMemory.ofBytes(0x10_0000), ...options });
  iommu.addEndpoint(EP);
  iommu.addEndpoint(OTHER);
  return iommu;
}

function config(iommu: VirtioIommu): DataView {
  const bytes = new Uint8Array(40);
  iommu.readConfig(0, bytes);
  return new DataView(bytes.buffer);
}

const translate = (iommu: VirtioIommu, endpoint = EP) => iommu.translate(endpoint, NO_PASID, 0, 0x1234, READ);
const isIdentity = (iommu: VirtioIommu, endpoint = EP) => translate(iommu, endpoint) >= 12 && iommu.translated[0] === 0x1234;

/** Refuses to attach an endpoint to some spaces. */
class PickyHost {
  readonly attached: [number, string | null][] = [];
  refuses: (endpoint: number, space: AddressSpace | null) => boolean = () => false;

  attach(endpoint: number, space: AddressSpace | null): number {
    if (this.refuses(endpoint, space)) return -22;
    this.attached.push([endpoint, space?.name ?? null]);
    return 0;
  }
  changed(): void {}
  flush(): number {
    return 0;
  }
}

describe('the configuration space (5.13.4)', () => {
  test('says what it was made with', () => {
    const view = config(
      make({
        pageSizeMask: 0x4020_1000n,
        inputRange: { start: 0x1000n, last: 0xffff_ffff_ffffn },
        domainRange: { first: 3, last: 0xffff },
        probeBytes: 64,
      }),
    );
    const fields = [0, 8, 16].map((at) => view.getBigUint64(at, true));
    expect(fields).toEqual([0x4020_1000n, 0x1000n, 0xffff_ffff_ffffn]);
    expect([24, 28, 32].map((at) => view.getUint32(at, true))).toEqual([3, 0xffff, 64]);
    expect([view.getUint8(BYPASS), view.getUint8(37), view.getUint16(38)]).toEqual([1, 0, 0]);
  });

  test('is read at any offset and size, and is 0 beyond its end', () => {
    const iommu = make();
    const bytes = new Uint8Array(7).fill(9);
    iommu.readConfig(35, bytes);
    expect([...bytes]).toEqual([0, 1, 0, 0, 0, 0, 0]);
    iommu.readConfig(4000, bytes);
    expect([...bytes]).toEqual([0, 0, 0, 0, 0, 0, 0]);
  });

  test('takes writes to bypass only, once BYPASS_CONFIG is negotiated, of 0 and 1 (5.13.4.1)', () => {
    const iommu = make();
    const before = config(iommu).buffer;
    iommu.writeConfig(BYPASS, Uint8Array.of(0));
    expect(config(iommu).buffer).toEqual(before);
    iommu.negotiate(F_VERSION_1);
    iommu.writeConfig(BYPASS, Uint8Array.of(0));
    expect(config(iommu).buffer).toEqual(before);
    iommu.negotiate();
    iommu.writeConfig(BYPASS, Uint8Array.of(2));
    iommu.writeConfig(0, new Uint8Array(36).fill(0xff));
    iommu.writeConfig(37, new Uint8Array(10).fill(0xff));
    expect(config(iommu).buffer).toEqual(before);
    iommu.writeConfig(34, Uint8Array.of(7, 7, 0, 7));
    expect(config(iommu).getUint8(BYPASS)).toBe(0);
    expect(config(iommu).getUint32(32, true)).toBe(512);
  });
});

describe('bypass (5.13.6)', () => {
  test('an endpoint without a domain follows the field, one with a domain its flag', () => {
    const iommu = make();
    expect(isIdentity(iommu)).toBe(true);
    expect(iommu.spaceOf(EP)?.name).toBe('identity');
    iommu.negotiate();
    iommu.attach(1, OTHER, 1);
    iommu.writeConfig(BYPASS, Uint8Array.of(0));
    expect(translate(iommu)).toBe(targetFault('virtio-iommu', FAULT_R_DOMAIN));
    expect(iommu.spaceOf(EP)).toBeNull();
    expect(isIdentity(iommu, OTHER)).toBe(true);
    iommu.detach(1, OTHER);
    expect(translate(iommu, OTHER)).toBe(targetFault('virtio-iommu', FAULT_R_DOMAIN));
  });

  test('the field stays over a reset of the device and is restored by a reset of the system (5.13.4.2)', () => {
    const iommu = make();
    iommu.negotiate();
    iommu.writeConfig(BYPASS, Uint8Array.of(0));
    iommu.device.status = 0;
    expect(config(iommu).getUint8(BYPASS)).toBe(0);
    expect(translate(iommu)).toBe(targetFault('virtio-iommu', FAULT_R_DOMAIN));
    iommu.reset();
    expect(config(iommu).getUint8(BYPASS)).toBe(1);
    expect(isIdentity(iommu)).toBe(true);
  });

  test('F_BYPASS: in bypass mode once it is negotiated, not before', () => {
    const iommu = make({ bypassMode: 'feature' });
    expect(iommu.device.offeredFeatures & (F_BYPASS | F_BYPASS_CONFIG)).toBe(F_BYPASS);
    expect(translate(iommu)).toBe(targetFault('virtio-iommu', FAULT_R_DOMAIN));
    iommu.negotiate();
    expect(isIdentity(iommu)).toBe(true);
    const other = make({ bypassMode: 'feature' });
    other.load(iommu.save());
    expect(isIdentity(other)).toBe(true);
    iommu.negotiate(F_VERSION_1);
    expect(translate(iommu)).toBe(targetFault('virtio-iommu', FAULT_R_DOMAIN));
  });

  test('never: neither feature', () => {
    const iommu = make({ bypassMode: 'never' });
    expect(iommu.device.offeredFeatures & (F_BYPASS | F_BYPASS_CONFIG)).toBe(0n);
    iommu.negotiate();
    expect(translate(iommu)).toBe(targetFault('virtio-iommu', FAULT_R_DOMAIN));
  });

  test('the identity reaches RAM: pieces that touch are one', () => {
    const regions = [0x2000n, 0n, 0x10_0000_0000n].map((gpa) => ({ gpa, buffer: new SharedArrayBuffer(0x2000) }));
    const space = make({ memory: new GuestMemory(regions) }).spaceOf(EP)!;
    expect(space.apertures).toEqual([
      { first: 0, last: 3 },
      { first: 0x100_0000, last: 0x100_0001 },
    ]);
    const runs: number[][] = [];
    expect(space.enumerate(1, 0x100_0000, (...run) => runs.push(run) > 0)).toBe(0x100_0001);
    expect(runs).toEqual([
      [1, 1, 3, 3],
      [0x100_0000, 0x100_0000, 1, 3],
    ]);
    expect(space.enumerate(0, 99, () => false)).toBe(4);
  });

  test('a host that cannot follow a write to bypass: nothing changes, and the device needs a reset', () => {
    const iommu = make();
    iommu.negotiate();
    const host = new PickyHost();
    iommu.observe(host);
    host.refuses = (endpoint, space) => endpoint === OTHER && space === null;
    iommu.writeConfig(BYPASS, Uint8Array.of(0));
    expect(host.attached).toEqual([
      [EP, null],
      [EP, 'identity'],
    ]);
    expect(config(iommu).getUint8(BYPASS)).toBe(1);
    expect(iommu.device.status & STATUS_NEEDS_RESET).not.toBe(0);
  });
});

describe('status, features and queues (2.1 to 2.4, 3.1)', () => {
  test('FEATURES_OK stays only with features that were offered, VERSION_1 among them', () => {
    const iommu = make();
    const { device } = iommu;
    for (const features of [0n, device.offeredFeatures & ~F_VERSION_1, F_VERSION_1 | (1n << 63n)]) {
      device.status = 0;
      device.driverFeatures = features;
      device.status = 3 | STATUS_FEATURES_OK;
      expect(device.status).toBe(3);
      expect(() => iommu.negotiate(features)).toThrow(RangeError);
    }
    iommu.negotiate(F_VERSION_1);
    device.driverFeatures = device.offeredFeatures;
    expect(device.driverFeatures).toBe(F_VERSION_1);
  });

  test('PROBE is offered unless the list has no room', () => {
    expect(make().device.offeredFeatures & F_PROBE).toBe(F_PROBE);
    expect(make({ probeBytes: 0 }).device.offeredFeatures & F_PROBE).toBe(0n);
  });

  test('a queue has a size and addresses that its format can have, and none before FEATURES_OK', () => {
    const { device } = make();
    const setup = { size: 8, descriptors: 0x1000n, driver: 0x2000n, device: 0x3000n };
    expect(device.setQueue(0, setup)).toBe(false);
    device.driverFeatures = F_VERSION_1;
    device.status = STATUS_FEATURES_OK;
    const tries: [Partial<typeof setup>, boolean][] = [
      [{}, true],
      [{ size: 6 }, false],
      [{ size: 0 }, false],
      [{ size: 512 }, false],
      [{ descriptors: 0x1008n }, false],
      [{ driver: 0x2001n }, false],
      [{ device: 0x3002n }, false],
    ];
    for (const [change, possible] of tries) expect(device.setQueue(0, { ...setup, ...change })).toBe(possible);
    expect(device.setQueue(1, null)).toBe(true);
    expect(() => device.setQueue(2, setup)).toThrow(RangeError);
  });

  test('a driver that is not ready is not served', () => {
    const { iommu, requests } = start({ packed: false, eventIdx: false }, 8);
    iommu.device.status = 0;
    requests.add(map(1, 0n, 0xfffn, 0n));
    expect(iommu.notify(REQUEST_QUEUE)).toBe(false);
    expect(requests.collect()).toEqual([]);
  });

  test('a reset that the host cannot follow leaves the endpoint blocked, and NEEDS_RESET tells the driver', () => {
    const sources: number[] = [];
    const iommu = make({ interrupt: (source) => void sources.push(source) });
    iommu.negotiate();
    iommu.device.status |= STATUS_DRIVER_OK;
    iommu.attach(1, EP);
    const host = new PickyHost();
    iommu.observe(host);
    host.refuses = (_, space) => space?.name === 'identity';
    iommu.device.status = 0;
    expect(host.attached.filter(([endpoint]) => endpoint === EP)).toEqual([[EP, null]]);
    expect(iommu.spaceOf(EP)).toBeNull();
    expect(iommu.device.status).toBe(STATUS_NEEDS_RESET);
    expect(sources).not.toContain(CONFIG_INTERRUPT);
    host.refuses = () => false;
    iommu.device.status = 0;
    expect(iommu.device.status).toBe(0);
    expect(isIdentity(iommu)).toBe(true);
  });

  test('an ATTACH that the host cannot do for this endpoint: UNSUPP; a DETACH that it refuses: DEVERR; the endpoint stands where it stood', () => {
    const iommu = make();
    iommu.negotiate();
    iommu.attach(1, EP);
    iommu.map(1, 0x1000n, 0x1fffn, 0x5000n, 3);
    const host = new PickyHost();
    iommu.observe(host);
    host.refuses = () => true;
    expect(iommu.attach(2, EP)).toBe(S_UNSUPP);
    expect(iommu.detach(1, EP)).toBe(S_DEVERR);
    expect(iommu.counts).toMatchObject({ domains: 1, mappings: 1 });
    expect(translate(iommu)).toBe(12);
    expect(iommu.translated[0]).toBe(0x5234);
  });
});

test('a refused flush is taken back: changed for the same ranges, and another flush (AddressSpace.owner)', () => {
  const { iommu, requests } = start({ packed: false, eventIdx: false }, 16);
  iommu.attach(1, EP);
  const calls: string[] = [];
  let refuse = true;
  iommu.observe({
    attach: () => 0,
    changed: (space, first, last) => void calls.push(`${space.name} ${first}..${last}`),
    flush: () => {
      calls.push(refuse ? 'refused' : 'flush');
      const result = refuse ? -28 : 0;
      refuse = false;
      return result;
    },
  });
  requests.add(map(1, 0x1000n, 0x2fffn, 0x5000n));
  requests.add(map(1, 0x8000n, 0x8fffn, 0x5000n));
  iommu.notify(REQUEST_QUEUE);
  expect(calls).toEqual([
    ...['domain 1 1..2', 'domain 1 8..8', 'refused'],
    ...['domain 1 8..8', 'domain 1 1..2', 'flush'],
    ...['domain 1 1..2', 'flush', 'domain 1 8..8', 'flush'],
  ]);
  expect(requests.collect().map(({ bytes }) => bytes[0])).toEqual([S_OK, S_OK]);
});

describe('save and load', () => {
  /** `any`: damage is done to plain data. */
  // biome-ignore lint/suspicious/noExplicitAny: what is wrong has no type
  const damage: [string, (state: any) => void][] = [
    ['another target', (state) => set(state, 'target', 'sPAPR')],
    ['bypass that is no boolean', (state) => set(state, 'bypass', 1)],
    ['features that are no number', (state) => set(state.device, 'features', '0x7')],
    ['a queue too few', (state) => state.device.queues.pop()],
    ['a queue of another size', (state) => set(state.device.queues[0], 'size', 7)],
    ['a position outside the ring', (state) => set(state.device.queues[0], 'positions', [70_000, 0])],
    ['positions of the other format', (state) => set(state.device.queues[0], 'positions', [0, 1, 0, 1])],
    ['a domain twice', (state) => state.domains.push(state.domains[0])],
    ['a domain twice, of other endpoints', (state) => state.domains.push({ ...state.domains[0], endpoints: [OTHER] })],
    ['a domain without endpoints', (state) => set(state.domains[0], 'endpoints', [])],
    ['an endpoint that nobody knows', (state) => set(state.domains[0], 'endpoints', [99])],
    ['an endpoint in two domains', (state) => state.domains.push({ ...state.domains[0], id: 2 })],
    ['half a mapping', (state) => state.domains[0].mappings.pop()],
    ['mappings that overlap', (state) => state.domains[0].mappings.push(1, 1, 0, 3)],
    ['a mapping past 2^64', (state) => set(state.domains[0], 'mappings', [2 ** 52 - 1, 2, 0, 3])],
    ['a mapping of no page', (state) => set(state.domains[0], 'mappings', [0, 0, 0, 3])],
    ['a fraction', (state) => set(state.domains[0], 'mappings', [0.5, 1, 0, 3])],
  ];

  function busy(): VirtioIommu {
    const { iommu, requests } = start({ packed: false, eventIdx: true }, 8);
    iommu.attach(1, EP);
    requests.add(map(1, 0x1000n, 0x1fffn, 0x5000n));
    iommu.notify(REQUEST_QUEUE);
    return iommu;
  }

  test.each(damage)('%s: TypeError, and nothing has changed', (_what, harm) => {
    const iommu = busy();
    const before = iommu.save();
    const state = structuredClone(before) as VirtioIommuState;
    harm(state);
    expect(() => iommu.load(state)).toThrow(TypeError);
    expect(iommu.save()).toEqual(before);
    expect(iommu.map(1, 0x1000n, 0x1fffn, 0n, 3)).not.toBe(S_OK);
  });

  test('a refused bypass change moves earlier endpoints back; one that cannot go back is blocked', () => {
    const { iommu } = start({ packed: false, eventIdx: false }, 8, { bootBypass: true });
    iommu.negotiate();
    const host = new PickyHost();
    iommu.observe(host);
    const attempt = (refuses: PickyHost['refuses']) => {
      host.refuses = refuses;
      host.attached.length = 0;
      iommu.writeConfig(BYPASS, Uint8Array.of(0));
      return host.attached.map(([endpoint, space]) => [endpoint - EP, space]);
    };
    expect(attempt((endpoint, space) => endpoint === OTHER && space === null)).toEqual([
      [0, null],
      [0, 'identity'],
    ]);
    expect(attempt((endpoint, space) => (endpoint === OTHER ? space === null : space !== null))).toEqual([
      [0, null],
      [0, null],
    ]);
  });

  test('a host that does not follow a load or a reset: an error, and nothing has changed', () => {
    const iommu = busy();
    const before = iommu.save();
    const host = new PickyHost();
    iommu.observe(host);
    host.refuses = (_, space) => space !== null && space.name !== 'domain 1';
    expect(() => iommu.load(make().save())).toThrow(/host/);
    expect(iommu.save()).toEqual(before);
    const bypassed = start({ packed: false, eventIdx: false }, 8, { bootBypass: true }).iommu;
    bypassed.negotiate();
    bypassed.attach(1, EP);
    bypassed.observe(host);
    expect(() => bypassed.reset()).toThrow(/host/);
    expect(bypassed.counts.domains).toBe(1);
    expect(bypassed.translate(EP, NO_PASID, 0, 0, WRITE)).toBeLessThan(0);
  });
});

function set(object: Record<PropertyKey, unknown>, key: PropertyKey, value: unknown): void {
  object[key] = value;
}
