import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { msix, PciFunction } from '../../../src/vmm/pci/index.ts';
import type { Descriptors } from '../../../src/vmm/vfio-user/descriptors.ts';
import { DmaRegions } from '../../../src/vmm/vfio-user/dma-regions.ts';
import { PciVfioDevice } from '../../../src/vmm/vfio-user/index.ts';
import { MessageAssembler, ProtocolError } from '../../../src/vmm/vfio-user/message.ts';
import { Session } from '../../../src/vmm/vfio-user/session.ts';
import { Command, Flags, HEADER, LIMITS, SetIrqs } from '../../../src/vmm/vfio-user/spec.ts';
import { reaching } from '../../reaching.ts';
import { access, dmaMap, version, words } from './client.ts';

/*
 * A client that means harm: whatever comes, nothing is thrown but the word that ends the connection, each request has one answer, each
 * descriptor is closed once, and the guest's memory is what the accepted mappings say.
 */

const [EINVAL, ENOMEM, EEXIST] = [22, 12, 17];
const FILE_BYTES = 0x4000;
const OWN = { gpa: 0x10_0000n, buffer: new SharedArrayBuffer(0x1000) };

function rig() {
  const open = new Set<number>();
  const files = new Set<bigint>();
  const answers: { id: number; error: number; bytes: number }[] = [];
  let next = 0x1000_0000n;
  let opened = 0;
  const descriptors: Descriptors = {
    sizeOf: (descriptor) => (descriptor % 3 === 0 ? -9 : FILE_BYTES),
    map: (descriptor, bytes) => {
      if (descriptor % 3 === 1) return -19;
      const address = next;
      next += 1n << 24n;
      files.add(address);
      return { buffer: new ArrayBuffer(bytes), address, release: () => expect(files.delete(address)).toBe(true) };
    },
    isEventfd: (descriptor) => descriptor % 2 === 0,
    signal: (descriptor) => expect(open.has(descriptor)).toBe(true),
    close: (descriptor) => expect(open.delete(descriptor), `descriptor ${descriptor}`).toBe(true),
  };
  const regions = new DmaRegions(descriptors, null, new GuestMemory([OWN]));
  const registers = { read: (offset: number, bytes: number) => BigInt(offset * 16 + bytes), write: () => void device.pulseIntx() };
  const fn: PciFunction = new PciFunction(
    {
      vendor: 1,
      device: 1,
      classCode: 0xff0000,
      interruptPin: 1,
      bars: [{ bytes: 0x4000, registers }],
      capabilities: [msix(4, { bar: 0, offset: 0x2000 }, { bar: 0, offset: 0x3000 })],
    },
    { sendMessage: (address, data) => device.sendMessage(address, data), setIntx: (level) => device.setIntx(level) },
  );
  const device: PciVfioDevice = new PciVfioDevice(fn);
  const session = new Session(device, regions, descriptors, (bytes) => {
    const view = new DataView(bytes.buffer);
    expect(view.getUint32(HEADER.SIZE, true)).toBe(bytes.length);
    if ((view.getUint32(HEADER.FLAGS, true) & Flags.TYPE) === Flags.REPLY)
      answers.push({ id: view.getUint16(HEADER.ID, true), error: view.getUint32(HEADER.ERROR, true), bytes: bytes.length });
  });
  let id = 0;
  const send = (command: number, payload: Uint8Array, count = 0, flags = 0): number => {
    const brought = Array.from({ length: count }, () => 100 + opened++);
    for (const one of brought) open.add(one);
    session.receive({ id: id++, command, flags, payload: new DataView(Uint8Array.from(payload).buffer), descriptors: brought });
    return answers.at(-1)?.error ?? -1;
  };
  return { open, files, answers, regions, session, send, fn };
}

