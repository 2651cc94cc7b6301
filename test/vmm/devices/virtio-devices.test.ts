import { PassThrough } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { F_RING_PACKED, F_VERSION_1 } from '../../../src/virtqueue/spec.ts';
import { type NetworkBackend, StreamBackend, VirtioEntropy, VirtioNetwork } from '../../../src/vmm/devices/index.ts';
import { VirtioPci } from '../../../src/vmm/virtio/index.ts';
import type { VirtioModel } from '../../../src/vmm/virtio/model.ts';
import { Structure } from '../../../src/vmm/virtio/spec.ts';
import { type Driver, PackedDriver, SplitDriver } from '../../virtqueue/driver.ts';

const NEEDS_RESET = 64;

/** A driver for each queue of a device, which is ready (3.1.1). */
function start({ device }: VirtioModel, memory: GuestMemory, queues: number, packed = false): Driver[] {
  device.status = 3;
  device.driverFeatures = F_VERSION_1 | (packed ? F_RING_PACKED : 0n);
  device.status = 11;
  const drivers = Array.from({ length: queues }, (_, i) => new (packed ? PackedDriver : SplitDriver)(memory, 0x10000 + i * 0x40000, 16));
  for (const [i, driver] of drivers.entries()) device.setQueue(i, driver.setup);
  device.status = 15;
  return drivers;
}

const empty = new Uint8Array(0);

describe.each([false, true])('entropy (5.4), packed rings %s', (packed) => {
  function rig() {
    const memory = GuestMemory.ofBytes(1 << 20);
    const interrupts: number[] = [];
    const entropy = new VirtioEntropy(
      memory,
      (source) => interrupts.push(source),
      (into) => into.fill(0x5a),
    );
    const [driver] = start(entropy, memory, 1, packed) as [Driver];
    driver.askInterrupt(1, false);
    return { entropy, driver, interrupts };
  }

  test('fills whatever is writable, and says how much', () => {
    const { entropy, driver, interrupts } = rig();
    driver.add({ readable: empty, writable: 100, cut: 7 });
    driver.add({ readable: empty, writable: 1 });
    expect(entropy.notify(0)).toBe(false);
    expect(driver.collect()).toEqual([100, 1].map((written) => ({ written, bytes: new Uint8Array(written).fill(0x5a) })));
    expect(interrupts).toEqual([0]);
    expect(entropy.counts).toEqual({ buffers: 2, bytes: 101 });
  });

  test('5.4.6: a buffer without room to write is the driver’s fault, and breaks the device', () => {
    const { entropy, driver } = rig();
    driver.add({ readable: Uint8Array.of(1), writable: 0 });
    expect(entropy.notify(0)).toBe(false);
    expect(entropy.device.status & NEEDS_RESET).not.toBe(0);
  });
});

test('a reset of the function takes back what its ISR says (4.1.4.5); beside the notifications there is nothing', () => {
  const entropy = new VirtioEntropy(GuestMemory.ofBytes(1 << 20), () => {});
  const levels: boolean[] = [];
  const pci = new VirtioPci(entropy.description, { setIntx: (level) => levels.push(level) });
  const isr = () => pci.fn.readBar(0, 0x1000, 1);
  pci.interrupt(0);
  expect([isr(), isr()]).toEqual([1n, 0n]);
  pci.interrupt(0);
  pci.fn.reset();
  expect([isr(), levels]).toEqual([0n, [true, false, true, false]]);
  pci.fn.writeBar(0, 0x3000, 2, 0n);
  pci.fn.writeBar(0, 0x3004, 2, 0n);
  expect(pci.kicks).toBe(1);
});

test('a device without configuration has no structure for it', () => {
  const { fn } = new VirtioPci(new VirtioEntropy(GuestMemory.ofBytes(1 << 20), () => {}).description, {});
  const structures: number[] = [];
  for (let at = fn.readConfig(0x34, 1); at !== 0; at = fn.readConfig(at + 1, 1))
    if (fn.readConfig(at, 1) === 9) structures.push(fn.readConfig(at + 3, 1));
  expect(structures).toEqual([Structure.COMMON, Structure.NOTIFY, Structure.ISR, Structure.CONFIG]);
  expect(fn.readConfig(2, 2)).toBe(0x1044);
});

