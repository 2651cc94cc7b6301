import { PAGE_LG2, PFN_LIMIT } from '../../../memory/address.ts';
import { type Field, get, getWide } from '../../fields.ts';
import type { Spaces } from '../spaces.ts';
import { CFGI_RANGE, OP, OPCODE, STREAM, TLBI } from '../spec/commands.ts';
import { CR0, CR2 } from '../spec/registers.ts';
import { ANY_ASID, PRIVATE_TAG, STAGE_2_ONLY } from '../translation/scope.ts';
import { WORLD_EL2, WORLD_EL2_E2H } from '../translation/stream-entry.ts';
import type { Translator } from '../translation/translator.ts';
import type { Registers } from './registers.ts';

/** Streams that CFGI_STE_RANGE names one by one; more, and everything is forgotten, as a cache always may. */
const STREAMS_ONE_BY_ONE = 16;
/** The contexts of stage 2 in the TLB (route.ts). */
const STAGE_2_TAG = -2;

/* Here because the compiler folds a module's own constants only. */
const { CFGI_STE, CFGI_STE_RANGE, CFGI_CD, CFGI_CD_ALL } = OPCODE;
const { TLBI_NH_ALL, TLBI_NH_ASID, TLBI_NH_VA, TLBI_NH_VAA, TLBI_S12_VMALL, TLBI_S2_IPA, TLBI_NSNH_ALL } = OPCODE;
const { TLBI_EL2_ALL, TLBI_EL2_ASID, TLBI_EL2_VA, TLBI_EL2_VAA } = OPCODE;
const { VMID, ASID, ADDRESS, IPA, TG, NUM, SCALE, SCALE_NARROW } = TLBI;
/** IPA in the last of the four words. */
const IPA_HI = 2 ** (IPA.low + IPA.width - 96) - 1;
const LAST_PAGE = PFN_LIMIT - 1;

/** CFGI_* and TLBI_*, 4.3 and 4.4: what they take out of the caches, and who is told. */
export class Invalidations {
  readonly #registers: Registers;
  readonly #translator: Translator;
  readonly #spaces: Spaces;
  readonly #hasVmids: boolean;
  readonly #hasRanges: boolean;
  readonly #scale: Field;

  constructor(registers: Registers, translator: Translator, spaces: Spaces) {
    this.#registers = registers;
    this.#hasVmids = registers.features.S2P === 1;
    this.#hasRanges = registers.features.RIL === 1;
    this.#scale = registers.features.DS === 1 ? SCALE : SCALE_NARROW;
    this.#translator = translator;
    this.#spaces = spaces;
  }

  run(words: Int32Array): void {
    switch (get(words, OP)) {
      case CFGI_STE:
      case CFGI_STE_RANGE:
      case CFGI_CD:
      case CFGI_CD_ALL:
        this.#configurations(words);
        return;
      default:
        this.#translations(words);
    }
  }

