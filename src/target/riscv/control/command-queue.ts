import { joinHiLo, PFN_LIMIT } from '../../../memory/address.ts';
import type { Iotlb } from '../../../memory/iotlb.ts';
import type { Interrupts } from '../reporting/interrupts.ts';
import type { Spaces } from '../spaces.ts';
import type { Structures } from '../structures.ts';
import type { RiscvIommuSurroundings } from '../surroundings.ts';
import type { InvalidationTags } from '../translation/ats.ts';
import { CONTEXT_OF_SUM, type Contexts, HOST_SPACE } from '../translation/contexts.ts';
import type { DeviceDirectory } from '../translation/device-directory.ts';
import type { Translator } from '../translation/translator.ts';
import { Queue } from './queue.ts';
import { Cap, CapHi, CQB, CQCSR, CQH, CQT, Csr, Interrupt, type Registers } from './registers.ts';

const COMMAND_LG2 = 4;

/** "IOMMU command opcodes", with func3 above: opcode 6:0, func3 9:7. */
const IOTINVAL_VMA = 1;
const IOTINVAL_GVMA = 1 | (1 << 7);
const IOFENCE_C = 2;
const IODIR_INVAL_DDT = 3;
const IODIR_INVAL_PDT = 3 | (1 << 7);
const ATS_INVAL = 4;
const ATS_PRGR = 4 | (1 << 7);

/** IOTINVAL: AV 10, PSCID 31:12; high half: PSCV 32, GV 33, NL 34, GSCID 59:44; then S 73, ADDR[63:12] 125:74. */
const Inval = { av: 1 << 10, pscv: 1, gv: 2, nl: 4, s: 1 << 9 } as const;
/** IOFENCE.C: AV 10, WSI 11, PR 12, PW 13, DATA 63:32, ADDR[63:2] 125:64. */
const Fence = { av: 1 << 10, wsi: 1 << 11, pr: 1 << 12, pw: 1 << 13 } as const;

/** Outcomes of a command. */
const DONE = 0;
const ILLEGAL = 1;
/** The command waits, or failed: the head stays. */
const STAYS = 2;
/** The command is done, but the queue cannot go on. */
const STALLED = 3;
const UNREADABLE = 4;

/** An ATS.INVAL for which no ITag was free: the queue stands still behind it. */
export interface StalledInvalidation {
  readonly requester: number;
  readonly segment: number | null;
  readonly pasid: number | null;
  readonly payload: bigint;
}

export interface CommandQueueParts {
  readonly registers: Registers;
  readonly structures: Structures;
  readonly interrupts: Interrupts;
  readonly contexts: Contexts;
  readonly directory: DeviceDirectory;
  readonly translator: Translator;
  readonly spaces: Spaces;
  readonly tags: InvalidationTags;
  readonly surroundings: RiscvIommuSurroundings;
}

/** "Command-Queue". */
export class CommandQueue {
  readonly queue: Queue;
  /** An IOFENCE.C that waits for invalidations: its two doublewords, [lo, hi, lo, hi]. */
  fence: readonly number[] | null = null;
  stalled: StalledInvalidation | null = null;
  readonly #parts: CommandQueueParts;
  readonly #words: Int32Array;
  readonly #iotlb: Iotlb;
  /** Pages that the command at work selects. */
  #first = 0;
  #last = 0;

  constructor(parts: CommandQueueParts) {
    this.#parts = parts;
    this.#words = parts.structures.words;
    this.#iotlb = parts.translator.iotlb;
    this.queue = new Queue(parts.registers, {
      base: CQB,
      software: CQT,
      device: CQH,
      csr: CQCSR,
      entryLg2: COMMAND_LG2,
      clearable: Csr.memoryFault | Csr.timeout | Csr.illegal | Csr.fence,
    });
  }

