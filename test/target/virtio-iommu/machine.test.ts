import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { errno } from '../../../src/host/errno.ts';
import type { Host } from '../../../src/host/host.ts';
import { openHost } from '../../../src/host/registry.ts';
import { type SimDevice, type SimKernel, simKernel } from '../../../src/host/sim/index.ts';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { pfnOf, pfnOfHiLo } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { REQUEST_QUEUE } from '../../../src/target/virtio-iommu/spec/features.ts';
import { S_DEVERR, S_FAULT, S_INVAL, S_NOMEM, S_OK } from '../../../src/target/virtio-iommu/spec/requests.ts';
import { Machine } from '../../../src/vmm/machine.ts';
import type { Buffer } from '../../virtqueue/driver.ts';
import { arbitraryRequest, PAGES } from './arbitrary.ts';
import { EP, type Fixture, OTHER, start } from './fixture.ts';
import { attach, detach, map, unmap } from './requests.ts';

const RAM_PAGES = 1024;
/** MAPs name guest pages up to this one; the last few are no RAM. */
const PHYS_PAGES = RAM_PAGES + 3;

/** The device with both endpoints passed through to the simulated kernel, shadowed. */
class Passed {
  readonly kernel: SimKernel;
  readonly host: Host;
  readonly machine: Machine;
  readonly fixture: Fixture;
  readonly #ramHostPfn: number;

  constructor(bootBypass = false, ramPages = RAM_PAGES) {
    this.kernel = simKernel({ devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
    const ram = this.kernel.allocate(ramPages * 4096);
    this.#ramHostPfn = pfnOf(ram.address);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.fixture = start({ packed: false, eventIdx: false }, 128, { memory, bootBypass });
    this.host = openHost('iommufd', this.kernel);
    this.machine = new Machine({ memory, target: this.fixture.iommu, host: this.host });
    [EP, OTHER].forEach((endpoint, i) => {
      this.machine.passThrough(endpoint, this.kernel.devices[i].path);
    });
  }

  /** Statuses of the requests of one kick. */
  kick(...buffers: Buffer[]): number[] {
    const { iommu, requests } = this.fixture;
    for (const buffer of buffers) requests.add(buffer);
    expect(iommu.notify(REQUEST_QUEUE)).toBe(false);
    return requests.collect().map(({ written, bytes }) => bytes[written - 4]);
  }

  /** Map and unmap calls that an action makes. */
  calls(action: () => unknown): number {
    const before = this.host.calls.map + this.host.calls.unmap;
    action();
    return this.host.calls.map + this.host.calls.unmap - before;
  }

  /** What each page means for both endpoints, by software; and whether the hardware means the same. */
  picture(): string[] {
    return [EP, OTHER].flatMap((endpoint, i) =>
      Array.from({ length: PAGES + 4 }, (_, pfn) => {
        const found = this.#reached((access) => {
          const lg2 = this.fixture.iommu.translate(endpoint, NO_PASID, 0, pfn << 12, access);
          const [lo, hi] = this.fixture.iommu.translated;
          const gpa = pfnOfHiLo(hi, lo);
          return lg2 < 0 || gpa >= RAM_PAGES ? -1 : gpa;
        });
        return `${found} ${this.hardware(this.kernel.devices[i], pfn) === found}`;
      }),
    );
  }

  hardware(device: SimDevice, pfn: number): string {
    return this.#reached((access) => device.hostPfn(pfn, access) - (device.hostPfn(pfn, access) < 0 ? 0 : this.#ramHostPfn));
  }

