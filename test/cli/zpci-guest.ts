import { Random } from '../peers/random.ts';

/*
 * Recordings of an s390 guest as ../recordings/README.md has them, made up: a guest with strict invalidation whose functions fault, are disabled,
 * deconfigured and enabled again, on a model of what QEMU answers (hw/s390x/s390-pci-inst.c, s390-pci-bus.c): states of functions, and an IOTLB
 * that RPCIT alone fills.
 */

const FIDS = [1, 2, 3, 4] as const;
/** Whose endpoint is another process: its accesses go through what was mapped for it. */
const VFIO_USER = 4;
const APERTURE = 0x1_0000_0000n;
/** 2 MiB of it are registered. */
const PAGES = 512;
const PAL = APERTURE + BigInt(PAGES) * 4096n - 1n;
const TABLES = 0x10_0000;
const DATA = 0x400;
const RAM_PAGES = 0x800;
const INVALID = 0x400n;
const PROTECTED = 0x200n;

/** PCI event codes. */
const RANGE = 2;
const PROTECTION = 4;
const ENTRY = 7;
/** Statuses. */
const IN_ERROR = 8;
const SEQUENCE = 24;
const RECOVERY = 40;

type State = 'standby' | 'disabled' | 'enabled' | 'blocked' | 'error';

/** What a made-up recording shows, to count. */
export type Shown = 'a fault' | 'a refused RPCIT' | 'only QEMU faults' | 'disabled and enabled' | 'a malformed entry' | 'a translation';

const hex = (value: number | bigint) => `0x${value.toString(16)}`;
const at = (page: number) => APERTURE + BigInt(page) * 4096n;

class Fn {
  readonly fid: number;
  state: State = 'disabled';
  isRegistered = false;
  /** Page table entries: as the guest has them, as lines have shown them, and as QEMU's IOTLB has them. */
  readonly table: bigint[] = new Array(PAGES).fill(INVALID);
  readonly shown: bigint[] = new Array(PAGES).fill(0n);
  readonly iotlb = new Map<number, bigint>();

  constructor(fid: number) {
    this.fid = fid;
  }

  get tables(): number {
    return TABLES + this.fid * 0x1_0000;
  }
  get base(): number {
    return 0x2_0000 + this.fid - 1;
  }
  get isEnabled(): boolean {
    return this.state === 'enabled' || this.state === 'blocked' || this.state === 'error';
  }
  get handle(): number {
    return this.isEnabled ? this.base + 0x8000_0000 : this.base;
  }
}

export class ZpciGuest {
  readonly lines: object[] = [];
  readonly #random: Random;
  readonly #functions = FIDS.map((fid) => new Fn(fid));
  readonly #show: (what: Shown) => void;

