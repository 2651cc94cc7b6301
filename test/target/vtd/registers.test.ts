import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { capabilities, Fault, type PageGroupResponse, type VtdIommuOptions } from '../../../src/target/vtd/index.ts';
import { checkedOptions } from '../../../src/target/vtd/options.ts';
import { Cmd, EVERYTHING, Guest, Reg } from './guest.ts';

/* Registers, fault records, page requests, ATS: VT-d D51397-018 (5.10), chapters 4, 7 and 11. */

const DEVICE = 0x28;

test('power-on: masks set, everything else off (11.4)', () => {
  const { iommu } = new Guest();
  expect(iommu.read(Reg.ver, 4)).toBe(0x10n);
  for (const event of [Reg.fectl, Reg.iectl, Reg.pectl]) expect(iommu.read(event, 4)).toBe(0x8000_0000n);
  for (const zero of [Reg.gsts, Reg.fsts, Reg.iqh, Reg.iqt, Reg.rtaddr, Reg.irta, Reg.frcd + 8]) expect(iommu.read(zero, 4)).toBe(0n);
});

test('CAP and ECAP say what stock Linux was seen to boot with, and more', () => {
  const { iommu } = new Guest({ faultRecords: 1, cachingMode: false, interruptRemapping: false });
  // QEMU-like units that Linux booted on: CAP 0xd2008c226f0606, ECAP 0xf00fc3.
  expect(iommu.read(Reg.cap, 8) & 0x7fff_ffff_ffff_ffffn).toBe(0xd2_008c_222f_0606n | (1n << 22n));
  expect(iommu.read(Reg.ecap, 8)).toBe(0xfc3n | (1n << 52n));
});

test('capabilities that need others are not there without them (11.4.2, 11.4.3)', () => {
  for (const options of [{}, { scalableMode: true }, EVERYTHING, { interruptRemapping: false }]) {
    const { iommu } = new Guest(options);
    const [cap, ecap] = [iommu.read(Reg.cap, 8), iommu.read(Reg.ecap, 8)];
    const on = (word: bigint, bit: number) => (word >> BigInt(bit)) & 1n;
    for (const needsScalable of [26, 29, 31, 34, 40, 43, 45, 46, 47, 48, 49])
      if (on(ecap, 43) === 0n) expect(on(ecap, needsScalable)).toBe(0n);
    for (const needsDevice of [29, 42]) if (on(ecap, 2) === 0n) expect(on(ecap, needsDevice)).toBe(0n);
    if (on(ecap, 3) === 0n) expect([on(ecap, 4), on(cap, 59), (ecap >> 20n) & 15n]).toEqual([0n, 0n, 0n]);
  }
});

test('every capability has a name, a section and a reason, no bit twice, and its row in docs/targets/vtd.md', () => {
  const table = capabilities(checkedOptions({}));
  expect(new Set(table.map(({ name }) => name)).size).toBe(table.length);
  const rows = table.map(({ name, section, value, reason }) => `| ${name} | ${section} | ${Number(value)} | ${reason} |`);
  const documented = readFileSync(new URL('../../../docs/targets/vtd.md', import.meta.url), 'utf8')
    .split('\n')
    .filter((line) => /^\| E?CAP\./.test(line));
  expect(documented).toEqual(rows);
});

test.each<[string, VtdIommuOptions, typeof TypeError | typeof RangeError]>([
  ['hostAddressWidth', { hostAddressWidth: 53 }, RangeError],
  ['faultRecords', { faultRecords: 0 }, RangeError],
  ['secondStageLevels', { secondStageLevels: [] }, RangeError],
  ['do not reach', { secondStageLevels: [3] }, RangeError],
  ['pageRequests needs', { pageRequests: true }, RangeError],
  ['postedInterrupts needs', { interruptRemapping: false, postedInterrupts: true }, RangeError],
  ['cachingMode is no boolean', { cachingMode: 1 as unknown as boolean }, TypeError],
])('misuse: %s', (message, options, kind) => {
  expect(() => new Guest(options)).toThrow(kind);
  expect(() => new Guest(options)).toThrow(message);
});