const edge = fc.constantFrom(0, 1, 2, 4, 0xfff, 0x1000, 0x2000, 0x3ffc, 0x3fff, 0x4000, 0x10_0000, 0xffff_ffff, 0x1_0000_0000, -1, -0x1000);
/** What is possible, mostly. */
const mostly = (...values: number[]) => fc.oneof({ weight: 5, arbitrary: fc.constantFrom(...values) }, { weight: 1, arbitrary: edge });
const page = mostly(0, 0x1000, 0x2000, 0x3000);
const pages = mostly(0x1000, 0x2000, 0x4000);
const long = (value: number) => words(value >>> 0, Number(BigInt.asUintN(32, BigInt(value) >> 32n)));
const small = fc.nat({ max: 9 });
/** Payloads that mean something nearly always: what is wrong in them is one or two fields. */
const request = fc.oneof(
  fc.tuple(page, pages, mostly(0, 0x1000), fc.nat({ max: 3 })).map(([at, bytes, offset, flags]) => ({
    command: Command.DMA_MAP,
    payload: [...words(32, flags), ...long(offset), ...long(at), ...long(bytes)],
  })),
  fc
    .tuple(page, pages, fc.constantFrom(0, 0, 0, 1, 2, 4))
    .map(([at, bytes, flags]) => ({ command: Command.DMA_UNMAP, payload: [...words(24, flags), ...long(at), ...long(bytes)] })),
  fc
    .tuple(
      fc.oneof(fc.nat({ max: 0x3f }), fc.constant(SetIrqs.EVENTFD | SetIrqs.TRIGGER)),
      fc.nat({ max: 3 }),
      fc.constantFrom(0, 1, 3, 4, 0xffff_ffff),
      fc.constantFrom(0, 1, 2, 4, 0xffff_ffff),
      fc.uint8Array({ maxLength: 4 }),
    )
    .map(([flags, irq, start, count, data]) => ({
      command: Command.DEVICE_SET_IRQS,
      payload: [...words(20, flags, irq, start, count), ...data],
    })),
  fc
    .tuple(
      fc.constantFrom(Command.REGION_READ, Command.REGION_WRITE),
      mostly(0, 4, 0x3ffc),
      mostly(0, 7),
      fc.constantFrom(0, 1, 2, 3, 4, 8, 13, 0x1000, 0xffff_ffff),
      small,
    )
    .map(([command, at, region, count, data]) => ({
      command,
      payload: [...long(at), ...words(region >>> 0, count), ...new Uint8Array(data)],
    })),
  fc.tuple(fc.constantFrom(0, 1, 2, 0xffff_ffff), edge, small, small).map(([count, at, region, bytes]) => ({
    command: Command.REGION_WRITE_MULTI,
    payload: [...words(count, 0), ...long(at), ...words(region, bytes), ...new Uint8Array(8)],
  })),
  fc
    .tuple(fc.constantFrom(Command.DEVICE_GET_INFO, Command.DEVICE_GET_REGION_INFO, Command.DEVICE_GET_IRQ_INFO), small, edge)
    .map(([command, index, more]) => ({ command, payload: [...words(more >>> 0, 0, index), ...new Uint8Array(20)] })),
  fc.tuple(fc.nat({ max: 20 }), fc.uint8Array({ maxLength: 40 })).map(([command, bytes]) => ({ command, payload: [...bytes] })),
);
const message = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      request,
      keep: fc.oneof({ weight: 4, arbitrary: fc.constant(1000) }, { weight: 1, arbitrary: fc.nat({ max: 40 }) }),
      descriptors: fc.constantFrom(0, 0, 1, 1, 2, 3),
      flags: fc.constantFrom(0, 0, 0, 0, Flags.NO_REPLY, Flags.REPLY, Flags.ERROR, 0xffff_fff0),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.nat({ max: 3 }).map((vector) => ({
      request: { command: Command.DEVICE_SET_IRQS, payload: [...words(20, SetIrqs.EVENTFD | SetIrqs.TRIGGER, 2, vector, 1)] },
      keep: 1000,
      descriptors: 1,
      flags: 0,
    })),
  },
);

