import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { type AddressSpace, NO_PASID } from '../../../src/target/target.ts';
import type { DeviceInvalidation, PageGroupResponse, VtdIommuOptions } from '../../../src/target/vtd/index.ts';
import {
  Cmd,
  contextDevice,
  contextGlobal,
  type Descriptor,
  EVERYTHING,
  Guest,
  iotlbDomain,
  iotlbGlobal,
  iotlbPages,
  pasidGlobal,
  pasidPages,
  pasidSelective,
  QUEUE,
  Reg,
  STATUS,
  wait,
} from './guest.ts';

/* The invalidation queue: VT-d D51397-018 (5.10), 6.5.2; errors by IQEI of 11.4.9.9. */

const DEVICE = 0x28;

function queueError(guest: Guest): number {
  const status = guest.iommu.read(Reg.fsts, 4);
  return (status & 0x10n) === 0n ? 0 : Number(guest.iommu.read(Reg.iqercd, 8) & 0xfn);
}

function moveQueue(guest: Guest, iqa: bigint): void {
  guest.iommu.write(Reg.iqa, 8, iqa);
  guest.iommu.write(Reg.iqt, 8, 16n);
}

describe('queue errors (6.5.2.11)', () => {
  test.each<[number, string, VtdIommuOptions, (guest: Guest) => void]>([
    [1, 'a tail beyond the queue', {}, (guest) => guest.iommu.write(Reg.iqt, 8, 0x1000n)],
    [2, 'a queue outside memory', {}, (guest) => moveQueue(guest, 1n << 40n)],
    [3, 'type 0', {}, (guest) => guest.submit([0n])],
    [3, 'a type of scalable mode in legacy mode', {}, (guest) => guest.submit(pasidGlobal)],
    [3, 'device-TLBs that are not there', {}, (guest) => guest.submit([3n])],
    [3, 'a page group response without page requests', { scalableMode: true }, (guest) => guest.submit([9n])],
    [3, 'host permission tables', EVERYTHING, (guest) => guest.submit([0xan])],
    [4, 'a reserved bit', {}, (guest) => guest.submit([0x12n, 1n << 7n])],
    [4, 'padding that is not 0', EVERYTHING, (guest) => guest.submit([0x12n, 0n, 1n])],
    [4, 'context granularity 00', {}, (guest) => guest.submit([0x01n])],
    [4, 'IOTLB granularity 00', {}, (guest) => guest.submit([0x02n])],
    [4, 'PASID IOTLB granularity 01', EVERYTHING, (guest) => guest.submit([0x16n])],
    [4, 'PASID cache granularity 10', EVERYTHING, (guest) => guest.submit([0x27n])],
    [4, 'an address mask above MAMV', {}, (guest) => guest.submit(iotlbPages(1, 0, 19))],
    [4, 'PD without ECAP.PDS', {}, (guest) => guest.submit([0xa5n])],
    [5, '128-bit descriptors in scalable mode', EVERYTHING, (guest) => moveQueue(guest, BigInt(QUEUE) << 12n)],
    [6, 'a tail between 256-bit descriptors', EVERYTHING, (guest) => guest.iommu.write(Reg.iqt, 8, 16n)],
    [
      7,
      'a reserved table mode',
      EVERYTHING,
      (guest) => {
        guest.iommu.write(Reg.rtaddr, 8, 2n << 10n);
        guest.global(Cmd.srtp);
        guest.submit(wait());
      },
    ],
  ])('IQEI %i: %s', (info, _, options, act) => {
    const guest = new Guest(options);
    guest.start();
    act(guest);
    expect(queueError(guest)).toBe(info);
    expect(guest.iommu.read(Reg.iqh, 8)).toBe(0n);
    // Nothing is fetched until IQE is cleared.
    guest.iommu.write(Reg.iqt, 8, 0n);
    expect(queueError(guest)).toBe(info);
    guest.iommu.write(Reg.fsts, 4, 0x10n);
    expect(queueError(guest)).toBe(0);
  });

  test('what lies before the wrong descriptor is done, and the queue goes on where it was mended', () => {
    const guest = new Guest();
    guest.start();
    guest.submit(wait(7), [0xfn], wait(8));
    expect([guest.load(STATUS * 4096), guest.iommu.read(Reg.iqh, 8)]).toEqual([7n, 16n]);
    guest.store(QUEUE * 4096 + 16, ...iotlbGlobal, 0n);
    guest.iommu.write(Reg.fsts, 4, 0x10n);
    expect([guest.load(STATUS * 4096), guest.iommu.read(Reg.iqh, 8)]).toEqual([8n, 48n]);
  });
});

