import { joinHiLo, PAGE_LG2, pfnOfHiLo } from '../../../memory/address.ts';
import type { Iotlb } from '../../../memory/iotlb.ts';
import { LOADED } from '../../../memory/loaded.ts';
import { get, isSet, reservedClear } from '../../fields.ts';
import type { Interrupts } from '../reporting/interrupts.ts';
import type { Spaces } from '../spaces.ts';
import { ATS, ATS_RESERVED, COMMAND, IODIR, IODIR_RESERVED, IOFENCE, IOFENCE_RESERVED, Operation } from '../spec/commands.ts';
import { Cap, CapHi, CQB, CQCSR, CQH, CQT, Csr, Interrupt } from '../spec/registers.ts';
import type { Structures } from '../structures.ts';
import type { RiscvIommuSurroundings } from '../surroundings.ts';
import type { InvalidationTags } from '../translation/ats.ts';
import { CONTEXT_OF_SUM, type Contexts, HOST_SPACE } from '../translation/contexts.ts';
import type { DeviceDirectory } from '../translation/device-directory.ts';
import type { Translator } from '../translation/translator.ts';
import { Queue } from './queue.ts';
import type { Registers } from './registers.ts';

const COMMAND_LG2 = 4;

/**
 * IOTINVAL, which comes often, as spec/commands.ts declares it; here because the compiler folds a module's own constants only.
 * Masks within the words of a command, and what is reserved in them.
 */
const OPERATION_MASK = 0x3ff;
const IOTINVAL_VMA = 1;
const AV = 1 << 10;
const PSCID_SHIFT = 12;
const PSCV = 1;
const GV = 2;
const NL = 4;
const GSCID_SHIFT = 12;
const GSCID_MASK = 0xffff;
const S = 1 << 9;
const ADDR_SHIFT = 10;
const ADDR_HI_MASK = 0x3fff_ffff;
const RESERVED_0 = 1 << 11;
const RESERVED_1 = 0xf000_0ff8 | 0;
const RESERVED_2 = 0x1ff;
const RESERVED_3 = 0xc000_0000 | 0;
/** For the test that compares them with their declaration. */
export const REPEATED = {
  OPERATION_MASK,
  IOTINVAL_VMA,
  AV,
  PSCID_SHIFT,
  PSCV,
  GV,
  NL,
  GSCID_SHIFT,
  GSCID_MASK,
  S,
  ADDR_SHIFT,
  ADDR_HI_MASK,
  RESERVED: [RESERVED_0, RESERVED_1, RESERVED_2, RESERVED_3],
} as const;

/** ADDR is bits 63:12 of an address, from bit ADDR_SHIFT of its doubleword on: how far the upper word is to the left of it, and the lower one's top bits to the right. */
const HI_LEFT = PAGE_LG2 - ADDR_SHIFT;
const HI_RIGHT = 32 - HI_LEFT;
const SMALL_LG2 = PAGE_LG2;
/** lg2 of the bytes of an address space. */
const EVERYTHING_LG2 = 64;

