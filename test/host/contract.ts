import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno, HostError } from '../../src/host/errno.ts';
import type { HostDevice, HostSpace, IovaRange } from '../../src/host/host.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { PAGE_BYTES, PFN_LIMIT, pfnOf } from '../../src/memory/address.ts';
import type { HostFixture } from './fixture.ts';
import { compareWithModel, operation } from './model.ts';

/**
 * What every host promises (src/host/host.ts), in cases that run alike on the simulated kernel and on the real one: they see
 * the machine through a fixture only.
 */

export interface ContractOptions {
  /** Cases that cannot hold on this host, by name, and why. */
  readonly skip?: Readonly<Record<string, string>>;
  /** Random programs that the model is compared with. */
  readonly programs?: number;
  /** An unmap that a mapping sticks out of has not taken away what lies below that mapping: more than is promised. */
  readonly unmapsAllOrNothing?: boolean;
}

/** An IOVA page that every host's default aperture has, below the 28 bits that QEMU's edu reaches. */
const BASE = 0x1000;
const PAGES = 16;

/** The last page that a space can map. */
function lastOf(space: HostSpace): number {
  return space.apertures().at(-1)!.last;
}

/** Pages that the hardware behind an attached space has no IOVA for: behind the last aperture (AMD-Vi's reaches to 2^64), or the first hole. */
function unreachable(space: HostSpace): IovaRange {
  const apertures = space.apertures();
  const end = lastOf(space) + 1;
  if (end + PAGES <= PFN_LIMIT) return { first: end, last: end + PAGES - 1 };
  const next = apertures.findIndex(({ last }, index) => apertures[index + 1] !== undefined && apertures[index + 1].first > last + PAGES);
  return { first: apertures[next].last + 1, last: apertures[next].last + PAGES };
}

