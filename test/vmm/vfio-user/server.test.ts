import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { fc, test as property } from '@fast-check/vitest';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { openKernelPort } from '../../../src/host/kernel/index.ts';
import { msix, PciFunction, vendor } from '../../../src/vmm/pci/index.ts';
import { PciVfioDevice, type VfioUserOptions, VfioUserServer } from '../../../src/vmm/vfio-user/index.ts';
import { openLibc } from '../../../src/vmm/vfio-user/native/libc.ts';
import { Command, LIMITS, SetIrqs } from '../../../src/vmm/vfio-user/spec.ts';
import { UNSENT_LIMIT } from '../../../src/vmm/vfio-user/transport.ts';
import { access, Client, dmaMap, version, words } from './client.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-vfio-user-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let opened: { close(): void }[] = [];
afterEach(() => {
  for (const one of opened) one.close();
  opened = [];
});

let sockets = 0;

const EINVAL = 22;
const EACCES = 13;
const CONFIG = 7;

async function rig(options: Partial<VfioUserOptions> = {}, hideMsix = false) {
  const writes: [number, number, bigint][] = [];
  const registers = {
    read: (offset: number, bytes: number) => BigInt(offset * 16 + bytes),
    write: (offset: number, bytes: number, value: bigint) => void writes.push([offset, bytes, value]),
  };
  const fn: PciFunction = new PciFunction(
    {
      vendor: 0x1efd,
      device: 1,
      classCode: 0xff0000,
      interruptPin: 1,
      bars: [{ bytes: 0x4000, registers }],
      capabilities: [vendor([], 8), msix(4, { bar: 0, offset: 0x2000 }, { bar: 0, offset: 0x3000 })],
    },
    { sendMessage: (address, data) => device.sendMessage(address, data), setIntx: (level) => device.setIntx(level) },
  );
  const events: string[] = [];
  const device: PciVfioDevice = new PciVfioDevice(fn, {
    hideMsix,
    reset: () => events.push('reset'),
    connected: () => events.push('connected'),
    disconnected: () => events.push('disconnected'),
  });
  const path = join(folder, `s${sockets++}`);
  const server = await VfioUserServer.listen({ path, device, ...options });
  opened.push(server);
  return { server, path, fn, device, writes, events };
}

async function greeted(path: string): Promise<Client> {
  const client = await Client.greeted(path);
  opened.push(client);
  return client;
}

/** A file of the guest's RAM. */
function ramFile(bytes: number): number {
  const path = join(folder, `ram${sockets++}`);
  writeFileSync(path, new Uint8Array(bytes));
  const fd = openSync(path, 'r+');
  opened.push({ close: () => closeSync(fd) });
  return fd;
}

async function eventfds(count: number): Promise<{ fds: number[]; value: (i: number) => number }> {
  const port = await openKernelPort();
  const memory = port.allocate(8);
  const fds = Array.from({ length: count }, () => port.eventfd());
  opened.push({
    close: () => {
      for (const fd of fds) port.close(fd);
    },
  });
  return { fds, value: (i) => (port.read(fds[i]!, memory, 8) < 0 ? 0 : Number(new BigUint64Array(memory.buffer)[0])) };
}

function setIrqs(flags: number, irq: number, start: number, count: number, data: number[] = []): Uint8Array {
  return Uint8Array.from([...words(20 + data.length, flags, irq, start, count), ...data]);
}