/** What the usual IOTINVAL.VMA, of one page of one process, has in its first three words, among what is looked at. */
const USUAL_0_MASK = OPERATION_MASK | AV | RESERVED_0;
const USUAL_0 = IOTINVAL_VMA | AV;
const USUAL_1_MASK = PSCV | NL | RESERVED_1;
const UNUSUAL_2 = S | RESERVED_2;

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

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
  /** An address in what the command at work selects. */
  #hi = 0;
  #lo = 0;

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
    // Only what an observer is told of makes anybody read tables.
    const { isObserved } = spaces;
    for (let left = limit; left > 0 && head !== software && !(isObserved && spaces.isSpent); left--) {
      if (!isObserved && !bigEndian) {
        const most = Math.min(left, (software - head) & mask);
        left -= this.#runUsual(head, most, baseHi, baseLo, mask);
        head = queue.device;
        if (left === 0 || head === software) return;
      }
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

  /**
   * The usual commands in a straight line: IOTINVAL.VMA of a page of a process, nothing reserved in it, while nobody observes. Ends before another
   * one, which is read again, and after `most`. Returns how many there were.
   */
  #runUsual(from: number, most: number, baseHi: number, baseLo: number, mask: number): number {
    const { contexts, registers, translator, surroundings } = this.#parts;
    const { memory } = surroundings;
    const { usesSum } = contexts;
    const lg2 = translator.piecesOfLg2;
    const iotlb = this.#iotlb;
    let head = from;
    let done = 0;
    for (; done < most; done++) {
      const hi = baseHi | (head >>> (32 - COMMAND_LG2));
      const lo = baseLo | (head << COMMAND_LG2);
      if (memory.load64(hi, lo) < 0) break;
      const word0 = word[0];
      const word1 = word[1];
      if ((word0 & USUAL_0_MASK) !== USUAL_0 || (word1 & USUAL_1_MASK) !== PSCV || memory.load64(hi, lo | 8) < 0) break;
      const word2 = word[0];
      const word3 = word[1];
      if (((word2 & UNUSUAL_2) | (word3 & RESERVED_3)) !== 0) break;
      const space = (word1 & GV) !== 0 ? (word1 >>> GSCID_SHIFT) & GSCID_MASK : HOST_SPACE;
      const context = word0 >>> PSCID_SHIFT;
      const addressHi = (word3 << HI_LEFT) | (word2 >>> HI_RIGHT);
      const addressLo = word2 << HI_LEFT;
      iotlb.invalidateBlock(space, context, addressHi, addressLo, lg2);
      if (usesSum) iotlb.invalidateBlock(space, context + CONTEXT_OF_SUM, addressHi, addressLo, lg2);
      head = (head + 1) & mask;
    }
    if (done > 0) registers.set(CQH, head);
    return done;
  }

  /** An error bit stops the queue until software clears it. */
  #fail(bit: number): void {
    this.queue.setBits(bit);
    this.#parts.interrupts.raise(Interrupt.command);
  }

  /** The command in `words`. Opcodes and functions that are reserved, custom or not supported are illegal. */
  #execute(): number {
    const operation = this.#words[0] & OPERATION_MASK;
    if (operation === IOTINVAL_VMA) return this.#invalidateFirst();
    switch (operation) {
      case Operation.IOTINVAL_GVMA:
        return this.#invalidateSecond();
      case Operation.IOFENCE_C:
        return this.#fence();
      case Operation.IODIR_INVAL_DDT:
        return this.#invalidateDevice();
      case Operation.IODIR_INVAL_PDT:
        return this.#invalidateProcess();
      case Operation.ATS_INVAL:
      case Operation.ATS_PRGR:
        return this.#ats();
      default:
        return ILLEGAL;
    }
  }

  #hasReservedOfInvalidation(): boolean {
    const words = this.#words;
    const { registers } = this.#parts;
    if (((words[0] & RESERVED_0) | (words[1] & RESERVED_1) | (words[2] & RESERVED_2) | (words[3] & RESERVED_3)) !== 0) return true;
    if ((words[1] & NL) !== 0 && !registers.canHi(CapHi.nl)) return true;
    return (words[2] & S) !== 0 && !registers.canHi(CapHi.s);
  }

  /**
   * The aligned block that AV, ADDR and S select ("Address Range Invalidation Extension": a NAPOT range whose size the lowest 0 of ADDR gives; all ones
   * is unspecified, here everything): lg2 of its bytes, an address in it in `#hi` and `#lo`.
   */
  #selectBlock(): number {
    const words = this.#words;
    const low = words[2];
    const high = words[3] & ADDR_HI_MASK;
    this.#hi = (high << HI_LEFT) | (low >>> HI_RIGHT);
    this.#lo = (low >>> ADDR_SHIFT) << SMALL_LG2;
    if ((words[0] & AV) === 0) return EVERYTHING_LG2;
    if ((low & S) === 0) return SMALL_LG2;
    const page = (low >>> ADDR_SHIFT) | (high << (32 - ADDR_SHIFT));
    const ones = page === -1 ? 32 + trailingOnes(high >>> ADDR_SHIFT) : trailingOnes(page);
    return Math.min(SMALL_LG2 + ones + 1, EVERYTHING_LG2);
  }

  /** IOTINVAL.VMA. Where the IOTLB cannot select as finely, it forgets more. */
  #invalidateFirst(): number {
    if (this.#hasReservedOfInvalidation()) return ILLEGAL;
    const words = this.#words;
    const { contexts, spaces } = this.#parts;
    const gscid = (words[1] & GV) !== 0 ? (words[1] >>> GSCID_SHIFT) & GSCID_MASK : -1;
    const pscid = (words[1] & PSCV) !== 0 ? words[0] >>> PSCID_SHIFT : -1;
    const lg2 = this.#selectBlock();
    const space = gscid < 0 ? HOST_SPACE : gscid;
    if (pscid < 0) {
      this.#iotlb.invalidateSpace(space);
    } else {
      this.#invalidateContext(space, pscid, lg2);
      if (contexts.usesSum) this.#invalidateContext(space, pscid + CONTEXT_OF_SUM, lg2);
    }
    if (spaces.isObserved) {
      const first = this.#firstPage(lg2);
      spaces.changedFirst(gscid, pscid, first, first + 2 ** (lg2 - SMALL_LG2) - 1);
    }
    return DONE;
  }

  /** By address: all that was made of a leaf that covers it, pieces of it elsewhere in the leaf too. */
  #invalidateContext(space: number, context: number, lg2: number): void {
    if (lg2 === EVERYTHING_LG2) this.#iotlb.invalidateContext(space, context);
    else this.#iotlb.invalidateBlock(space, context, this.#hi, this.#lo, Math.max(lg2, this.#parts.translator.piecesOfLg2));
  }

  /** Of the block that was selected. */
  #firstPage(lg2: number): number {
    const page = pfnOfHiLo(this.#hi, this.#lo);
    return page - (page % 2 ** (lg2 - SMALL_LG2));
  }

  /** IOTINVAL.GVMA: entries translate through both stages, so the address selects only where the first is Bare. PSCV is illegal. */
  #invalidateSecond(): number {
    const words = this.#words;
    if (this.#hasReservedOfInvalidation() || (words[1] & PSCV) !== 0) return ILLEGAL;
    const { translator, spaces } = this.#parts;
    const guest = (words[1] & GV) !== 0;
    const gscid = guest ? (words[1] >>> GSCID_SHIFT) & GSCID_MASK : -1;
    const lg2 = guest ? this.#selectBlock() : EVERYTHING_LG2;
    if (guest) this.#iotlb.invalidateSpace(gscid);
    else translator.forgetAll();
    const first = this.#firstPage(lg2);
    spaces.changedSecond(gscid, first, first + 2 ** (lg2 - SMALL_LG2) - 1);
    return DONE;
  }

  #invalidateDevice(): number {
    const words = this.#words;
    const { contexts, translator, spaces, directory } = this.#parts;
    const device = isSet(words, IODIR.DV) ? get(words, IODIR.DID) : null;
    if (!reservedClear(words, IODIR_RESERVED) || isSet(words, IODIR.PID)) return ILLEGAL;
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
    if (!reservedClear(words, IODIR_RESERVED) || !isSet(words, IODIR.DV)) return ILLEGAL;
    const device = get(words, IODIR.DID);
    const process = get(words, IODIR.PID);
    const width = registers.canHi(CapHi.pd20) ? 20 : registers.canHi(CapHi.pd17) ? 17 : 8;
    if (process >>> width !== 0 || !directory.admits(device)) return ILLEGAL;
    contexts.forgetProcess(device, process);
    translator.forgetLast();
    spaces.refreshProcess(device, process);
    return DONE;
  }

  #fence(): number {
    const words = this.#words;
    if (!reservedClear(words, IOFENCE_RESERVED)) return ILLEGAL;
    if (isSet(words, IOFENCE.WSI) && !this.#parts.registers.wired) return ILLEGAL;
    return this.#complete([words[0], words[1], words[2], words[3]]);
  }

  /** IOFENCE.C once nothing holds it up: what came before is done, and then its own effects. */
  #complete(fence: readonly number[]): number {
    const { tags, surroundings, spaces } = this.#parts;
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
    const reads = isSet(fence, IOFENCE.PR);
    const writes = isSet(fence, IOFENCE.PW);
    if (reads || writes) surroundings.orderRequests?.(reads, writes);
    if (isSet(fence, IOFENCE.AV) && !this.#storeData(fence)) {
      this.#fail(Csr.memoryFault);
      return STAYS;
    }
    if (isSet(fence, IOFENCE.WSI) && !this.queue.has(Csr.fence)) this.#fail(Csr.fence);
    return DONE;
  }

  #storeData(fence: readonly number[]): boolean {
    const low = get(fence, IOFENCE.ADDR_LO);
    return this.#parts.structures.storeWord((get(fence, IOFENCE.ADDR_HI) << 2) | (low >>> 30), low << 2, get(fence, IOFENCE.DATA));
  }

  #ats(): number {
    const words = this.#words;
    const { registers, tags } = this.#parts;
    if (!registers.can(Cap.ats) || !reservedClear(words, ATS_RESERVED)) return ILLEGAL;
    const requester = get(words, ATS.RID);
    const segment = isSet(words, ATS.DSV) ? get(words, ATS.DSEG) : null;
    const pasid = isSet(words, ATS.PV) ? get(words, ATS.PID) : null;
    const payload = joinHiLo(get(words, ATS.PAYLOAD_HI), get(words, ATS.PAYLOAD_LO));
    if (get(words, COMMAND.OPERATION) === Operation.ATS_PRGR) {
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

/** 32 for all ones. */
function trailingOnes(bits: number): number {
  const zeros = ~bits;
  return zeros === 0 ? 32 : 31 - Math.clz32(zeros & -zeros);
}
