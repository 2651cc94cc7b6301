import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../../src/memory/address.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { NO_PASID, type TargetObserver } from '../../../src/target/target.ts';
import type { VirtioIommu } from '../../../src/target/virtio-iommu/index.ts';
import { FAULT_R_DOMAIN, FAULT_R_MAPPING } from '../../../src/target/virtio-iommu/spec/fault.ts';
import { F_BYPASS, F_BYPASS_CONFIG, F_MAP_UNMAP, F_MMIO, F_PROBE, REQUEST_QUEUE } from '../../../src/target/virtio-iommu/spec/features.ts';
import { S_INVAL, S_NOENT, S_OK, S_RANGE, S_UNSUPP } from '../../../src/target/virtio-iommu/spec/requests.ts';
import { STATUS_NEEDS_RESET } from '../../../src/virtqueue/spec.ts';
import type { Buffer } from '../../virtqueue/driver.ts';
import { EP, type Fixture, MSI, OTHER, ringKinds, start } from './fixture.ts';
import { attach, detach, map, probe, unmap } from './requests.ts';

/*
 * Every requirement for the device (virtio 1.4, the "Device Requirements" of 5.13.3 to 5.13.6.9), in the order of the specification. The n-th
 * requirement of a section is NAME.n, here and in the code that carries it out.
 */

const NONE = { status: -1, written: 0 };
const [SPLIT] = ringKinds;

/** One request through the ring: its status (-1: none), the bytes that were written, and what stands in the device-writable part. */
function ask({ iommu, requests }: Fixture, buffer: Buffer): { status: number; written: number; bytes: Uint8Array } {
  requests.add(buffer);
  iommu.notify(REQUEST_QUEUE);
  const [{ written, bytes }] = requests.collect();
  return { status: written === 0 ? -1 : bytes[written - 4], written, bytes };
}

function statusOf(fixture: Fixture, buffer: Buffer): number {
  return ask(fixture, buffer).status;
}

/** EP in domain 1. */
function attached(): Fixture {
  const fixture = start(SPLIT, 16);
  expect(statusOf(fixture, attach(1, EP))).toBe(S_OK);
  return fixture;
}

function reaches(iommu: VirtioIommu, address: bigint, access = READ, endpoint = EP): bigint | number {
  const lg2 = iommu.translate(endpoint, NO_PASID, hiOf(address), loOf(address), access);
  return lg2 < 0 ? lg2 : joinHiLo(iommu.translated[1], iommu.translated[0]);
}

function refusing(errno: number): TargetObserver {
  return { attach: () => errno, changed: () => undefined, flush: () => 0 };
}

const NOT_MAPPED = targetFault('virtio-iommu', FAULT_R_MAPPING);
const NO_DOMAIN = targetFault('virtio-iommu', FAULT_R_DOMAIN);

describe('feature bits (5.13.3.2)', () => {
  test('FEATURES.1: MAP_UNMAP is offered', () => {
    expect(start(SPLIT, 16).iommu.device.offeredFeatures & F_MAP_UNMAP).toBe(F_MAP_UNMAP);
  });

  test('FEATURES.2 and 3: BYPASS is not offered unless asked for, and never beside BYPASS_CONFIG', () => {
    const offered = (['config', 'feature', 'never'] as const).map(
      (bypassMode) => start(SPLIT, 16, { bypassMode }).iommu.device.offeredFeatures & (F_BYPASS | F_BYPASS_CONFIG),
    );
    expect(offered).toEqual([F_BYPASS_CONFIG, F_BYPASS, 0n]);
  });
});

