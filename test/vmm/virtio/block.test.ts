import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { F_EVENT_IDX, F_RING_PACKED, F_VERSION_1 } from '../../../src/virtqueue/spec.ts';
import { MemoryBackend, VirtioBlock } from '../../../src/vmm/devices/index.ts';
import { CapabilityId } from '../../../src/vmm/pci/spec.ts';
import { TranslatedMemory } from '../../../src/vmm/translated-memory.ts';
import { vtdMessage } from '../../../src/vmm/units/index.ts';
import { F_ACCESS_PLATFORM, VirtioPci } from '../../../src/vmm/virtio/index.ts';
import { COMMON, Structure } from '../../../src/vmm/virtio/spec.ts';
import { contextDevice, Guest, iotlbGlobal, wait } from '../../target/vtd/guest.ts';
import { PackedDriver, SplitDriver } from '../../virtqueue/driver.ts';

const DEVICE = 0x28;
const RAM_PAGES = 1024;
const DISK_BYTES = 1 << 20;
/** Where the driver's ring and buffers lie; page for page the same in the IOMMU's tables. */
const RING_PFN = 256;
const FEATURES = F_VERSION_1 | F_ACCESS_PLATFORM;

/** A disk behind a VT-d unit, and a driver that finds its way by what the function says of itself. */
class Rig {
  readonly memory = GuestMemory.ofBytes(RAM_PAGES * 4096);
  readonly guest = new Guest({}, RAM_PAGES, {}, this.memory);
  readonly backend = new MemoryBackend(DISK_BYTES);
  readonly messages: [bigint, number][] = [];
  readonly levels: boolean[] = [];
  readonly transport: VirtioPci;
  readonly translated: TranslatedMemory;
  readonly block: VirtioBlock;
  readonly table;
  /** Offset in BAR 0 by structure type. */
  readonly places = new Map<number, number>();

  constructor() {
    this.guest.iommu.addEndpoint(DEVICE);
    const { root, table } = this.guest.secondStage();
    this.table = table;
    this.guest.setContext(DEVICE, { root, did: 1 });
    table.map(RING_PFN, RING_PFN, 512, READ_WRITE);
    this.guest.start();
    this.guest.submit(contextDevice(DEVICE), iotlbGlobal, wait());
    this.translated = new TranslatedMemory(DEVICE, this.guest.iommu, this.memory, () => this.transport.fn.busMaster);
    this.block = new VirtioBlock(this.translated, this.backend, (source) => this.transport.interrupt(source), 'disk-1');
    this.transport = new VirtioPci(this.block.description, {
      sendMessage: (address, data) => vtdMessage(this.guest.iommu, DEVICE, address, data, (...message) => this.messages.push(message)),
      setIntx: (level) => this.levels.push(level),
    });
    const { fn } = this.transport;
    fn.writeConfig(4, 2, 6);
    for (let at = fn.readConfig(0x34, 1); at !== 0; at = fn.readConfig(at + 1, 1))
      if (fn.readConfig(at, 1) === 9) this.places.set(fn.readConfig(at + 3, 1), fn.readConfig(at + 8, 4));
  }

  get(offset: number, bytes: number): number {
    return Number(this.transport.fn.readBar(0, this.places.get(Structure.COMMON)! + offset, bytes));
  }
  put(offset: number, bytes: number, value: number | bigint): void {
    this.transport.fn.writeBar(0, this.places.get(Structure.COMMON)! + offset, bytes, BigInt(value));
  }

  /** 3.1.1 */
  start(features = FEATURES, vector = 0xffff) {
    this.put(COMMON.DEVICE_STATUS, 1, 0);
    this.put(COMMON.DEVICE_STATUS, 1, 3);
    for (const select of [0, 1]) {
      this.put(COMMON.DRIVER_FEATURE_SELECT, 4, select);
      this.put(COMMON.DRIVER_FEATURE, 4, (features >> BigInt(32 * select)) & 0xffff_ffffn);
    }
    this.put(COMMON.DEVICE_STATUS, 1, 11);
    const Ring = (features & F_RING_PACKED) !== 0n ? PackedDriver : SplitDriver;
    const driver = new Ring(this.memory, RING_PFN * 4096, 16);
    this.put(COMMON.QUEUE_SELECT, 2, 0);
    this.put(COMMON.QUEUE_SIZE, 2, 16);
    this.put(COMMON.QUEUE_MSIX_VECTOR, 2, vector);
    this.put(COMMON.QUEUE_DESC, 8, driver.setup.descriptors);
    // In halves, as 32-bit drivers do.
    this.put(COMMON.QUEUE_DRIVER, 4, driver.setup.driver);
    this.put(COMMON.QUEUE_DRIVER + 4, 4, 0);
    this.put(COMMON.QUEUE_DEVICE, 8, driver.setup.device);
    this.put(COMMON.QUEUE_ENABLE, 2, 1);
    this.put(COMMON.DEVICE_STATUS, 1, 15);
    return driver;
  }

