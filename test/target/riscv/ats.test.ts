import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { AtsCode, type AtsMessage, RiscvIommu } from '../../../src/target/riscv/index.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { FENCE, fence, Guest, invalDdt, Reg } from './guest.ts';

const DEVICE = 8;
const EN_ATS = 1 << 1;
const T2GPA = 1 << 3;
const CMD_TO = 0x200n;
const CQON = 0x1_0000n;
const BUSY = 0x2_0000n;

/** ATS.INVAL to the device. */
const INVAL: [bigint, bigint] = [4n | (BigInt(DEVICE) << 40n), 0x1000n];

const completion = (tags: bigint, count = 1n): AtsMessage => ({
  code: AtsCode.invalidationCompletion,
  tag: 0,
  requester: DEVICE,
  segment: null,
  pasid: null,
  privileged: false,
  execute: false,
  payload: tags | (count << 32n),
});

function setUp() {
  const sent: AtsMessage[] = [];
  const surroundings = { sendMessage: (message: AtsMessage) => void sent.push(message) };
  const guest = new Guest({ invalidationTags: 2 }, 1024, surroundings);
  guest.start();
  const fenced = () => {
    guest.memory.load32(0, FENCE * 4096);
    return guest.memory.word[0];
  };
  const head = () => Number(guest.iommu.read(Reg.cqh, 4));
  return { guest, sent, fenced, head, surroundings };
}

describe('invalidations under way ("IOMMU PCIe ATS commands", "IOMMU Command-queue Fence commands")', () => {
  test('IOFENCE.C waits for completions, across save and load', () => {
    const { guest, sent, fenced, head, surroundings } = setUp();
    guest.command(INVAL, INVAL, fence(7), INVAL);
    expect(sent.map(({ code, tag, payload }) => [code, tag, payload])).toEqual([
      [AtsCode.invalidationRequest, 0, 0x1000n],
      [AtsCode.invalidationRequest, 1, 0x1000n],
    ]);
    expect([head(), fenced()]).toEqual([2, 0]);
    guest.iommu.invalidationCompletion(completion(1n));
    const state = JSON.parse(JSON.stringify(guest.iommu.save()));
    guest.iommu = new RiscvIommu(guest.config, { memory: guest.memory, ...surroundings });
    guest.iommu.load(state);
    expect([head(), fenced()]).toEqual([2, 0]);
    // Nobody waits for tag 0 any more.
    expect(guest.iommu.invalidationCompletion(completion(1n))).toBe(false);
    expect(guest.iommu.invalidationCompletion(completion(2n))).toBe(true);
    expect([head(), fenced(), sent.length]).toEqual([4, 7, 3]);
  });

  test('a request without a free ITag stalls the queue, across save and load', () => {
    const { guest, sent, head, surroundings } = setUp();
    guest.command(INVAL, INVAL, INVAL, fence(1));
    expect([sent.length, head()]).toEqual([2, 3]);
    const state = JSON.parse(JSON.stringify(guest.iommu.save()));
    guest.iommu = new RiscvIommu(guest.config, { memory: guest.memory, ...surroundings });
    guest.iommu.load(state);
    guest.iommu.invalidationCompletion(completion(2n));
    expect(sent.map(({ tag }) => tag)).toEqual([0, 1, 1]);
    guest.iommu.invalidationCompletion(completion(3n));
    expect(head()).toBe(4);
  });

  test('a request that stands still goes on when an ITag is free, and not with the first of several completions', () => {
    const { guest, sent, head } = setUp();
    guest.command(INVAL, INVAL, INVAL, fence(1));
    expect(guest.iommu.invalidationCompletion(completion(2n, 2n))).toBe(true);
    expect([sent.length, head()]).toEqual([2, 3]);
    expect(guest.iommu.invalidationCompletion(completion(2n, 2n))).toBe(true);
    expect(sent.map(({ tag }) => tag)).toEqual([0, 1, 1]);
  });

  test('eight completions are a count of 0 (three bits: PCI Express Base 6.0, 10.3.2)', () => {
    const { guest, fenced } = setUp();
    guest.command(INVAL, fence(9));
    for (let i = 0; i < 7; i++) expect(guest.iommu.invalidationCompletion(completion(1n, 0n))).toBe(true);
    expect(fenced()).toBe(0);
    expect([guest.iommu.invalidationCompletion(completion(1n, 0n)), fenced()]).toEqual([true, 9]);
  });

  test('a request with a segment is completed from that segment, one without (DSV 0) from any', () => {
    const { guest, sent, fenced } = setUp();
    const [DSV, DSEG] = [1n << 33n, 56n];
    guest.command([INVAL[0] | DSV | (3n << DSEG), INVAL[1]], [INVAL[0] | (5n << DSEG), INVAL[1]], fence(9));
    expect(sent.map(({ segment }) => segment)).toEqual([3, null]);
    const from = (segment: number, tags: bigint) => guest.iommu.invalidationCompletion({ ...completion(tags), segment });
    expect([from(4, 1n), from(3, 1n), fenced()]).toEqual([false, true, 0]);
    expect([from(6, 2n), fenced()]).toEqual([true, 9]);
  });

  test('a reset forgets that a request timed out', () => {
    const { guest, fenced } = setUp();
    guest.command(INVAL);
    guest.iommu.invalidationTimeout(1);
    guest.iommu.reset();
    guest.start();
    guest.command(fence(9));
    expect([fenced(), guest.iommu.read(Reg.cqcsr, 4) & 0xf00n]).toEqual([9, 0n]);
  });

  test('IOFENCE.C orders requests of devices where PR or PW says so', () => {
    const ordered: [boolean, boolean][] = [];
    const guest = new Guest({}, 1024, { orderRequests: (reads, writes) => void ordered.push([reads, writes]) });
    guest.start();
    const [low, high] = fence();
    const [PR, PW] = [1n << 12n, 1n << 13n];
    for (const bits of [0n, PR, PW, PR | PW]) guest.command([low | bits, high]);
    expect(ordered).toEqual([
      [true, false],
      [false, true],
      [true, true],
    ]);
  });

  test('a timeout is told by the next fence, whose command stays at the head', () => {
    const { guest, fenced, head } = setUp();
    guest.command(INVAL, fence(9));
    guest.iommu.invalidationTimeout(1);
    expect([head(), fenced(), guest.iommu.read(Reg.cqcsr, 4) & 0xf00n]).toEqual([1, 0, CMD_TO]);
    guest.iommu.write(Reg.cqcsr, 4, CMD_TO | 3n);
    expect([head(), fenced()]).toEqual([2, 9]);
  });

  test('a timeout before the fence is told by it, across save and load', () => {
    const { guest, fenced, head, surroundings } = setUp();
    guest.command(INVAL);
    guest.iommu.invalidationTimeout(1);
    const state = JSON.parse(JSON.stringify(guest.iommu.save()));
    guest.iommu = new RiscvIommu(guest.config, { memory: guest.memory, ...surroundings });
    guest.iommu.load(state);
    guest.command(fence(9));
    expect([head(), fenced(), guest.iommu.read(Reg.cqcsr, 4) & 0xf00n]).toEqual([1, 0, CMD_TO]);
    guest.iommu.write(Reg.cqcsr, 4, CMD_TO | 3n);
    expect([head(), fenced()]).toEqual([2, 9]);
  });

  test('a queue that is turned off while a fence waits stays on and busy until it is done', () => {
    const { guest } = setUp();
    guest.command(INVAL, fence(9));
    guest.iommu.write(Reg.cqcsr, 4, 0n);
    expect(guest.iommu.read(Reg.cqcsr, 4) & (CQON | BUSY)).toBe(CQON | BUSY);
    guest.iommu.write(Reg.cqcsr, 4, 1n);
    guest.iommu.invalidationCompletion(completion(1n));
    expect(guest.iommu.read(Reg.cqcsr, 4) & (CQON | BUSY | 1n)).toBe(0n);
  });
});

