import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { StoreWatch } from '../../src/accel/store-watch.ts';
import { errno } from '../../src/host/errno.ts';
import { openHost } from '../../src/host/registry.ts';
import { type IommuConfig, type SimKernel, simKernel, vtd } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { PageTable } from '../../src/pagetable/page-table.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { Machine } from '../../src/vmm/machine.ts';
import {
  CONTEXT,
  contextDevice,
  Guest,
  iotlbGlobal,
  PASID_DIRECTORY,
  PASID_TABLE,
  type PasidEntry,
  pasidGlobal,
  pasidSelective,
  ROOT,
  wait,
} from '../target/vtd/guest.ts';

/* VT-d D51397-018 (5.10), 6.1: without caching mode software need not invalidate what becomes present, in whichever table. */

const RAM_PAGES = 1024;
const DEVICE = 0x20;
const ONE = 5;
/** IOVA page, and the guest page that a table with this number has there. */
const PAGE = 0x200;
const DATA = 600;

interface Parts {
  readonly scalable?: boolean;
  readonly cachingMode?: boolean;
  readonly host?: string;
  readonly iommu?: IommuConfig;
  readonly path?: string;
  /** Pages that can be watched; null: nobody watches. */
  readonly watchedPages?: number | null;
}

/** A guest whose translation is on, and whose tables have nothing that is present but the root entry of its bus. */
class SilentGuest {
  readonly kernel: SimKernel;
  readonly guest: Guest;
  readonly machine: Machine;
  readonly watch: StoreWatch;

  constructor({ scalable = true, cachingMode = false, host: kind = 'iommufd', iommu = {}, path = 'auto', watchedPages }: Parts = {}) {
    this.kernel = simKernel({ iommus: [{ pasidLog2: 8, ...iommu }], devices: [{ name: 'vfio0' }] });
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    for (let page = DATA; page < DATA + 8; page++) memory.store64(0, page * 4096, 0, page);
    this.guest = new Guest({ scalableMode: scalable, cachingMode }, RAM_PAGES, {}, memory);
    this.guest.iommu.addEndpoint(DEVICE);
    this.watch = new StoreWatch(watchedPages ?? undefined);
    const hearing = watchedPages === null ? {} : { watch: this.watch };
    const host = openHost(kind, this.kernel);
    this.machine = new Machine({ memory, target: this.guest.iommu, host, path, schedule: () => {}, ...hearing });
    this.guest.start();
    const [{ path: node, group, name }] = this.kernel.devices;
    this.machine.passThrough(DEVICE, kind === 'iommufd' ? node : `/dev/vfio/${group.number}#${name}`);
  }

  /** A first stage, or a second, that has DATA + number at PAGE. */
  table(number: number, stage: 'first' | 'second' = 'first'): number {
    const made: { root: number; table: PageTable } = stage === 'first' ? this.guest.firstStage() : this.guest.secondStage();
    made.table.map(PAGE, DATA + number, 1, READ_WRITE);
    return made.root;
  }

  /** An entry, and that it was stored. */
  put(pasid: number, entry: PasidEntry | null): void {
    this.guest.setPasid(pasid, entry);
    this.watch.stored(BigInt(PASID_TABLE * 4096 + pasid * 64), 64);
  }

  setDevice(number: number | null): void {
    this.put(DEVICE, number === null ? null : { pgtt: 1, did: 8, first: this.table(number) });
  }

  setProcess(pasid: number, number: number | null): void {
    this.put(pasid, number === null ? null : { pgtt: 1, did: 9, first: this.table(number) });
  }

  setContext(present = true): void {
    if (present) this.guest.setScalableContext(DEVICE, 0n, BigInt(DEVICE));
    else this.guest.store(CONTEXT * 4096 + DEVICE * 32, 0n, 0n);
    this.watch.stored(BigInt(CONTEXT * 4096 + DEVICE * 32), 32);
  }

  store(address: number, word: bigint): boolean {
    this.guest.store(address, word);
    return this.watch.stored(BigInt(address), 8);
  }

  /** What a request with the PASID, or without one, reads at PAGE, counted from DATA; null: nothing. */
  read(pasid = -1): number | null {
    const bytes = new Uint8Array(4);
    const code = this.kernel.devices[0].dmaRead(BigInt(PAGE) << 12n, bytes, pasid);
    return code < 0 ? null : new DataView(bytes.buffer).getUint32(0, true) - DATA;
  }

  get path(): string {
    return this.machine.state.endpoints[DEVICE].path;
  }

  /** Why entries that become valid are not seen. */
  get unseen(): readonly string[] {
    return this.machine.state.endpoints[DEVICE].refused.map(({ reason }) => reason).filter((reason) => /is not seen$/.test(reason));
  }
}

const places: readonly (readonly [string, Parts])[] = [
  ['nested', { iommu: { nesting: vtd() } }],
  ['user-owned, watched', { path: 'user-owned', iommu: { nesting: vtd() } }],
  ['shadow, watched', {}],
];

