import { PFN_LIMIT } from '../../../memory/address.ts';
import { get, getWide } from '../../fields.ts';
import type { Spaces } from '../spaces.ts';
import { CFGI_RANGE, OPCODE, STREAM, TLBI } from '../spec/commands.ts';
import { CR0, CR2 } from '../spec/registers.ts';
import { ANY_ASID, STAGE_2_ONLY } from '../translation/scope.ts';
import { WORLD_EL2, WORLD_EL2_E2H } from '../translation/stream-entry.ts';
import type { Translator } from '../translation/translator.ts';
import type { Registers } from './registers.ts';

/** Streams that CFGI_STE_RANGE names one by one; more, and everything is forgotten, as a cache always may. */
const STREAMS_ONE_BY_ONE = 16;
/** Contexts of the TLB, route.ts: 2 × ASID + privilege, and those of stage 2. */
const STAGE_2_TAGS = [-2, -1] as const;

const EVERYWHERE = { first: 0, last: PFN_LIMIT - 1 } as const;

/** CFGI_* and TLBI_*, 4.3 and 4.4: what they take out of the caches, and who is told. */
export class Invalidations {
  readonly #registers: Registers;
  readonly #translator: Translator;
  readonly #spaces: Spaces;

  constructor(registers: Registers, translator: Translator, spaces: Spaces) {
    this.#registers = registers;
    this.#translator = translator;
    this.#spaces = spaces;
  }

  run(words: Int32Array): void {
    const stream = get(words, STREAM.STREAM) >>> 0;
    switch (words[0] & 0xff) {
      case OPCODE.CFGI_STE:
        this.#spaces.command(words, stream);
        this.#forgetStream(stream);
        return;
      case OPCODE.CFGI_STE_RANGE:
        this.#spaces.command(words, -1);
        this.#forgetStreams(stream, 2 ** (get(words, CFGI_RANGE.RANGE) + 1));
        return;
      case OPCODE.CFGI_CD:
        this.#translator.configurations.forgetContext(stream, get(words, STREAM.SUBSTREAM));
        this.#configurationsForgotten(words, stream);
        return;
      case OPCODE.CFGI_CD_ALL:
        this.#translator.configurations.forgetStream(stream);
        this.#configurationsForgotten(words, stream);
        return;
      default:
        this.#translations(words);
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
    this.#spaces.refresh(stream);
  }

  #translations(words: Int32Array): void {
    const vmid = get(words, TLBI.VMID);
    const asid = get(words, TLBI.ASID);
    const e2h = this.#registers.cr2(CR2.E2H) ? WORLD_EL2_E2H : WORLD_EL2;
    this.#spaces.command(words, -1);
    switch (words[0] & 0xff) {
      case OPCODE.TLBI_NH_ALL:
      case OPCODE.TLBI_S12_VMALL:
        this.#eachVmid(vmid, (world) => this.#all(world));
        return;
      case OPCODE.TLBI_NH_ASID:
        this.#eachVmid(vmid, (world) => this.#byAsid(world, asid));
        return;
      case OPCODE.TLBI_NH_VA:
        this.#eachVmid(vmid, (world) => this.#range(words, world, asid));
        return;
      case OPCODE.TLBI_NH_VAA:
        this.#eachVmid(vmid, (world) => this.#range(words, world, ANY_ASID));
        return;
      case OPCODE.TLBI_S2_IPA:
        this.#eachVmid(vmid, (world) => this.#range(words, world, STAGE_2_ONLY));
        return;
      case OPCODE.TLBI_EL2_ALL:
        this.#all(WORLD_EL2);
        this.#all(WORLD_EL2_E2H);
        return;
      case OPCODE.TLBI_EL2_ASID:
        this.#byAsid(WORLD_EL2_E2H, asid);
        return;
      case OPCODE.TLBI_EL2_VA:
        this.#range(words, e2h, e2h === WORLD_EL2 ? 0 : asid);
        return;
      case OPCODE.TLBI_EL2_VAA:
        this.#range(words, e2h, ANY_ASID);
        return;
      case OPCODE.TLBI_NSNH_ALL:
        this.#translator.forgetTranslations();
        this.#spaces.invalidatedAll();
        return;
      default:
        return;
    }
  }

  /** 6.3.9, VMW: the low bits of VMIDs that are not compared. Without stage 2 there are no VMIDs (4.4.2). */
  #eachVmid(vmid: number, invalidate: (world: number) => void): void {
    const { S2P } = this.#registers.features;
    const wildcard = this.#registers.cr0(CR0.VMW);
    const count = S2P === 1 && wildcard <= 4 ? 2 ** wildcard : 1;
    const first = S2P === 1 ? vmid - (vmid % count) : 0;
    for (let i = 0; i < count; i++) invalidate(first + i);
  }

  #all(world: number): void {
    this.#translator.iotlb.invalidateSpace(world);
    this.#spaces.invalidated({ world, asid: ANY_ASID, ...EVERYWHERE });
  }

  #byAsid(world: number, asid: number): void {
    this.#forgetAsid(world, asid);
    this.#spaces.invalidated({ world, asid, ...EVERYWHERE });
  }

  #forgetAsid(world: number, asid: number): void {
    this.#translator.iotlb.invalidateContext(world, 2 * asid);
    this.#translator.iotlb.invalidateContext(world, 2 * asid + 1);
  }

  /** An address, or with TG a range (4.4.1.1); as much of it as there is below the top of the address space. */
  #range(words: Int32Array, world: number, asid: number): void {
    const { iotlb } = this.#translator;
    const first = getWide(words, TLBI.ADDRESS);
    const last = Math.min(first + this.#pagesOf(words) - 1, PFN_LIMIT - 1);
    if (asid === STAGE_2_ONLY) for (const tag of STAGE_2_TAGS) iotlb.invalidateRange(world, tag, first, last);
    // Over all ASIDs a cache may forget more.
    else if (asid === ANY_ASID) iotlb.invalidateSpace(world);
    else if (this.#translator.hasPieces(world)) this.#forgetPieces(world, asid);
    else for (const tag of [2 * asid, 2 * asid + 1]) iotlb.invalidateRange(world, tag, first, last);
    this.#spaces.invalidated({ world, asid, first, last });
  }

  /** Of a large page of stage 1, other pieces than the one that was named may be cached; global ones under any ASID. */
  #forgetPieces(world: number, asid: number): void {
    this.#forgetAsid(world, asid);
    this.#translator.iotlb.invalidateRange(world, 2 * asid, 0, 0);
  }

  #pagesOf(words: Int32Array): number {
    const tg = this.#registers.features.RIL === 1 ? get(words, TLBI.TG) : 0;
    if (tg === 0) return 1;
    // SCALE above 39 is taken as 39.
    return (get(words, TLBI.NUM) + 1) * 2 ** Math.min(get(words, TLBI.SCALE), 39) * 4 ** (tg - 1);
  }
}