  kick(): void {
    this.transport.fn.writeBar(0, this.places.get(Structure.NOTIFY)!, 2, 0n);
  }
}

function head(type: number, sector: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setUint32(0, type, true);
  view.setBigUint64(8, BigInt(sector), true);
  return new Uint8Array(view.buffer);
}

function request(type: number, sector: number, data: Uint8Array | number) {
  const out = typeof data === 'number' ? new Uint8Array(0) : data;
  return { readable: Uint8Array.from([...head(type, sector), ...out]), writable: (typeof data === 'number' ? data : 0) + 1 };
}

const pattern = (bytes: number, seed: number) => Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + seed) & 0xff);

describe('transport (4.1)', () => {
  test('says where everything is, and what the device is', () => {
    const rig = new Rig();
    expect([...rig.places.keys()].sort()).toEqual([1, 2, 3, 4, 5]);
    expect(rig.transport.fn.readConfig(0, 4)).toBe(0x1042_1af4);
    expect(Number(rig.transport.fn.readBar(0, rig.places.get(Structure.DEVICE)!, 8))).toBe(DISK_BYTES / 512);
    expect([rig.get(COMMON.NUM_QUEUES, 2), rig.get(COMMON.QUEUE_SIZE, 2)]).toEqual([1, 256]);
    rig.put(COMMON.QUEUE_SELECT, 2, 5);
    expect(rig.get(COMMON.QUEUE_SIZE, 2)).toBe(0);
    rig.put(COMMON.CONFIG_MSIX_VECTOR, 2, 9);
    expect(rig.get(COMMON.CONFIG_MSIX_VECTOR, 2)).toBe(0xffff);
  });

  test('offers VERSION_1 and ACCESS_PLATFORM, and takes no feature that it does not offer', () => {
    const rig = new Rig();
    rig.put(COMMON.DEVICE_FEATURE_SELECT, 4, 1);
    expect(rig.get(COMMON.DEVICE_FEATURE, 4) & 3).toBe(3);
    rig.start(FEATURES | (1n << 40n));
    expect(rig.get(COMMON.DEVICE_STATUS, 1) & 8).toBe(0);
    rig.start();
    expect(rig.get(COMMON.DEVICE_STATUS, 1)).toBe(15);
  });

  test('without MSI-X the pin is asserted until ISR is read (4.1.4.5)', () => {
    const rig = new Rig();
    const driver = rig.start();
    driver.add(request(4, 0, 0));
    rig.kick();
    expect(rig.levels).toEqual([true]);
    expect(rig.transport.fn.readBar(0, rig.places.get(Structure.ISR)!, 1)).toBe(1n);
    expect([rig.levels, rig.transport.fn.readBar(0, rig.places.get(Structure.ISR)!, 1)]).toEqual([[true, false], 0n]);
  });

  test('with MSI-X the queue’s vector is sent', () => {
    const rig = new Rig();
    const { fn } = rig.transport;
    const driver = rig.start(FEATURES, 1);
    fn.writeBar(0, 0x4010, 8, 0xfee0_1004n);
    fn.writeBar(0, 0x4018, 4, 0x45n);
    fn.writeBar(0, 0x401c, 4, 0n);
    const atMsix = fn.capabilityOffsets.find((at) => fn.readConfig(at, 1) === CapabilityId.MSIX)!;
    fn.writeConfig(atMsix + 2, 2, 0x8000);
    driver.add(request(4, 0, 0));
    rig.kick();
    expect(rig.messages).toEqual([[0xfee0_1004n, 0x45]]);
    expect(rig.levels).toEqual([]);
  });
});