describe('wait descriptors (6.5.2.9)', () => {
  test('status data, and the interrupt once until IWC is cleared', () => {
    const sent: [bigint, number][] = [];
    const guest = new Guest({}, 1024, { sendInterrupt: (address, data) => sent.push([address, data]) });
    guest.start();
    guest.iommu.write(Reg.iectl + 4, 4, 0x41n);
    guest.iommu.write(Reg.iectl + 8, 4, 0xfee0_1000n);
    guest.submit([0x15n]);
    expect(sent).toEqual([]);
    expect(guest.iommu.read(Reg.iectl, 4)).toBe(0xc000_0000n);
    guest.iommu.write(Reg.iectl, 4, 0n);
    expect(sent).toEqual([[0xfee0_1000n, 0x41]]);
    guest.submit([0x15n]);
    expect(sent.length).toBe(1);
    guest.iommu.write(Reg.ics, 4, 1n);
    guest.submit([0x15n]);
    expect([sent.length, guest.iommu.read(Reg.ics, 4)]).toEqual([2, 1n]);
  });

  test('disabled and enabled again the queue begins at 0', () => {
    const guest = new Guest();
    guest.start();
    guest.submit(wait(1), wait(2));
    guest.global(Cmd.qie, false);
    expect([guest.iommu.read(Reg.iqh, 8), guest.iommu.read(Reg.gsts, 4) & Cmd.qie]).toEqual([0n, 0n]);
  });

  test('the largest queue, full: one access does all of it', () => {
    const guest = new Guest({}, 1024);
    const base = 512;
    for (let at = 0; at < 128 * 256; at++) guest.store(base * 4096 + at * 16, ...(at === 32766 ? wait(99) : [0x12n, 0n]));
    guest.iommu.write(Reg.iqa, 8, (BigInt(base) << 12n) | 7n);
    guest.global(Cmd.qie);
    guest.iommu.write(Reg.iqt, 8, 32767n * 16n);
    expect(guest.load(STATUS * 4096)).toBe(99n);
    expect(guest.iommu.read(Reg.iqh, 8)).toBe(32767n * 16n);
  });
});