describe('configuration (5.13.4.2)', () => {
  const read = (iommu: VirtioIommu, offset: number, bytes: number) => {
    const to = new Uint8Array(bytes);
    iommu.readConfig(offset, to);
    return to;
  };

  test('CONFIG.1: page_size_mask has a bit', () => {
    expect(read(start(SPLIT, 16).iommu, 0, 8).some((byte) => byte !== 0)).toBe(true);
    expect(() => start(SPLIT, 16, { pageSizeMask: 0n })).toThrow(RangeError);
  });

  test('CONFIG.2: `bypass` may begin as 1, stays over a reset of the device, and is restored by one of the system', () => {
    const { iommu } = start(SPLIT, 16, { bootBypass: true });
    iommu.writeConfig(36, Uint8Array.of(0));
    iommu.device.status = 0;
    expect([...read(iommu, 36, 1)]).toEqual([0]);
    iommu.reset();
    expect([...read(iommu, 36, 1)]).toEqual([1]);
  });

  test('CONFIG.3: `bypass` is 0 or 1, whatever is written', () => {
    const { iommu } = start(SPLIT, 16);
    iommu.writeConfig(36, Uint8Array.of(1));
    for (const value of [2, 3, 0x80, 0xff]) iommu.writeConfig(36, Uint8Array.of(value));
    expect([...read(iommu, 36, 1)]).toEqual([1]);
  });
});

describe('requests (5.13.6.2)', () => {
  test('REQUEST.1: one that succeeds has status OK', () => {
    const fixture = start(SPLIT, 16);
    const statuses = [attach(1, EP), map(1, 0n, 0xfffn, 0n), unmap(1, 0n, 0xfffn), probe(EP), detach(1, EP)].map((it) =>
      statusOf(fixture, it),
    );
    expect(statuses).toEqual([S_OK, S_OK, S_OK, S_OK, S_OK]);
  });

  test('REQUEST.2: of a type that is not known: nothing written, used length 0', () => {
    const { readable } = attach(1, EP);
    readable[0] = 9;
    const answer = ask(start(SPLIT, 16), { readable, writable: 4 });
    expect(answer).toMatchObject(NONE);
    expect(answer.bytes.every((byte) => byte === 0xee)).toBe(true);
  });

  test('REQUEST.3: `reserved` of the head is ignored, that of the tail is 0', () => {
    const { readable, writable } = attach(1, EP);
    readable.fill(0xff, 1, 4);
    const answer = ask(start(SPLIT, 16), { readable, writable });
    expect([...answer.bytes.subarray(0, 4)]).toEqual([S_OK, 0, 0, 0]);
  });

  test('REQUEST.4: an endpoint without a domain that is not in bypass mode reaches nothing', () => {
    expect(reaches(start(SPLIT, 16).iommu, 0x1000n)).toBe(NO_DOMAIN);
  });
});

describe('ATTACH (5.13.6.3.2)', () => {
  test('ATTACH.1: `reserved` is not 0: INVAL', () => {
    expect(statusOf(start(SPLIT, 16), attach(1, EP, 0, 1))).toBe(S_INVAL);
  });

  test('ATTACH.2: a flag that is not known: INVAL', () => {
    const fixture = start(SPLIT, 16);
    for (let bit = 1; bit < 32; bit++) expect([bit, statusOf(fixture, attach(1, EP, (1 << bit) >>> 0))]).toEqual([bit, S_INVAL]);
  });

  test('ATTACH.3: no such endpoint: NOENT', () => {
    expect(statusOf(start(SPLIT, 16), attach(1, 99))).toBe(S_NOENT);
  });

  test('ATTACH.4: others are in the domain and this one cannot join them: UNSUPP', () => {
    const fixture = attached();
    fixture.iommu.observe(refusing(-22));
    expect(statusOf(fixture, attach(1, OTHER))).toBe(S_UNSUPP);
    expect(reaches(fixture.iommu, 0n, READ, OTHER)).toBe(NO_DOMAIN);
  });

  test('ATTACH.5: the BYPASS flag is not that of the domain: INVAL', () => {
    const fixture = attached();
    expect(statusOf(fixture, attach(1, OTHER, 1))).toBe(S_INVAL);
    expect([statusOf(fixture, attach(2, OTHER, 1)), statusOf(fixture, attach(2, EP))]).toEqual([S_OK, S_INVAL]);
  });

  test('ATTACH.6: one that is in another domain leaves it first', () => {
    const fixture = attached();
    statusOf(fixture, map(1, 0n, 0xfffn, 0x5000n));
    expect(statusOf(fixture, attach(2, EP))).toBe(S_OK);
    expect(reaches(fixture.iommu, 0n)).toBe(NOT_MAPPED);
    expect(statusOf(fixture, map(1, 0n, 0xfffn, 0n))).toBe(S_NOENT);
  });

  test('ATTACH.7: properties that are not compatible with the domain: UNSUPP', () => {
    const fixture = attached();
    statusOf(fixture, map(1, MSI.start, MSI.start + 0xfffn, 0n));
    expect(statusOf(fixture, attach(1, OTHER))).toBe(S_UNSUPP);
  });

  test('ATTACH.8: one that is not refused is attached', () => {
    const fixture = attached();
    statusOf(fixture, map(1, 0n, 0xfffn, 0x5000n));
    expect(statusOf(fixture, attach(1, OTHER))).toBe(S_OK);
    expect(reaches(fixture.iommu, 0x10n, WRITE, OTHER)).toBe(0x5010n);
  });
});