describe.each([
  ['split', FEATURES],
  ['split, event index', FEATURES | F_EVENT_IDX],
  ['packed', FEATURES | F_RING_PACKED],
] as const)('block device behind VT-d, %s', (_name, features) => {
  test('what was written is read back', () => {
    const rig = new Rig();
    const driver = rig.start(features);
    const data = pattern(1024, 3);
    driver.add({ ...request(1, 8, data), cut: 600 });
    driver.add(request(0, 8, 1024));
    rig.kick();
    const [written, read] = driver.collect();
    expect([written!.written, Array.from(written!.bytes)]).toEqual([1, [0]]);
    expect([read!.written, read!.bytes[1024]]).toEqual([1025, 0]);
    expect(Buffer.from(read!.bytes.subarray(0, 1024)).equals(Buffer.from(data))).toBe(true);
    expect(Buffer.from(rig.backend.content.subarray(4096, 5120)).equals(Buffer.from(data))).toBe(true);
    expect(rig.translated.counts.faults).toBe(0);
  });

  test('more requests than one call serves are all served', async () => {
    const rig = new Rig();
    const driver = rig.start(features);
    for (let round = 0; round < 12; round++) {
      for (let i = 0; i < 4; i++) driver.add(request(1, round * 4 + i, pattern(512, round * 4 + i)));
      rig.kick();
      await new Promise((resolve) => setImmediate(resolve));
      expect(driver.collect().map(({ bytes }) => bytes[0])).toEqual([0, 0, 0, 0]);
    }
    expect(rig.block.counts.writes).toBe(48);
  });

  test.each([
    ['a place behind the end', request(0, DISK_BYTES / 512, 512), 1],
    ['no whole sectors', request(0, 0, 100), 1],
    ['a type that there is not', request(99, 0, 0), 2],
    ['a header that is too short', { readable: new Uint8Array(8), writable: 1 }, 1],
  ])('%s ends with its status', (_what, wrong, status) => {
    const rig = new Rig();
    const driver = rig.start(features);
    driver.add(wrong);
    driver.add({ ...request(8, 0, 20) });
    rig.kick();
    const [first, id] = driver.collect();
    expect(first!.bytes.at(-1)).toBe(status);
    expect(new TextDecoder().decode(id!.bytes.subarray(0, 6))).toBe('disk-1');
    expect(rig.block.counts.errors).toBe(1);
  });

  test('what the IOMMU does not let through is an error of the request, and a fault of the guest’s', () => {
    const rig = new Rig();
    const driver = rig.start(features);
    driver.add(request(1, 0, new Uint8Array(512)));
    const { memory } = rig;
    // The ring is mapped; the first descriptor leads to a page that is not.
    memory.store64(0, RING_PFN * 4096, 0, 0x3f0 * 4096);
    rig.kick();
    expect(driver.collect()[0]!.bytes[0]).toBe(1);
    expect(rig.translated.counts.faults).toBe(1);
  });

  test('without bus mastering the device reaches nothing', () => {
    const rig = new Rig();
    const driver = rig.start(features);
    rig.transport.fn.writeConfig(4, 2, 2);
    driver.add(request(1, 0, new Uint8Array(512)));
    rig.kick();
    expect(driver.collect()).toEqual([]);
    expect(rig.get(COMMON.DEVICE_STATUS, 1) & 64).toBe(64);
  });
});

test('the serial number has 20 characters, all of them, and no more (5.2.6)', () => {
  const serial = '0123456789abcdefghijklm';
  const memory = GuestMemory.ofBytes(1 << 16);
  const block = new VirtioBlock(memory, new MemoryBackend(512), () => {}, serial);
  const driver = new SplitDriver(memory, 0x1000, 16);
  block.device.status = 3;
  block.device.driverFeatures = F_VERSION_1 | F_ACCESS_PLATFORM;
  block.device.status = 11;
  block.device.setQueue(0, driver.setup);
  block.device.status = 15;
  driver.add(request(8, 0, 20));
  driver.add(request(8, 0, 24));
  block.notify(0);
  const [exact, roomy] = driver.collect();
  expect([new TextDecoder().decode(exact!.bytes.subarray(0, 20)), exact!.bytes[20]]).toEqual([serial.slice(0, 20), 0]);
  expect([new TextDecoder().decode(roomy!.bytes.subarray(0, 20)), roomy!.bytes[24]]).toEqual([serial.slice(0, 20), 0]);
});

property.prop(
  [
    fc.array(fc.record({ offset: fc.nat(0x7fff), bytes: fc.constantFrom(1, 2, 4, 8), value: fc.bigInt(0n, (1n << 64n) - 1n) }), {
      maxLength: 60,
    }),
  ],
  {
    numRuns: 60,
  },
)('whatever is written to its registers, the device can be started', (writes) => {
  const rig = new Rig();
  for (const { offset, bytes, value } of writes) {
    rig.transport.fn.writeBar(0, offset, bytes, BigInt.asUintN(8 * bytes, value));
    rig.transport.fn.readBar(0, offset, bytes);
  }
  rig.transport.fn.reset();
  rig.transport.fn.writeConfig(4, 2, 6);
  const driver = rig.start();
  driver.add(request(4, 0, 0));
  rig.kick();
  expect(driver.collect().length).toBe(1);
});