/** Lookups stay what they were until an invalidation names them. */
describe('what invalidations forget (tables 23 and 24)', () => {
  function legacy() {
    const guest = new Guest();
    const { root, table } = guest.secondStage();
    guest.setContext(DEVICE, { root, did: 3 });
    guest.start();
    const page = (pfn: number) => (guest.iommu.translate(DEVICE, NO_PASID, 0, pfn << 12, READ) < 0 ? -1 : guest.iommu.translated[0] >>> 12);
    return { guest, table, page };
  }

  test.each<[string, Descriptor, boolean]>([
    ['global', iotlbGlobal, true],
    ['its domain', iotlbDomain(3), true],
    ['another domain', iotlbDomain(4), false],
    ['its page', iotlbPages(3, 5), true],
    ['a range around it', iotlbPages(3, 4, 1), true],
    ['another page', iotlbPages(3, 6), false],
    ['the page in another domain', iotlbPages(4, 5), false],
    ['contexts only', contextGlobal, false],
  ])('a second stage’s page, IOTLB invalidation of %s', (_, descriptor, forgotten) => {
    const { guest, table, page } = legacy();
    table.map(5, 600, 1, READ_WRITE);
    expect(page(5)).toBe(600);
    table.unmap(5, 1);
    table.map(5, 700, 1, READ_WRITE);
    expect(page(5)).toBe(600);
    guest.submit(descriptor, wait());
    expect(page(5)).toBe(forgotten ? 700 : 600);
  });

  test('AM 0 within a 2 MiB leaf drops the leaf, in the IOTLB and for whoever backs the space (6.5.3.2)', () => {
    const { guest, table, page } = legacy();
    guest.iommu.addEndpoint(DEVICE);
    const changes: [number, number][] = [];
    let space: AddressSpace | null = null;
    guest.iommu.observe({
      attach: (_, reached) => {
        space = reached;
        return 0;
      },
      changed: (_, first, last) => void changes.push([first, last]),
      flush: () => 0,
    });
    table.map(512, 512, 512, READ_WRITE);
    guest.submit(contextDevice(DEVICE), iotlbGlobal, wait());
    space!.enumerate(0, 2 ** 36 - 1, () => true);
    expect([page(512), page(1023)]).toEqual([512, 1023]);
    table.unmap(512, 512);
    changes.length = 0;
    guest.submit(iotlbPages(3, 700), wait());
    expect([page(512), page(1023)]).toEqual([-1, -1]);
    expect(changes).toEqual([[512, 1023]]);
  });

  test('context entries: stale until a context invalidation names the device', () => {
    const { guest, table, page } = legacy();
    table.map(5, 600, 1, READ_WRITE);
    const other = guest.secondStage();
    other.table.map(5, 700, 1, READ_WRITE);
    expect(page(5)).toBe(600);
    guest.setContext(DEVICE, { root: other.root, did: 4 });
    guest.submit(contextDevice(0x30), wait());
    expect(page(5)).toBe(600);
    // Function mask 3: all functions of the device (table 21).
    guest.submit([0x31n | (BigInt(DEVICE | 5) << 32n) | (3n << 48n)], wait());
    expect(page(5)).toBe(700);
  });

  test('a first stage’s page: its PASID and page, or all of its domain by a page of the second stage', () => {
    for (const [descriptor, forgotten] of [
      [pasidPages(3, 0, 5), true],
      [pasidPages(3, 0, 6), false],
      [pasidPages(3, 1, 5), false],
      [pasidPages(3, 0, 0, 52), true],
      [iotlbPages(3, 77), true],
      [iotlbPages(4, 5), false],
      [iotlbDomain(3), true],
    ] as const) {
      const guest = new Guest(EVERYTHING);
      const { root, table } = guest.firstStage();
      guest.setScalableContext(DEVICE);
      guest.setPasid(0, { pgtt: 1, did: 3, first: root });
      guest.start();
      table.map(5, 600, 1, READ_WRITE);
      guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, WRITE);
      table.unmap(5, 1);
      table.map(5, 700, 1, READ_WRITE);
      guest.submit(descriptor, wait());
      expect(guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, WRITE)).toBe(12);
      expect(guest.iommu.translated[0] >>> 12, String(descriptor)).toBe(forgotten ? 700 : 600);
    }
  });

  test('a PASID-cache invalidation reads the entry again, and tells what the endpoint and the PASID reach', () => {
    const guest = new Guest(EVERYTHING);
    guest.iommu.addEndpoint(DEVICE);
    guest.setScalableContext(DEVICE);
    guest.start();
    const told: [string | undefined, number | undefined][] = [];
    guest.iommu.observe({
      attach: (_, space, pasid) => {
        told.push([space?.name, pasid]);
        return 0;
      },
      changed: () => undefined,
      flush: () => 0,
    });
    told.length = 0;
    const { root } = guest.firstStage();
    guest.setPasid(7, { pgtt: 1, did: 3, first: root, flags: 1n });
    guest.submit(pasidSelective(3, 7), wait());
    expect(told).toEqual([['domain 3: PASID 7 (first stage, 4 levels)', 7]]);
    expect(guest.iommu.stageOf(DEVICE, 7)).toEqual({
      kind: 'vtd',
      root: BigInt(root) << 12n,
      addressWidth: 48,
      supervisor: true,
      extendedAccess: false,
      writeProtect: false,
    });
    expect(guest.iommu.spaceOf(DEVICE, 7)?.announced).toBe(false);
    guest.setPasid(7, null);
    guest.submit(pasidSelective(3, 7), wait());
    expect(told.at(-1)).toEqual([undefined, 7]);
    expect(guest.iommu.stageOf(DEVICE, 7)).toEqual({ kind: 'abort' });
    guest.setPasid(7, { pgtt: 4, did: 3 });
    guest.submit(pasidSelective(3, 7), wait());
    expect(guest.iommu.stageOf(DEVICE, 7)).toEqual({ kind: 'bypass' });
  });

  test('caching mode: a second stage is announced with it, not without; a first stage never (6.1)', () => {
    for (const cachingMode of [true, false]) {
      const guest = new Guest({ cachingMode });
      guest.iommu.addEndpoint(DEVICE);
      guest.setContext(DEVICE, { root: guest.secondStage().root, did: 3 });
      guest.start();
      expect(guest.iommu.spaceOf(DEVICE)?.announced).toBe(cachingMode);
      expect((guest.iommu.read(Reg.cap, 8) >> 7n) & 1n).toBe(cachingMode ? 1n : 0n);
    }
  });
});

