import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { CONFIG_INTERRUPT } from '../../../src/target/virtio-iommu/index.ts';
import { FAULT_R_DOMAIN, FAULT_R_MAPPING } from '../../../src/target/virtio-iommu/spec/fault.ts';
import { EVENT_QUEUE, REQUEST_QUEUE } from '../../../src/target/virtio-iommu/spec/features.ts';
import { S_INVAL, S_NOENT, S_OK } from '../../../src/target/virtio-iommu/spec/requests.ts';
import { STATUS_NEEDS_RESET } from '../../../src/virtqueue/spec.ts';
import type { Buffer } from '../../virtqueue/driver.ts';
import { arbitraryRequest } from './arbitrary.ts';
import { EP, type Fixture, OTHER, ringKinds, start } from './fixture.ts';
import { attach, detach, map, probe, unmap } from './requests.ts';

/** Makes buffers available, notifies once, and returns [status, used length] of each; -1: no status. */
function kick({ iommu, requests }: Fixture, ...buffers: Buffer[]): [status: number, written: number][] {
  for (const buffer of buffers) requests.add(buffer);
  expect(iommu.notify(REQUEST_QUEUE)).toBe(false);
  return requests.collect().map(({ written, bytes }) => {
    // Behind what was written the driver's own bytes stand; the tail's reserved bytes are 0 (5.13.6.2).
    expect(bytes.subarray(written).every((byte) => byte === 0xee)).toBe(true);
    if (written === 0) return [-1, 0];
    expect([...bytes.subarray(written - 3, written)]).toEqual([0, 0, 0]);
    return [bytes[written - 4], written];
  });
}

const page = (domain: number, i: number, flags = 3) => map(domain, BigInt(i) << 12n, (BigInt(i) << 12n) | 0xfffn, BigInt(i) << 12n, flags);

const anyRequest = arbitraryRequest({ physPages: 40, attachFlags: 2, mapFlags: 8 });

/** The same request through the typed methods: [status, used length]. */
function directly({ iommu }: Fixture, { readable }: Buffer): [number, number] {
  const view = new DataView(readable.buffer);
  const u32 = (at: number) => view.getUint32(at, true);
  const u64 = (at: number) => view.getBigUint64(at, true);
  switch (readable[0]) {
    case 1:
      return [iommu.attach(u32(4), u32(8), u32(12)), 4];
    case 2:
      return [iommu.detach(u32(4), u32(8)), 4];
    case 3:
      return [iommu.map(u32(4), u64(8), u64(16), u64(24), u32(32)), 4];
    case 4:
      return [iommu.unmap(u32(4), u64(8), u64(16)), 4];
    default:
      return [iommu.probe(u32(4)) ? S_OK : S_NOENT, 516];
  }
}