test('32-bit halves and 64-bit registers; other accesses read 0 and change nothing (11.2)', () => {
  const { iommu } = new Guest();
  iommu.write(Reg.rtaddr, 4, 0x1234_5fffn);
  iommu.write(Reg.rtaddr + 4, 4, 0x7n);
  expect(iommu.read(Reg.rtaddr, 8)).toBe(0x7_1234_5c00n);
  iommu.write(Reg.rtaddr + 4, 8, 0n);
  iommu.write(Reg.rtaddr, 2, 0n);
  expect(iommu.read(Reg.rtaddr, 8)).toBe(0x7_1234_5c00n);
  for (const [offset, bytes] of [
    [Reg.rtaddr, 2],
    [Reg.rtaddr + 2, 4],
    [Reg.rtaddr + 4, 8],
    [-4, 4],
    [4096, 4],
    [0.5, 4],
  ])
    expect(iommu.read(offset, bytes)).toBe(0n);
});

test('reserved bits read 0, read-only registers stay (11.4)', () => {
  const { iommu } = new Guest({ interruptRemapping: false });
  for (let offset = 0; offset < 0x300; offset += 4) if (offset !== Reg.gcmd && offset !== Reg.iqt) iommu.write(offset, 4, 0xffff_ffffn);
  const readable: [number, bigint][] = [
    [Reg.gsts, 0n],
    [Reg.rtaddr, 0xffff_fffffc00n],
    [Reg.fedata, 0xffffn | (0xffff_fffcn << 32n)],
    [Reg.iqa, 0xffff_fffff807n],
    [Reg.irta, 0n],
    [Reg.pqa, 0n],
    [Reg.iqh, 0n],
    [0x60, 0n],
  ];
  for (const [offset, value] of readable)
    expect(iommu.read(offset, offset % 8 === 0 ? 8 : 4), `0x${offset.toString(16)}`).toBe(offset % 8 === 0 ? value : value & 0xffff_ffffn);
});

test('the handshake of each command of GCMD (11.4.4): its bit of GSTS and no other, at once; pointers stay set', () => {
  const { iommu } = new Guest();
  const status = () => iommu.read(Reg.gsts, 4);
  let expected = 0n;
  expect([status(), iommu.read(Reg.fsts, 4)]).toEqual([0n, 0n]);
  for (const bit of [Cmd.qie, Cmd.srtp, Cmd.sirtp, Cmd.ire, Cmd.cfi, Cmd.te]) {
    iommu.write(Reg.gcmd, 4, (expected & ~(Cmd.srtp | Cmd.sirtp)) | bit);
    expected |= bit;
    expect(status()).toBe(expected);
    expect(iommu.read(Reg.gcmd, 4)).toBe(0n);
  }
  for (const bit of [Cmd.te, Cmd.cfi, Cmd.ire, Cmd.qie]) {
    expected &= ~bit;
    iommu.write(Reg.gcmd, 4, expected & ~(Cmd.srtp | Cmd.sirtp));
    expect(status()).toBe(expected);
  }
  // WBF: without RWBF there is nothing to flush; bits 29 and 28 are no commands any more.
  iommu.write(Reg.gcmd, 4, (1n << 27n) | (3n << 28n));
  expect(status()).toBe(Cmd.srtp | Cmd.sirtp);
});

test('pointers take effect when they are set, not when they are written (SRTP)', () => {
  const guest = new Guest();
  const { root, table } = guest.secondStage();
  table.map(5, 600, 1, 3);
  guest.setContext(DEVICE, { root, did: 1 });
  guest.start();
  guest.iommu.write(Reg.rtaddr, 8, 0n);
  expect(guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, READ)).toBe(12);
  guest.global(Cmd.srtp);
  expect(guest.iommu.translate(DEVICE, NO_PASID, 0, 0x5000, READ)).toBe(targetFault('vtd', Fault['LRT.2']));
});

