import { describe, expect, test } from 'vitest';
import { smmuv3Stage1 } from '../../src/host/iommufd/index.ts';
import { DMA_FORBIDDEN, DMA_UNMAPPED, smmuv3 } from '../../src/host/sim/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { ArmTable } from '../../src/pagetable/arm.ts';
import { DATA, GUEST_PAGES, guest, IOVA } from './guest-tables.ts';

/** What the simulated SMMUv3 makes of context descriptors: IHI 0070, 5.4, with the tables of DDI 0487, D8. */
describe('SMMUv3 context descriptors', () => {
  const STREAM = 0x100n;
  /** T0SZ 16, EPD1, V, IPS 48 bits, AFFD, AA64, R. */
  const CD0 = 16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 35n) | (1n << 41n) | (1n << 45n);
  const EPD0 = 1n << 14n;
  const HA = 1n << 43n;
  const HD = 1n << 42n;
  const AFFD = 1n << 35n;
  const IDR = [0x0008_1acb, (19 << 21) | (20 << 6) | 16, 0, 1 << 10, 0, 0x55];
  const STT = 1 << 9;
  /** 7.3 */
  const BAD_CD = 0x0a;
  const BAD_SUBSTREAM = 0x08;
  const TRANSLATION = 0x10;
  const ACCESS_FLAG = 0x12;
  const PERMISSION = 0x13;

  interface Machine {
    readonly idr?: readonly number[];
    readonly cd0?: bigint;
    /** Of TTB0's word, beside the root. */
    readonly ttb0?: bigint;
    readonly ste0?: (descriptors: bigint) => bigint;
    readonly inputBits?: number;
  }

  function machine({ idr = IDR, cd0 = CD0, ttb0 = 0n, ste0 = (at) => at, inputBits = 48 }: Machine = {}) {
    const made = guest({ nesting: smmuv3({ idr }), pasidLog2: 20, reserved: [] });
    const { host, device, memory, allocator, space, ram, sim } = made;
    const view = new DataView(ram.buffer);
    const config = { stage: 1, granuleLg2: 12, outputBits: 48 } as const;
    const root = allocator.allocate(1);
    const lower = new ArmTable(memory, { ...config, inputBits, root: BigInt(root) << 12n, allocator });
    const upperRoot = allocator.allocate(1);
    const upper = new ArmTable(memory, { ...config, inputBits: 48, upper: true, root: BigInt(upperRoot) << 12n, allocator });
    const descriptors = allocator.allocate(1);
    const put = (at: number, ...words: readonly bigint[]) => words.forEach((word, i) => void view.setBigUint64(at + 8 * i, word, true));
    put(descriptors * 4096, cd0, (BigInt(root) << 12n) | ttb0, BigInt(upperRoot) << 12n);
    const viommu = host.createViommu(device, host.createPageTable(device, space, { nestParent: true }), 1);
    viommu.addDevice(device, STREAM);
    const events = viommu.createEventQueue(1, 32, 8);
    const entry = 1n | (5n << 1n) | ste0(BigInt(descriptors) << 12n);
    expect(host.createStageOne(device, viommu, smmuv3Stage1(entry, 2n)).attach(device)).toBe(0);
    /** The event that waits first; 0: none. */
    const told = () => ({ event: events.read()[0]?.data?.[0] ?? 0 });
    /** The byte that is read, or the event of what was refused. */
    const read = (iova: bigint, pasid = -1) => {
      const into = new Uint8Array(1);
      return sim.dmaRead(iova, into, pasid) === 0 ? into[0] : told();
    };
    /** Where the table of the lower half has a page's entry at a level; 0: its leaf. */
    const entryAt = (page: number, level: number) => {
      let table = root * 4096;
      for (let at = 3; ; at--) {
        const place = table + 8 * (Math.floor(page / 512 ** at) % 512);
        if (at === level) return place;
        table = Number(view.getBigUint64(place, true) & 0xf_ffff_ffff_f000n);
      }
    };
    return { ...made, view, lower, upper, read, told, put, entryAt, descriptors };
  }

  const AT = BigInt(IOVA) << 12n;

  test.each<[string, Machine]>([
    ['not valid', { cd0: CD0 & ~(1n << 31n) }],
    ['of 32-bit tables', { cd0: CD0 & ~(1n << 41n) }],
    ['of big-endian tables', { cd0: CD0 | (1n << 15n) }],
    ['T0SZ above 39', { cd0: (CD0 & ~63n) | 40n }],
    ['T1SZ above 39, where TTB1 counts', { cd0: (CD0 & ~(1n << 30n)) | (40n << 16n) | (2n << 22n) }],
    ['HA without hardware that updates', { cd0: CD0 | HA, idr: [IDR[0] & ~0xc0, ...IDR.slice(1)] }],
    ['HD where only the Access flag is updated', { cd0: CD0 | HA | HD, idr: [(IDR[0] & ~0xc0) | 0x40, ...IDR.slice(1)] }],
    ['A 0 where faults are never ignored', { idr: [IDR[0] | (1 << 26), ...IDR.slice(1)] }],
    ['S where nothing stalls', { cd0: CD0 | (1n << 44n), idr: [IDR[0] | (1 << 24), ...IDR.slice(1)] }],
    ['not S where all stalls', { idr: [IDR[0] | (2 << 24), ...IDR.slice(1)] }],
    ['TG0 3', { cd0: CD0 | (3n << 6n) }],
    ['more input than there is', { cd0: (CD0 & ~63n) | 12n }],
  ])('C_BAD_CD: %s', (_name, made) => {
    const { host, read } = machine(made);
    expect(read(AT)).toEqual({ event: BAD_CD });
    host.close();
  });

  test.each<[string, Machine]>([
    ['S where all stalls', { cd0: CD0 | (1n << 44n), idr: [IDR[0] | (2 << 24), ...IDR.slice(1)] }],
    ['A where faults are never ignored', { cd0: CD0 | (1n << 46n), idr: [IDR[0] | (1 << 26), ...IDR.slice(1)] }],
    ['T0SZ to 48 with small tables', { cd0: (CD0 & ~63n) | 34n, inputBits: 30, idr: [...IDR.slice(0, 3), IDR[3] | STT, 0, IDR[5]] }],
  ])('taken: %s', (_name, made) => {
    const { host, lower, read } = machine(made);
    lower.map(IOVA, DATA, 1, READ_WRITE);
    expect(read(AT)).toBe(0x5a);
    host.close();
  });

  test('descriptors that lie outside the guest’s memory are the host’s fault, and no event', () => {
    const beyond = () => BigInt(GUEST_PAGES) << 12n;
    const levels = 1n << 4n;
    const substreams = 8n << 59n;
    for (const ste0 of [beyond, () => beyond() | levels | substreams]) {
      const { host, read } = machine({ ste0 });
      expect(read(AT)).toEqual({ event: 0 });
      host.close();
    }
  });

  test('leaves of 1,024 descriptors (S1Fmt 2), a substream without one, and one more than there are', () => {
    const made = machine({ ste0: (at) => (at + (16n << 12n)) | (2n << 4n) | (12n << 59n) });
    const { host, lower, read, put, descriptors } = made;
    lower.map(IOVA, DATA, 1, READ_WRITE);
    const leaf = descriptors + 32;
    put((descriptors + 16) * 4096, 0n, (BigInt(leaf) << 12n) | 1n);
    // Substream 1,024 + 65 is the 65th of the second leaf, a page behind its beginning.
    const view = new Uint8Array(made.ram.buffer);
    view.copyWithin((leaf + 1) * 4096 + 64, descriptors * 4096, descriptors * 4096 + 64);
    expect(read(AT, 1024 + 65)).toBe(0x5a);
    expect([read(AT, 65), read(AT, 4096)]).toEqual([{ event: BAD_SUBSTREAM }, { event: BAD_SUBSTREAM }]);
    host.close();
  });

  test('the Access flag is set, faults, or does not count', () => {
    const AF = 1n << 10n;
    for (const [bits, expected, after] of [
      [HA, 0x5a, AF],
      [AFFD, 0x5a, 0n],
      [0n, { event: ACCESS_FLAG }, 0n],
    ] as const) {
      const { host, lower, read, put, view, entryAt, sim } = machine({ cd0: (CD0 & ~AFFD) | bits });
      lower.map(IOVA, DATA, 1, READ_WRITE);
      const leaf = entryAt(IOVA, 0);
      put(leaf, view.getBigUint64(leaf, true) & ~AF);
      sim.hostPfn(IOVA, READ_WRITE);
      expect(view.getBigUint64(leaf, true) & AF, 'a probe').toBe(0n);
      expect(read(AT)).toEqual(expected);
      expect(view.getBigUint64(leaf, true) & AF).toBe(after);
      host.close();
    }
  });

  test('a page that a write makes dirty is written with HD, and forbidden without', () => {
    const DBM = 1n << 51n;
    const READ_ONLY = 1n << 7n;
    for (const [bits, expected, after] of [
      [HA | HD, 0, 0n],
      [HA, DMA_FORBIDDEN, READ_ONLY],
    ] as const) {
      const { host, lower, put, view, entryAt, sim } = machine({ cd0: CD0 | bits });
      lower.map(IOVA, DATA, 1, READ_WRITE);
      const leaf = entryAt(IOVA, 0);
      put(leaf, view.getBigUint64(leaf, true) | DBM | READ_ONLY);
      expect(sim.dmaWrite(AT, Uint8Array.of(1))).toBe(expected);
      expect(view.getBigUint64(leaf, true) & READ_ONLY).toBe(after);
      host.close();
    }
  });

  test('the top byte is ignored with TBI0, and part of the address without', () => {
    const tagged = AT | (0x5an << 56n);
    const TBI0 = 1n << 38n;
    for (const [bits, expected] of [
      [TBI0, 0x5a],
      [0n, { event: TRANSLATION }],
    ] as const) {
      const { host, lower, read } = machine({ cd0: CD0 | bits });
      lower.map(IOVA, DATA, 1, READ_WRITE);
      expect(read(tagged)).toEqual(expected);
      host.close();
    }
  });

  test('what tables say of all below them counts, unless HPD0 says that it does not', () => {
    const APTABLE_READ_ONLY = 2n << 61n;
    for (const [ttb0, expected] of [
      [0n, DMA_FORBIDDEN],
      [2n, 0],
    ] as const) {
      const { host, lower, put, view, entryAt, sim } = machine({ ttb0 });
      lower.map(IOVA, DATA, 1, READ_WRITE);
      const table = entryAt(IOVA, 1);
      put(table, view.getBigUint64(table, true) | APTABLE_READ_ONLY);
      expect(sim.dmaWrite(AT, Uint8Array.of(1))).toBe(expected);
      host.close();
    }
  });

  test('the upper half has TTB1’s table, with a granule that there is; EPD0 takes the lower one away', () => {
    const HIGH = 0xffff_0000_0000_0000n | AT;
    const both = (CD0 & ~(1n << 30n)) | (16n << 16n) | (2n << 22n);
    const { host, lower, upper, read } = machine({ cd0: both });
    lower.map(IOVA, DATA, 1, READ_WRITE);
    upper.map(Number(HIGH >> 12n), DATA + 1, 1, READ_WRITE);
    expect([read(AT), read(HIGH)]).toEqual([0x5a, 0xa5]);
    host.close();
    const reserved = machine({ cd0: both & ~(3n << 22n) });
    reserved.lower.map(IOVA, DATA, 1, READ_WRITE);
    expect([reserved.read(AT), reserved.read(HIGH)], 'TG1 0').toEqual([0x5a, { event: TRANSLATION }]);
    reserved.host.close();
    const upperOnly = machine({ cd0: both | EPD0 });
    upperOnly.upper.map(Number(HIGH >> 12n), DATA + 1, 1, READ_WRITE);
    expect([upperOnly.read(AT), upperOnly.read(HIGH)]).toEqual([{ event: TRANSLATION }, 0xa5]);
    expect(upperOnly.sim.dmaWrite(AT, Uint8Array.of(1))).toBe(DMA_UNMAPPED);
    upperOnly.host.close();
  });

  test('what may only be read is F_PERMISSION to who writes', () => {
    const { host, lower, put, view, entryAt, sim, told } = machine();
    lower.map(IOVA, DATA, 1, READ_WRITE);
    const leaf = entryAt(IOVA, 0);
    put(leaf, view.getBigUint64(leaf, true) | (1n << 7n));
    expect(sim.dmaWrite(AT, Uint8Array.of(1))).toBe(DMA_FORBIDDEN);
    expect(told()).toEqual({ event: PERMISSION });
    host.close();
  });
});
