import type { HostError } from '../errno.ts';
import type { GuestCommands } from '../host.ts';
import type { CommandRoute } from './invalidate.ts';

/** Command numbers of an SMMUv3: IHI 0070, 4.1.1, and the kernel's arm_vsmmu_convert_user_cmd for what it takes of them. */
const CFGI_STE = 0x03;
/** CFGI_STE_RANGE, and CFGI_ALL with Range 31. */
const CFGI_STE_RANGE = 0x04;
const CFGI_CD = 0x05;
const CFGI_CD_ALL = 0x06;
const TLBI_NH_ALL = 0x10;
const TLBI_NH_ASID = 0x11;
const TLBI_NH_VA = 0x12;
const TLBI_NH_VAA = 0x13;
/** First and last of all TLBI commands. */
const TLBI_FIRST = 0x10;
const TLBI_LAST = 0x3f;
const ATC_INV = 0x40;

/** Fields of the first two words: 4.3 to 4.5. */
const OPCODE = 0xff;
const SSV = 1 << 11;
const GLOBAL = 1 << 9;
const SSID = 0xf_ffff << 12;
const NUM = 31 << 12;
const SCALE = 63 << 20;
const SCALE_SHIFT = 20;
/** Above this the kernel refuses: so many pages are everything. */
const SCALE_LAST = 31;
const ASID = 0xffff << 16;
/** Of the third word: Leaf, TTL, TG, address; Range of CFGI_STE_RANGE; Size of ATC_INV. */
const LEAF = 1;
const TTL = 3 << 8;
const TTL_1 = 1 << 8;
const TG = 3 << 10;
const TG_16K = 2 << 10;
const ADDRESS = ~0xfff;
const RANGE = 31;
const SIZE = 63;

/** IHI 0070, 6.3.1, 6.3.2 and 6.3.4. */
const IDR0_ATS = 1 << 10;
const IDR1_SSIDSIZE_SHIFT = 6;
const IDR3_RIL = 1 << 10;

/**
 * A guest's commands, without what its hardware would refuse: the kernel takes no bit beside the fields of a command, no range where the
 * hardware has none, and no stream that it does not know. Of what cannot be said on this hardware more is forgotten instead.
 */
export class SmmuGuestCommands implements GuestCommands {
  readonly #route: CommandRoute;
  readonly #streams: ReadonlySet<number>;
  readonly #ats: boolean;
  readonly #substreams: boolean;
  readonly #ranged: boolean;
  #added = 0;
  #failed = 0;
  #everything = false;
  /** Something came while it had no stream. */
  #missed = false;
  #error: HostError | null = null;

  /** `idr`: IDR0 to IDR5. `streams`: the IDs of the devices that the vIOMMU has now. */
  constructor(route: CommandRoute, idr: readonly number[], streams: ReadonlySet<number>) {
    this.#route = route;
    this.#streams = streams;
    this.#ats = (idr[0] & IDR0_ATS) !== 0;
    this.#substreams = ((idr[1] >>> IDR1_SSIDSIZE_SHIFT) & 31) !== 0;
    this.#ranged = (idr[3] & IDR3_RIL) !== 0;
  }

  get pending(): boolean {
    return this.#added > 0 || this.#everything;
  }

  get error(): HostError | null {
    return this.#error;
  }