describe('fault records (7.2.1, 7.3)', () => {
  /** Each device 0, 1, 2… faults: there are no context entries. */
  function faulting(sent: number[] = [], records = 2) {
    const guest = new Guest({ faultRecords: records }, 1024, { sendInterrupt: (_, data) => void sent.push(data) });
    guest.start();
    guest.iommu.write(Reg.fedata, 4, 0x51n);
    return { guest, fault: (device: number, access = WRITE) => guest.iommu.translate(device, NO_PASID, 1, 0x2345_6789, access) };
  }

  test('what a record says (11.4.7.6)', () => {
    const { guest, fault } = faulting();
    fault(0x10);
    expect(guest.iommu.read(Reg.frcd, 8)).toBe(0x1_2345_6000n);
    expect(guest.iommu.read(Reg.frcd + 8, 8)).toBe((1n << 63n) | (2n << 32n) | 0x10n);
    fault(0x11, READ);
    expect(guest.iommu.read(Reg.frcd + 24, 8)).toBe((1n << 63n) | (1n << 62n) | (2n << 32n) | 0x11n);
  });

  test('PPF and FRI, overflow, records that are freed one by one, the index that goes round', () => {
    const { guest, fault } = faulting();
    const status = () => Number(guest.iommu.read(Reg.fsts, 4));
    fault(0x10);
    expect(status()).toBe(2);
    fault(0x11);
    fault(0x12);
    expect(status()).toBe(3);
    guest.iommu.write(Reg.frcd + 12, 4, 1n << 31n);
    expect(status()).toBe(3);
    // While PFO is set nothing is recorded.
    fault(0x13);
    expect(guest.iommu.read(Reg.frcd + 8, 8) >> 63n).toBe(0n);
    guest.iommu.write(Reg.frcd + 28, 4, 1n << 31n);
    expect(status()).toBe(1);
    guest.iommu.write(Reg.fsts, 4, 1n);
    expect(status()).toBe(0);
    fault(0x14);
    fault(0x15);
    guest.iommu.write(Reg.frcd + 12, 4, 1n << 31n);
    guest.iommu.write(Reg.frcd + 28, 4, 1n << 31n);
    fault(0x16);
    guest.iommu.write(Reg.frcd + 12, 4, 1n << 31n);
    fault(0x17);
    expect(status()).toBe((1 << 8) | 2);
  });

  test('faults of a source that has one pending are one', () => {
    const { guest, fault } = faulting();
    for (let i = 0; i < 5; i++) fault(0x10);
    expect(guest.faults()).toEqual([Fault['LCT.2']]);
  });

  test('one event until all is served; held while masked, sent when unmasked', () => {
    const sent: number[] = [];
    const { guest, fault } = faulting(sent);
    fault(0x10);
    fault(0x11);
    expect([sent.length, guest.iommu.read(Reg.fectl, 4)]).toEqual([0, 0xc000_0000n]);
    guest.iommu.write(Reg.fectl, 4, 0n);
    expect([sent, guest.iommu.read(Reg.fectl, 4)]).toEqual([[0x51], 0n]);
    fault(0x12);
    expect(sent.length).toBe(1);
    guest.faults();
    fault(0x12);
    expect(sent.length).toBe(2);
    guest.iommu.write(Reg.fectl, 4, 1n << 31n);
    guest.faults();
    fault(0x12);
    guest.faults();
    expect(guest.iommu.read(Reg.fectl, 4)).toBe(0x8000_0000n);
  });

  test('256 records lie in the next page', () => {
    const { guest, fault } = faulting([], 256);
    expect([guest.iommu.registerBytes, (guest.iommu.read(Reg.cap, 8) >> 24n) & 0x3ffn]).toEqual([8192, 0x100n]);
    for (let device = 0; device < 256; device++) fault(device);
    expect(guest.iommu.read(0x1000 + 255 * 16 + 8, 8) & 0xffffn).toBe(255n);
    expect(guest.iommu.read(Reg.fsts, 4)).toBe(2n);
  });
});