describe.each(ringKinds)('$name ring', (kind) => {
  property.prop(
    [fc.array(fc.array(anyRequest, { maxLength: 4 }), { maxLength: 20 }), fc.option(fc.integer({ min: 11, max: 99 })), fc.boolean()],
    {
      numRuns: 60,
    },
  )('any framing, round and round: the answers of the typed methods, in order', (kicks, cut, indirect) => {
    const fixture = start(kind, indirect ? 4 : 256);
    const oracle = start(kind, 16);
    for (const buffers of kicks) {
      const framed = buffers.map((buffer) => ({ ...buffer, indirect, ...(cut !== null && { cut }) }));
      expect(kick(fixture, ...framed)).toEqual(buffers.map((buffer) => directly(oracle, buffer)));
    }
    expect(fixture.iommu.save().domains).toEqual(oracle.iommu.save().domains);
  });

  test('PROBE answers a property list that is filled up with zeros (5.13.6.7, 5.13.6.8)', () => {
    const fixture = start(kind, 8);
    fixture.requests.add(probe(OTHER));
    fixture.iommu.notify(REQUEST_QUEUE);
    const [{ written, bytes }] = fixture.requests.collect();
    const expected = new Uint8Array(516);
    const view = new DataView(expected.buffer);
    view.setUint16(0, 1, true);
    view.setUint16(2, 20, true);
    view.setUint8(4, 1);
    view.setBigUint64(8, 0xfee0_0000n, true);
    view.setBigUint64(16, 0xfeef_ffffn, true);
    expect([written, bytes]).toEqual([516, expected]);
  });

  test('a property list that is smaller than probe_size: INVAL in the tail, no property (5.13.6.7.2)', () => {
    const fixture = start(kind, 8);
    expect(kick(fixture, probe(OTHER, 511), probe(OTHER, 0), { ...probe(OTHER), readable: probe(OTHER).readable.subarray(0, 71) })).toEqual(
      [
        [S_INVAL, 515],
        [S_INVAL, 4],
        [S_INVAL, 516],
      ],
    );
  });

  test('what cannot be parsed, and types that are not known, come back unwritten (5.13.6, 5.13.6.2)', () => {
    const fixture = start(kind, 16);
    const short = (buffer: Buffer, bytes: number): Buffer => ({ ...buffer, readable: buffer.readable.subarray(0, bytes) });
    const unknown = { readable: Uint8Array.of(6, 0, 0, 0), writable: 4 };
    expect(
      kick(fixture, attach(1, EP), unknown, short(page(1, 1), 3), short(page(1, 1), 35), { ...page(1, 1), writable: 3 }, page(1, 1)),
    ).toEqual([
      [S_OK, 4],
      [-1, 0],
      [-1, 0],
      [S_INVAL, 4],
      [-1, 0],
      [S_OK, 4],
    ]);
    expect(fixture.iommu.counts.mappings).toBe(1);
  });

  test('the reserved fields: ATTACH and UNMAP reject them, DETACH ignores them; more room than the tail needs stays as it is', () => {
    const fixture = start(kind, 16);
    const [attached, refused] = kick(fixture, { ...attach(1, EP), writable: 9 }, attach(1, OTHER, 0, 1));
    expect([attached, refused]).toEqual([
      [S_OK, 4],
      [S_INVAL, 4],
    ]);
    expect(kick(fixture, unmap(1, 0n, 0xfffn, 1), detach(1, EP, 1))).toEqual([
      [S_INVAL, 4],
      [S_OK, 4],
    ]);
  });

  test('one interrupt a kick, when the driver wants it', () => {
    const fixture = start(kind, 16);
    const { requests, interrupts } = fixture;
    requests.askInterrupt(1, kind.eventIdx);
    kick(fixture, attach(1, EP), page(1, 1));
    expect(interrupts).toEqual([REQUEST_QUEUE]);
    requests.askInterrupt(0, kind.eventIdx);
    kick(fixture, page(1, 2));
    expect(interrupts).toEqual([REQUEST_QUEUE]);
  });

  property.prop(
    [
      fc.array(fc.tuple(fc.integer({ min: 1, max: 7 }), fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 6 })), {
        maxLength: 8,
      }),
    ],
    {
      numRuns: 40,
    },
  )('the driver is interrupted when the buffer that it named is used, not before and not after (2.7.7.2, 2.8.10)', (rounds) => {
    const fixture = start(kind, 8);
    const { requests, interrupts } = fixture;
    for (const [wanted, kicks] of rounds) {
      requests.askInterrupt(kind.eventIdx ? wanted : 1, kind.eventIdx);
      let used = 0;
      for (const count of kicks) {
        interrupts.length = 0;
        kick(fixture, ...Array.from({ length: count }, () => ({ ...unmap(1, 0n, 0n), indirect: true })));
        const reached = used < wanted && used + count >= wanted;
        used += count;
        expect(interrupts).toEqual(!kind.eventIdx || reached ? [REQUEST_QUEUE] : []);
        // A packed ring names a place, which comes round again: past it the driver has to name another.
        if (reached) break;
      }
    }
  });

  test('an available buffer notification is wanted whenever the device has seen all there was', () => {
    const fixture = start(kind, 4);
    fixture.requests.wantsNotification(kind.eventIdx);
    for (let i = 0; i < 23; i++) {
      fixture.requests.add(unmap(1, 0n, 0n));
      expect(fixture.requests.wantsNotification(kind.eventIdx)).toBe(true);
      fixture.iommu.notify(REQUEST_QUEUE);
      expect(fixture.requests.collect().length).toBe(1);
    }
  });

  test('a fault fills one buffer of the event queue, and is dropped and counted when there is none (5.13.6.9)', () => {
    const { iommu, events, interrupts } = start(kind, 4);
    for (let i = 0; i < 2; i++) events.add({ readable: new Uint8Array(), writable: i === 0 ? 24 : 40 });
    events.add({ readable: new Uint8Array(), writable: 23 });
    events.askInterrupt(1, kind.eventIdx);
    iommu.attach(1, EP);
    expect(iommu.translate(OTHER, NO_PASID, 1, 0x1234_5678, READ)).toBe(targetFault('virtio-iommu', FAULT_R_DOMAIN));
    expect(interrupts).toEqual([EVENT_QUEUE]);
    expect(iommu.translate(EP, NO_PASID, 0, 0x10, WRITE)).toBe(targetFault('virtio-iommu', FAULT_R_MAPPING));
    for (let i = 0; i < 3; i++) iommu.translate(EP, NO_PASID, 0, 0x10, WRITE);
    const reports = events.collect();
    expect(reports.map(({ written }) => written)).toEqual([24, 24, 0]);
    const fields = (bytes: Uint8Array) => {
      const view = new DataView(bytes.buffer);
      return [
        view.getUint32(0, true),
        view.getUint32(4, true),
        view.getUint32(8, true),
        view.getUint32(12, true),
        view.getBigUint64(16, true),
      ];
    };
    expect(fields(reports[0].bytes)).toEqual([1, 0x101, OTHER, 0, 0x1_1234_5678n]);
    expect(fields(reports[1].bytes)).toEqual([2, 0x102, EP, 0, 0x10n]);
    expect(reports[1].bytes.subarray(24)).toEqual(new Uint8Array(16).fill(0xee));
    expect(iommu.counts.droppedFaults).toBe(3);
  });

  test('an event queue that breaks the rules stops the device too, and the report is dropped', () => {
    const { iommu, memory, events } = start(kind, 8);
    events.add({ readable: new Uint8Array(0), writable: 24 });
    // An indirect table of one descriptor and a half (2.7.5.3.1).
    const flags = events.base + (kind.packed ? 14 : 12);
    memory.load16(0, flags);
    memory.store16(0, flags, memory.word[0] | 4);
    expect(iommu.translate(EP, NO_PASID, 0, 0x1000, READ)).toBeLessThan(0);
    expect([iommu.device.status & STATUS_NEEDS_RESET, iommu.counts.droppedFaults]).toEqual([STATUS_NEEDS_RESET, 1]);
  });

  test('a ring that breaks the rules stops the device, and a reset heals it (2.1.2)', () => {
    const fixture = start(kind, 8);
    const { iommu, memory, requests, interrupts } = fixture;
    requests.add(attach(1, EP));
    // A readable descriptor behind a writable one (2.7.4.2, 2.8.17): the first one's WRITE flag.
    const flags = requests.base + (kind.packed ? 14 : 12);
    memory.load16(0, flags);
    memory.store16(0, flags, memory.word[0] | 2);
    memory.load16(0, flags + 16);
    memory.store16(0, flags + 16, memory.word[0] & ~2);
    expect(iommu.notify(REQUEST_QUEUE)).toBe(false);
    expect(requests.collect()).toEqual([]);
    expect(iommu.device.status & STATUS_NEEDS_RESET).toBe(STATUS_NEEDS_RESET);
    expect(interrupts).toEqual([CONFIG_INTERRUPT]);
    expect(iommu.notify(REQUEST_QUEUE)).toBe(false);
    iommu.device.status = 0;
    expect(iommu.device.status).toBe(0);
  });
});