  /** Commands wait, and nothing keeps them from being processed. */
  get isRunnable(): boolean {
    const { queue } = this;
    if (!queue.isOn || queue.has(Csr.memoryFault | Csr.timeout | Csr.illegal)) return false;
    return this.fence === null && this.stalled === null && queue.device !== queue.software;
  }

  /** Processes `limit` commands at most, fewer when their flushes read many table entries. What they change in address spaces reaches the hardware before the guest can look at cqh. */
  run(limit: number): void {
    const { spaces } = this.#parts;
    const begun = spaces.begin();
    if (this.isRunnable) this.#run(limit);
    if (begun) spaces.end();
  }

  /** Nothing but a command that does not end as DONE makes the queue stop; the bounds of one access only put off what is left. */
  #run(limit: number): void {
    const { queue } = this;
    const { structures, registers, spaces } = this.#parts;
    const bigEndian = registers.bigEndian;
    const { software, mask } = queue;
    queue.locate(0);
    const baseHi = queue.entryHi;
    const baseLo = queue.entryLo;
    let head = queue.device;
    for (let i = 0; i < limit && head !== software && !spaces.isSpent; i++) {
      const hi = baseHi | (head >>> (32 - COMMAND_LG2));
      const lo = baseLo | (head << COMMAND_LG2);
      const outcome = structures.readPair(hi, lo, bigEndian) ? this.#execute() : UNREADABLE;
      if (outcome === UNREADABLE) this.#fail(Csr.memoryFault);
      if (outcome === ILLEGAL) this.#fail(Csr.illegal);
      if (outcome !== DONE && outcome !== STALLED) return;
      head = (head + 1) & mask;
      registers.set(CQH, head);
      if (outcome === STALLED) return;
    }
  }

  /** An error bit stops the queue until software clears it. */
  #fail(bit: number): void {
    this.queue.setBits(bit);
    this.#parts.interrupts.raise(Interrupt.command);
  }

  /** The command in `words`. Opcodes and functions that are reserved, custom or not supported are illegal. */
  #execute(): number {
    switch (this.#words[0] & 0x3ff) {
      case IOTINVAL_VMA:
        return this.#invalidateFirst();
      case IOTINVAL_GVMA:
        return this.#invalidateSecond();
      case IOFENCE_C:
        return this.#fence();
      case IODIR_INVAL_DDT:
        return this.#invalidateDevice();
      case IODIR_INVAL_PDT:
        return this.#invalidateProcess();
      case ATS_INVAL:
      case ATS_PRGR:
        return this.#ats();
      default:
        return ILLEGAL;
    }
  }

  #hasReservedOfInvalidation(): boolean {
    const words = this.#words;
    const { registers } = this.#parts;
    if ((words[0] & (1 << 11)) !== 0 || (words[1] & 0xf000_0ff8) !== 0) return true;
    if ((words[2] & 0x1ff) !== 0 || words[3] >>> 30 !== 0) return true;
    if ((words[1] & Inval.nl) !== 0 && !registers.canHi(CapHi.nl)) return true;
    return (words[2] & Inval.s) !== 0 && !registers.canHi(CapHi.s);
  }

  /**
   * Makes [#first, #last] the pages that AV, ADDR and S select ("Address Range Invalidation Extension": a NAPOT range whose size
   * the lowest 0 of ADDR gives; all ones is unspecified, here everything).
   */
  #selectPages(): void {
    const words = this.#words;
    if ((words[0] & Inval.av) === 0) {
      this.#first = 0;
      this.#last = PFN_LIMIT - 1;
      return;
    }
    const page = (words[3] & 0x3fff_ffff) * 2 ** 22 + (words[2] >>> 10);
    this.#first = page;
    this.#last = page;
    if ((words[2] & Inval.s) === 0) return;
    let pages = 2;
    while (pages < PFN_LIMIT && page % pages === pages - 1) pages *= 2;
    this.#first = page - (page % pages);
    this.#last = this.#first + pages - 1;
  }

  /** IOTINVAL.VMA. Where the IOTLB cannot select as finely, it forgets more. */
  #invalidateFirst(): number {
    if (this.#hasReservedOfInvalidation()) return ILLEGAL;
    const words = this.#words;
    const gscid = (words[1] & Inval.gv) !== 0 ? (words[1] >>> 12) & 0xffff : -1;
    const pscid = (words[1] & Inval.pscv) !== 0 ? words[0] >>> 12 : -1;
    this.#selectPages();
    const space = gscid < 0 ? HOST_SPACE : gscid;
    if (pscid < 0) {
      this.#iotlb.invalidateSpace(space);
    } else {
      this.#invalidateContext(space, pscid);
      if (this.#parts.contexts.usesSum) this.#invalidateContext(space, pscid + CONTEXT_OF_SUM);
    }
    if (this.#parts.spaces.isObserved) this.#parts.spaces.changedFirst(gscid, pscid, this.#first, this.#last);
    return DONE;
  }

  /** By address: all that was made of a leaf that covers it, pieces of it elsewhere in the leaf too. */
  #invalidateContext(space: number, context: number): void {
    if (this.#first === 0 && this.#last === PFN_LIMIT - 1) {
      this.#iotlb.invalidateContext(space, context);
      return;
    }
    const { piecesOfLg2 } = this.#parts.translator;
    let first = this.#first;
    let last = this.#last;
    if (piecesOfLg2 > 12) {
      const pages = 2 ** (piecesOfLg2 - 12);
      first -= first % pages;
      last += pages - 1 - (last % pages);
    }
    this.#iotlb.invalidateRange(space, context, first, last);
  }

  /** IOTINVAL.GVMA: entries translate through both stages, so the address selects only where the first is Bare. PSCV is illegal. */
  #invalidateSecond(): number {
    const words = this.#words;
    if (this.#hasReservedOfInvalidation() || (words[1] & Inval.pscv) !== 0) return ILLEGAL;
    const guest = (words[1] & Inval.gv) !== 0;
    const gscid = guest ? (words[1] >>> 12) & 0xffff : -1;
    this.#selectPages();
    if (guest) this.#iotlb.invalidateSpace(gscid);
    else this.#parts.translator.forgetAll();
    this.#parts.spaces.changedSecond(gscid, guest ? this.#first : 0, guest ? this.#last : PFN_LIMIT - 1);
    return DONE;
  }

  /** IODIR: PID 31:12, DV 33, DID 63:40. */
  #hasReservedOfDirectory(): boolean {
    const words = this.#words;
    return (words[0] & (3 << 10)) !== 0 || (words[1] & 0xfd) !== 0 || (words[2] | words[3]) !== 0;
  }

  #invalidateDevice(): number {
    const words = this.#words;
    const { contexts, translator, spaces, directory } = this.#parts;
    const device = (words[1] & 2) !== 0 ? words[1] >>> 8 : null;
    if (this.#hasReservedOfDirectory() || words[0] >>> 12 !== 0) return ILLEGAL;
    if (device !== null && !directory.admits(device)) return ILLEGAL;
    contexts.forgetDevice(device);
    translator.forgetLast();
    if (device === null) spaces.refreshAll();
    else spaces.refresh(device);
    return DONE;
  }

  /** DV must be 1, and the operands no wider than the mode and the process directory support. */
  #invalidateProcess(): number {
    const words = this.#words;
    const { contexts, translator, spaces, directory, registers } = this.#parts;
    if (this.#hasReservedOfDirectory() || (words[1] & 2) === 0) return ILLEGAL;
    const device = words[1] >>> 8;
    const process = words[0] >>> 12;
    const width = registers.canHi(CapHi.pd20) ? 20 : registers.canHi(CapHi.pd17) ? 17 : 8;
    if (process >>> width !== 0 || !directory.admits(device)) return ILLEGAL;
    contexts.forgetProcess(device, process);
    translator.forgetLast();
    spaces.refresh(device);
    return DONE;
  }

  #fence(): number {
    const words = this.#words;
    if (words[0] >>> 14 !== 0 || words[3] >>> 30 !== 0) return ILLEGAL;
    if ((words[0] & Fence.wsi) !== 0 && !this.#parts.registers.wired) return ILLEGAL;
    return this.#complete([words[0], words[1], words[2], words[3]]);
  }

  /** IOFENCE.C once nothing holds it up: what came before is done, and then its own effects. */
  #complete(fence: readonly number[]): number {
    const [low, data, addressLo, addressHi] = fence;
    const { tags, surroundings, structures, spaces } = this.#parts;
    if (tags.anyBusy) {
      this.fence = fence;
      return STAYS;
    }
    if (tags.timedOut) {
      tags.timedOut = false;
      this.#fail(Csr.timeout);
      return STAYS;
    }
    if (!spaces.flush()) return STAYS;
    if ((low & (Fence.pr | Fence.pw)) !== 0) surroundings.orderRequests?.((low & Fence.pr) !== 0, (low & Fence.pw) !== 0);
    if ((low & Fence.av) !== 0 && !structures.storeWord((addressHi << 2) | (addressLo >>> 30), addressLo << 2, data)) {
      this.#fail(Csr.memoryFault);
      return STAYS;
    }
    if ((low & Fence.wsi) !== 0 && !this.queue.has(Csr.fence)) this.#fail(Csr.fence);
    return DONE;
  }

  /** ATS: PID 31:12, PV 32, DSV 33, RID 55:40, DSEG 63:56, PAYLOAD. */
  #ats(): number {
    const words = this.#words;
    const { registers, tags } = this.#parts;
    if (!registers.can(Cap.ats) || (words[0] & (3 << 10)) !== 0 || (words[1] & 0xfc) !== 0) return ILLEGAL;
    const requester = (words[1] >>> 8) & 0xffff;
    const segment = (words[1] & 2) !== 0 ? words[1] >>> 24 : null;
    const pasid = (words[1] & 1) !== 0 ? words[0] >>> 12 : null;
    const payload = joinHiLo(words[3], words[2]);
    if ((words[0] & 0x3ff) === ATS_PRGR) {
      tags.respond(requester, segment, pasid, payload);
      return DONE;
    }
    if (tags.request(requester, segment, pasid, payload)) return DONE;
    this.stalled = { requester, segment, pasid, payload };
    return STALLED;
  }

  /** An invalidation completed or timed out: goes on with what waited for it. */
  resume(): void {
    const { tags } = this.#parts;
    if (this.fence !== null && !tags.anyBusy) {
      const { fence } = this;
      this.fence = null;
      if (this.#complete(fence) === DONE) this.queue.advance();
      this.#settle();
    }
    if (this.fence !== null || this.stalled === null) return;
    const { requester, segment, pasid, payload } = this.stalled;
    if (tags.request(requester, segment, pasid, payload)) this.stalled = null;
  }

  /** A queue that was turned off while IOFENCE.C waited is off now. */
  #settle(): void {
    const { registers } = this.#parts;
    registers.clearBits(CQCSR, Csr.busy);
    if (!registers.has(CQCSR, Csr.enable)) registers.clearBits(CQCSR, Csr.on);
  }

  /** cqcsr: while IOFENCE.C waits, a queue that is turned off stays on and busy. */
  writeCsr(value: number): void {
    const { registers, interrupts } = this.#parts;
    this.queue.writeCsr(value);
    if (this.fence !== null && !registers.has(CQCSR, Csr.enable)) registers.setBits(CQCSR, Csr.on | Csr.busy);
    interrupts.recheck(Interrupt.command);
  }

  reset(): void {
    this.fence = null;
    this.stalled = null;
  }
}