describe('page requests (7.4, 7.5)', () => {
  function machine() {
    const responses: PageGroupResponse[] = [];
    const sent: number[] = [];
    const guest = new Guest(EVERYTHING, 1024, {
      respond: (response) => responses.push(response),
      sendInterrupt: (_, data) => void sent.push(data),
    });
    guest.start();
    guest.setScalableContext(DEVICE, 16n);
    guest.setPasid(0, { pgtt: 4, did: 1 });
    guest.iommu.write(Reg.pqa, 8, 9n << 12n);
    guest.iommu.write(Reg.pectl + 4, 4, 0x61n);
    guest.iommu.write(Reg.pectl, 4, 0n);
    const ask = (group: number, last = true) =>
      guest.iommu.pageRequest({ device: DEVICE, pasid: null, address: 0x1_2345_6789n, read: true, write: true, group, last });
    return { guest, responses, sent, ask };
  }

  test('the descriptor (7.4.1.1), the tail, one event', () => {
    const { guest, sent, responses, ask } = machine();
    ask(5);
    ask(6, false);
    expect([guest.load(0x9000), guest.load(0x9008)]).toEqual([(BigInt(DEVICE) << 16n) | 1n, 0x1_2345_6000n | (5n << 3n) | 7n]);
    expect(guest.load(0x9028) & 0xfffn).toBe((6n << 3n) | 3n);
    expect([guest.iommu.read(Reg.pqt, 8), guest.iommu.read(Reg.prs, 4), sent, responses]).toEqual([64n, 1n, [0x61], []]);
  });

  test('table 31: full and overflown queues answer for themselves', () => {
    const { guest, responses, ask } = machine();
    for (let i = 0; i < 127; i++) ask(i);
    expect([responses.length, guest.iommu.read(Reg.prs, 4)]).toEqual([0, 1n]);
    ask(200);
    ask(201, false);
    expect(responses).toEqual([{ device: DEVICE, pasid: null, group: 200, code: 0 }]);
    expect(guest.iommu.read(Reg.prs, 4)).toBe(3n);
    guest.iommu.write(Reg.pqh, 8, 32n);
    ask(202);
    expect(responses.length).toBe(2);
    guest.iommu.write(Reg.prs, 4, 2n);
    ask(203);
    expect([responses.length, guest.iommu.read(Reg.pqt, 8)]).toEqual([2, 0n]);
  });

  test('a stop marker is in the queue, or is lost, and nobody answers it (PCIe 10.4.1.2.1)', () => {
    const { guest, responses, ask } = machine();
    guest.setScalableContext(DEVICE, 16n | 8n);
    guest.setPasid(9, { pgtt: 4, did: 1 });
    const stop = () => guest.iommu.pageRequest({ device: DEVICE, pasid: 9, address: 0n, read: false, write: false, group: 0, last: true });
    stop();
    expect(guest.load(0x9000)).toBe((9n << 32n) | (BigInt(DEVICE) << 16n) | 0x101n);
    for (let i = 0; i < 127; i++) ask(i);
    stop();
    guest.setPasid(9, null);
    stop();
    expect([responses.map(({ group }) => group), guest.iommu.read(Reg.prs, 4)]).toEqual([[126], 3n]);
  });

  test.each<[keyof typeof Fault, (guest: Guest) => void]>([
    ['SCT.8', (guest) => guest.setScalableContext(DEVICE)],
    ['SCT.2', (guest) => guest.store(2 * 4096 + DEVICE * 32, 0n)],
    ['SPT.2', (guest) => guest.setPasid(0, null)],
    ['RTA.3', (guest) => guest.setMode(0n)],
  ])('%s: an invalid request, and a fault of type page request', (name, damage) => {
    const { guest, responses, ask } = machine();
    damage(guest);
    ask(5);
    expect(responses).toEqual([{ device: DEVICE, pasid: null, group: 5, code: 1 }]);
    const high = guest.iommu.read(Reg.frcd + 8, 8);
    expect([(high >> 32n) & 0xffn, (high >> 62n) & 1n, (high >> 28n) & 1n]).toEqual([BigInt(Fault[name]), 0n, 1n]);
  });
});

