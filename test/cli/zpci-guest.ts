import { Random } from '../peers/random.ts';
import { DATA, GuestFunction, hex, INVALID, PAGES, PROTECTED, SEGMENT_PAGES, SEGMENTS, START_PAGES } from './zpci-function.ts';

/*
 * Recordings of an s390 guest as ../recordings/README.md has them, made up: a guest with strict invalidation whose functions fault, are disabled,
 * deconfigured and enabled again, registered anew and without translation, over every designation type and frame, on a model of what QEMU answers
 * (hw/s390x/s390-pci-inst.c, s390-pci-bus.c): states of functions, and an IOTLB that RPCIT alone fills.
 */

const FIDS = [1, 2, 3, 4] as const;
/** Whose endpoint is another process: its accesses go through what was mapped for it. */
const VFIO_USER = 4;
const RAM_PAGES = 0x800;

/** PCI event codes. */
const RANGE = 2;
const PROTECTION = 4;
const ENTRY = 7;
const KEY = 0x2c;
/** Statuses. */
const IN_ERROR = 8;
const NO_ROOM = 16;
const SEQUENCE = 24;
const RECOVERY = 40;

/** What a made-up recording shows, to count. */
export const SHOWN = [
  'a translation',
  'a fault',
  'a refused RPCIT',
  'only QEMU faults',
  'disabled and enabled',
  'a malformed entry',
  'registered anew',
  'a translation by a frame of 1 MiB',
  'a translation by a frame of 2 GiB',
  'a translation by segment tables',
  'a translation by region first tables',
  'an access without translation',
  'an access in the blocked state',
  'no room',
  'all of the aperture refreshed',
  'a measurement block, and one with a key',
  'a reset',
] as const;
export type Shown = (typeof SHOWN)[number];

export class ZpciGuest {
  readonly lines: object[] = [];
  readonly #random: Random;
  readonly #functions: readonly GuestFunction[];
  readonly #show: (what: Shown) => void;

