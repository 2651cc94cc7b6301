import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { CommandsAhead } from '../../commands-ahead.ts';
import { get, getWide, isSet, put } from '../../fields.ts';
import { Remainder } from '../../remainder.ts';
import type { Interrupts } from '../reporting/interrupts.ts';
import type { Stalls } from '../reporting/stalls.ts';
import type { Spaces } from '../spaces.ts';
import { ATC_INV, CERROR, COMMAND_BYTES, OP, OPCODE, PRI_RESP, RESUME, SIGNAL, STREAM, SYNC } from '../spec/commands.ts';
import { PRG_RESPONSE } from '../spec/events.ts';
import { CMDQ_CONS, CR0, GERROR, QUEUE_BASE, REG } from '../spec/registers.ts';
import type { PageResponse, Smmuv3Options } from '../surroundings.ts';
import type { Translator } from '../translation/translator.ts';
import { CommandChecks } from './command-checks.ts';
import type { Invalidations } from './invalidations.ts';
import { PageCommands } from './page-commands.ts';
import type { Registers } from './registers.ts';

const ALIGNMENT = 32;
const COMMAND_LG2 = 4;
/* Here because the compiler folds a module's own constants only. */
const { PREFETCH_CONFIG, PREFETCH_ADDR, ATC_INV: ATC, PRI_RESP: PRI, RESUME: RESUMES, STALL_TERM, SYNC: SYNCS } = OPCODE;
/** Places of the two indices among the registers. */
const PROD = REG.CMDQ_PROD >> 2;
const CONS = REG.CMDQ_CONS >> 2;
/** Of a command that is not done yet. */
const WAITS = -1;
/** PRI_RESP.RESPONSE as PCIe codes it (8.3). */
const RESPONSES = [PRG_RESPONSE.failure, PRG_RESPONSE.invalidRequest, PRG_RESPONSE.success] as const;

interface Parts {
  readonly registers: Registers;
  readonly interrupts: Interrupts;
  readonly invalidations: Invalidations;
  readonly translator: Translator;
  readonly spaces: Spaces;
  readonly stalls: Stalls;
  respond(response: PageResponse): void;
}

/** The command queue (4.1): commands one after the other; an error stops it until the guest acknowledges it (7.1). */
export class CommandQueue {
  readonly #parts: Parts;
  readonly #memory: GuestMemory;
  readonly #options: Smmuv3Options;
  readonly #checks: CommandChecks;
  readonly #words = new Int32Array(COMMAND_BYTES / 4);
  readonly #usual: CommandsAhead;
  readonly #remainder: Remainder;
  /** A device has not done what a CMD_ATC_INV asked: the next CMD_SYNC says so (3.9.1.4). */
  isInvalidationMissing = false;
  #isRunning = false;
  /** The command that was carried out last asks for an interrupt. */
  #isSynchronized = false;

  constructor(parts: Parts, options: Smmuv3Options) {
    this.#parts = parts;
    this.#memory = options.memory;
    this.#options = options;
    this.#remainder = new Remainder(() => this.run(), options.schedule);
    this.#usual = new CommandsAhead(options.memory, new PageCommands(parts.registers, parts.translator), COMMAND_LG2);
    this.#checks = new CommandChecks(parts.registers.features);
  }

  reset(): void {
    this.isInvalidationMissing = false;
  }