test('register-based invalidation (6.5.1): done when written, with the granularity that was done', () => {
  const guest = new Guest();
  guest.start();
  const ask = (offset: number, value: bigint) => {
    guest.iommu.write(offset, 8, value);
    return guest.iommu.read(offset, 8) >> 57n;
  };
  // ICC clear, CIRG kept, CAIG: global, global for a domain, device.
  expect(ask(Reg.ccmd, (1n << 63n) | (1n << 61n)) & 0x7fn).toBe((1n << 4n) | (1n << 2n));
  expect((guest.iommu.read(Reg.ccmd, 8) >> 59n) & 3n).toBe(1n);
  ask(Reg.ccmd, (1n << 63n) | (2n << 61n) | 5n);
  expect((guest.iommu.read(Reg.ccmd, 8) >> 59n) & 0x1fn).toBe(1n | (2n << 2n));
  ask(Reg.ccmd, (1n << 63n) | (3n << 61n) | (8n << 16n));
  expect((guest.iommu.read(Reg.ccmd, 8) >> 59n) & 3n).toBe(3n);
  for (const granularity of [1n, 2n, 3n]) expect(ask(Reg.iotlb, (1n << 63n) | (granularity << 60n)) & 0x43n).toBe(granularity);
  // An address mask above MAMV: error, 00.
  guest.iommu.write(Reg.iva, 8, 19n);
  expect(ask(Reg.iotlb, (1n << 63n) | (3n << 60n)) & 3n).toBe(0n);
});

