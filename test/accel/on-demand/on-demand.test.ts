import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { BLOCK_PAGES } from '../../../src/accel/on-demand/demand-space.ts';
import { StoreWatch } from '../../../src/accel/store-watch.ts';
import { errno, HostError } from '../../../src/host/errno.ts';
import { openHost } from '../../../src/host/registry.ts';
import { DMA_PENDING, type SimDevice, type SimKernel, simKernel } from '../../../src/host/sim/index.ts';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf, pfnOfHiLo } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { Machine } from '../../../src/vmm/machine.ts';
import { hardwares } from '../equivalence.ts';
import { GuestStores } from '../guest-stores.ts';
import { DATA, DEVICE, guests, type Make, POOL, POOL_PAGES, RAM_PAGES, type SilentGuest } from '../silent-guests.ts';

/* Spaces that nobody announces nor watches: devices ask for their pages (PCIe 10.4; iommufd's fault queue). */

const BASE = 0x3f0;
const PAGES = Array.from({ length: 20 }, (_, i) => BASE - 4 + 2 * i);
/** Response codes of struct iommu_hwpt_page_response. */
const [SUCCESS, INVALID] = [0, 1];

interface Options {
  readonly residentPages?: number;
  readonly pageRequests?: boolean;
}

/** A machine whose device waits for the pages that it has not, before hardware that forgets nothing by itself. */
class DemandMachine {
  readonly kernel: SimKernel;
  readonly device: SimDevice;
  readonly guest: SilentGuest;
  readonly machine: Machine;
  readonly #stores: GuestStores;
  readonly #ramPfn: number;

