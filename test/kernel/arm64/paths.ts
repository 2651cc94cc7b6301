import { describe, expect, test } from 'vitest';
import type { StoreWatch } from '../../../src/accel/store-watch.ts';
import { type IommufdDevice, IommufdHost } from '../../../src/host/iommufd/index.ts';
import type { Port } from '../../../src/host/port.ts';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { hiOf, joinHiLo, loOf, pfnOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { get } from '../../../src/target/fields.ts';
import { EVENT, RECORD } from '../../../src/target/smmuv3/spec/events.ts';
import { H_PUT_TCE, HypercallRegisters, SpaprIommu } from '../../../src/target/spapr/index.ts';
import { NO_PASID, type Target } from '../../../src/target/target.ts';
import { Machine } from '../../../src/vmm/machine.ts';
import { cfgiCd, cfgiSte, SYNC, tlbiAll, tlbiAsid, tlbiPage } from '../../accel/nested/smmuv3-commands.ts';
import { Guest as SmmuDriver } from '../../target/smmuv3/guest.ts';
import { EP, start } from '../../target/virtio-iommu/fixture.ts';
import { attach, map, unmap } from '../../target/virtio-iommu/requests.ts';
import type { Testdev } from '../vm/pci.ts';
import { PATTERN } from './smmu-guest.ts';

/*
 * Guests on the paths of a real kernel behind an SMMUv3 of two stages: what the device's writes reach is what software says, after every
 * completion that the guest sees.
 */

const RAM_PAGES = 512;
/** Guest pages that guests map, behind all that they keep. */
export const DATA = 300;
export const DATA_PAGES = 150;

export interface PathsMachine {
  readonly port: Port;
  /** Of the device. */
  readonly path: string;
  device(fd: number): Testdev;
}

/** The same numbers each time. */
export class Dice {
  #state = 0x2545_f491;

  /** 0 to n - 1. */
  roll(n: number): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * n);
  }
}

/** A guest with one device, passed through. */
export class Subject {
  readonly memory: GuestMemory;
  readonly host: IommufdHost;
  readonly machine: Machine;
  readonly #target: Target;
  readonly #endpoint: number;
  readonly #words: Uint32Array;
  readonly #testdev: Testdev;