  #configurations(words: Int32Array): void {
    const stream = get(words, STREAM.STREAM) >>> 0;
    switch (get(words, OP)) {
      case CFGI_STE:
        this.#spaces.command(words, stream);
        this.#forgetStream(stream);
        return;
      case CFGI_STE_RANGE:
        this.#spaces.command(words, -1);
        this.#forgetStreams(stream, 2 ** (get(words, CFGI_RANGE.RANGE) + 1));
        return;
      case CFGI_CD:
        this.#translator.configurations.forgetContext(stream, get(words, STREAM.SUBSTREAM));
        this.#configurationsForgotten(words, stream);
        this.#spaces.refreshSubstream(stream, get(words, STREAM.SUBSTREAM));
        return;
      default:
        this.#translator.configurations.forgetStream(stream);
        this.#configurationsForgotten(words, stream);
        this.#spaces.refresh(stream);
    }
  }

  #forgetStream(stream: number): void {
    this.#translator.configurations.forgetStream(stream);
    this.#translator.configurationChanged();
    this.#spaces.refresh(stream);
  }

  #forgetStreams(stream: number, count: number): void {
    const first = stream - (stream % count);
    if (count > STREAMS_ONE_BY_ONE) {
      this.#translator.configurations.forgetAll();
      this.#translator.configurationChanged();
      this.#spaces.refreshRange(first, first + count - 1);
      return;
    }
    for (let i = 0; i < count; i++) this.#forgetStream(first + i);
  }

  #configurationsForgotten(words: Int32Array, stream: number): void {
    this.#translator.configurationChanged();
    this.#spaces.command(words, stream);
  }

  #translations(words: Int32Array): void {
    this.#spaces.command(words, -1);
    switch (get(words, OP)) {
      case TLBI_NSNH_ALL:
        this.#translator.forgetTranslations();
        this.#spaces.invalidatedAll();
        return;
      case TLBI_EL2_ALL:
        this.#all(WORLD_EL2);
        this.#all(WORLD_EL2_E2H);
        return;
      case TLBI_EL2_ASID:
        this.#byAsid(WORLD_EL2_E2H, get(words, ASID));
        return;
      case TLBI_EL2_VA:
        if (this.#registers.cr2(CR2.E2H)) this.#range(words, WORLD_EL2_E2H, get(words, ASID));
        else this.#range(words, WORLD_EL2, 0);
        return;
      case TLBI_EL2_VAA:
        this.#range(words, this.#registers.cr2(CR2.E2H) ? WORLD_EL2_E2H : WORLD_EL2, ANY_ASID);
        return;
      default:
        this.#ofVmids(words);
    }
  }

  /** 6.3.9, VMW: the low bits of VMIDs that are not compared. Without stage 2 there are no VMIDs (4.4.2). */
  #ofVmids(words: Int32Array): void {
    const vmid = this.#hasVmids ? get(words, VMID) : 0;
    const wildcard = this.#hasVmids ? this.#registers.cr0(CR0.VMW) : 0;
    const others = wildcard <= 4 ? (1 << wildcard) - 1 : 0;
    for (let world = vmid & ~others; world <= (vmid | others); world++) this.#ofVmid(words, world);
  }

  #ofVmid(words: Int32Array, vmid: number): void {
    switch (get(words, OP)) {
      case TLBI_NH_VA:
        this.#range(words, vmid, get(words, ASID));
        return;
      case TLBI_NH_ASID:
        this.#byAsid(vmid, get(words, ASID));
        return;
      case TLBI_S2_IPA:
        this.#range(words, vmid, STAGE_2_ONLY);
        return;
      case TLBI_NH_VAA:
        this.#range(words, vmid, ANY_ASID);
        return;
      case TLBI_NH_ALL:
      case TLBI_S12_VMALL:
        this.#all(vmid);
        return;
      default:
        return;
    }
  }

  #all(world: number): void {
    this.#translator.iotlb.invalidateSpace(world);
    this.#spaces.invalidated(world, ANY_ASID, 0, LAST_PAGE);
  }

  #byAsid(world: number, asid: number): void {
    this.#forgetAsid(world, asid);
    this.#spaces.invalidated(world, asid, 0, LAST_PAGE);
  }

  /** Whatever its ASET (4.4). */
  #forgetAsid(world: number, asid: number): void {
    const { iotlb, hasShared, hasPrivate } = this.#translator;
    for (let tag = 2 * asid; tag < 2 * asid + 2; tag++) {
      if (hasShared) iotlb.invalidateContext(world, tag);
      if (hasPrivate) iotlb.invalidateContext(world, tag + PRIVATE_TAG);
    }
  }

  /** An address, or with TG a range (4.4.1.1); as much of it as there is below the top of the address space. */
  #range(words: Int32Array, world: number, asid: number): void {
    const { iotlb, hasShared, hasPrivate } = this.#translator;
    const tag = asid === STAGE_2_ONLY ? STAGE_2_TAG : 2 * asid;
    const isPage = !this.#hasRanges || get(words, TG) === 0;
    // Over all ASIDs a cache may forget more.
    if (asid === ANY_ASID) iotlb.invalidateSpace(world);
    else if (asid !== STAGE_2_ONLY && this.#translator.hasPieces(world)) this.#forgetPieces(world, asid);
    else {
      if (hasShared) this.#drop(words, world, tag, isPage);
      // What is private has a first stage.
      if (hasPrivate && asid !== STAGE_2_ONLY) this.#drop(words, world, tag + PRIVATE_TAG, isPage);
    }
    if (!this.#spaces.areObserved) return;
    const first = getWide(words, asid === STAGE_2_ONLY ? IPA : ADDRESS);
    this.#spaces.invalidated(world, asid, first, isPage ? first : this.#lastOf(words, first));
  }

  /** Takes an address or a range out of the two contexts of a tag. */
  #drop(words: Int32Array, world: number, tag: number, isPage: boolean): void {
    const { iotlb } = this.#translator;
    if (isPage) {
      const hi = tag < 0 ? words[3] & IPA_HI : words[3];
      iotlb.invalidateBlock(world, tag, hi, words[2], PAGE_LG2);
      iotlb.invalidateBlock(world, tag + 1, hi, words[2], PAGE_LG2);
      return;
    }
    const first = getWide(words, tag < 0 ? IPA : ADDRESS);
    const last = this.#lastOf(words, first);
    iotlb.invalidateRange(world, tag, first, last);
    iotlb.invalidateRange(world, tag + 1, first, last);
  }

  /** Of a large page of stage 1, other pieces than the one that was named may be cached; global ones under any ASID. */
  #forgetPieces(world: number, asid: number): void {
    this.#forgetAsid(world, asid);
    this.#translator.iotlb.invalidateRange(world, 2 * asid, 0, 0);
  }

  /** Last page of a range: (NUM + 1) × 2^SCALE granules; SCALE above 39 is taken as 39. */
  #lastOf(words: Int32Array, first: number): number {
    const pages = (get(words, NUM) + 1) * 2 ** Math.min(get(words, this.#scale), 39) * 4 ** (get(words, TG) - 1);
    return Math.min(first + pages - 1, LAST_PAGE);
  }
}