describe('DETACH (5.13.6.4.2)', () => {
  test('DETACH.1: `reserved` is ignored', () => {
    expect(statusOf(attached(), detach(1, EP, 0xffff_ffff))).toBe(S_OK);
  });

  test('DETACH.2: no such endpoint: NOENT', () => {
    expect(statusOf(attached(), detach(1, 99))).toBe(S_NOENT);
  });

  test('DETACH.3: no such domain, or not in this one: INVAL', () => {
    const fixture = attached();
    statusOf(fixture, attach(2, OTHER));
    expect([statusOf(fixture, detach(7, EP)), statusOf(fixture, detach(2, EP))]).toEqual([S_INVAL, S_INVAL]);
  });

  test('DETACH.4: afterwards nothing of the domain is reached', () => {
    const fixture = attached();
    statusOf(fixture, map(1, 0n, 0xfffn, 0x5000n));
    expect(reaches(fixture.iommu, 0n)).toBe(0x5000n);
    statusOf(fixture, detach(1, EP));
    expect(reaches(fixture.iommu, 0n)).toBe(NO_DOMAIN);
  });
});

describe('MAP (5.13.6.5.2)', () => {
  test('MAP.1: virt_start, phys_start or virt_end + 1 is not aligned: RANGE', () => {
    const fixture = attached();
    const ranges = [
      [0x800n, 0x1fffn, 0n],
      [0n, 0x17ffn, 0n],
      [0n, 0x1000n, 0n],
      [0n, 0xfffn, 0x10n],
    ] as const;
    for (const range of ranges) expect([range, statusOf(fixture, map(1, range[0], range[1], range[2]))]).toEqual([range, S_RANGE]);
  });

  test('MAP.2: something is mapped in the range: INVAL', () => {
    const fixture = attached();
    statusOf(fixture, map(1, 0x4000n, 0x5fffn, 0n));
    for (const [first, last] of [
      [3n, 4n],
      [4n, 4n],
      [5n, 6n],
      [3n, 6n],
    ])
      expect(statusOf(fixture, map(1, first << 12n, (last << 12n) | 0xfffn, 0n))).toBe(S_INVAL);
  });

  test('MAP.3: a flag that is not known: INVAL', () => {
    const fixture = attached();
    for (let bit = 3; bit < 32; bit++) expect([bit, statusOf(fixture, map(1, 0n, 0xfffn, 0n, (1 << bit) >>> 0))]).toEqual([bit, S_INVAL]);
    const plain = start(SPLIT, 16);
    expect(plain.iommu.device.offeredFeatures & F_MMIO).toBe(F_MMIO);
    plain.iommu.negotiate(plain.iommu.device.offeredFeatures & ~F_MMIO);
    plain.iommu.attach(1, EP);
    expect(plain.iommu.map(1, 0n, 0xfffn, 0n, 4)).toBe(S_INVAL);
  });

  test('MAP.4: no such domain: NOENT', () => {
    expect(statusOf(attached(), map(2, 0n, 0xfffn, 0n))).toBe(S_NOENT);
  });

  test('MAP.5: a bypass domain: INVAL', () => {
    const fixture = start(SPLIT, 16);
    statusOf(fixture, attach(1, EP, 1));
    expect(statusOf(fixture, map(1, 0n, 0xfffn, 0n))).toBe(S_INVAL);
  });

  test('MAP.6: no writes without the WRITE flag', () => {
    const fixture = attached();
    statusOf(fixture, map(1, 0n, 0xfffn, 0x5000n, READ));
    expect([reaches(fixture.iommu, 0n, READ), reaches(fixture.iommu, 0n, WRITE), reaches(fixture.iommu, 0n, READ_WRITE)]).toEqual([
      0x5000n,
      NOT_MAPPED,
      NOT_MAPPED,
    ]);
  });
});