describe.each([false, true])('network (5.1), packed rings %s', (packed) => {
  function rig() {
    const memory = GuestMemory.ofBytes(1 << 20);
    const interrupts: number[] = [];
    const sent: Uint8Array[] = [];
    let receive: (frame: Uint8Array) => void = () => {};
    const backend: NetworkBackend = {
      connect: (give) => {
        receive = give;
      },
      send: (frame) => sent.push(frame),
    };
    const network = new VirtioNetwork(memory, backend, (source) => interrupts.push(source));
    const [rx, tx] = start(network, memory, 2, packed) as [Driver, Driver];
    for (const driver of [rx, tx]) driver.askInterrupt(1, false);
    return { network, memory, rx, tx, interrupts, sent, receive: (frame: Uint8Array) => receive(frame) };
  }
  const frame = (bytes: number) => Uint8Array.from({ length: bytes }, (_, i) => i & 0xff);
  const packet = (bytes: number) => Uint8Array.from([...new Uint8Array(12), ...frame(bytes)]);

  test('5.1.4: the MAC address, and nothing behind it', () => {
    const to = new Uint8Array(8).fill(0xff);
    rig().network.readConfig(0, to);
    expect([...to]).toEqual([0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0]);
  });

  test('5.1.6.2: a packet goes out without its header, however it is cut', () => {
    const { network, tx, sent, interrupts } = rig();
    tx.add({ readable: packet(60), writable: 0, cut: 5 });
    tx.add({ readable: packet(1514), writable: 0 });
    network.notify(1);
    expect(sent).toEqual([frame(60), frame(1514)]);
    expect(tx.collect().map(({ written }) => written)).toEqual([0, 0]);
    expect(interrupts).toEqual([1]);
  });

  test('no packet, and one longer than Ethernet’s, go nowhere and are given back', () => {
    const { network, tx, sent } = rig();
    tx.add({ readable: packet(0), writable: 0 });
    tx.add({ readable: packet(1519), writable: 0 });
    network.notify(1);
    expect([sent, tx.collect().length, network.counts.dropped]).toEqual([[], 2, 2]);
  });

  test('5.1.6.4: what arrives has a header that counts one buffer', () => {
    const { network, rx, receive, interrupts } = rig();
    rx.add({ readable: empty, writable: 1530 });
    network.notify(0);
    receive(frame(64));
    const [used] = rx.collect();
    expect(used?.written).toBe(76);
    expect([...used!.bytes.subarray(0, 12)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    expect(used!.bytes.subarray(12, 76)).toEqual(frame(64));
    expect(interrupts).toEqual([0]);
  });

  test('a wire that answers at once: each queue keeps its own buffers', () => {
    const { network, rx, tx, sent, receive } = rig();
    for (let i = 0; i < 3; i++) rx.add({ readable: empty, writable: 1530 });
    // Buffers of the two queues have different numbers.
    for (let i = 0; i < 5; i++) tx.add({ readable: packet(60 + i), writable: 0, cut: 30 });
    const { push } = sent;
    sent.push = (...frames) => {
      for (const each of frames) receive(each);
      return push.apply(sent, frames);
    };
    network.notify(1);
    expect(sent.map((each) => each.length)).toEqual([60, 61, 62, 63, 64]);
    expect(tx.collect().length).toBe(5);
    expect(rx.collect().map(({ written }) => written)).toEqual([72, 73, 74]);
  });

  test('what arrives before there is a buffer waits for one, 256 packets at most', () => {
    const { network, rx, receive } = rig();
    for (let i = 0; i < 300; i++) receive(frame(60 + (i % 3)));
    expect(network.counts).toMatchObject({ received: 0, dropped: 44 });
    for (let i = 0; i < 3; i++) rx.add({ readable: empty, writable: 1530 });
    network.notify(0);
    expect(rx.collect().map(({ written }) => written)).toEqual([72, 73, 74]);
  });

  test('a buffer that is too small stays empty; a reset forgets what waits', () => {
    const { network, memory, rx, receive } = rig();
    rx.add({ readable: empty, writable: 32 });
    receive(frame(64));
    expect(rx.collect().map(({ written }) => written)).toEqual([0]);
    receive(frame(64));
    network.device.status = 0;
    receive(frame(64));
    expect(network.counts).toMatchObject({ received: 0, dropped: 2 });
    memory.write(0, 0, new Uint8Array(1 << 20), 0, 1 << 20);
    const [again] = start(network, memory, 2, packed) as [Driver];
    again.add({ readable: empty, writable: 1530 });
    network.notify(0);
    expect(network.counts.received).toBe(0);
    receive(frame(60));
    expect(again.collect().map(({ written }) => written)).toEqual([72]);
  });
});

describe('a stream as a wire', () => {
  test('frames behind their lengths, in whatever pieces they come', async () => {
    const stream = new PassThrough();
    const got: number[][] = [];
    const backend = new StreamBackend(stream);
    backend.connect((frame) => got.push([...frame]));
    backend.send(Uint8Array.of(1, 2, 3));
    for (const byte of [0, 0, 0, 2, 8, 9, 0]) stream.write(Uint8Array.of(byte));
    await expect
      .poll(() => got)
      .toEqual([
        [1, 2, 3],
        [8, 9],
      ]);
  });

  test.each([0, 1519, 0xffff_ffff])('a frame of %i bytes is none, and ends the stream', async (bytes) => {
    const stream = new PassThrough();
    new StreamBackend(stream).connect(() => expect.unreachable());
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes);
    stream.write(length);
    await expect.poll(() => stream.destroyed).toBe(true);
  });

  test('a peer that reads nothing loses frames, and costs no memory', () => {
    const stream = new PassThrough({ highWaterMark: 4096 });
    const backend = new StreamBackend(stream);
    for (let i = 0; i < 100; i++) backend.send(new Uint8Array(1500));
    expect(backend.dropped).toBeGreaterThan(90);
    expect(stream.writableLength + stream.readableLength).toBeLessThan(10_000);
    stream.destroy();
    backend.send(new Uint8Array(60));
    expect(backend.dropped).toBeGreaterThan(91);
  });
});