describe('any request', () => {
  const reached = reaching('hostile requests', 'mapped', 'unmapped', 'eventfds', 'read', 'written', 'refused', 'turned away');

  property.prop([fc.array(message, { minLength: 20, maxLength: 50 })], { numRuns: 80 })(
    'is answered once or ends the connection; nothing leaks',
    (messages) => {
      reached();
      const { open, files, answers, regions, session, send } = rig();
      send(Command.VERSION, version());
      for (const { request: one, keep, descriptors, flags } of messages) {
        const said = answers.length;
        const mappings = regions.count;
        const wanted = (flags & Flags.TYPE) !== Flags.REPLY && (flags & Flags.NO_REPLY) === 0;
        try {
          const error = send(one.command, Uint8Array.from(one.payload).subarray(0, keep), descriptors, flags);
          expect(answers.length - said).toBe(wanted ? 1 : 0);
          if (wanted && error !== 0) reached('refused');
          if (wanted && error === 0 && one.command === Command.REGION_READ) reached('read');
          if (wanted && error === 0 && one.command === Command.REGION_WRITE) reached('written');
          if (wanted && error === 0 && one.command === Command.DEVICE_SET_IRQS && open.size > 0) reached('eventfds');
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
          reached('turned away');
          break;
        }
        if (regions.count > mappings) reached('mapped');
        if (regions.count < mappings) reached('unmapped');
        expect(regions.memory.regions.length - 1).toBe(files.size);
      }
      session.close();
      expect([[...open], files.size, regions.count, regions.memory.regions]).toEqual([[], 0, 0, [OWN]]);
      expect(new Uint8Array(OWN.buffer).every((byte) => byte === 0)).toBe(true);
    },
  );
});

describe('mappings', () => {
  test('not over memory that the embedder has there, seen by the device or not', () => {
    const { send, regions } = rig();
    send(Command.VERSION, version());
    expect(send(Command.DMA_MAP, dmaMap(OWN.gpa, 0x1000, 0n), 3)).toBe(EEXIST);
    expect(send(Command.DMA_MAP, dmaMap(OWN.gpa - 0x1000n, 0x2000, 0n, 0))).toBe(EEXIST);
    expect([regions.memory.regions, regions.count]).toEqual([[OWN], 0]);
  });

  test('as many as were offered, and no more; one that goes makes room', () => {
    const { send, regions } = rig();
    send(Command.VERSION, version());
    for (let i = 0; i < LIMITS.mappings; i++) regions.map(new DataView(dmaMap(BigInt(i) << 12n, 0x1000, 0n, 0).buffer), null);
    // One page was the embedder's.
    expect(regions.count).toBe(LIMITS.mappings - 1);
    expect(send(Command.DMA_MAP, dmaMap(1n << 40n, 0x1000, 0n, 0))).toBe(0);
    expect(send(Command.DMA_MAP, dmaMap(1n << 41n, 0x1000, 0n, 0))).toBe(ENOMEM);
    expect(send(Command.DMA_UNMAP, words(24, 0, 0, 0, 0x1000, 0))).toBe(0);
    expect(send(Command.DMA_MAP, dmaMap(1n << 41n, 0x1000, 0n, 0))).toBe(0);
  });

  test('of more than 4 GiB is seen in pieces, and goes whole; a piece that cannot be had takes the others back', () => {
    const pieces: [number, bigint, boolean][] = [];
    let fails = false;
    let live = 0;
    const descriptors: Descriptors = {
      sizeOf: () => 2 ** 34,
      map: (_descriptor, bytes, offset, readOnly) => {
        pieces.push([bytes, offset, readOnly]);
        if (fails && offset > 0x1000n) return -ENOMEM;
        live++;
        // What stands for the piece is shorter, so the region is refused, but only behind what this test looks at.
        return { buffer: { byteLength: bytes } as ArrayBuffer, address: offset, release: () => live-- };
      },
      isEventfd: () => true,
      signal: () => {},
      close: () => {},
    };
    const kept: { gpa: bigint; bytes?: number }[] = [];
    const memory = {
      regions: [],
      add: (region: { gpa: bigint }) => kept.push(region),
      remove: (gpa: bigint) =>
        kept.splice(
          kept.findIndex((one) => one.gpa === gpa),
          1,
        ),
    };
    const regions = new DmaRegions(descriptors, null, memory as unknown as GuestMemory);
    const map = new DataView(dmaMap(0x1_0000_0000n, 2 ** 32 + 0x2000, 0x1000n, 1).buffer);
    fails = true;
    expect([regions.map(map, 5), live, regions.count, kept.length]).toEqual([ENOMEM, 0, 0, 0]);
    fails = false;
    pieces.length = 0;
    expect(regions.map(map, 5)).toBe(0);
    expect(pieces).toEqual([
      [2 ** 32, 0x1000n, true],
      [0x2000, 0x1_0000_1000n, true],
    ]);
    expect(kept.map(({ gpa, bytes }) => [gpa, bytes])).toEqual([
      [0x1_0000_0000n, 2 ** 32],
      [0x2_0000_0000n, 0x2000],
    ]);
    regions.clear();
    expect([live, kept.length]).toEqual([0, 0]);
  });
});