  constructor(seed: number, show: (what: Shown) => void) {
    this.#random = new Random(seed);
    this.#show = show;
    const functions = this.#functions.map(({ fid, base }) => ({
      ...{ fid, uid: fid, handle: hex(base + 0x8000_0000), group: 255 },
      aperture: { start: hex(APERTURE), end: '0x1ffffffffffffff' },
    }));
    this.#line('machine', { target: 'zpci', ram: [{ gpa: '0x0', bytes: hex(RAM_PAGES * 4096) }], functions });
    for (const { fid, base } of this.#functions) {
      const answers = { rsp: '0x10', fid, uid: fid, group: 255, sdma: hex(APERTURE), edma: '0x1ffffffffffffff' };
      this.#line('clpQuery', { handle: hex(base), ...answers });
    }
    this.#line('clpGroup', { group: 255, rsp: '0x10', refresh: 1, dasm: '0x0', msia: '0xfe00000000000000' });
    for (const one of this.#functions) {
      // Region third entry 2, and two segments.
      this.#line('mem', { addr: hex(one.tables + 16), hex: entry(BigInt(one.tables + 0x4000) | 7n) });
      this.#line('mem', { addr: hex(one.tables + 0x4000), hex: entry(BigInt(one.tables + 0x8000)) + entry(BigInt(one.tables + 0x8800)) });
    }
  }

  /** One thing that a guest, its devices or the recorder do. */
  step(): void {
    const random = this.#random;
    const one = random.pick(this.#functions);
    if (one.state === 'standby') this.#configure(one, true);
    else if (one.state === 'disabled') random.chance(85) ? this.#start(one) : this.#configure(one, false);
    else if (one.state !== 'enabled' && random.chance(60)) this.#recover(one);
    else if (!one.isRegistered) this.#register(one);
    else
      random.pick([this.#map, this.#map, this.#unmap, this.#access, this.#access, this.#fault, this.#spoil, this.#leave]).call(this, one);
  }

  #line(op: string, fields: object): void {
    this.lines.push({ op, ...fields });
  }

  #set(one: Fn, oc: 0 | 1): void {
    const { handle } = one;
    const works = oc === 0 ? one.state === 'disabled' : one.isEnabled;
    if (works) {
      one.state = oc === 0 ? 'enabled' : 'disabled';
      this.#forget(one);
    }
    this.#line('clpSet', { handle: hex(handle), oc, ndas: 1 - oc, rsp: works ? '0x10' : '0x102', newHandle: hex(one.handle) });
  }

  #forget(one: Fn): void {
    one.isRegistered = false;
    one.iotlb.clear();
  }

  #start(one: Fn): void {
    this.#set(one, 0);
    if (one.iotlb.size === 0 && one.table.some((value) => value !== INVALID)) this.#show('disabled and enabled');
    if (this.#random.chance(80)) this.#register(one);
  }

  #configure(one: Fn, configured: boolean): void {
    this.#line('sclp', { command: configured ? '0x1a0001' : '0x1b0001', fid: one.fid });
    one.state = configured ? 'disabled' : 'standby';
  }

  #mpcifc(one: Fn, oc: number, status: number): void {
    const fib = new DataView(new ArrayBuffer(0x50));
    const [pba, pal, iota] = oc === 4 ? [APERTURE, PAL, BigInt(one.tables) | 0x804n] : [0n, 0n, 0n];
    [pba, pal, iota].forEach((value, i) => {
      fib.setBigUint64(0x10 + 8 * i, value);
    });
    const fields = { pba: hex(pba), pal: hex(pal), iota: hex(iota), fib: Buffer.from(fib.buffer).toString('hex') };
    this.#line('mpcifc', { handle: hex(one.handle), dmaas: 0, oc, ...fields, cc: Number(status !== 0), status });
  }

  #register(one: Fn): void {
    this.#showTable(one);
    this.#mpcifc(one, 4, one.isRegistered ? SEQUENCE : 0);
    one.isRegistered = true;
  }

  /** A function is disabled, or loses its registration; now and then what makes no sense is asked for. */
  #leave(one: Fn): void {
    const random = this.#random;
    const how = one.state === 'enabled' ? random.below(4) : 3;
    if (how === 0) this.#register(one);
    else if (how === 1) this.#mpcifc(one, random.pick([7, 9]), SEQUENCE);
    else if (how === 2) {
      this.#mpcifc(one, 5, 0);
      this.#forget(one);
    } else this.#set(one, 1);
  }

  /** Out of the error state as Linux does it, or by way of a disabled function. */
  #recover(one: Fn): void {
    if (this.#random.chance(50)) {
      this.#set(one, 1);
      return;
    }
    if (one.state === 'error' && this.#random.chance(50)) {
      this.#mpcifc(one, 9, 0);
      one.state = 'blocked';
    }
    this.#mpcifc(one, 7, 0);
    one.state = 'enabled';
  }

  #range(): { first: number; pages: number } {
    const first = this.#random.below(PAGES);
    return { first, pages: Math.min(PAGES - first, 1 + this.#random.below(this.#random.chance(80) ? 4 : 60)) };
  }

  #map(one: Fn): void {
    const { first, pages } = this.#range();
    const to = DATA + this.#random.below(RAM_PAGES - DATA - pages);
    const flags = this.#random.chance(20) ? PROTECTED : 0n;
    for (let i = 0; i < pages; i++) {
      if (one.table[first + i] === INVALID) one.table[first + i] = (BigInt(to + i) << 12n) | flags;
    }
    this.#rpcit(one, first, pages);
  }

  #unmap(one: Fn): void {
    const { first, pages } = this.#range();
    one.table.fill(INVALID, first, first + pages);
    this.#rpcit(one, first, pages);
  }

  /** The recorder makes an entry invalid, or one that cannot be (QEMU: a page entry of zeros). */
  #spoil(one: Fn): void {
    const mapped = one.table.flatMap((value, page) => (value === INVALID ? [] : [page]));
    if (mapped.length === 0) return;
    const page = this.#random.pick(mapped);
    one.table[page] = this.#random.chance(50) ? 0n : INVALID;
    this.#showTable(one);
    this.#line('tampered', { function: one.fid, iova: hex(at(page)), entry: hex(one.table[page]!) });
    this.#rpcit(one, page, 1);
    one.table[page] = INVALID;
  }

  #rpcit(one: Fn, first: number, pages: number): void {
    this.#showTable(one);
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
          this.#event(one, ENTRY, at(page));
        } else if (value === INVALID) one.iotlb.delete(page);
        else one.iotlb.set(page, value);
        if (one.fid === VFIO_USER) this.#line('peerUnmap', { function: one.fid, iova: hex(at(page)), bytes: '0x1000' });
      }
    }
    const handle = hex(one.isEnabled ? one.base + 0x8000_0000 : one.base);
    this.#line('rpcit', { handle, iova: hex(at(first)), bytes: hex(pages * 4096), cc: Number(status !== 0), status });
  }

  #event(one: Fn, pec: number, address: bigint): void {
    this.#line('event', { kind: 'error', handle: hex(one.handle), fid: one.fid, faddr: hex(address), pec, ccdf: '' });
    one.state = 'error';
  }

  /** Pages that QEMU translates, and that the table has. */
  #translated(one: Fn): number[] {
    return [...one.iotlb].flatMap(([page, value]) => (one.table[page] === value ? [page] : []));
  }

  #access(one: Fn): void {
    const pages = this.#translated(one);
    if (pages.length === 0 || one.state !== 'enabled') return;
    const empty = one.table.flatMap((value, page) => (value === INVALID && !one.iotlb.has(page) ? [page] : []));
    // What the endpoint does not find among its own mappings QEMU never hears of.
    if (one.fid === VFIO_USER && empty.length > 0)
      this.#line('xlate', { function: one.fid, iova: hex(at(this.#random.pick(empty))), fault: true, by: 'vfio-user', access: 'write' });
    for (let i = 0; i < 5; i++) {
      const page = this.#random.pick(pages);
      const by = one.fid === VFIO_USER ? { by: 'vfio-user', access: 'read' } : {};
      this.#line('xlate', { function: one.fid, ...this.#place(one, page), ...by });
      this.#show('a translation');
    }
  }

  #place(one: Fn, page: number): { iova: string; addr: string; perm: number } {
    const offset = BigInt(this.#random.below(4096));
    const value = one.table[page]!;
    const perm = (value & PROTECTED) === 0n ? 3 : 1;
    return { iova: hex(at(page) + offset), addr: hex((value & ~0xfffn) + offset), perm };
  }

  /** An access that QEMU refuses: unmapped, not to be written, below PBA, above PAL, or mapped and never refreshed. */
  #fault(one: Fn): void {
    if (one.state !== 'enabled') return;
    const random = this.#random;
    const pages = this.#translated(one);
    const isIn = (page: number) => one.table[page] !== INVALID && one.table[page] !== 0n;
    const unrefreshed = one.table.flatMap((_, page) =>
      isIn(page) && !one.iotlb.has(page) && one.shown[page] === one.table[page] ? [page] : [],
    );
    const guarded = pages.filter((page) => (one.table[page]! & PROTECTED) !== 0n);
    const kind = random.below(5);
    let iova = APERTURE - 4096n;
    let pec = RANGE;
    let fields: object = {};
    if (kind === 0 && guarded.length > 0) {
      const { iova: where, ...rest } = this.#place(one, random.pick(guarded));
      [iova, pec, fields] = [BigInt(where), PROTECTION, { ...rest, access: 'write' }];
    } else if (kind < 3 && unrefreshed.length > 0) {
      [iova, pec, fields] = [at(random.pick(unrefreshed)), PROTECTION, { unrefreshed: true }];
      this.#show('only QEMU faults');
    } else if (kind < 4) {
      const empty = one.table.flatMap((value, page) => (value === INVALID && !one.iotlb.has(page) ? [page] : []));
      if (empty.length === 0) return;
      [iova, pec, fields] = [at(random.pick(empty)), PROTECTION, { access: random.pick(['read', 'write']) }];
    } else if (random.chance(30)) {
      this.#line('provoked', { function: one.fid, iova: hex(PAL + 1n), access: 'read', errno: 19 });
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

  /** Entries that no line has shown yet, a line for each run of them. */
  #showTable(one: Fn): void {
    for (let page = 0; page < PAGES; page++) {
      if (one.shown[page] === one.table[page]) continue;
      const first = page;
      let text = '';
      for (; page < PAGES && one.shown[page] !== one.table[page]; page++) {
        text += entry(one.table[page]!);
        one.shown[page] = one.table[page]!;
      }
      this.#line('mem', { addr: hex(one.tables + 0x8000 + 8 * first), hex: text });
    }
  }
}

function entry(value: bigint): string {
  return value.toString(16).padStart(16, '0');
}