describe('translation requests ("PCIe ATS translation request handling")', () => {
  function translating(tc: number) {
    const { guest } = setUp();
    const first = guest.table('sv39');
    const second = guest.table('sv39', true);
    second.table.map(0, 0, 1024, READ | WRITE);
    second.table.map(0x8000, 0x100, 1, READ);
    first.table.map(0x5000, 0x8000, 1, READ | WRITE);
    guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: 1 }, second: { mode: 8, root: second.root, gscid: 1 }, tc });
    guest.command(invalDdt(DEVICE), fence());
    return guest.iommu.translationRequest({ device: DEVICE, pasid: null, iova: 0x500_0000n });
  }

  test('grants what both stages grant, and says where', () => {
    expect(translating(EN_ATS)).toMatchObject({ status: 'success', page: 0x100n, large: false, read: true, write: false, execute: false });
  });
  test('with T2GPA the answer is the guest-physical address', () => {
    expect(translating(EN_ATS | T2GPA)).toMatchObject({ status: 'success', page: 0x8000n, read: true, write: false });
  });
  test('without EN_ATS it is an unsupported request', () => {
    expect(translating(0)).toMatchObject({ status: 'unsupported' });
  });
});

describe('page requests ("PCIe ATS Page Request handling")', () => {
  const request: AtsMessage = { ...completion(0n), code: AtsCode.pageRequest, pasid: 5, payload: 0x5003n | (1n << 2n) };

  test('of a segment are of the device with the segment above its requester ID; a failure names the PASID that was refused', () => {
    const { guest, sent } = setUp();
    guest.iommu.pageRequest({ ...request, segment: 2 });
    expect(guest.takeFaults().map(([word]) => word >> 40n)).toEqual([0x2_0000n | BigInt(DEVICE)]);
    // Wider than the directory's mode (260): an invalid request, which names no PASID.
    expect(sent.map(({ pasid, segment, payload }) => [pasid, segment, (payload >> 44n) & 0xfn])).toEqual([[null, 2, 1n]]);
    guest.setMode(0);
    guest.iommu.pageRequest(request);
    expect(sent.slice(1).map(({ pasid, payload }) => [pasid, (payload >> 44n) & 0xfn])).toEqual([[5, 0xfn]]);
  });
});

test('a read and write is reported as the write ("Fault record TTYP field encodings": Untranslated write/AMO)', () => {
  const { guest } = setUp();
  const { root } = guest.table('sv39');
  guest.setContext(DEVICE, { first: { mode: 8, root, pscid: 1 } });
  guest.command(invalDdt(DEVICE), fence());
  expect(guest.iommu.translate(DEVICE, NO_PASID, 0, 0x1000, READ | WRITE)).toBe(targetFault('riscv', 15));
  expect(guest.takeFaults().map(([low]) => [low & 0xfffn, (low >> 34n) & 0x3fn])).toEqual([[15n, 3n]]);
});
