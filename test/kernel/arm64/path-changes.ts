import { describe, expect, test } from 'vitest';
import { StoreWatch } from '../../../src/accel/store-watch.ts';
import { ioctl } from '../../../src/host/iommufd/uapi.ts';
import type { Port } from '../../../src/host/port.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { H_PUT_TCE, HypercallRegisters, SpaprIommu } from '../../../src/target/spapr/index.ts';
import { GuestStores } from '../../accel/guest-stores.ts';
import { SYNC, tlbiPage } from '../../accel/nested/smmuv3-commands.ts';
import { DEVICE, guests, type SilentGuest } from '../../accel/silent-guests.ts';
import { ASIDS, BASE, DATA, DATA_PAGES, Dice, nestedGuest, PAGES, type PathsMachine, Subject } from './paths.ts';

/* What moves between paths on the real kernel, what is watched there, and what shows when an invalidation is left out. */

/** The port with what a test does around each ioctl; `around` answers instead of the kernel, or undefined. */
function hooked(port: Port, around: { before?(request: number): number | undefined; after?(): void }): Port {
  const call: Port['ioctl'] = (fd, request, memory) => {
    const result = around.before?.(request) ?? port.ioctl(fd, request, memory);
    around.after?.();
    return result;
  };
  return new Proxy(port, {
    get(target, name) {
      if (name === 'ioctl') return call;
      const value = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

const LIOBN = 0x8000_0000;
const ENDPOINT = 0x800;

/** A guest of sPAPR with 8 pages of its window. */
function spaprGuest(parts: PathsMachine, path: string) {
  const window = { liobn: LIOBN, start: 0n, pageLg2: 12, pages: 64 };
  let spapr: SpaprIommu | null = null;
  const subject = new Subject(parts, path, ENDPOINT, (memory) => {
    spapr = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [ENDPOINT], windows: [window] }] });
    return spapr;
  });
  const registers = new HypercallRegisters();
  const put = (page: number, to: number) => {
    registers.u64.set([BigInt(LIOBN), BigInt(page) << 12n, to < 0 ? 0n : (BigInt(to) << 12n) | 3n], 4);
    expect((spapr as unknown as SpaprIommu).hypercall(H_PUT_TCE, registers)).toBe(0);
  };
  return { subject, put };
}

export function changeCases(parts: PathsMachine): void {
  describe('a path is changed while the guest runs', () => {
    test('an sPAPR guest, shadow and user-owned: after every ioctl of a change each DMA has what it had', () => {
      let look: (() => void) | null = null;
      const port = hooked(parts.port, { after: () => look?.() });
      const { subject, put } = spaprGuest({ ...parts, port }, 'user-owned');
      const dice = new Dice();
      let looks = 0;
      for (let step = 0; step < 12; step++) {
        for (let i = 0; i < 4; i++) put(dice.roll(8), dice.roll(3) === 0 ? -1 : DATA + dice.roll(DATA_PAGES));
        subject.agrees(0n, 8);
        look = () => {
          looks++;
          subject.agrees(0n, 4);
        };
        subject.machine.changePath(['shadow', 'user-owned'][step % 2]);
        look = null;
        subject.agrees(0n, 8);
        expect(subject.machine.state.endpoints[ENDPOINT].path).toBe(['shadow', 'user-owned'][step % 2]);
      }
      expect(looks).toBeGreaterThan(40);
      subject.close();
    });

    test('an SMMUv3 guest, nested, user-owned and shadow: DMA is what software says', () => {
      const { subject, tables, guest } = nestedGuest(parts, new StoreWatch());
      const dice = new Dice();
      const names = ['shadow', 'nested', 'user-owned', 'nested', 'shadow', 'user-owned', 'nested'];
      for (const name of names) {
        for (let i = 0; i < 4; i++) {
          const page = BASE + dice.roll(PAGES);
          tables[0].table.unmap(page, 1);
          guest.command(tlbiPage(ASIDS[0], page), SYNC);
          if (dice.roll(3) > 0) tables[0].table.map(page, DATA + dice.roll(DATA_PAGES), 1, READ_WRITE);
          // Nobody tells the watch here, so that what is not nested hears of a map by an invalidation.
          guest.command(tlbiPage(ASIDS[0], page), SYNC);
        }
        subject.agrees(BigInt(BASE) << 12n, PAGES);
        subject.machine.changePath(name);
        subject.agrees(BigInt(BASE) << 12n, PAGES);
      }
      subject.close();
    });
  });

  describe('path user-owned', () => {
    test('an invalidation that is left out shows, and the next one of the page mends it', () => {
      let isLeftOut = false;
      const before = (request: number) => {
        if (!isLeftOut || request !== ioctl.IOMMU_HWPT_INVALIDATE) return undefined;
        isLeftOut = false;
        return 0;
      };
      const { subject, put } = spaprGuest({ ...parts, port: hooked(parts.port, { before }) }, 'user-owned');
      put(1, DATA);
      subject.agrees(0n, 3);
      isLeftOut = true;
      put(1, -1);
      expect(isLeftOut).toBe(false);
      expect([subject.hardware(0x1000n), subject.software(0x1000n)]).toEqual([DATA, -1]);
      put(1, DATA + 1);
      put(1, -1);
      subject.agrees(0n, 3);
      subject.close();
    });

    test('a RISC-V guest that announces no map, watched: DMA is what a walk finds after every change of its tables', () => {
      const watch = new StoreWatch();
      let made: SilentGuest | null = null;
      let stores: GuestStores | null = null;
      const make = (memory: Subject['memory']) => {
        stores = new GuestStores(memory, watch, 200, 290);
        made = guests['RISC-V, first stage'](memory, stores);
        return made.target;
      };
      const subject = new Subject(parts, 'user-owned', DEVICE, make, watch);
      expect(subject.machine.state.endpoints[DEVICE].path).toBe('user-owned, watched');
      const { table, invalidate } = made as unknown as SilentGuest;
      const commit = () => (stores as unknown as GuestStores).commit(() => {});
      const dice = new Dice();
      // The end of a 2 MiB block, so that tables are made and left.
      const first = 0x1fc;
      const { map: maps, unmap: unmaps } = subject.host.calls;
      for (let step = 0; step < 40; step++) {
        const [page, pages] = [first + dice.roll(6), 1 + dice.roll(3)];
        table.unmap(page, pages);
        commit();
        invalidate(page, pages);
        if (dice.roll(3) > 0) table.map(page, DATA + dice.roll(DATA_PAGES - 3), pages, READ_WRITE);
        commit();
        subject.agrees(BigInt(first) << 12n, 9);
      }
      expect([subject.host.calls.map - maps, subject.host.calls.unmap - unmaps]).toEqual([0, 0]);
      subject.close();
    });
  });
}