  add(words: Int32Array): void {
    if (this.#streams.size === 0) {
      this.#missed = true;
      return;
    }
    const w0 = words[0];
    const w1 = words[1];
    const w2 = words[2];
    const w3 = words[3];
    const code = w0 & OPCODE;
    switch (code) {
      case CFGI_STE:
        if (this.#streams.has(w1 >>> 0)) this.#put(CFGI_CD_ALL, w1, 0, 0);
        return;
      case CFGI_STE_RANGE:
        this.#streamRange(w1, w2 & RANGE);
        return;
      case CFGI_CD:
        if (this.#streams.has(w1 >>> 0)) this.#put(CFGI_CD | (this.#substreams ? w0 & (SSV | SSID) : 0), w1, w2 & LEAF, 0);
        return;
      case CFGI_CD_ALL:
        if (this.#streams.has(w1 >>> 0)) this.#put(CFGI_CD_ALL, w1, 0, 0);
        return;
      case TLBI_NH_ASID:
        this.#put(TLBI_NH_ASID, w1 & ASID, 0, 0);
        return;
      case TLBI_NH_VA:
        this.#pages(TLBI_NH_VA, w0, w1 & ASID, w2, w3);
        return;
      case TLBI_NH_VAA:
        this.#pages(TLBI_NH_VAA, w0, 0, w2, w3);
        return;
      case ATC_INV: {
        if (!this.#ats || !this.#streams.has(w1 >>> 0)) return;
        const substream = this.#substreams ? w0 & (SSV | GLOBAL | SSID) : 0;
        this.#put(ATC_INV | substream, w1, w2 & (ADDRESS | SIZE), w3);
        return;
      }
      default:
        // Of a VMID, of EL2, of a second stage: what a guest can have of them lies under its own VMID here.
        if (code >= TLBI_FIRST && code <= TLBI_LAST) this.#put(TLBI_NH_ALL, 0, 0, 0);
    }
  }

  /** A stream has come where there was none: before it meets what the hardware remembers of earlier ones. 0 or a negative errno. */
  catchUp(): number {
    if (!this.#missed) return 0;
    this.#everything = true;
    const result = this.sync();
    this.#missed = result < 0;
    return result;
  }

  /** What the kernel refuses all the same is no reason for a stale translation: everything is forgotten instead. */
  sync(): number {
    if (!this.pending) return 0;
    let result = this.#everything ? this.#forgetEverything() : this.#route.flush() || this.#failed;
    if (result < 0 && !this.#everything) result = this.#forgetEverything();
    this.#everything = result < 0;
    this.#error = result < 0 ? this.#route.error : null;
    this.#added = 0;
    this.#failed = 0;
    return result;
  }

  #forgetEverything(): number {
    this.#route.flush();
    for (const stream of this.#streams) this.#put(CFGI_CD_ALL, stream, 0, 0);
    this.#put(TLBI_NH_ALL, 0, 0, 0);
    // Size 52: every address (4.5.1).
    if (this.#ats) for (const stream of this.#streams) this.#put(ATC_INV, stream, 52, 0);
    return this.#route.flush();
  }

  /** 4.4.1.1: with TG a range, which must not be the reserved one of a single granule; without it no NUM, SCALE and TTL. */
  #pages(code: number, w0: number, asid: number, w2: number, w3: number): void {
    const granule = w2 & TG;
    const range = w0 & (NUM | SCALE);
    if (granule === 0 || (range === 0 && (w2 & TTL) === 0)) {
      this.#put(code, asid, w2 & (ADDRESS | LEAF), w3);
      return;
    }
    if (!this.#ranged || range >>> SCALE_SHIFT > SCALE_LAST) {
      if (code === TLBI_NH_VA) this.#put(TLBI_NH_ASID, asid, 0, 0);
      else this.#put(TLBI_NH_ALL, 0, 0, 0);
      return;
    }
    // TTL is a hint, and reserved for level 1 of 16 KiB granules.
    const level = granule === TG_16K && (w2 & TTL) === TTL_1 ? 0 : w2 & TTL;
    if (range === 0 && level === 0) this.#put(code, asid, w2 & (ADDRESS | LEAF), w3);
    else this.#put(code | range, asid, (w2 & (ADDRESS | LEAF | TG)) | level, w3);
  }

  /** 4.3.2: the streams that have the upper bits in common, from bit Range + 1 on. */
  #streamRange(stream: number, range: number): void {
    const shift = range + 1;
    for (const known of this.#streams) {
      if (shift < 32 && known >>> shift !== stream >>> shift) continue;
      this.#put(CFGI_CD_ALL, known, 0, 0);
    }
  }

  #put(w0: number, w1: number, w2: number, w3: number): void {
    const result = this.#route.addCommand(w0, w1, w2, w3);
    if (result < 0) this.#failed = result;
    this.#added++;
  }
}