  /** `watch`: stores to the guest's tables are said to it. */
  constructor(parts: PathsMachine, path: string, endpoint: number, make: (memory: GuestMemory) => Target, watch?: StoreWatch) {
    const ram = parts.port.allocate(RAM_PAGES * 4096);
    this.#words = new Uint32Array(ram.buffer);
    this.memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.host = new IommufdHost(parts.port);
    this.#target = make(this.memory);
    this.#endpoint = endpoint;
    this.machine = new Machine({ memory: this.memory, target: this.#target, host: this.host, path, ...(watch && { watch }) });
    const device = this.machine.passThrough(endpoint, parts.path) as IommufdDevice;
    this.#testdev = parts.device(device.fd);
  }

  /** The guest page that a write of the device reaches, where it can be told; -1: none. */
  hardware(iova: bigint): number {
    for (let page = DATA; page < DATA + DATA_PAGES; page++) this.#words[page * 1024] = 0;
    const done = this.#testdev.write(iova);
    const found = this.#words.indexOf(PATTERN, DATA * 1024);
    return done && found >= 0 ? Math.floor(found / 1024) : -1;
  }

  software(iova: bigint): number {
    const lg2 = this.#target.translate(this.#endpoint, NO_PASID, hiOf(iova), loOf(iova), WRITE);
    if (lg2 < 0) return -1;
    const [lo, hi] = this.#target.translated;
    const page = pfnOf(joinHiLo(hi, lo));
    return page < RAM_PAGES ? page : -1;
  }

  /** Compares every page. */
  agrees(first: bigint, pages: number): void {
    const iovas = Array.from({ length: pages }, (_, i) => first + BigInt(i * 4096));
    expect(iovas.map((iova) => this.hardware(iova))).toEqual(iovas.map((iova) => this.software(iova)));
  }

  close(): void {
    this.machine.close();
    this.host.close();
  }
}

const STREAM = 0x20;
export const BASE = 0x1_2340;
export const PAGES = 10;
export const ASIDS = [7, 8];
const [ABORT, BYPASS, STAGE_1] = [0, 4, 5];

/** Guest of an SMMUv3 whose tables the hardware walks. */
export function nestedGuest(parts: PathsMachine, watch?: StoreWatch) {
  let driver: SmmuDriver | null = null;
  const subject = new Subject(
    parts,
    'nested',
    STREAM,
    (memory) => {
      driver = new SmmuDriver({}, memory);
      driver.smmu.addEndpoint(STREAM);
      return driver.smmu;
    },
    watch,
  );
  const guest = driver as unknown as SmmuDriver;
  guest.start();
  const tables = ASIDS.map(() => guest.table({ inputBits: 48, outputBits: 44 }));
  const context = (table: number) => {
    const fields = { T0SZ: 16, EPD1: 1, V: 1, IPS: 4, AA64: 1, R: 1, A: 1, AFFD: 1, ASID: ASIDS[table], TTB0: tables[table].root * 256 };
    guest.setContext(0, fields);
    guest.command(cfgiCd(STREAM), SYNC);
  };
  const stream = (config: number) => {
    guest.setStream(STREAM, { CONFIG: config, S1CONTEXT_PTR: 0xd000 / 64 });
    guest.command(cfgiSte(STREAM), SYNC);
  };
  context(0);
  stream(STAGE_1);
  return { subject, guest, tables, context, stream };
}

export function pathCases(parts: PathsMachine): void {
  describe('path nested, SMMUv3 guest', () => {
    test('a random program: DMA is what software says after every CMD_SYNC', () => {
      const dice = new Dice();
      const { subject, tables, guest, context, stream } = nestedGuest(parts);
      for (let step = 0; step < 60; step++) {
        const kind = dice.roll(10);
        if (kind === 0) stream([ABORT, BYPASS, STAGE_1, STAGE_1][dice.roll(4)]);
        else if (kind === 1) context(dice.roll(2));
        else {
          const which = dice.roll(2);
          const first = dice.roll(PAGES);
          const pages = Math.min(1 + dice.roll(5), PAGES - first);
          tables[which].table.unmap(BASE + first, pages);
          const each = Array.from({ length: pages }, (_, i) => tlbiPage(ASIDS[which], BASE + first + i));
          guest.command(...[each, [tlbiAsid(ASIDS[which])], [tlbiAll]][dice.roll(3)], SYNC);
          const permission = dice.roll(4) === 0 ? READ : READ_WRITE;
          if (kind < 7) tables[which].table.map(BASE + first, DATA + dice.roll(DATA_PAGES - pages), pages, permission);
        }
        subject.agrees(BigInt(BASE) << 12n, PAGES);
      }
      const { map: maps, unmap: unmaps } = subject.host.calls;
      expect([maps, unmaps]).toEqual([1, 0]);
      subject.close();
    });

    test('an invalidation that is left out shows', () => {
      const { subject, tables, guest } = nestedGuest(parts);
      tables[0].table.map(BASE, DATA, 1, READ_WRITE);
      subject.agrees(BigInt(BASE) << 12n, 1);
      tables[0].table.unmap(BASE, 1);
      expect(subject.hardware(BigInt(BASE) << 12n)).toBe(DATA);
      guest.command(tlbiPage(ASIDS[0], BASE), SYNC);
      expect(subject.hardware(BigInt(BASE) << 12n)).toBe(-1);
      subject.close();
    });

    test('faults are events of the target, with the guest’s stream', () => {
      const { subject, tables, guest } = nestedGuest(parts);
      tables[0].table.map(BASE, DATA, 1, READ);
      subject.hardware(BigInt(BASE) << 12n);
      subject.hardware(BigInt(BASE + 1) << 12n);
      for (let i = 0; i < 100 && guest.read(0x1_00a8) === 0; i++) subject.machine.poll();
      const events = guest.events().map((words) => [get(words, RECORD.NUMBER), get(words, RECORD.STREAM), words[4] >>> 12]);
      expect(events).toEqual([
        [EVENT.F_PERMISSION, STREAM, BASE & 0xf_ffff],
        [EVENT.F_TRANSLATION, STREAM, (BASE + 1) & 0xf_ffff],
      ]);
      subject.close();
    });
  });

  describe('path user-owned', () => {
    test('an sPAPR guest: DMA is what software says after every hypercall, with no map call', () => {
      const LIOBN = 0x8000_0000;
      const ENDPOINT = 0x800;
      const window = { liobn: LIOBN, start: 0n, pageLg2: 12, pages: 64 };
      let spapr: SpaprIommu | null = null;
      const subject = new Subject(parts, 'user-owned', ENDPOINT, (memory) => {
        spapr = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [ENDPOINT], windows: [window] }] });
        return spapr;
      });
      const registers = new HypercallRegisters();
      const dice = new Dice();
      const before = { ...subject.host.calls };
      for (let step = 0; step < 60; step++) {
        const page = dice.roll(8);
        const tce = dice.roll(3) === 0 ? 0n : (BigInt(DATA + dice.roll(DATA_PAGES)) << 12n) | 3n;
        registers.u64.set([BigInt(LIOBN), BigInt(page) << 12n, tce], 4);
        expect((spapr as unknown as SpaprIommu).hypercall(H_PUT_TCE, registers)).toBe(0);
        subject.agrees(0n, 8);
      }
      const { map: maps, unmap: unmaps } = subject.host.calls;
      expect([maps - before.map, unmaps - before.unmap]).toEqual([0, 0]);
      subject.close();
    });

    test('a virtio-iommu guest: DMA is what software says after every request, with no map call', () => {
      let fixture: ReturnType<typeof start> | null = null;
      const subject = new Subject(parts, 'user-owned', EP, (memory) => {
        fixture = start({ packed: false, eventIdx: false }, 32, { memory });
        return fixture.iommu;
      });
      const { requests, iommu } = fixture as unknown as ReturnType<typeof start>;
      const kick = (request: Parameters<typeof requests.add>[0]) => {
        requests.add(request);
        while (iommu.notify(0));
        const [{ bytes }] = requests.collect();
        return bytes[bytes.length - 4];
      };
      expect(kick(attach(1, EP))).toBe(0);
      const dice = new Dice();
      const first = 0x10_0000n;
      const { map: maps, unmap: unmaps } = { ...subject.host.calls };
      for (let step = 0; step < 60; step++) {
        const iova = first + BigInt(dice.roll(8) * 4096);
        kick(unmap(1, iova, iova + 0xfffn));
        if (dice.roll(3) > 0) expect(kick(map(1, iova, iova + 0xfffn, BigInt(DATA + dice.roll(DATA_PAGES)) << 12n))).toBe(0);
        subject.agrees(first, 8);
      }
      expect([subject.host.calls.map - maps, subject.host.calls.unmap - unmaps]).toEqual([0, 0]);
      subject.close();
    });
  });
}