describe.each(['native', 'net'] as const)('over %s', (transport) => {
  test('a client learns what the device is', async () => {
    const { path, events } = await rig({ transport });
    const client = await Client.connect(path);
    opened.push(client);
    const reply = await client.ask(Command.VERSION, version(0, 1));
    expect([reply.error, reply.payload.getUint16(0, true), reply.payload.getUint16(2, true)]).toEqual([0, 0, 0]);
    const json = new TextDecoder().decode(new Uint8Array(reply.payload.buffer, reply.payload.byteOffset + 4, reply.payload.byteLength - 5));
    expect(JSON.parse(json).capabilities.max_data_xfer_size).toBe(LIMITS.data);
    const info = await client.ask(Command.DEVICE_GET_INFO, words(16, 0, 0, 0));
    expect(Array.from(new Uint32Array(info.payload.buffer.slice(16)))).toEqual([16, 3, 9, 5]);
    const regions: DataView[] = [];
    for (const index of [0, 1, 6, 7, 8])
      regions.push((await client.ask(Command.DEVICE_GET_REGION_INFO, words(32, 0, index, 0, 0, 0, 0, 0))).payload);
    expect(regions.map((region) => region.getUint32(16, true))).toEqual([0x4000, 0, 0, 256, 0]);
    const irqs: DataView[] = [];
    for (const index of [0, 1, 2, 3, 4]) irqs.push((await client.ask(Command.DEVICE_GET_IRQ_INFO, words(16, 0, index, 0))).payload);
    expect(irqs.map((irq) => irq.getUint32(12, true))).toEqual([1, 0, 4, 0, 0]);
    expect(events).toEqual(['connected']);
  });

  test('a client that asks and never reads is turned away before its answers fill memory', async () => {
    const { path, server, events } = await rig({ transport });
    const client = await greeted(path);
    // Answers of 16 KiB: twice as many as may wait, besides what lies in the socket.
    const requests = (2 * UNSENT_LIMIT) / 0x4000;
    for (let i = 0; i < requests && server.client !== null; i++) {
      client.send(Command.REGION_READ, access(0, 0, 0x4000));
      await turn();
    }
    await expect.poll(() => server.client).toBeNull();
    expect(events).toEqual(['connected', 'reset', 'disconnected']);
    const next = await greeted(path);
    expect(await next.readRegion(CONFIG, 0, 2)).toEqual([0xfd, 0x1e]);
  });

  test('registers are read and written as the processor would, and several in one message', async () => {
    const { path, writes } = await rig({ transport });
    const client = await greeted(path);
    expect(await client.readRegion(0, 0x10, 4)).toEqual([0x04, 0x01, 0, 0]);
    expect(await client.writeRegion(0, 0x18, [1, 2, 3, 4, 5, 6, 7, 8])).toBe(0);
    client.send(Command.REGION_WRITE, Uint8Array.from([...access(0, 0x20, 4), 9, 0, 0, 0]), [], 0x10);
    const multi = Uint8Array.from([...words(1, 0), ...access(0, 0x24, 2), 7, 0, 0, 0, 0, 0, 0, 0]);
    const { error, payload } = await client.ask(Command.REGION_WRITE_MULTI, multi);
    expect([error, payload.getBigUint64(0, true)]).toEqual([0, 1n]);
    expect(writes).toEqual([
      [0x18, 8, 0x0807060504030201n],
      [0x20, 4, 9n],
      [0x24, 2, 7n],
    ]);
    expect(await client.readRegion(CONFIG, 0, 4)).toEqual([0xfd, 0x1e, 1, 0]);
  });

  test('what is out of place is refused, and the next request served', async () => {
    const { path, server } = await rig({ transport });
    const client = await greeted(path);
    const refused: [number, Uint8Array, number][] = [
      [Command.REGION_READ, access(0, 0x3ffe, 4), EINVAL],
      [Command.REGION_READ, access(0, -4, 8), EINVAL],
      [Command.REGION_READ, access(9, 0, 4), EINVAL],
      [Command.REGION_READ, access(1, 0, 4), EINVAL],
      [Command.REGION_READ, access(0, 0, 0), EINVAL],
      [Command.REGION_READ, access(0, 0, LIMITS.data + 1), EINVAL],
      [Command.REGION_READ, words(1), EINVAL],
      [Command.REGION_WRITE, access(0, 0, 8), EINVAL],
      [Command.REGION_WRITE_MULTI, words(0xffff_ffff, 0xffff_ffff), EINVAL],
      [Command.DEVICE_GET_REGION_INFO, words(32, 0, 9, 0, 0, 0, 0, 0), EINVAL],
      [Command.DEVICE_GET_IRQ_INFO, words(16, 0, 5, 0), EINVAL],
      [Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.NONE | SetIrqs.TRIGGER, 2, 0xffff_ffff, 2), EINVAL],
      [Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.BOOL | SetIrqs.TRIGGER, 2, 0, 4, [1]), EINVAL],
      [Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.NONE, 2, 0, 1), EINVAL],
      [Command.DMA_MAP, dmaMap(0x1001n, 4096, 0n), EINVAL],
      [Command.DMA_MAP, dmaMap(0x1000n, 0, 0n), EINVAL],
      [Command.DMA_MAP, dmaMap(0xffff_ffff_ffff_f000n, 8192, 0n), EINVAL],
      [Command.DMA_MAP, words(1, 2), EINVAL],
      [Command.DMA_UNMAP, words(1, 2), EINVAL],
      [11, words(), 95],
      [999, words(), 95],
    ];
    for (const [command, payload, error] of refused)
      expect([command, (await client.ask(command, payload)).error]).toEqual([command, error]);
    expect(await client.unmap(0x1000n, 4096)).toBe(2);
    expect(await client.unmap(0n, 0, 1)).toBe(EINVAL);
    expect(await client.readRegion(0, 0, 1)).toEqual([1]);
    expect(server.memory.regions).toEqual([]);
  });

  test.each([
    ['a size below the header', words(0x0001_0000 | 1, 8, 0, 0)],
    ['a size beyond every message', words(0x0001_0000 | 1, 0x7fff_ffff, 0, 0)],
    ['a command before VERSION', words(Command.DEVICE_RESET << 16, 16, 0, 0)],
    ['a major version that there is not', Uint8Array.from([...words(Command.VERSION << 16, 20, 0, 0), 1, 0, 0, 0])],
  ])('%s ends the connection, not the server', async (_what, bytes) => {
    const { path, events } = await rig({ transport });
    const client = await Client.connect(path);
    opened.push(client);
    client.raw(bytes);
    await client.untilClosed();
    const next = await greeted(path);
    expect(await next.readRegion(0, 0, 1)).toEqual([1]);
    expect(events).toEqual(['connected']);
  });

  test('a message in pieces is one message', async () => {
    const { path } = await rig({ transport });
    const client = await greeted(path);
    const bytes = Uint8Array.from([...words((Command.REGION_READ << 16) | 7, 32, 0, 0), ...access(0, 0x20, 2)]);
    for (const byte of bytes) client.raw(Uint8Array.of(byte));
    expect((await client.next()).payload.getUint16(16, true)).toBe(0x202);
  });

  test('one client at a time; after it is gone the next finds the device as at power-on', async () => {
    const { path, events, fn, server } = await rig({ transport, ram: new SharedArrayBuffer(1 << 20) });
    const first = await greeted(path);
    await first.writeRegion(CONFIG, 4, [6, 0]);
    expect(fn.busMaster).toBe(true);
    expect(await first.map(0n, 4096, 0n, [])).toBe(0);
    expect(server.memory.regions.length).toBe(transport === 'net' ? 1 : 1);
    const second = await Client.connect(path);
    opened.push(second);
    await second.untilClosed();
    await first.writeRegion(0, 0, [1]);
    first.close();
    opened.splice(opened.indexOf(first), 1);
    while (server.client !== null) await new Promise((resolve) => setImmediate(resolve));
    expect([fn.busMaster, server.memory.regions.length]).toEqual([false, 0]);
    const third = await greeted(path);
    expect(await third.readRegion(CONFIG, 4, 2)).toEqual([0, 0]);
    expect(events).toEqual(['connected', 'reset', 'disconnected', 'connected']);
  });

  test('a client that goes in the middle of any byte of a message leaves nothing behind', async () => {
    const { path, server, events } = await rig({ transport, ram: new SharedArrayBuffer(1 << 20) });
    const bytes = Uint8Array.from([...words((Command.DMA_MAP << 16) | 7, 48, 0, 0), ...dmaMap(0n, 4096, 0n)]);
    const before = transport === 'native' ? readdirSync('/proc/self/fd').length : 0;
    const fd = ramFile(4096);
    for (let cut = 1; cut < bytes.length; cut++) {
      const client = await reached(path);
      client.raw(bytes.subarray(0, cut), [fd]);
      client.close();
      opened = opened.filter((one) => one !== client);
    }
    await expect.poll(() => server.client).toBe(null);
    expect([server.memory.regions.length, events.filter((event) => event === 'disconnected').length]).toEqual([0, bytes.length - 1]);
    if (transport === 'native') expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before + 1);
  });

  test('more descriptors than were offered end the connection, and none is kept', async () => {
    const { path, server } = await rig({ transport });
    const fd = ramFile(4096);
    const client = await greeted(path);
    const before = readdirSync('/proc/self/fd').length;
    client.send(Command.DMA_MAP, dmaMap(0n, 4096, 0n), new Array(LIMITS.descriptors).fill(fd));
    expect((await client.next()).error).toBe(0);
    client.send(Command.DMA_MAP, dmaMap(0x1000n, 4096, 0n), new Array(LIMITS.descriptors + 1).fill(fd));
    // Over a stream without descriptors they are the kernel's to drop.
    if (transport === 'net') expect((await client.next()).error).toBe(0);
    else await client.untilClosed();
    if (transport === 'native') await expect.poll(() => server.client).toBe(null);
    expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before);
  });

  test('what the device throws is told, turns its client away, and the next is served; as the client goes, too', async () => {
    const failures: string[] = [];
    const { path, device, server } = await rig({ transport, failed: (error) => failures.push((error as Error).message) });
    const client = await greeted(path);
    device.readRegion = () => {
      throw new Error('read');
    };
    device.disconnected = () => {
      throw new Error('gone');
    };
    client.send(Command.REGION_READ, access(0, 0, 4));
    await client.untilClosed();
    await expect.poll(() => server.client).toBe(null);
    expect(failures).toEqual(['read', 'gone']);
    const next = await reached(path);
    expect((await next.ask(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).error).toBe(0);
  });

  test('closing takes the socket and the client away', async () => {
    const { path, server } = await rig({ transport });
    const client = await greeted(path);
    server.close();
    server.close();
    await client.untilClosed();
    await expect.poll(() => existsSync(path)).toBe(false);
  });

  property.prop([fc.array(fc.uint8Array({ minLength: 16, maxLength: 64 }), { maxLength: 20 })], { numRuns: 25 })(
    'whatever a client sends, the server serves the next one',
    async (messages) => {
      const { path } = await rig({ transport });
      const client = await greeted(path);
      for (const bytes of messages) {
        // A possible size and no reply wanted, so that more than the first header is looked at.
        new DataView(bytes.buffer, bytes.byteOffset).setUint32(4, bytes.length, true);
        bytes[2] = bytes[2]! % 18;
        bytes[3] = 0;
        client.raw(bytes);
      }
      client.close();
      opened.splice(opened.indexOf(client), 1);
      const next = await reached(path);
      expect((await next.readRegion(CONFIG, 0, 2)).length).toBe(2);
    },
  );
});