test('one access is of so many bytes as were offered, and no more, however large the region', () => {
  const read: number[] = [];
  const device = {
    regions: [2 * LIMITS.data],
    irqs: [],
    readRegion: (_region: number, _offset: number, to: DataView) => void read.push(to.byteLength),
    writeRegion: () => {},
    reset: () => {},
    maskIrq: () => {},
    connected: () => {},
    disconnected: () => {},
  };
  const errors: number[] = [];
  const session = new Session(
    device,
    new DmaRegions(null, null),
    null,
    (bytes) => void errors.push(new DataView(bytes.buffer).getUint32(HEADER.ERROR, true)),
  );
  const send = (command: number, payload: Uint8Array) =>
    session.receive({ id: 1, command, flags: 0, payload: new DataView(Uint8Array.from(payload).buffer), descriptors: [] });
  send(Command.VERSION, version());
  for (const [offset, count] of [
    [LIMITS.data, LIMITS.data],
    [LIMITS.data, LIMITS.data + 1],
    [0, LIMITS.data + 1],
  ] as const)
    send(Command.REGION_READ, access(0, offset, count));
  expect([errors, read]).toEqual([[0, 0, EINVAL, EINVAL], [LIMITS.data]]);
});

describe('DEVICE_SET_IRQS', () => {
  test.each([0, SetIrqs.NONE | SetIrqs.BOOL, SetIrqs.BOOL | SetIrqs.EVENTFD, SetIrqs.NONE | SetIrqs.BOOL | SetIrqs.EVENTFD])(
    'data of kinds 0x%s at once is refused, and not read',
    (data) => {
      const { send } = rig();
      send(Command.VERSION, version());
      for (const action of [SetIrqs.TRIGGER, SetIrqs.MASK, SetIrqs.UNMASK])
        expect(send(Command.DEVICE_SET_IRQS, words(20, data | action, 0, 0, 1))).toBe(EINVAL);
    },
  );
});

describe('messages put together', () => {
  test('more descriptors than were offered, one a byte, end the connection; all of them are handed back', () => {
    const assembler = new MessageAssembler();
    const header = words(Command.DMA_MAP << 16, 1000, 0, 0);
    const push = () => {
      for (let i = 0; i < 1000; i++) assembler.push(i < 16 ? header.subarray(i, i + 1) : Uint8Array.of(0), [i]);
    };
    expect(push).toThrow(ProtocolError);
    expect(assembler.abandon().length).toBe(LIMITS.descriptors + 1);
  });

  property.prop(
    [fc.array(fc.nat({ max: 5000 }), { minLength: 1, maxLength: 6 }), fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1 })],
    { numRuns: 50 },
  )('cut anywhere they are the same messages', (sizes, cuts) => {
    const stream = new Uint8Array(sizes.reduce((sum, size) => sum + HEADER.BYTES + size, 0));
    let at = 0;
    sizes.forEach((size, i) => {
      stream.set(words((i << 16) | i, HEADER.BYTES + size, 0, 0), at);
      stream.fill(i + 1, at + HEADER.BYTES, at + HEADER.BYTES + size);
      at += HEADER.BYTES + size;
    });
    const assembler = new MessageAssembler();
    const got: [number, number, boolean][] = [];
    for (let from = 0, turn = 0; from < stream.length; turn++) {
      const end = Math.min(stream.length, from + Math.min(assembler.wanted, cuts[turn % cuts.length]!));
      const whole = assembler.push(stream.subarray(from, end));
      from = end;
      if (whole === null) continue;
      const body = new Uint8Array(whole.payload.buffer, whole.payload.byteOffset, whole.payload.byteLength);
      got.push([whole.id, body.length, body.every((byte) => byte === whole.id + 1)]);
    }
    expect(got).toEqual(sizes.map((size, i) => [i, size, true]));
  });
});