  /** Carries out what is there, a whole queue at most; the rest, if a guest wrote more meanwhile or much had to be read, follows by itself. */
  run(): void {
    const { registers, interrupts, spaces } = this.#parts;
    const { announcements } = spaces;
    if (this.#isRunning || registers.cr0(CR0.CMDQEN) === 0 || interrupts.isActive(GERROR.CMDQ_ERR)) return;
    const lg2 = registers.queueLg2(REG.CMDQ_BASE, 'CMDQS');
    const mask = 2 ** (lg2 + 1) - 1;
    const size = COMMAND_BYTES * 2 ** lg2;
    const start = registers.wide(REG.CMDQ_BASE, QUEUE_BASE.ADDR) * ALIGNMENT;
    const base = start - (start % size);
    this.#isRunning = true;
    announcements.beginCommands();
    const { words } = registers;
    const baseHi = Math.floor(base / 2 ** 32) | 0;
    const baseLo = base | 0;
    let read = words[CONS] & mask;
    for (let left = 2 ** lg2; left > 0 && read !== (words[PROD] & mask) && !announcements.isSpent; left--) {
      if (!spaces.areObserved) {
        const usual = this.#usual.run(baseHi, baseLo, mask >> 1, read, Math.min(left, (words[PROD] - read) & mask));
        left -= usual;
        read = (read + usual) & mask;
        if (usual > 0) words[CONS] = read;
        if (left === 0 || read === (words[PROD] & mask)) break;
      }
      const error = this.#step(baseHi, baseLo | ((read << COMMAND_LG2) & (size - 1)));
      if (error === WAITS) break;
      if (error !== 0) {
        this.#fail(error);
        break;
      }
      read = (read + 1) & mask;
      words[CONS] = read;
      if (this.#isSynchronized) this.#signal();
    }
    // The index is where the guest sees how far its commands are.
    const isDone = announcements.endCommands();
    this.#isRunning = false;
    if (!isDone || (read !== (words[PROD] & mask) && !interrupts.isActive(GERROR.CMDQ_ERR))) this.#remainder.later();
  }

  #fail(error: number): void {
    const { registers, interrupts } = this.#parts;
    put(registers.view(REG.CMDQ_CONS), CMDQ_CONS.ERR, error);
    interrupts.activate(GERROR.CMDQ_ERR);
  }

  /** 0, WAITS, or a CERROR. */
  #step(hi: number, lo: number): number {
    const words = this.#words;
    const { word } = this.#memory;
    if (this.#memory.load64(hi, lo) < 0) return CERROR.ABT;
    words[0] = word[0];
    words[1] = word[1];
    if (this.#memory.load64(hi, lo | 8) < 0) return CERROR.ABT;
    words[2] = word[0];
    words[3] = word[1];
    if (this.#checks.isIllegal(words)) return CERROR.ILL;
    if (get(words, OP) === SYNCS) return this.#synchronize(words);
    this.#execute(words);
    return 0;
  }

  #execute(words: Int32Array): void {
    const { invalidations, stalls } = this.#parts;
    switch (get(words, OP)) {
      // Prefetches are hints (4.2).
      case PREFETCH_CONFIG:
      case PREFETCH_ADDR:
        return;
      case ATC:
        this.#invalidateDevice(words);
        return;
      case PRI:
        this.#respond(words);
        return;
      case RESUMES: {
        const { TERM_MODEL } = this.#parts.registers.features;
        const aborts = TERM_MODEL === 1 || isSet(words, RESUME.ABORT);
        const action = isSet(words, RESUME.ACTION) ? 'retry' : aborts ? 'abort' : 'raz-wi';
        stalls.resume(get(words, STREAM.STREAM) >>> 0, get(words, RESUME.STAG), action);
        return;
      }
      case STALL_TERM:
        stalls.terminate(get(words, STREAM.STREAM) >>> 0);
        return;
      default:
        invalidations.run(words);
    }
  }

  /** 4.7.3: what came before is done, on the hardware too; unless a device did not answer, which is told once. As `#step`. */
  #synchronize(words: Int32Array): number {
    if (!this.#parts.spaces.announcements.flush()) return WAITS;
    const isComplete = !this.isInvalidationMissing;
    this.isInvalidationMissing = false;
    this.#isSynchronized = isComplete && get(words, SYNC.CS) === SIGNAL.irq;
    return isComplete ? 0 : CERROR.ATC_INV_SYNC;
  }

  /** 3.18: whoever hears the interrupt sees that the command has been consumed. */
  #signal(): void {
    const words = this.#words;
    this.#isSynchronized = false;
    this.#parts.interrupts.synchronized(getWide(words, SYNC.MSI_ADDRESS) * 4, get(words, SYNC.MSI_DATA));
  }

  /** 4.5.1; ignored while the SMMU is off. */
  #invalidateDevice(words: Int32Array): void {
    if (!this.#parts.registers.isOn) return;
    const stream = get(words, STREAM.STREAM) >>> 0;
    const size = get(words, ATC_INV.SIZE);
    const pages = 2 ** size;
    const page = getWide(words, ATC_INV.ADDRESS);
    this.#parts.spaces.command(words, stream);
    const hasPasid = isSet(words, STREAM.SSV);
    const isDone = this.#options.invalidateDevice?.({
      stream,
      pasid: hasPasid ? get(words, STREAM.SUBSTREAM) : null,
      global: hasPasid && isSet(words, ATC_INV.GLOBAL),
      firstPage: page - (page % pages),
      pages,
    });
    if (isDone === false) this.isInvalidationMissing = true;
  }

  /** 4.5.2; ignored while the SMMU is off. */
  #respond(words: Int32Array): void {
    if (!this.#parts.registers.isOn) return;
    this.#parts.respond({
      stream: get(words, STREAM.STREAM) >>> 0,
      pasid: isSet(words, STREAM.SSV) ? get(words, STREAM.SUBSTREAM) : null,
      group: get(words, PRI_RESP.GROUP),
      response: RESPONSES[get(words, PRI_RESP.RESPONSE)],
    });
  }
}