/** The server may not have seen yet that the client before is gone. */
async function reached(path: string): Promise<Client> {
  for (;;) {
    try {
      return await greeted(path);
    } catch {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

describe('guest RAM (native)', () => {
  test('is the client’s file, where it says, until it says otherwise', async () => {
    const { path, server } = await rig();
    const client = await greeted(path);
    const fd = ramFile(0x10000);
    writeSync(fd, Uint8Array.of(0xab), 0, 1, 0x3000);
    expect(await client.map(0x10_0000n, 0x2000, 0x3000n, [fd])).toBe(0);
    expect(server.memory.load32(0, 0x10_0000)).toBe(0);
    expect(server.memory.word[0]).toBe(0xab);
    server.memory.store32(0, 0x10_1000, 0x1234);
    const back = new Uint8Array(2);
    readSync(fd, back, 0, 2, 0x4000);
    expect(Array.from(back)).toEqual([0x34, 0x12]);
    expect(await client.map(0x10_1000n, 0x1000, 0n, [fd])).toBe(17);
    expect(await client.unmap(0x10_0000n, 0x1000)).toBe(EINVAL);
    expect(await client.unmap(0x10_1000n, 0x1000)).toBe(EINVAL);
    expect(await client.unmap(0x10_0000n, 0x2000)).toBe(0);
    expect(server.memory.load32(0, 0x10_0000)).toBeLessThan(0);
  });

  test('a ROM cannot be written, and what a device may not read is not there', async () => {
    const { path, server } = await rig();
    const client = await greeted(path);
    const fd = ramFile(0x4000);
    expect([await client.map(0n, 0x1000, 0n, [fd], 1), await client.map(0x1000n, 0x1000, 0n, [fd], 0)]).toEqual([0, 0]);
    expect([server.memory.load32(0, 0), server.memory.store32(0, 0, 1) < 0, server.memory.load32(0, 0x1000) < 0]).toEqual([0, true, true]);
    // All are all: with a range beside it the request is none.
    expect([await client.unmap(0n, 0x1000, 2), await client.unmap(0x1000n, 0, 2), server.memory.regions.length]).toEqual([
      EINVAL,
      EINVAL,
      1,
    ]);
    expect(await client.unmap(0n, 0, 2)).toBe(0);
    expect(server.memory.regions).toEqual([]);
  });

  test('a file that is shorter than the mapping is refused, as touching it would end the process', async () => {
    const { path } = await rig();
    const client = await greeted(path);
    expect(await client.map(0n, 0x4000, 0x1000n, [ramFile(0x4000)])).toBe(EINVAL);
  });
});

describe('guest RAM of other files (native)', () => {
  test('a file that is open for reading only is ROM, and nothing else', async () => {
    const { path, server } = await rig();
    const client = await greeted(path);
    const file = join(folder, 'rom');
    writeFileSync(file, new Uint8Array(0x1000).fill(0x55));
    const fd = openSync(file, 'r');
    opened.push({ close: () => closeSync(fd) });
    expect([await client.map(0n, 0x1000, 0n, [fd], 3), await client.map(0n, 0x1000, 0n, [fd], 1)]).toEqual([EACCES, 0]);
    expect([server.memory.load32(0, 0), server.memory.word[0], server.memory.store32(0, 0, 1) < 0]).toEqual([0, 0x5555_5555, true]);
  });

  test('what is no memory is refused: a folder, an eventfd', async () => {
    const { path, server } = await rig();
    const client = await greeted(path);
    const { fds } = await eventfds(1);
    const fd = openSync(folder, 'r');
    opened.push({ close: () => closeSync(fd) });
    for (const one of [fd, fds[0]!]) expect(await client.map(0n, 0x1000, 0n, [one])).toBeGreaterThan(0);
    expect(server.memory.regions).toEqual([]);
  });
});

describe('interrupts (native)', () => {
  test('an eventfd that its client filled and left blocking stops nobody', async () => {
    const { path, server } = await rig();
    const client = await greeted(path);
    const port = await openKernelPort();
    const koffi = await import('koffi');
    const fd: number = koffi.load(null).func('int eventfd(unsigned int value, int flags)')(0, 0);
    opened.push({ close: () => port.close(fd) });
    const full = port.allocate(8);
    new BigUint64Array(full.buffer)[0] = 0xffff_ffff_ffff_fffen;
    port.write(fd, full, 8);
    const install = setIrqs(SetIrqs.EVENTFD | SetIrqs.TRIGGER, 2, 0, 1);
    expect((await client.ask(Command.DEVICE_SET_IRQS, install, [fd])).error).toBe(0);
    expect(server.client!.trigger(2, 0)).toBe(true);
    expect(await client.readRegion(0, 0, 1)).toEqual([1]);
    port.read(fd, full, 8);
    server.client!.trigger(2, 0);
    port.read(fd, full, 8);
    expect(new BigUint64Array(full.buffer)[0]).toBe(1n);
  });

  test('a client that fills a blocking eventfd at any moment stops nobody: nothing asks before whether it is full', async () => {
    const { signal, port } = await openLibc();
    const koffi = await import('koffi');
    const fd: number = koffi.load(null).func('int eventfd(unsigned int value, int flags)')(0, 0);
    opened.push({ close: () => port.close(fd) });
    const word = port.allocate(8);
    const value = new BigUint64Array(word.buffer);
    value[0] = 0xffff_ffff_ffff_fffen;
    port.write(fd, word, 8);
    // A write(2) waits here for ever; more of them than the kernel keeps ends of.
    for (let i = 0; i < 1000; i++) signal(fd);
    port.read(fd, word, 8);
    expect(value[0]).toBe(0xffff_ffff_ffff_ffffn);
    for (let i = 0; i < 1000; i++) signal(fd);
    port.read(fd, word, 8);
    expect(value[0]).toBe(1000n);
  });

  test('a descriptor that is gone meanwhile is signalled to nobody', async () => {
    const { signal, port } = await openLibc();
    const [gone, there] = [port.eventfd(), port.eventfd()];
    port.close(gone);
    signal(gone);
    signal(there);
    const word = port.allocate(8);
    port.read(there, word, 8);
    port.close(there);
    expect(new BigUint64Array(word.buffer)[0]).toBe(1n);
  });

  test('anything else than an eventfd is refused, and not written to', async () => {
    const { path, server } = await rig();
    const client = await greeted(path);
    const fd = ramFile(64);
    expect((await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.EVENTFD | SetIrqs.TRIGGER, 2, 0, 1), [fd])).error).toBe(EINVAL);
    expect(server.client!.trigger(2, 0)).toBe(false);
    const bytes = new Uint8Array(64);
    readSync(fd, bytes, 0, 64, 0);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  test('vectors have eventfds; taken away, they have none', async () => {
    const { path, server } = await rig();
    const client = await greeted(path);
    const { fds, value } = await eventfds(2);
    const install = setIrqs(SetIrqs.EVENTFD | SetIrqs.TRIGGER, 2, 1, 2);
    expect((await client.ask(Command.DEVICE_SET_IRQS, install, fds)).error).toBe(0);
    expect([0, 1, 2].map((vector) => server.client!.trigger(2, vector))).toEqual([false, true, true]);
    expect([value(0), value(1), value(0)]).toEqual([1, 1, 0]);
    expect((await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.BOOL | SetIrqs.TRIGGER, 2, 1, 2, [0, 1]))).error).toBe(0);
    expect([value(0), value(1)]).toEqual([0, 1]);
    expect((await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.NONE | SetIrqs.TRIGGER, 2, 0, 0))).error).toBe(0);
    expect(server.client!.trigger(2, 1)).toBe(false);
  });

  test('a number of descriptors that is not that of the vectors is refused', async () => {
    const { path } = await rig();
    const client = await greeted(path);
    const { fds } = await eventfds(3);
    expect((await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.EVENTFD | SetIrqs.TRIGGER, 2, 0, 2), fds)).error).toBe(EINVAL);
  });

  test('a level is told once, and again when it still stands after the guest has seen to it', async () => {
    const { path, fn } = await rig();
    const client = await greeted(path);
    const { fds, value } = await eventfds(1);
    await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.EVENTFD | SetIrqs.TRIGGER, 0, 0, 1), fds);
    fn.setIntx(true);
    fn.setIntx(true);
    expect(value(0)).toBe(1);
    await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.NONE | SetIrqs.UNMASK, 0, 0, 1));
    expect(value(0)).toBe(1);
    fn.setIntx(false);
    await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.NONE | SetIrqs.UNMASK, 0, 0, 1));
    expect(value(0)).toBe(0);
  });
});