describe('ATS (4.1, table 30)', () => {
  function machine(options: VtdIommuOptions = EVERYTHING) {
    const guest = new Guest(options);
    const { root, table } = guest.secondStage();
    table.map(5, 600, 1, 3);
    table.map(6, 700, 1, READ);
    if (guest.scalable) {
      guest.setScalableContext(DEVICE);
      guest.setPasid(0, { pgtt: 2, did: 1, second: root });
    } else guest.setContext(DEVICE, { root, did: 1, tt: 1 });
    guest.start();
    return { guest, root, ask: (address: bigint) => guest.iommu.translationRequest({ device: DEVICE, pasid: null, address }) };
  }

  test.each([
    ['scalable mode', EVERYTHING],
    ['legacy mode', { deviceTlb: true }],
  ])('%s: what the tables grant; nothing where nothing is mapped, without a fault', (_, options) => {
    const { guest, ask } = machine(options);
    expect(ask(0x5123n)).toEqual({ status: 'success', address: 0x25_8123n, lg2: 12, read: true, write: true, untranslated: false });
    expect(ask(0x6000n)).toMatchObject({ status: 'success', read: true, write: false });
    expect(ask(0x7000n)).toMatchObject({ status: 'success', read: false, write: false });
    expect(ask(0xfee0_0000n)).toMatchObject({ status: 'success', read: false, write: true, untranslated: true });
    expect(guest.faults()).toEqual([]);
    expect(guest.iommu.translatedRequest(DEVICE, 0x25_8000n, WRITE)).toBe(0);
  });

  test('SCT.5, LCT.5: devices whose entry does not allow it', () => {
    const { guest, ask } = machine();
    guest.store(2 * 4096 + DEVICE * 32, (6n << 12n) | 9n);
    expect(ask(0x5000n)).toEqual({ status: 'unsupported' });
    expect(guest.iommu.translatedRequest(DEVICE, 0n, WRITE)).toBe(targetFault('vtd', Fault['SCT.5']));
    expect(guest.faults()).toEqual([Fault['SCT.5']]);
    const legacy = machine({ deviceTlb: true });
    legacy.guest.setContext(DEVICE, { root: legacy.root, did: 1 });
    expect(legacy.ask(0x5000n)).toEqual({ status: 'unsupported' });
    expect(legacy.guest.iommu.translatedRequest(DEVICE, 0n, WRITE)).toBe(targetFault('vtd', Fault['LCT.5']));
  });

  test('Completer Abort, and the address type in the record', () => {
    const { guest, ask } = machine();
    guest.setPasid(0, { pgtt: 0, did: 1 });
    expect(ask(0x5000n)).toEqual({ status: 'abort' });
    const high = guest.iommu.read(Reg.frcd + 8, 8);
    expect([(high >> 32n) & 0xffn, (high >> 60n) & 3n]).toEqual([BigInt(Fault['SPT.4']), 1n]);
  });

  test('translated requests with PASID: SCT.10, RTA.2; the record has the PASID', () => {
    const { guest } = machine();
    expect(guest.iommu.translatedRequest(DEVICE, 0x25_8000n, WRITE, 3)).toBe(targetFault('vtd', Fault['SCT.10']));
    const high = guest.iommu.read(Reg.frcd + 8, 8);
    // PP, PV, and AT 10b.
    expect([(high >> 31n) & 1n, (high >> 40n) & 0xf_ffffn, (high >> 60n) & 3n]).toEqual([1n, 3n, 2n]);
    const legacy = machine({ deviceTlb: true });
    expect(legacy.guest.iommu.translatedRequest(DEVICE, 0x25_8000n, WRITE, 3)).toBe(targetFault('vtd', Fault['RTA.2']));
  });

  test('translated requests: LGN.1.2, SGN.4.1, LGN.4, SGN.8.3', () => {
    for (const [options, wide, interrupt] of [
      [EVERYTHING, Fault['SGN.4'], Fault['SGN.8']],
      [{ deviceTlb: true }, Fault['LGN.1'], Fault['LGN.4']],
    ] as const) {
      const { guest } = machine(options);
      expect(guest.iommu.translatedRequest(DEVICE, 1n << 48n, WRITE)).toBe(targetFault('vtd', wide));
      expect(guest.iommu.translatedRequest(DEVICE, 0xfee0_0000n, WRITE)).toBe(targetFault('vtd', interrupt));
    }
  });
});