describe('UNMAP (5.13.6.6.2)', () => {
  test('UNMAP.1: `reserved` is not 0: INVAL, and nothing is removed', () => {
    const fixture = attached();
    statusOf(fixture, map(1, 0n, 0xfffn, 0x5000n));
    expect(statusOf(fixture, unmap(1, 0n, 0xfffn, 1))).toBe(S_INVAL);
    expect(reaches(fixture.iommu, 0n)).toBe(0x5000n);
  });

  test('UNMAP.2: no such domain: NOENT', () => {
    expect(statusOf(attached(), unmap(2, 0n, 0xfffn))).toBe(S_NOENT);
  });

  test('UNMAP.3: a bypass domain: INVAL', () => {
    const fixture = start(SPLIT, 16);
    statusOf(fixture, attach(1, EP, 1));
    expect(statusOf(fixture, unmap(1, 0n, 0xfffn))).toBe(S_INVAL);
  });

  test('UNMAP.4: a mapping would be split: RANGE, and nothing is removed', () => {
    const fixture = attached();
    statusOf(fixture, map(1, 0n, 0x1fffn, 0x5000n));
    statusOf(fixture, map(1, 0x2000n, 0x3fffn, 0x8000n));
    expect(statusOf(fixture, unmap(1, 0n, 0x2fffn))).toBe(S_RANGE);
    expect([reaches(fixture.iommu, 0n), reaches(fixture.iommu, 0x3000n)]).toEqual([0x5000n, 0x9000n]);
  });

  test('UNMAP.5: a range of which part, or all, is not mapped: OK', () => {
    const fixture = attached();
    statusOf(fixture, map(1, 0x1000n, 0x1fffn, 0x5000n));
    expect([statusOf(fixture, unmap(1, 0n, 0x9fffn)), statusOf(fixture, unmap(1, 0n, 0x9fffn))]).toEqual([S_OK, S_OK]);
    expect(reaches(fixture.iommu, 0x1000n)).toBe(NOT_MAPPED);
  });
});

describe('PROBE (5.13.6.7.2)', () => {
  test('PROBE.1: `reserved` is ignored', () => {
    const { readable, writable } = probe(OTHER);
    readable.fill(0xff, 8);
    expect(statusOf(start(SPLIT, 16), { readable, writable })).toBe(S_OK);
  });

  test('PROBE.2: no such endpoint: NOENT', () => {
    expect(statusOf(start(SPLIT, 16), probe(99))).toBe(S_NOENT);
  });

  test('PROBE.3: the feature is not offered: nothing written, used length 0', () => {
    const without = start(SPLIT, 16, { probeBytes: 0 });
    expect(without.iommu.device.offeredFeatures & F_PROBE).toBe(0n);
    expect(ask(without, probe(EP))).toMatchObject(NONE);
  });

  test('PROBE.4, 5 and 6: a property has `reserved` 0 and its length without the head; the next begins right behind it', () => {
    const fixture = start(SPLIT, 16);
    fixture.iommu.addEndpoint(24, [
      { kind: 'reserved', start: 0x1000n, last: 0x1fffn },
      { kind: 'msi', start: 0x3000n, last: 0x3fffn },
    ]);
    const { bytes } = ask(fixture, probe(24));
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    for (const at of [0, 24]) expect([view.getUint16(at, true), view.getUint16(at + 2, true)]).toEqual([1, 20]);
    expect(view.getUint16(48, true)).toBe(0);
  });

  test('PROBE.7: a list smaller than probe_size: INVAL and no property', () => {
    const { status, bytes, written } = ask(start(SPLIT, 16), probe(OTHER, 500));
    expect(status).toBe(S_INVAL);
    expect(bytes.subarray(0, written - 4).every((byte) => byte === 0)).toBe(true);
  });

  test('PROBE.8: the rest of the list is 0', () => {
    const { bytes } = ask(start(SPLIT, 16), probe(OTHER));
    expect(bytes.subarray(24, 512).every((byte) => byte === 0)).toBe(true);
  });
});