describe('a pulse on the pin', () => {
  test('is told at once, or when the client has seen to the one before: none is lost, several are one', async () => {
    const { path, device } = await rig();
    const client = await greeted(path);
    const { fds, value } = await eventfds(1);
    await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.EVENTFD | SetIrqs.TRIGGER, 0, 0, 1), fds);
    device.pulseIntx();
    device.pulseIntx();
    device.pulseIntx();
    expect(value(0)).toBe(1);
    await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.NONE | SetIrqs.UNMASK, 0, 0, 1));
    expect(value(0)).toBe(1);
    await client.ask(Command.DEVICE_SET_IRQS, setIrqs(SetIrqs.NONE | SetIrqs.UNMASK, 0, 0, 1));
    expect(value(0)).toBe(0);
  });
});

describe('MSI-X that the client does not know of', () => {
  test('has a vendor’s ID until the first reset; a message is a write of the device’s own, behind the answer', async () => {
    const { path, fn } = await rig({}, true);
    const client = await greeted(path);
    const at = fn.capabilityOffsets[1]!;
    expect((await client.ask(Command.DEVICE_GET_IRQ_INFO, words(16, 0, 2, 0))).payload.getUint32(12, true)).toBe(0);
    expect(await client.readRegion(CONFIG, at, 2)).toEqual([0x09, 0]);
    await client.ask(Command.DEVICE_RESET, words());
    expect(await client.readRegion(CONFIG, at, 2)).toEqual([0x11, 0]);
    await client.writeRegion(CONFIG, 4, [4, 0]);
    await client.writeRegion(0, 0x2000, [0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 0x41, 0, 0, 0]);
    await client.writeRegion(CONFIG, at + 3, [0x80]);
    fn.signal(0);
    // Unmasking sends it, within the write: the answer comes first.
    expect(await client.writeRegion(0, 0x200c, [0, 0, 0, 0])).toBe(0);
    expect(await client.ownWrite()).toEqual({ address: 0xfee0_0000n, data: [0x41, 0, 0, 0] });
  });
});