describe('device-TLBs (4.3, 6.5.2.5, 6.5.2.6)', () => {
  function machine(answer: boolean) {
    const sent: DeviceInvalidation[] = [];
    const responses: PageGroupResponse[] = [];
    const guest: Guest = new Guest(EVERYTHING, 1024, {
      invalidateDevice: (request) => {
        sent.push(request);
        if (answer) guest.iommu.invalidationCompletion(request.device, request.tag);
      },
      respond: (response) => responses.push(response),
    });
    guest.start();
    return { guest, sent, responses };
  }
  const invalidate: Descriptor = [0x3n | (BigInt(DEVICE) << 32n), 0x5000n];

  test('addresses, sizes, PASIDs as the descriptor says them', () => {
    const { guest, sent } = machine(true);
    const pasid = 0x8n | (BigInt(DEVICE) << 16n) | (9n << 32n);
    guest.submit(invalidate, [0x3n | (BigInt(DEVICE) << 32n), 0x1f_f001n], [pasid, 0x7fff_ffff_ffff_f801n], wait(1));
    expect(sent.map(({ address, lg2, pasid: process, global }) => [address, lg2, process, global])).toEqual([
      [0x5000n, 12, null, false],
      [0n, 22, null, false],
      [0n, 64, 9, true],
    ]);
    expect(guest.load(STATUS * 4096)).toBe(1n);
  });

  test('a wait descriptor waits for the device', () => {
    const { guest, sent } = machine(false);
    guest.submit(invalidate, wait(5));
    expect(guest.load(STATUS * 4096)).toBe(0n);
    expect(guest.iommu.invalidationCompletion(DEVICE, sent[0].tag)).toBe(true);
    expect(guest.load(STATUS * 4096)).toBe(5n);
  });

  test('ITE: a device that does not answer; the wait descriptor is given up, and what follows waits until ITE is cleared', () => {
    const { guest } = machine(false);
    guest.submit(invalidate, wait(5), wait(6));
    guest.iommu.invalidationTimeout(DEVICE);
    expect(guest.iommu.read(Reg.iqh, 8)).toBe(64n);
    expect(guest.iommu.read(Reg.fsts, 4) & 0x40n).toBe(0x40n);
    expect((guest.iommu.read(Reg.iqercd, 8) >> 32n) & 0xffffn).toBe(BigInt(DEVICE));
    expect(guest.load(STATUS * 4096)).toBe(0n);
    guest.iommu.write(Reg.fsts, 4, 0x40n);
    expect([guest.load(STATUS * 4096), guest.iommu.read(Reg.iqh, 8)]).toEqual([6n, 96n]);
  });

  test('ITE with nothing that waits: no descriptor is lost', () => {
    const { guest, sent } = machine(false);
    guest.submit(invalidate);
    guest.iommu.invalidationTimeout(DEVICE);
    expect(guest.iommu.read(Reg.iqh, 8)).toBe(32n);
    guest.iommu.write(Reg.fsts, 4, 0x40n);
    // All tags are taken: it is an invalidation that waits.
    guest.submit(...Array.from({ length: 33 }, () => invalidate), wait(7));
    guest.iommu.invalidationTimeout(DEVICE);
    guest.iommu.write(Reg.fsts, 4, 0x40n);
    expect([sent.length, guest.load(STATUS * 4096)]).toEqual([34, 0n]);
    guest.iommu.invalidationCompletion(DEVICE, sent[33].tag);
    expect(guest.load(STATUS * 4096)).toBe(7n);
  });

  test('ICE: a completion that nobody waits for; the queue goes on', () => {
    const { guest } = machine(false);
    expect(guest.iommu.invalidationCompletion(0x30, 3)).toBe(false);
    expect(guest.iommu.read(Reg.fsts, 4) & 0x20n).toBe(0x20n);
    expect(guest.iommu.read(Reg.iqercd, 8) >> 48n).toBe(0x30n);
    guest.submit(wait(6));
    expect(guest.load(STATUS * 4096)).toBe(6n);
  });

  test('page group responses reach their device (7.6.1)', () => {
    const { guest, responses } = machine(true);
    guest.submit([0x19n | (1n << 12n) | (BigInt(DEVICE) << 16n) | (9n << 32n), 7n << 3n]);
    expect(responses).toEqual([{ device: DEVICE, pasid: 9, group: 7, code: 1 }]);
  });

  test('33 invalidations: the last one waits for a tag', () => {
    const { guest, sent } = machine(false);
    guest.submit(...Array.from({ length: 33 }, () => invalidate));
    expect(sent.length).toBe(32);
    guest.iommu.invalidationCompletion(DEVICE, sent[4].tag);
    expect(sent.length).toBe(33);
  });
});