describe('RESV_MEM (5.13.6.8.1.2)', () => {
  const reserved = (first: bigint, last: bigint) => ({ kind: 'reserved', start: first << 12n, last: (last << 12n) | 0xfffn }) as const;

  test('RESV_MEM.1: `reserved` is 0', () => {
    const { bytes } = ask(start(SPLIT, 16), probe(OTHER));
    expect([...bytes.subarray(5, 8)]).toEqual([0, 0, 0]);
  });

  test('RESV_MEM.2: one for MSIs an endpoint', () => {
    expect(() => start(SPLIT, 16).iommu.addEndpoint(24, [MSI, { ...MSI, start: 0n, last: 0xfffn }])).toThrow(
      'two reserved regions for MSIs',
    );
  });

  test('RESV_MEM.3: none overlaps another', () => {
    expect(() => start(SPLIT, 16).iommu.addEndpoint(24, [reserved(1n, 4n), reserved(4n, 5n)])).toThrow('two reserved regions overlap');
  });

  test('RESV_MEM.4: a MAP over one is rejected', () => {
    const fixture = start(SPLIT, 16);
    statusOf(fixture, attach(1, OTHER));
    expect(statusOf(fixture, map(1, MSI.start - 0x1000n, MSI.start + 0xfffn, 0n))).toBe(S_INVAL);
  });

  test('RESV_MEM.5: an access there reaches nobody else', () => {
    const fixture = start(SPLIT, 16);
    fixture.iommu.addEndpoint(24, [reserved(16n, 31n)]);
    statusOf(fixture, attach(1, 24));
    expect(reaches(fixture.iommu, 0x1_0000n, READ, 24)).toBe(NOT_MAPPED);
  });
});

describe('faults (5.13.6.9.2)', () => {
  function report(fixture: Fixture, room = 24): { written: number; bytes: Uint8Array } {
    fixture.events.add({ readable: new Uint8Array(0), writable: room });
    expect(reaches(fixture.iommu, 0x1_2345_6000n, WRITE)).toBeLessThan(0);
    return fixture.events.collect()[0];
  }

  test('FAULT.1 and 2: what is reserved, and flags that are not defined, are 0', () => {
    const { bytes } = report(attached());
    expect([...bytes.subarray(0, 8)]).toEqual([FAULT_R_MAPPING, 0, 0, 0, 2, 1, 0, 0]);
    expect([...bytes.subarray(12, 16)]).toEqual([0, 0, 0, 0]);
  });

  test('FAULT.3: the endpoint is a valid one', () => {
    const { bytes } = report(attached());
    expect(new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true)).toBe(EP);
  });

  test('FAULT.4: the address may be left out, and is not', () => {
    const { bytes } = report(attached());
    expect(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(16, true)).toBe(0x1_2345_6000n);
  });

  test('FAULT.5: a buffer that is too small is not made up for by a second one', () => {
    const fixture = attached();
    fixture.events.add({ readable: new Uint8Array(0), writable: 23 });
    const { written } = report(fixture);
    expect(written).toBe(0);
    expect(fixture.iommu.counts.droppedFaults).toBe(1);
  });
});

test('SUSPEND is not offered, and a driver that sets it all the same sees 0 (3.4.2)', () => {
  const { iommu } = attached();
  iommu.device.status |= 16;
  expect(iommu.device.status & (16 | STATUS_NEEDS_RESET)).toBe(0);
});