  #reached(find: (access: number) => number): string {
    const read = find(READ);
    const write = find(WRITE);
    return `${Math.max(read, write, -1)}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
  }

  expectAgreement(): void {
    expect(this.picture().filter((page) => page.endsWith('false'))).toEqual([]);
  }
}

const pages = (first: number, count: number) => [BigInt(first) << 12n, (BigInt(first + count) << 12n) - 1n] as const;
const kicks = fc.array(fc.array(arbitraryRequest({ physPages: PHYS_PAGES, attachFlags: 1, mapFlags: 7 }), { minLength: 1, maxLength: 6 }), {
  minLength: 1,
  maxLength: 10,
});

describe('virtio-iommu with passed-through endpoints', () => {
  property.prop([kicks, fc.boolean()], { numRuns: 60 })(
    'random kicks: hardware = software after each, and the answers of one request a kick',
    (program, bypass) => {
      const passed = new Passed(bypass);
      const single = new Passed(bypass);
      for (const kick of program) {
        expect(passed.kick(...kick)).toEqual(kick.flatMap((request) => single.kick(request)));
        passed.expectAgreement();
        expect(passed.picture()).toEqual(single.picture());
      }
    },
  );

  property.prop([kicks, fc.integer({ min: 1, max: 12 })], { numRuns: 60 })(
    'the nth host call fails: what the guest is told is what there is, on both sides',
    (program, nth) => {
      const passed = new Passed();
      passed.kick(attach(0, EP), attach(1, OTHER));
      passed.kernel.hooks.fail({ nth, errno: errno.ENOMEM });
      for (const kick of program) {
        const before = passed.picture();
        const statuses = passed.kick(...kick);
        if (statuses.every((status) => status !== S_OK)) expect(passed.picture()).toEqual(before);
        passed.expectAgreement();
      }
    },
  );

  test('64 adjacent 4 KiB MAPs in one kick: 1 host call; one UNMAP over all: 1 (QEMU 11.1: 64, 64)', () => {
    const passed = new Passed();
    passed.kick(attach(1, EP));
    const maps = Array.from({ length: 64 }, (_, i) => map(1, ...pages(i, 1), BigInt(256 + i) << 12n));
    expect(passed.calls(() => passed.kick(...maps))).toBe(1);
    expect(passed.calls(() => passed.kick(unmap(1, ...pages(0, 64))))).toBe(1);
    expect(passed.fixture.iommu.counts.mappings).toBe(0);
  });

  test('MAP of 1 GiB at 4 KiB offset: 1 host call (QEMU 11.1: 19)', () => {
    const gib = 2 ** 18;
    const passed = new Passed(false, gib + 2);
    passed.kick(attach(1, EP));
    expect(passed.calls(() => passed.kick(map(1, ...pages(0x4_0001, gib), 0x1000n)))).toBe(1);
    expect(passed.hardware(passed.kernel.devices[0], 0x4_0001 + gib - 1)).toBe(`${gib}/3`);
    expect(passed.calls(() => passed.kick(unmap(1, ...pages(0x4_0001, gib))))).toBe(1);
  });

  test('a MAP that crosses the end of RAM is refused with FAULT, and only that one of its kick', () => {
    const passed = new Passed();
    const good = map(1, ...pages(8, 1), 0x8000n);
    const bad = map(1, ...pages(0, 4), BigInt(RAM_PAGES - 2) << 12n);
    expect(passed.kick(attach(1, EP), good, bad, map(1, ...pages(2, 1), 0x5000n), bad)).toEqual([S_OK, S_OK, S_FAULT, S_OK, S_INVAL]);
    passed.expectAgreement();
    expect(passed.fixture.iommu.counts.mappings).toBe(2);
  });

  test('ATTACH and DETACH find what came before them on the hardware, and what it refused is not there', () => {
    const passed = new Passed();
    const bad = map(1, ...pages(0, 4), BigInt(RAM_PAGES - 2) << 12n);
    const good = map(1, ...pages(8, 1), 0x8000n);
    expect(passed.kick(attach(1, EP), bad, attach(1, OTHER), good)).toEqual([S_OK, S_FAULT, S_OK, S_OK]);
    expect(passed.kick(bad, detach(1, OTHER), unmap(1, ...pages(8, 1)), bad)).toEqual([S_FAULT, S_OK, S_OK, S_FAULT]);
    passed.expectAgreement();
    expect(passed.fixture.iommu.counts.mappings).toBe(0);
  });

  test('a host without memory: NOMEM, and the UNMAP of the same kick is done', () => {
    const passed = new Passed();
    passed.kick(attach(1, EP), map(1, ...pages(0, 1), 0x8000n));
    passed.kernel.hooks.fail({ kind: 'IOMMU_IOAS_MAP', nth: 1, errno: errno.ENOSPC });
    passed.kernel.hooks.fail({ kind: 'IOMMU_IOAS_MAP', nth: 3, errno: errno.ENOMEM });
    expect(passed.kick(unmap(1, ...pages(0, 1)), map(1, ...pages(4, 1), 0x8000n))).toEqual([S_OK, S_NOMEM]);
    passed.expectAgreement();
  });

  test('an UNMAP over many mappings that the host refuses: DEVERR, and all are as they were', () => {
    const passed = new Passed();
    const all = Array.from({ length: 100 }, (_, i) => map(1, ...pages(2 * i, 1), BigInt(3 * i) << 12n));
    passed.kick(attach(1, EP));
    passed.kick(...all.slice(0, 60));
    passed.kick(...all.slice(60));
    // The one call for all of them, and the first of those that then go one by one.
    passed.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 1, errno: errno.EIO });
    passed.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 2, errno: errno.EIO });
    expect(passed.kick(unmap(1, ...pages(0, 300)))).toEqual([S_DEVERR]);
    expect(passed.fixture.iommu.counts.mappings).toBe(100);
    for (let i = 0; i < 100; i++) expect(passed.hardware(passed.kernel.devices[0], 2 * i)).toBe(`${3 * i}/3`);
    expect(passed.kick(unmap(1, ...pages(0, 300)))).toEqual([S_OK]);
    expect(passed.fixture.iommu.counts.mappings).toBe(0);
  });

  test('MMIO mappings reach no RAM on the hardware', () => {
    const passed = new Passed();
    expect(passed.kick(attach(1, EP), map(1, ...pages(3, 1), 0xfe00_0000n, 7))).toEqual([S_OK, S_OK]);
    expect(passed.hardware(passed.kernel.devices[0], 3)).toBe('-1/0');
  });

  test('endpoints of one domain share one host mapping; one that leaves keeps nothing', () => {
    const passed = new Passed();
    passed.kick(attach(1, EP), attach(1, OTHER));
    expect(passed.calls(() => passed.kick(map(1, ...pages(3, 1), 0x3000n)))).toBe(1);
    passed.expectAgreement();
    passed.kick(detach(1, OTHER));
    expect(passed.hardware(passed.kernel.devices[1], 3)).toBe('-1/0');
    passed.expectAgreement();
  });
});