  constructor(seed: number, show: (what: Shown) => void) {
    this.#random = new Random(seed);
    this.#show = show;
    this.#functions = FIDS.map((fid) => new GuestFunction(fid, (fid + seed) % 4));
    const functions = this.#functions.map(({ fid, base, aperture }) => ({
      ...{ fid, uid: fid, handle: hex(base + 0x8000_0000), group: 255 },
      aperture: { start: hex(aperture), end: '0x1ffffffffffffff' },
    }));
    this.#line('machine', { target: 'zpci', ram: [{ gpa: '0x0', bytes: hex(RAM_PAGES * 4096) }], functions });
    for (const { fid, base, aperture } of this.#functions) {
      const answers = { rsp: '0x10', fid, uid: fid, group: 255, sdma: hex(aperture), edma: '0x1ffffffffffffff' };
      this.#line('clpQuery', { handle: hex(base), ...answers });
    }
    this.#line('clpGroup', { group: 255, rsp: '0x10', refresh: 1, dasm: '0x0', msia: '0xfe00000000000000' });
  }

  /** One thing that a guest, its devices or the recorder do. */
  step(): void {
    const random = this.#random;
    const one = random.pick(this.#functions);
    if (random.below(150) === 0) this.#reset();
    else if (one.state === 'standby') this.#configure(one, true);
    else if (one.state === 'disabled') random.chance(85) ? this.#start(one) : this.#configure(one, false);
    else if (one.state === 'error' && random.chance(60)) this.#recover(one);
    else if (one.state === 'blocked' && random.chance(30)) this.#recover(one);
    else if (!one.isRegistered) this.#register(one, 4);
    else if (one.isBypassed) random.chance(70) ? this.#access(one) : this.#leave(one);
    else {
      const often = [this.#map, this.#map, this.#unmap, this.#access, this.#access, this.#fault, this.#spoil, this.#leave];
      const seldom = [this.#frame, this.#frame, this.#flush, this.#noRoom, this.#measure, this.#interrupts];
      random.pick(random.chance(75) ? often : seldom).call(this, one);
    }
  }

  #line(op: string, fields: object): void {
    this.lines.push({ op, ...fields });
  }

  #reset(): void {
    this.#line('reset', {});
    for (const one of this.#functions) {
      if (one.state !== 'standby') one.state = 'disabled';
      one.forget();
    }
    this.#show('a reset');
  }

  #set(one: GuestFunction, oc: 0 | 1): void {
    const { handle } = one;
    const works = oc === 0 ? one.state === 'disabled' : one.isEnabled;
    if (works) {
      one.state = oc === 0 ? 'enabled' : 'disabled';
      one.forget();
    }
    this.#line('clpSet', { handle: hex(handle), oc, ndas: 1 - oc, rsp: works ? '0x10' : '0x102', newHandle: hex(one.handle) });
  }

  #start(one: GuestFunction): void {
    this.#set(one, 0);
    if (one.table.some((value) => value !== INVALID)) this.#show('disabled and enabled');
    if (this.#random.chance(80)) this.#register(one, 4);
  }

  #configure(one: GuestFunction, configured: boolean): void {
    this.#line('sclp', { command: configured ? '0x1a0001' : '0x1b0001', fid: one.fid });
    one.state = configured ? 'disabled' : 'standby';
  }

  /** `fields`: doublewords of the FIB by their offsets. */
  #mpcifc(one: GuestFunction, oc: number, status: number, fields: Readonly<Record<number, bigint>> = {}, cc = Number(status !== 0)): void {
    const fib = new DataView(new ArrayBuffer(0x50));
    for (const [at, value] of Object.entries(fields)) fib.setBigUint64(Number(at), value);
    const [pba, pal, iota] = [0x10, 0x18, 0x20].map((at) => hex(fib.getBigUint64(at)));
    const text = Buffer.from(fib.buffer).toString('hex');
    this.#line('mpcifc', { handle: hex(one.handle), dmaas: 0, oc, pba, pal, iota, fib: text, cc, status });
  }

  /** Registers, or with 6 registers anew, the tables as they are; now and then no tables at all. */
  #register(one: GuestFunction, oc: 4 | 6): void {
    const works = one.isRegistered === (oc === 6);
    if (works) {
      one.iotlb.clear();
      one.isRegistered = true;
      one.isBypassed = this.#random.chance(15);
      if (oc === 6) this.#show('registered anew');
    }
    this.#showTable(one);
    this.#mpcifc(one, oc, works ? 0 : SEQUENCE, { 16: one.aperture, 24: one.pal, 32: one.iota });
  }

  /** A function is disabled, or loses its registration; now and then what makes no sense is asked for. */
  #leave(one: GuestFunction): void {
    const random = this.#random;
    const how = one.state === 'enabled' ? random.below(5) : 4;
    if (how === 0) this.#register(one, 4);
    else if (how === 1) this.#register(one, 6);
    else if (how === 2) this.#mpcifc(one, random.pick([7, 9]), SEQUENCE);
    else if (how === 3) {
      this.#mpcifc(one, 5, 0);
      one.isRegistered = false;
      one.isBypassed = false;
      one.iotlb.clear();
    } else this.#set(one, 1);
  }

  #interrupts(one: GuestFunction): void {
    const oc = this.#random.pick([2, 3] as const);
    const works = one.hasInterrupts === (oc === 3);
    if (works) one.hasInterrupts = oc === 2;
    this.#mpcifc(one, oc, works ? 0 : SEQUENCE, { 40: 0x2010_0000n << 32n, 48: 0x3f_1000n, 56: 0x3f_1100n });
  }

  #measure(one: GuestFunction): void {
    const address = this.#random.pick([0x3f_0000n, 0n]);
    this.#mpcifc(one, 10, 0, { 64: address });
    const { state } = one;
    this.#mpcifc(one, 10, 0, { 64: address | 1n }, 1);
    this.#event(one, KEY, address | 1n);
    one.state = state;
    this.#show('a measurement block, and one with a key');
  }

  /** Out of the error state as Linux does it, or by way of a disabled function. */
  #recover(one: GuestFunction): void {
    if (this.#random.chance(40)) this.#set(one, 1);
    else if (one.state === 'error' && this.#random.chance(60)) {
      this.#mpcifc(one, 9, 0);
      one.state = 'blocked';
    } else {
      this.#mpcifc(one, 7, 0);
      one.state = 'enabled';
    }
  }

  #range(): { first: number; pages: number } {
    const first = this.#random.below(PAGES);
    return { first, pages: Math.min(PAGES - first, 1 + this.#random.below(this.#random.chance(80) ? 4 : 200)) };
  }

  /** Page tables in the place of frames, which map nothing yet. */
  #split(one: GuestFunction, first: number, pages: number): void {
    if (one.isLarge) {
      one.frameLarge(null);
      this.#rpcit(one, 0, PAGES);
    }
    for (const segment of one.segmentsOf(first, pages)) {
      if (one.frames[segment] === null) continue;
      one.frame(segment, null);
      this.#rpcit(one, segment * SEGMENT_PAGES, SEGMENT_PAGES);
    }
  }

  #map(one: GuestFunction): void {
    const { first, pages } = this.#range();
    this.#split(one, first, pages);
    this.#put(one, first, pages);
    this.#rpcit(one, first, pages);
  }

  #put(one: GuestFunction, first: number, pages: number): void {
    const to = DATA + this.#random.below(RAM_PAGES - DATA - pages);
    const flags = this.#random.chance(20) ? PROTECTED : 0n;
    for (let i = 0; i < pages; i++) {
      if (one.table[first + i] === INVALID) one.table[first + i] = (BigInt(to + i) << 12n) | flags;
    }
  }

  #unmap(one: GuestFunction): void {
    const { first, pages } = this.#range();
    this.#split(one, first, pages);
    one.table.fill(INVALID, first, first + pages);
    this.#rpcit(one, first, pages);
  }

  /** A frame of 1 MiB, or of 2 GiB where there are tables for it. */
  #frame(one: GuestFunction): void {
    const random = this.#random;
    const flags = random.chance(20) ? PROTECTED : 0n;
    this.#split(one, 0, PAGES);
    if (one.designation > 0 && random.chance(50)) {
      one.frameLarge(flags);
      this.#rpcit(one, 0, PAGES);
      return;
    }
    const segment = random.below(SEGMENTS);
    one.frame(segment, DATA + SEGMENT_PAGES * random.below((RAM_PAGES - DATA) / SEGMENT_PAGES), flags);
    this.#rpcit(one, segment * SEGMENT_PAGES, SEGMENT_PAGES);
  }

  #flush(one: GuestFunction): void {
    this.#rpcit(one, 0, PAGES);
    this.#show('all of the aperture refreshed');
  }

  /** The recorded host is full; Linux flushes all, and the tables have the pages already. */
  #noRoom(one: GuestFunction): void {
    if (one.state === 'error') return;
    const { first, pages } = this.#range();
    this.#split(one, first, pages);
    this.#put(one, first, pages);
    this.#showTable(one);
    this.#line('rpcit', { handle: hex(one.handle), iova: hex(one.at(first)), bytes: hex(pages * 4096), cc: 1, status: NO_ROOM });
    this.#rpcit(one, 0, PAGES);
    this.#show('no room');
  }

  /** The recorder makes an entry invalid, or one that cannot be (QEMU: a page entry of zeros). */
  #spoil(one: GuestFunction): void {
    const mapped = one.table.flatMap((value, page) => (value === INVALID ? [] : [page]));
    if (mapped.length === 0) return;
    const page = this.#random.pick(mapped);
    this.#split(one, page, 1);
    one.table[page] = this.#random.chance(50) ? 0n : INVALID;
    this.#showTable(one);
    this.#line('tampered', { function: one.fid, iova: hex(one.at(page)), entry: hex(one.table[page]!) });
    this.#rpcit(one, page, 1);
    one.table[page] = INVALID;
  }

  #rpcit(one: GuestFunction, first: number, pages: number): void {
    this.#showTable(one);
    const { handle } = one;
    let status = 0;
    if (one.state === 'error') {
      status = RECOVERY;
      this.#show('a refused RPCIT');
    } else {
      for (let page = first; page < first + pages && status === 0; page++) {
        const value = one.table[page]!;
        if (value === 0n) {
          status = IN_ERROR;
          this.#show('a malformed entry');
          this.#event(one, ENTRY, one.at(page));
        } else if (value === INVALID) one.iotlb.delete(page);
        else one.iotlb.set(page, value);
        if (one.fid === VFIO_USER) this.#line('peerUnmap', { function: one.fid, iova: hex(one.at(page)), bytes: '0x1000' });
      }
    }
    this.#line('rpcit', { handle: hex(handle), iova: hex(one.at(first)), bytes: hex(pages * 4096), cc: Number(status !== 0), status });
  }

  #event(one: GuestFunction, pec: number, address: bigint): void {
    this.#line('event', { kind: 'error', handle: hex(one.handle), fid: one.fid, faddr: hex(address), pec, ccdf: '' });
    one.state = 'error';
  }

  #access(one: GuestFunction): void {
    if (one.state !== 'enabled' && one.state !== 'blocked') return;
    const by = one.fid === VFIO_USER ? { by: 'vfio-user', access: 'read' } : {};
    if (one.isBypassed) {
      const page = this.#random.below(START_PAGES);
      this.#line('xlate', { function: one.fid, iova: hex(one.at(page)), addr: hex(page * 4096), perm: 3, ...by });
      this.#show('an access without translation');
      return;
    }
    const pages = one.translated;
    if (pages.length === 0) return;
    // What the endpoint does not find among its own mappings QEMU never hears of.
    const empty = one.empty;
    if (one.fid === VFIO_USER && empty.length > 0)
      this.#line('xlate', {
        function: one.fid,
        iova: hex(one.at(this.#random.pick(empty))),
        fault: true,
        by: 'vfio-user',
        access: 'write',
      });
    for (let i = 0; i < 5; i++) {
      const page = this.#random.pick(pages);
      this.#line('xlate', { function: one.fid, ...this.#place(one, page), ...by });
      this.#show(one.state === 'blocked' ? 'an access in the blocked state' : 'a translation');
      if (one.isLarge) this.#show('a translation by a frame of 2 GiB');
      if (one.frames[Math.floor(page / SEGMENT_PAGES)] !== null) this.#show('a translation by a frame of 1 MiB');
      if (one.designation === 0) this.#show('a translation by segment tables');
      if (one.designation === 3) this.#show('a translation by region first tables');
    }
  }

  #place(one: GuestFunction, page: number): { iova: string; addr: string; perm: number } {
    const offset = BigInt(this.#random.below(4096));
    const value = one.table[page]!;
    const perm = (value & PROTECTED) === 0n ? 3 : 1;
    return { iova: hex(one.at(page) + offset), addr: hex((value & ~0xfffn) + offset), perm };
  }

  /** An access that QEMU refuses: unmapped, not to be written, below PBA, above PAL, or mapped and never refreshed. */
  #fault(one: GuestFunction): void {
    if (one.state !== 'enabled' && one.state !== 'blocked') return;
    const random = this.#random;
    const pages = one.translated;
    const isIn = (page: number) => one.table[page] !== INVALID && one.table[page] !== 0n;
    const unrefreshed = one.table.flatMap((_, page) => (isIn(page) && !one.iotlb.has(page) && one.isShown(page) ? [page] : []));
    const guarded = pages.filter((page) => (one.table[page]! & PROTECTED) !== 0n);
    const kind = random.below(5);
    let iova = one.aperture - 4096n;
    let pec = RANGE;
    let fields: object = {};
    if (kind === 0 && guarded.length > 0) {
      const { iova: where, ...rest } = this.#place(one, random.pick(guarded));
      [iova, pec, fields] = [BigInt(where), PROTECTION, { ...rest, access: 'write' }];
    } else if (kind < 3 && unrefreshed.length > 0) {
      [iova, pec, fields] = [one.at(random.pick(unrefreshed)), PROTECTION, { unrefreshed: true }];
      this.#show('only QEMU faults');
    } else if (kind < 4) {
      const empty = one.empty;
      if (empty.length === 0) return;
      [iova, pec, fields] = [one.at(random.pick(empty)), PROTECTION, { access: random.pick(['read', 'write']) }];
    } else if (random.chance(30)) {
      this.#line('provoked', { function: one.fid, iova: hex(one.pal + 1n), access: 'read', errno: 19 });
      return;
    }
    this.#line('xlate', { function: one.fid, iova: hex(iova), fault: true, ...fields });
    this.#event(one, pec, iova);
    this.#line('provoked', { function: one.fid, iova: hex(iova), access: 'read', errno: 14 });
    this.#show('a fault');
    // The endpoint's own mappings are still there.
    if (one.fid === VFIO_USER && pages.length > 0)
      this.#line('xlate', { function: one.fid, ...this.#place(one, random.pick(pages)), by: 'vfio-user', access: 'read' });
  }

  #showTable(one: GuestFunction): void {
    for (const memory of one.show()) this.#line('mem', memory);
  }
}
