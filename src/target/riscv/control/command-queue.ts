import { joinHiLo } from '../../../memory/address.ts';
import { CommandsAhead } from '../../commands-ahead.ts';
import { get, isSet, reservedClear } from '../../fields.ts';
import type { Interrupts } from '../reporting/interrupts.ts';
import { ATS, ATS_RESERVED, COMMAND, IODIR, IODIR_RESERVED, IOFENCE, IOFENCE_RESERVED, Operation } from '../spec/commands.ts';
import { Cap, CapHi, CQB, CQCSR, CQH, CQT, Csr, Interrupt } from '../spec/registers.ts';
import type { InvalidationTags } from '../translation/ats.ts';
import type { DeviceDirectory } from '../translation/device-directory.ts';
import { COMMAND_LG2, type InvalidationParts, TranslationInvalidations } from './iotinval.ts';
import { Queue } from './queue.ts';

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

export interface CommandQueueParts extends InvalidationParts {
  readonly interrupts: Interrupts;
  readonly directory: DeviceDirectory;
  readonly tags: InvalidationTags;
}

/** "Command-Queue". */
export class CommandQueue {
  readonly queue: Queue;
  /** An IOFENCE.C that waits for invalidations: its two doublewords, [lo, hi, lo, hi]. */
  fence: readonly number[] | null = null;
  stalled: StalledInvalidation | null = null;
  readonly #parts: CommandQueueParts;
  readonly #words: Int32Array;
  readonly #invalidations: TranslationInvalidations;
  readonly #usual: CommandsAhead;

  constructor(parts: CommandQueueParts) {
    this.#parts = parts;
    this.#words = parts.structures.words;
    this.#invalidations = new TranslationInvalidations(parts);
    this.#usual = new CommandsAhead(parts.surroundings.memory, this.#invalidations, COMMAND_LG2);
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
        const most = Math.min(left, ((software - head) & mask) >>> 0);
        const usual = this.#usual.run(baseHi, baseLo, mask, head, most);
        left -= usual;
        head = (head + usual) & mask;
        if (usual > 0) registers.set(CQH, head);
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

  /** An error bit stops the queue until software clears it. */
  #fail(bit: number): void {
    this.queue.setBits(bit);
    this.#parts.interrupts.raise(Interrupt.command);
  }

  /** The command in `words`. Opcodes and functions that are reserved, custom or not supported are illegal. */
  #execute(): number {
    switch (get(this.#words, COMMAND.OPERATION)) {
      case Operation.IOTINVAL_VMA:
        return this.#invalidations.first() ? DONE : ILLEGAL;
      case Operation.IOTINVAL_GVMA:
        return this.#invalidations.second() ? DONE : ILLEGAL;
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