describe.each(places)('without caching mode, %s: what becomes present is there before the store completes', (path, parts) => {
  test('a context entry, and the PASID entry of requests without one', () => {
    const made = new SilentGuest(parts);
    expect(made.read()).toBeNull();
    made.setContext();
    expect(made.read()).toBeNull();
    made.setDevice(1);
    expect([made.read(), made.path]).toEqual([1, path]);
    made.machine.remove(DEVICE);
    expect(made.watch.size).toBe(0);
  });

  test('without PASIDs the table of RID_PASID, wherever in it that stands (9.4, PASIDE)', () => {
    const made = new SilentGuest(parts);
    const at = CONTEXT * 4096 + DEVICE * 32;
    made.guest.store(at, (BigInt(PASID_DIRECTORY) << 12n) | 1n, 37n, 0n, 0n);
    made.watch.stored(BigInt(at), 32);
    expect(made.read()).toBeNull();
    made.put(37, { pgtt: 1, did: 8, first: made.table(1) });
    expect([made.read(), made.path]).toEqual([1, path]);
  });

  test('a context entry in front of PASID entries that are there, and a root entry in front of all', () => {
    const made = new SilentGuest(parts);
    made.setDevice(1);
    made.setProcess(ONE, 2);
    expect(made.read(ONE)).toBeNull();
    const root = ROOT * 4096;
    const entry = made.guest.load(root);
    made.store(root, 0n);
    made.setContext();
    expect([made.read(), made.read(ONE)]).toEqual([null, null]);
    expect(made.store(root, entry)).toBe(true);
    expect([made.read(), made.read(ONE)]).toEqual([1, 2]);
  });

  test('PASIDs, and a directory entry in front of them; what goes waits for its invalidation, as it may be cached', () => {
    const made = new SilentGuest(parts);
    made.setContext();
    made.setProcess(ONE, 1);
    expect([made.read(ONE), made.machine.state.processes?.[`${DEVICE}/${ONE}`]?.path]).toEqual([1, path]);
    const leaf = made.guest.pool.allocate(1);
    made.guest.store(leaf * 4096, made.guest.load(PASID_TABLE * 4096 + ONE * 64), 10n, BigInt(made.table(3)) << 12n);
    expect(made.read(64)).toBeNull();
    made.store(PASID_DIRECTORY * 4096 + 8, (BigInt(leaf) << 12n) | 1n);
    expect([made.read(64), made.read(65)]).toEqual([3, null]);
    made.guest.store(leaf * 4096 + 64, made.guest.load(leaf * 4096), 10n, BigInt(made.table(4)) << 12n);
    made.watch.stored(BigInt(leaf * 4096 + 64), 64);
    expect(made.read(65)).toBe(4);
    made.setProcess(ONE, null);
    expect(made.read(ONE)).toBe(1);
    made.guest.submit(pasidSelective(9, ONE), wait());
    expect([made.read(ONE), made.read(64)]).toEqual([null, 3]);
    made.setContext(false);
    made.guest.submit(contextDevice(DEVICE), pasidGlobal, wait());
    expect([made.read(64), made.machine.state.processes]).toEqual([null, undefined]);
    made.setContext();
    expect([made.read(64), made.read(65)]).toEqual([3, 4]);
  });

  test('entries behind another root table', () => {
    const made = new SilentGuest(parts);
    const [root, context] = [made.guest.pool.allocate(1), made.guest.pool.allocate(1)];
    made.guest.iommu.write(0x20, 8, (BigInt(root) << 12n) | (1n << 10n));
    made.guest.global(1n << 30n);
    made.setContext();
    made.setDevice(1);
    expect(made.read()).toBeNull();
    made.guest.store(context * 4096 + DEVICE * 32, made.guest.load(CONTEXT * 4096 + DEVICE * 32), BigInt(DEVICE));
    made.store(root * 4096, (BigInt(context) << 12n) | 1n);
    expect(made.read()).toBe(1);
  });
});

/** What a guest does to the entries: PASID 0 stands for the device's own, and numbers for tables. */
const edit = fc.oneof(
  fc.record({
    what: fc.constant('process' as const),
    pasid: fc.constantFrom(0, ONE, 6),
    number: fc.option(fc.integer({ min: 0, max: 3 })),
  }),
  fc.record({ what: fc.constant('context' as const), present: fc.boolean() }),
  fc.record({ what: fc.constant('directory' as const), present: fc.boolean() }),
  fc.record({ what: fc.constant('root' as const), present: fc.boolean() }),
  fc.record({ what: fc.constant('forget' as const) }),
);
const failure = fc.record({
  nth: fc.integer({ min: 1, max: 12 }),
  times: fc.constantFrom(1, 3),
  errno: fc.constantFrom(errno.ENOMEM, errno.EIO),
});