export function hostContract(name: string, create: () => HostFixture | Promise<HostFixture>, options: ContractOptions = {}): void {
  describe(`host contract: ${name}`, () => {
    let fixture: HostFixture;
    let memory: PortMemory;
    let ram: Uint8Array;
    let hostPfn: number;

    beforeEach(async () => {
      fixture = await create();
      memory = fixture.port.allocate(PAGES * PAGE_BYTES);
      ram = new Uint8Array(memory.buffer);
      for (let page = 0; page < PAGES; page++) ram.fill(page + 1, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
      hostPfn = pfnOf(memory.address);
    });

    afterEach(async () => {
      await fixture.close();
      memory.release();
    });

    function it(title: string, run: () => Promise<void> | void): void {
      const reason = options.skip?.[title];
      if (reason === undefined) test(title, run);
      else test.skip(`${title}: ${reason}`, run);
    }

    /** A space with the first device attached. */
    function attached(): { space: HostSpace; device: HostDevice } {
      const device = fixture.host.openDevice(fixture.devices[0]);
      const space = fixture.host.createSpace();
      expect(space.attach(device)).toBe(0);
      return { space, device };
    }

    /** Which page of `ram` a read at the IOVA page reaches (its number), or null. */
    async function reads(device: HostDevice, iova: number): Promise<number | null> {
      const bytes = await fixture.dma.read(device, BigInt(iova) << 12n);
      return bytes === null ? null : bytes[0] - 1;
    }

    it('a device reads and writes what is mapped', async () => {
      const { space, device } = attached();
      expect(space.map(BASE, hostPfn, 2, READ_WRITE)).toBe(0);
      expect(await reads(device, BASE)).toBe(0);
      expect(await reads(device, BASE + 1)).toBe(1);
      expect(await fixture.dma.write(device, (BigInt(BASE) << 12n) + 0x10n, Uint8Array.of(0x78, 0x56, 0x34, 0x12))).toBe(true);
      expect([...ram.subarray(0x10, 0x14)]).toEqual([0x78, 0x56, 0x34, 0x12]);
    });

    it('what is not mapped is refused', async () => {
      const { space, device } = attached();
      expect(space.map(BASE, hostPfn, 1, READ_WRITE)).toBe(0);
      expect(await reads(device, BASE + 1)).toBeNull();
      expect(await fixture.dma.write(device, BigInt(BASE + 1) << 12n, Uint8Array.of(9, 9, 9, 9))).toBe(false);
      expect(ram[PAGE_BYTES]).toBe(2);
    });

    it('what is unmapped is refused, and can be mapped again elsewhere', async () => {
      const { space, device } = attached();
      expect(space.map(BASE, hostPfn, 1, READ_WRITE)).toBe(0);
      expect(space.unmap(BASE, 1)).toBe(0);
      expect(await reads(device, BASE)).toBeNull();
      expect(space.map(BASE, hostPfn + 3, 1, READ_WRITE)).toBe(0);
      expect(await reads(device, BASE)).toBe(3);
    });

    it('covers the ranges that it can map in, and says of a range that it cannot', () => {
      const { space } = attached();
      expect(space.cover([{ first: BASE, last: BASE + PAGES - 1 }])).toBe(0);
      expect(space.map(BASE, hostPfn, 1, READ_WRITE)).toBe(0);
      const beyond = unreachable(space);
      // Where the hardware reaches to 2^64 there are holes only, and holes are no reason.
      if (beyond.first < lastOf(space)) return;
      expect(space.cover([{ first: BASE, last: BASE + PAGES - 1 }, beyond])).toBe(-errno.ERANGE);
      expect(space.error).toMatchObject({ errno: errno.ERANGE, range: beyond });
    });

    it('says what a device reaches before it is attached to anything: what a space then maps', async () => {
      const device = fixture.host.openDevice(fixture.devices[0]);
      const wanted = [{ first: BASE, last: BASE + PAGES - 1 }];
      expect(fixture.host.reach(device, wanted)).toEqual(wanted);
      expect(device.attachment).toBeNull();
      const all = fixture.host.reach(device, [{ first: 0, last: PFN_LIMIT - 1 }]);
      const space = fixture.host.createSpace();
      expect(space.cover(all)).toBe(0);
      expect(space.attach(device)).toBe(0);
      for (const range of all) expect(space.apertures().some(({ first, last }) => first <= range.first && range.last <= last)).toBe(true);
      const { first } = all.at(-1)!;
      expect(space.map(Math.max(first, BASE), hostPfn, 1, READ_WRITE)).toBe(0);
    });

    it('a mapping made before the device comes is there for it', async () => {
      const device = fixture.host.openDevice(fixture.devices[0]);
      const space = fixture.host.createSpace();
      expect(space.map(BASE, hostPfn + 2, 1, READ_WRITE)).toBe(0);
      expect(space.attach(device)).toBe(0);
      expect(await reads(device, BASE)).toBe(2);
    });

    it('a write to a read-only mapping is refused', async () => {
      const { space, device } = attached();
      expect(space.map(BASE, hostPfn, 1, READ)).toBe(0);
      expect(await reads(device, BASE)).toBe(0);
      expect(await fixture.dma.write(device, BigInt(BASE) << 12n, Uint8Array.of(9, 9, 9, 9))).toBe(false);
      expect(ram[0]).toBe(1);
    });

    it('a read of a write-only mapping is refused', async () => {
      const device = fixture.host.openDevice(fixture.devices[0]);
      const space = fixture.host.createSpace({ writeOnly: true });
      expect(space.attach(device)).toBe(0);
      expect(space.map(BASE, hostPfn, 1, WRITE)).toBe(0);
      expect(await fixture.dma.write(device, BigInt(BASE) << 12n, Uint8Array.of(9, 9, 9, 9))).toBe(true);
      expect(await reads(device, BASE)).toBeNull();
    });

    it('an overlapping map is EEXIST and does nothing', async () => {
      const { space, device } = attached();
      expect(space.map(BASE, hostPfn, 2, READ_WRITE)).toBe(0);
      expect(space.map(BASE + 1, hostPfn + 5, 2, READ_WRITE)).toBe(-errno.EEXIST);
      expect(await reads(device, BASE + 1)).toBe(1);
      expect(await reads(device, BASE + 2)).toBeNull();
    });

    it('unmapping a part of a mapping is ENOENT and does nothing', async () => {
      const { space, device } = attached();
      expect(space.map(BASE, hostPfn, 4, READ_WRITE)).toBe(0);
      for (const [first, pages] of [
        [BASE, 1],
        [BASE + 1, 2],
        [BASE + 3, 1],
        [BASE + 2, 8],
      ]) {
        expect(space.unmap(first, pages), `[${first}, +${pages})`).toBe(-errno.ENOENT);
      }
      for (let page = 0; page < 4; page++) expect(await reads(device, BASE + page)).toBe(page);
    });

    it('unmapping where nothing is mapped is ENOENT', () => {
      const { space } = attached();
      expect(space.unmap(BASE, 4)).toBe(-errno.ENOENT);
    });

    it('one unmap takes several mappings, holes between them included', async () => {
      const { space, device } = attached();
      for (const page of [0, 2, 5]) expect(space.map(BASE + page, hostPfn + page, 1, READ_WRITE)).toBe(0);
      expect(space.map(BASE + 9, hostPfn + 9, 1, READ_WRITE)).toBe(0);
      expect(space.unmap(BASE, 8)).toBe(0);
      for (const page of [0, 2, 5]) expect(await reads(device, BASE + page)).toBeNull();
      expect(await reads(device, BASE + 9)).toBe(9);
    });

    it('the whole space can be unmapped at once', async () => {
      const { space, device } = attached();
      expect(space.map(BASE, hostPfn, 3, READ_WRITE)).toBe(0);
      expect(space.map(BASE + 7, hostPfn + 7, 1, READ)).toBe(0);
      expect(space.unmap(0, PFN_LIMIT)).toBe(0);
      expect(await reads(device, BASE)).toBeNull();
      expect(space.unmap(0, PFN_LIMIT)).toBe(-errno.ENOENT);
    });

    it('memory that is not there is EFAULT, with operation, range and errno in the error', () => {
      const { space } = attached();
      expect(space.map(BASE, 1, 2, READ_WRITE)).toBe(-errno.EFAULT);
      const error = space.error;
      expect(error).toBeInstanceOf(HostError);
      expect(error).toMatchObject({ errno: errno.EFAULT, range: { first: BASE, last: BASE + 1 } });
      expect(error?.message).toContain('EFAULT');
      expect(error?.message).toContain('0x1000000');
      expect(space.map(BASE, hostPfn, 2, READ_WRITE)).toBe(0);
    });

    it('a map of no permission is refused', () => {
      const { space } = attached();
      expect(space.map(BASE, hostPfn, 1, 0)).toBe(-errno.EINVAL);
    });

    it('apertures are ascending, disjoint, and mappable from end to end; what lies outside is refused', () => {
      const { space } = attached();
      const apertures = space.apertures();
      expect(apertures.length).toBeGreaterThan(0);
      let end = 0;
      for (const { first, last } of apertures) {
        expect(first).toBeGreaterThanOrEqual(end);
        expect(last).toBeGreaterThanOrEqual(first);
        expect(space.map(first, hostPfn, 1, READ_WRITE), `first page ${first.toString(16)}`).toBe(0);
        if (last > first) expect(space.map(last, hostPfn, 1, READ_WRITE), `last page ${last.toString(16)}`).toBe(0);
        if (first > end) expect(space.map(first - 1, hostPfn, 1, READ_WRITE), `before ${first.toString(16)}`).toBeLessThan(0);
        if (last + 1 < PFN_LIMIT) expect(space.map(last + 1, hostPfn, 1, READ_WRITE), `behind ${last.toString(16)}`).toBeLessThan(0);
        end = last + 1;
      }
    });

    it('the granule is a page of 4 KiB or more', () => {
      const { space } = attached();
      expect(space.granuleLg2).toBeGreaterThanOrEqual(12);
    });

    it('a detached device reaches nothing', async () => {
      const { space, device } = attached();
      expect(space.map(BASE, hostPfn, 1, READ_WRITE)).toBe(0);
      expect(space.detach(device)).toBe(0);
      expect(await fixture.dma.write(device, BigInt(BASE) << 12n, Uint8Array.of(9, 9, 9, 9))).toBe(false);
      expect(ram[0]).toBe(1);
      expect(space.detach(device)).toBe(-errno.EINVAL);
    });

    it('attaching to another space replaces the first one', async () => {
      const { space, device } = attached();
      const other = fixture.host.createSpace();
      expect(space.map(BASE, hostPfn, 1, READ_WRITE)).toBe(0);
      expect(other.map(BASE, hostPfn + 1, 1, READ_WRITE)).toBe(0);
      expect(other.attach(device)).toBe(0);
      expect(await reads(device, BASE)).toBe(1);
      expect(space.attach(device)).toBe(0);
      expect(await reads(device, BASE)).toBe(0);
    });

    it('two devices share a space, and a third thing stays with the first', async () => {
      if (fixture.devices.length < 2) return;
      const { space, device } = attached();
      const second = fixture.host.openDevice(fixture.devices[1]);
      expect(space.map(BASE, hostPfn, 1, READ_WRITE)).toBe(0);
      expect(space.attach(second)).toBe(0);
      expect(await reads(second, BASE)).toBe(0);
      expect(space.detach(second)).toBe(0);
      expect(await reads(device, BASE)).toBe(0);
    });

    it('copy shares a range with another space, which outlives the first mapping', async () => {
      const { space, device } = attached();
      const other = fixture.host.createSpace();
      expect(space.map(BASE, hostPfn, 4, READ_WRITE)).toBe(0);
      expect(space.map(BASE + 4, hostPfn + 8, 2, READ_WRITE)).toBe(0);
      expect(other.copy(space, BASE + 1, 4, READ)).toBe(0);
      expect(other.copy(space, BASE + 5, 2, READ)).toBe(-errno.ENOENT);
      expect(other.error?.range).toEqual({ first: BASE + 5, last: BASE + 6 });
      expect(space.unmap(BASE, 6)).toBe(0);
      expect(other.attach(device)).toBe(0);
      expect(await reads(device, BASE)).toBeNull();
      expect(await reads(device, BASE + 1)).toBe(1);
      expect(await reads(device, BASE + 4)).toBe(8);
      expect(await fixture.dma.write(device, BigInt(BASE + 1) << 12n, Uint8Array.of(9, 9, 9, 9))).toBe(false);
    });

    it('an aperture that the hardware does not have is refused at the latest when the device comes', () => {
      const { space: any, device } = attached();
      const beyond = unreachable(any);
      expect(any.detach(device)).toBe(0);
      let answer: number | HostError;
      try {
        const space = fixture.host.createSpace({ apertures: [beyond] });
        answer = space.attach(device);
        if (answer < 0) answer = space.error as HostError;
      } catch (error) {
        answer = error as HostError;
      }
      expect(answer).toBeInstanceOf(HostError);
      expect((answer as HostError).message).toMatch(/EADDRINUSE|EINVAL|ERANGE/);
    });

    it('requirements that the hardware meets are met', async () => {
      const device = fixture.host.openDevice(fixture.devices[0]);
      const space = fixture.host.createSpace({ apertures: [{ first: BASE, last: BASE + 0xfff }], granuleLg2: 12 });
      expect(space.attach(device)).toBe(0);
      expect(space.apertures().some(({ first, last }) => first <= BASE && last >= BASE + 0xfff)).toBe(true);
      expect(space.map(BASE, hostPfn, 1, READ_WRITE)).toBe(0);
      expect(await reads(device, BASE)).toBe(0);
    });

    it('a space with a device attached cannot be closed, and goes on', async () => {
      const { space, device } = attached();
      expect(space.map(BASE, hostPfn, 1, READ_WRITE)).toBe(0);
      expect(() => space.close()).toThrow(/EBUSY/);
      expect(await reads(device, BASE)).toBe(0);
      expect(space.detach(device)).toBe(0);
      space.close();
      space.close();
    });

    it('a closed device can be opened again', () => {
      const { device } = attached();
      device.close();
      device.close();
      const again = fixture.host.openDevice(fixture.devices[0]);
      expect(fixture.host.createSpace().attach(again)).toBe(0);
    });

    it('a device that there is not is a HostError that names it', () => {
      expect(() => fixture.host.openDevice('/dev/vfio/devices/none')).toThrow(/none.*ENOENT/);
    });

    it('calls are counted by kind', () => {
      const { space, device } = attached();
      const before = { ...fixture.host.calls };
      space.map(BASE, hostPfn, 1, READ_WRITE);
      space.map(BASE + 1, hostPfn, 1, READ_WRITE);
      space.unmap(BASE, 1);
      space.detach(device);
      expect(fixture.host.calls).toMatchObject({ map: before.map + 2, unmap: before.unmap + 1, attach: before.attach + 1 });
    });

    it('a closed host has closed all that was opened through it', () => {
      const { space } = attached();
      space.map(BASE, hostPfn, 1, READ_WRITE);
      fixture.host.close();
      fixture.host.close();
    });

    it('random programs do what the model does', async () => {
      const device = fixture.host.openDevice(fixture.devices[0]);
      await fc.assert(
        fc.asyncProperty(fc.array(operation, { maxLength: 24 }), (program) => {
          const { unmapsAllOrNothing = false } = options;
          return compareWithModel(fixture, device, { base: BASE, hostPfn, unmapsAllOrNothing }, program);
        }),
        { numRuns: options.programs ?? 60 },
      );
    });
  });
}
