import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { StoreWatch } from '../../src/accel/store-watch.ts';
import { openHost } from '../../src/host/registry.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf, pfnOfHiLo } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { NO_PASID, type Target } from '../../src/target/target.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { hardwares } from './equivalence.ts';
import { GuestStores } from './guest-stores.ts';
import { DATA, DEVICE, guests, type Make, POOL, POOL_PAGES, RAM_PAGES, type SilentGuest } from './silent-guests.ts';

/** IOVA page of the first mapping: the end of a 2 MiB block, so that programs reach over it. */
const BASE = 0x3f0;
const PAGES = Array.from({ length: 48 }, (_, i) => BASE - 8 + i);

/** A machine whose guest's stores to tables all go through the watch, over simulated hardware that forgets nothing by itself. */
class WatchedMachine {
  readonly kernel: SimKernel;
  readonly watch: StoreWatch;
  readonly stores: GuestStores;
  readonly guest: SilentGuest;
  readonly machine: Machine;
  readonly #ramPfn: number;
  readonly #reference: Target;

  constructor(make: Make, hardware: string, path: string, watch = new StoreWatch()) {
    const { host: kind, nesting } = hardwares[hardware];
    this.watch = watch;
    this.kernel = simKernel({ iommus: [{ nesting: nesting() }], devices: [{ name: 'vfio0' }] });
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    this.#ramPfn = pfnOf(ram.address);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.stores = new GuestStores(memory, watch, POOL, POOL + POOL_PAGES);
    this.guest = make(memory, this.stores);
    const host = openHost(kind, this.kernel);
    this.machine = new Machine({ memory, target: this.guest.target, host, path, watch, schedule: () => {} });
    const { path: node, group, name } = this.kernel.devices[0];
    this.machine.passThrough(DEVICE, kind === 'iommufd' ? node : `/dev/vfio/${group.number}#${name}`);
    this.#reference = this.guest.fresh();
    (this.#reference as unknown as { addEndpoint(endpoint: number): void }).addEndpoint(DEVICE);
  }

  hardware(): (string | null)[] {
    return reached((pfn, access) => {
      const host = this.kernel.devices[0].hostPfn(pfn, access);
      return host < 0 ? -1 : host - this.#ramPfn;
    });
  }

  /** As an IOMMU translates that has cached nothing. */
  walked(): (string | null)[] {
    const reference = this.#reference;
    reference.load(this.guest.target.save());
    return translated(reference);
  }

  touch(): void {
    const byte = new Uint8Array(1);
    for (const pfn of PAGES)
      if (this.kernel.devices[0].dmaRead(BigInt(pfn) << 12n, byte) === 0) this.kernel.devices[0].dmaWrite(BigInt(pfn) << 12n, byte);
  }
}

function translated(target: Target): (string | null)[] {
  return reached((pfn, access) => {
    const lg2 = target.translate(DEVICE, NO_PASID, hiOfPfn(pfn), loOfPfn(pfn), access);
    return lg2 < 0 ? -1 : pfnOfHiLo(target.translated[1], target.translated[0]);
  });
}

function reached(find: (pfn: number, access: number) => number): (string | null)[] {
  return PAGES.map((pfn) => {
    const [read, write] = [find(pfn, READ), find(pfn, WRITE)];
    return read < 0 && write < 0 ? null : `${Math.max(read, write)}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
  });
}

const edit = fc.record({
  map: fc.boolean(),
  pfn: fc.nat(24),
  to: fc.constantFrom(DATA, DATA + 7, DATA + 0x1f0),
  pages: fc.integer({ min: 1, max: 12 }),
  permission: fc.constantFrom(READ, READ_WRITE),
});

const rows = [
  ['shadow', 'type1, plain hardware'],
  ['user-owned', 'iommufd, VT-d'],
  ['user-owned', 'iommufd, SMMUv3'],
] as const;

for (const [name, make] of Object.entries(guests)) {
  describe(`${name}: a guest that never announces a map`, () => {
    for (const [path, hardware] of rows) {
      test.prop([fc.array(edit, { minLength: 3, maxLength: 8 })], { numRuns: 5 })(
        `${path} over ${hardware}: after every store to its tables the hardware has what a walk finds, and after every invalidation what software does`,
        (program) => {
          const made = new WatchedMachine(make, hardware, path);
          expect(made.machine.state.endpoints[DEVICE].path).toBe(`${path}, watched`);
          let followed = 0;
          const edits = [{ map: true, pfn: 0, to: DATA, pages: 4, permission: READ_WRITE }, ...program];
          for (const { map, pfn, to, pages, permission } of edits) {
            made.touch();
            const { table } = made.guest;
            if (map) table.map(BASE + pfn, to + pfn, pages, permission);
            else table.unmap(BASE + pfn, pages);
            made.stores.commit(() => {
              followed++;
              expect(made.hardware()).toEqual(made.walked());
            });
            if (!map) made.guest.invalidate(BASE + pfn, pages);
            expect(made.hardware()).toEqual(translated(made.guest.target));
          }
          expect(followed).toBeGreaterThan(0);
          // Tables of the guest, and nothing else; a page that is none any more is left at the next store to it.
          expect(made.watch.size).toBeLessThanOrEqual(POOL_PAGES + 8);
          made.machine.close();
          expect(made.watch.size).toBe(0);
        },
      );
    }
  });
}

/** Keeps one store from whoever observes it, or watches one page less than it says. */
class ForgetfulWatch extends StoreWatch {
  seen = 0;
  readonly #what: 'store' | 'page';
  readonly #nth: number;

  constructor(what: 'store' | 'page', nth: number) {
    super();
    this.#what = what;
    this.#nth = nth;
  }

  override stored(address: bigint, bytes: number): boolean {
    return this.#what === 'store' && ++this.seen === this.#nth ? false : super.stored(address, bytes);
  }

  override watch(pfn: number): boolean {
    return this.#what === 'page' && ++this.seen === this.#nth ? true : super.watch(pfn);
  }
}

describe.each(rows.slice(0, 2))(
  '%s over %s, of whose watch something is left out: the hardware has not what its guest has mapped',
  (path, hardware) => {
    test.each(['store', 'page'] as const)('one %s', (what) => {
      for (const [name, make] of Object.entries(guests)) {
        let isFound = false;
        for (let nth = 1; nth <= 12 && !isFound; nth++) {
          const watch = new ForgetfulWatch(what, nth);
          const made = new WatchedMachine(make, hardware, path, watch);
          made.guest.table.map(BASE, DATA, 2, READ_WRITE);
          made.stores.commit(() => {});
          expect(watch.seen, name).toBeGreaterThanOrEqual(nth);
          isFound = JSON.stringify(made.hardware()) !== JSON.stringify(made.walked());
        }
        expect(isFound, name).toBe(true);
      }
    });
  },
);

describe('a watch that has no pages left', () => {
  test('blocks the device, and the machine says why', () => {
    const made = new WatchedMachine(guests['RISC-V, first stage'], 'type1, plain hardware', 'shadow', new StoreWatch(2));
    expect(made.machine.state.endpoints[DEVICE].path).toBe('shadow, watched');
    made.guest.table.map(BASE, DATA, 32, READ_WRITE);
    made.stores.commit(() => {});
    const { path, refused } = made.machine.state.endpoints[DEVICE];
    expect(path).toBe('blocked');
    expect(refused.at(-1)?.reason).toMatch(/not all of its tables can be watched/);
    expect(made.hardware().every((page) => page === null)).toBe(true);
  });

  test('finds pages that are tables no more', () => {
    const made = new WatchedMachine(guests['RISC-V, first stage'], 'type1, plain hardware', 'shadow', new StoreWatch(4));
    const { table } = made.guest;
    for (let round = 0; round < 8; round++) {
      table.map(BASE + 0x10000 * round, DATA, 1, READ_WRITE);
      made.stores.commit(() => {});
      table.unmap(BASE + 0x10000 * round, 1);
      // A driver that gives no table back, so that each round has others.
      made.stores.commit(() => {});
      made.guest.invalidate(BASE, 1);
      expect(made.machine.state.endpoints[DEVICE].path).toBe('shadow, watched');
    }
    expect(made.watch.size).toBeLessThanOrEqual(4);
  });
});