describe.each(places)('without caching mode, %s: random guests', (_, parts) => {
  const program = fc.array(edit, { minLength: 6, maxLength: 16 });
  property.prop([program, fc.option(failure)], { numRuns: 6 })(
    'after each store and each invalidation every request reaches what it does in software; where host calls fail, that or nothing, until a command is done',
    (edits, failing) => {
      const made = new SilentGuest(parts);
      const tables = [0, 1, 2, 3].map((number) => made.table(number));
      const rootEntry = made.guest.load(ROOT * 4096);
      const software = (pasid: number) => {
        const { iommu } = made.guest;
        const lg2 = iommu.translate(DEVICE, pasid < 0 ? NO_PASID : pasid, 0, PAGE << 12, READ);
        return lg2 < 0 ? null : (iommu.translated[0] >>> 12) - DATA;
      };
      const check = (isExact: boolean) => {
        for (const pasid of [-1, ONE, 6]) {
          const found = made.read(pasid);
          if (isExact || found !== null) expect(found, `PASID ${pasid}`).toBe(software(pasid));
        }
      };
      const forget = () => made.guest.submit(contextDevice(DEVICE), pasidGlobal, iotlbGlobal, wait());
      if (failing !== null) made.kernel.hooks.fail(failing);
      for (const step of edits) {
        if (step.what === 'forget') forget();
        else if (step.what === 'context') made.setContext(step.present);
        else if (step.what === 'root') made.store(ROOT * 4096, step.present ? rootEntry : 0n);
        else if (step.what === 'directory') made.store(PASID_DIRECTORY * 4096, step.present ? (BigInt(PASID_TABLE) << 12n) | 1n : 0n);
        else made.put(step.pasid || DEVICE, step.number === null ? null : { pgtt: 1, did: 8, first: tables[step.number] });
        check(failing === null);
      }
      made.kernel.hooks.reset();
      forget();
      check(true);
      made.machine.close();
      expect(made.watch.size).toBe(0);
    },
  );
});

test('a legacy context entry becomes present without a command, over type1', () => {
  const made = new SilentGuest({ scalable: false, host: 'vfio-type1' });
  expect(made.path).toBe('blocked');
  made.guest.setContext(DEVICE, { root: made.table(1, 'second'), did: 8 });
  expect(made.read()).toBeNull();
  expect(made.watch.stored(BigInt(CONTEXT * 4096 + DEVICE * 16), 16)).toBe(true);
  expect([made.read(), made.path]).toEqual([1, 'shadow, watched']);
  made.guest.setContext(DEVICE, null);
  made.guest.submit(contextDevice(DEVICE), iotlbGlobal, wait());
  expect([made.read(), made.path]).toEqual([null, 'blocked']);
  // Half by half: without its width (AW) an entry is none.
  const at = CONTEXT * 4096 + DEVICE * 16;
  made.store(at, (BigInt(made.table(3, 'second')) << 12n) | 1n);
  expect(made.read()).toBeNull();
  made.store(at + 8, (8n << 8n) | 2n);
  expect(made.read()).toBe(3);
  made.guest.setContext(DEVICE, null);
  made.guest.submit(contextDevice(DEVICE), iotlbGlobal, wait());
  made.store(ROOT * 4096, 0n);
  made.guest.setContext(DEVICE, { root: made.table(2, 'second'), did: 8 });
  made.store(ROOT * 4096, (BigInt(CONTEXT) << 12n) | 1n);
  expect(made.read()).toBe(2);
});

describe('the state says of entries that nobody sees', () => {
  const UNSEEN = /^root, context and PASID tables of device 0x20: (.*), so what becomes valid in it without a command is not seen$/;

  test('that nobody watches them: they wait for a command', () => {
    const made = new SilentGuest({ iommu: { nesting: vtd() }, watchedPages: null });
    expect(made.unseen).toEqual([expect.stringMatching(UNSEEN)]);
    made.setContext();
    made.setDevice(1);
    expect(made.read()).toBeNull();
    made.guest.submit(contextDevice(DEVICE), wait());
    expect([made.read(), made.path]).toEqual([1, 'nested']);
    expect(made.unseen).toEqual([expect.stringMatching(/no TableWatch/)]);
  });

  test('that more pages hold them than can be watched', () => {
    const made = new SilentGuest({ iommu: { nesting: vtd() }, watchedPages: 3 });
    expect(made.unseen).toEqual([]);
    made.setContext();
    expect(made.unseen).toEqual([expect.stringMatching(UNSEEN)]);
    made.setContext(false);
    expect(made.unseen).toEqual([]);
  });

  test('nothing with caching mode, where the guest tells, nor where no table decides', () => {
    const made = new SilentGuest({ iommu: { nesting: vtd() }, cachingMode: true });
    made.setContext();
    made.setDevice(1);
    expect([made.read(), made.watch.size, made.unseen]).toEqual([null, 0, []]);
    made.guest.submit(contextDevice(DEVICE), wait());
    expect(made.read()).toBe(1);
    const off = new SilentGuest({ watchedPages: null });
    off.guest.global(1n << 31n, false);
    expect(off.unseen).toEqual([]);
  });
});