  constructor(make: Make, hardware: string, path: string, { residentPages, pageRequests = true }: Options = {}) {
    const { host: kind, nesting } = hardwares[hardware];
    this.kernel = simKernel({ iommus: [{ nesting: nesting() }], devices: [{ name: 'vfio0', pageRequests }] });
    this.device = this.kernel.device();
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    this.#ramPfn = pfnOf(ram.address);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.#stores = new GuestStores(memory, new StoreWatch(), POOL, POOL + POOL_PAGES);
    this.guest = make(memory, this.#stores);
    const host = openHost(kind, this.kernel);
    const limit = residentPages === undefined ? {} : { residentPages };
    this.machine = new Machine({ memory, target: this.guest.target, host, path, schedule: () => {}, ...limit });
    this.machine.passThrough(DEVICE, this.device.path);
  }

  /** The guest maps, and says nothing. */
  map(pfn: number, to: number, pages: number, permission = READ_WRITE): void {
    this.guest.table.map(pfn, to, pages, permission);
    this.#stores.commit(() => {});
  }

  /** The guest unmaps, and says so. */
  unmap(pfn: number, pages: number): void {
    this.guest.table.unmap(pfn, pages);
    this.#stores.commit(() => {});
    this.guest.invalidate(pfn, pages);
  }

  /** Guest page that a DMA of the device reaches, which tries again when it is told that a page is there; -1: none. */
  reach(pfn: number, access: number): number {
    const before = this.device.hostPfn(pfn, access);
    if (before >= 0) return before - this.#ramPfn;
    const byte = new Uint8Array(1);
    const iova = BigInt(pfn) << 12n;
    const result = access === READ ? this.device.dmaRead(iova, byte) : this.device.dmaWrite(iova, byte);
    if (result !== DMA_PENDING) return -1;
    const { length } = this.device.responses;
    this.machine.poll();
    expect(this.device.responses.length).toBe(length + 1);
    if (this.device.responses[length] !== SUCCESS) return -1;
    const after = this.device.hostPfn(pfn, access);
    return after < 0 ? -1 : after - this.#ramPfn;
  }

  software(pfn: number, access: number): number {
    const { target } = this.guest;
    const lg2 = target.translate(DEVICE, NO_PASID, hiOfPfn(pfn), loOfPfn(pfn), access);
    return lg2 < 0 ? -1 : pfnOfHiLo(target.translated[1], target.translated[0]);
  }

  /** Pages that hardware has now, without asking for any. */
  has(pages: readonly number[] = PAGES): number {
    return pages.filter((pfn) => this.device.hostPfn(pfn, READ) >= 0).length;
  }

  get path(): string {
    return this.machine.state.endpoints[DEVICE].path;
  }
}

const edit = fc.record({
  map: fc.boolean(),
  pfn: fc.nat(24),
  to: fc.constantFrom(DATA, DATA + 7, DATA + 0x1f0),
  pages: fc.integer({ min: 1, max: 12 }),
  permission: fc.constantFrom(READ, READ_WRITE),
});

const rows = [
  ['shadow', 'iommufd, VT-d'],
  ['user-owned', 'iommufd, VT-d'],
  ['user-owned', 'iommufd, SMMUv3'],
  ['user-owned-queue', 'iommufd, SMMUv3 with a command queue'],
] as const;

for (const [name, make] of Object.entries(guests)) {
  describe(`${name}: a guest that never announces a map, and that nobody watches`, () => {
    for (const [path, hardware] of rows) {
      test.prop([fc.array(edit, { minLength: 2, maxLength: 5 }), fc.constantFrom(BLOCK_PAGES, 1 << 20)], { numRuns: 2 })(
        `${path} over ${hardware}: each DMA has the address, the permission and the fault that it has in software`,
        (program, residentPages) => {
          const made = new DemandMachine(make, hardware, path, { residentPages });
          expect(made.path).toBe(`${path}, on demand`);
          let reached = 0;
          for (const { map, pfn, to, pages, permission } of [
            { map: true, pfn: 0, to: DATA, pages: 4, permission: READ_WRITE },
            ...program,
          ]) {
            // A table that is mapped over is changed in what was valid, and that every guest says.
            if (map) made.guest.table.unmap(BASE + pfn, pages);
            made.unmap(BASE + pfn, pages);
            if (map) made.map(BASE + pfn, to + pfn, pages, permission);
            for (const page of PAGES) {
              for (const access of [READ, WRITE]) {
                const found = made.reach(page, access);
                expect(found, `page 0x${page.toString(16)}, access ${access}`).toBe(made.software(page, access));
                if (found >= 0) reached++;
              }
            }
            if (residentPages === BLOCK_PAGES) expect(made.has()).toBeLessThanOrEqual(BLOCK_PAGES);
          }
          expect(reached).toBeGreaterThan(0);
          made.machine.close();
          expect(made.has()).toBe(0);
        },
      );
    }
  });
}

describe('filling on demand', () => {
  const RISCV = guests['RISC-V, first stage'];

  test('brings the block around the page, in one request', () => {
    const made = new DemandMachine(RISCV, 'iommufd, VT-d', 'auto');
    made.map(BASE, DATA, 40);
    expect(made.has()).toBe(0);
    expect(made.reach(BASE + 3, WRITE)).toBe(DATA + 3);
    expect(made.device.responses).toEqual([SUCCESS]);
    expect(made.has(Array.from({ length: 40 }, (_, i) => BASE + i))).toBe(BLOCK_PAGES);
  });

  test('an access that the guest refuses is its own fault, and the device hears that there is no page', () => {
    const made = new DemandMachine(RISCV, 'iommufd, VT-d', 'shadow');
    made.map(BASE, DATA, 1, READ);
    const faults = () => JSON.stringify(made.guest.target.save());
    const before = faults();
    expect(made.reach(BASE, WRITE)).toBe(-1);
    expect(made.device.responses).toEqual([INVALID]);
    expect(faults()).not.toBe(before);
    expect(made.reach(BASE, READ)).toBe(DATA);
  });

  test('what was asked for longest ago leaves, and is asked for again', () => {
    const made = new DemandMachine(RISCV, 'iommufd, VT-d', 'auto', { residentPages: 2 * BLOCK_PAGES });
    made.map(BASE, DATA, 3 * BLOCK_PAGES);
    const firsts = [0, 1, 2].map((i) => BASE + i * BLOCK_PAGES);
    for (const pfn of firsts) expect(made.reach(pfn, READ)).toBe(pfn - BASE + DATA);
    expect(firsts.map((pfn) => made.device.hostPfn(pfn, READ) >= 0)).toEqual([false, true, true]);
    expect(made.reach(firsts[0], READ)).toBe(DATA);
    expect(firsts.map((pfn) => made.device.hostPfn(pfn, READ) >= 0)).toEqual([true, false, true]);
  });

  test('a page of the guest’s that is no RAM cannot be had, and is no fault of the guest’s', () => {
    const made = new DemandMachine(RISCV, 'iommufd, VT-d', 'auto');
    made.map(BASE, RAM_PAGES + 5, 1);
    const before = JSON.stringify(made.guest.target.save());
    expect(made.reach(BASE, READ)).toBe(-1);
    expect(made.device.responses).toEqual([INVALID]);
    expect(JSON.stringify(made.guest.target.save())).toBe(before);
  });

  test('an answer to a request of before a device moved reaches nobody', () => {
    const made = new DemandMachine(RISCV, 'iommufd, VT-d', 'shadow');
    made.map(BASE, DATA, 1);
    expect(made.device.dmaRead(BigInt(BASE) << 12n, new Uint8Array(1))).toBe(DMA_PENDING);
    made.machine.remove(DEVICE);
    expect(made.device.responses).toEqual([INVALID]);
    made.machine.poll();
    expect(made.device.responses).toEqual([INVALID]);
  });

  test('its descriptor is readable when a page is wanted', () => {
    const made = new DemandMachine(RISCV, 'iommufd, VT-d', 'auto');
    const [descriptor] = made.machine.eventDescriptors;
    expect(made.kernel.poll(descriptor, 0)).toBe(0);
    made.device.dmaRead(BigInt(BASE) << 12n, new Uint8Array(1));
    expect(made.kernel.poll(descriptor, 0)).toBe(1);
    made.machine.poll();
    expect(made.kernel.poll(descriptor, 0)).toBe(0);
  });

  test('is refused by name where the device cannot wait, or the host does not tell', () => {
    const made = () => new DemandMachine(RISCV, 'iommufd, VT-d', 'auto', { pageRequests: false });
    expect(made).toThrow(/user-owned, on demand: \S*vfio0 has no ATS.*; shadow, on demand: \S*vfio0 has no ATS/);
  });

  test.prop([fc.integer({ min: 1, max: 30 }), fc.constantFrom(1, 2, Number.POSITIVE_INFINITY), fc.constantFrom(...rows)], { numRuns: 20 })(
    'host calls fail, or the device dies: no DMA reaches what the guest has taken away, and what is left is filled afterwards',
    (nth, times, [path, hardware]) => {
      const made = new DemandMachine(RISCV, hardware, path);
      made.map(BASE, DATA, 24);
      made.reach(BASE, READ);
      made.kernel.hooks.fail({ nth, times, errno: errno.ENOMEM });
      for (let i = 0; i < 6; i++) {
        const byte = new Uint8Array(1);
        if (made.device.dmaRead(BigInt(BASE + 4 * i) << 12n, byte) === DMA_PENDING) {
          try {
            made.machine.poll();
          } catch (error) {
            expect(error).toBeInstanceOf(HostError);
          }
        }
        made.unmap(BASE + 2 * i, 1);
        for (let gone = 0; gone <= i; gone++) expect(made.device.hostPfn(BASE + 2 * gone, READ)).toBeLessThan(0);
      }
      made.kernel.hooks.reset();
      made.machine.poll();
      if (made.path === `${path}, on demand`) expect(made.reach(BASE + 23, READ)).toBe(DATA + 23);
      else expect(made.path).toBe('blocked');
      made.machine.close();
      expect(made.has()).toBe(0);
    },
  );
});
