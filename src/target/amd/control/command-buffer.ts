import { hiOfPfn, loOfPfn } from '../../../memory/address.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { NO_CONTEXT } from '../../../memory/iotlb.ts';
import { CommandsAhead } from '../../commands-ahead.ts';
import { type Field, get, getWide, isSet, reservedMask, type WideField } from '../../fields.ts';
import { Remainder } from '../../remainder.ts';
import type { Events } from '../reporting/events.ts';
import type { Spaces } from '../spaces.ts';
import {
  COMMAND_BYTES,
  COMPLETE_PPR,
  COMPLETION_WAIT,
  INVALIDATE_ALL,
  INVALIDATE_DEVICE,
  INVALIDATE_IOTLB,
  INVALIDATE_PAGES,
  OP,
  OPCODE,
  PREFETCH,
} from '../spec/commands.ts';
import { EVENT } from '../spec/events.ts';
import { CONTROL, POINTER_MASK, REG, STATUS } from '../spec/registers.ts';
import type { AmdIommuOptions } from '../surroundings.ts';
import type { Translator } from '../translation/translator.ts';
import { PageCommands, sizeOf } from './page-commands.ts';
import type { Registers } from './registers.ts';

/** Commands for one register access at most; what is left follows by itself. */
const COMMANDS_PER_ACCESS = 1 << 14;
const COMMAND_LG2 = 4;
/** OPCODE.invalidatePages, which comes most, for the compiler folds a module's own constants only. */
const INVALIDATE_PAGES_OPCODE = 3;
/** For the test that compares it with its declaration. */
export const REPEATED = { INVALIDATE_PAGES_OPCODE } as const;
const reserved = (fields: Readonly<Record<string, Field | WideField>>) => reservedMask(2, Object.values(fields));
/** By opcode: bits that must be 0; what has none is no command. */
const RESERVED: readonly (Int32Array | undefined)[] = [
  undefined,
  reserved(COMPLETION_WAIT),
  reserved(INVALIDATE_DEVICE),
  reserved(INVALIDATE_PAGES),
  reserved(INVALIDATE_IOTLB),
  reserved(INVALIDATE_DEVICE),
  reserved(PREFETCH),
  reserved(COMPLETE_PPR),
  reserved(INVALIDATE_ALL),
];

interface Parts {
  readonly registers: Registers;
  readonly events: Events;
  readonly translator: Translator;
  readonly spaces: Spaces;
}

/** The command buffer (2.4): commands one after the other; an error stops it until it is enabled again. */
export class CommandBuffer {
  readonly #parts: Parts;
  readonly #memory: GuestMemory;
  readonly #options: AmdIommuOptions;
  readonly #words = new Int32Array(4);
  readonly #usual: CommandsAhead;
  readonly #remainder: Remainder;

  constructor(parts: Parts, options: AmdIommuOptions) {
    this.#parts = parts;
    this.#remainder = new Remainder(() => this.run(), options.schedule);
    this.#memory = options.memory;
    this.#usual = new CommandsAhead(options.memory, new PageCommands(parts.translator), COMMAND_LG2);
    this.#options = options;
  }

  /** Control was written: enabled from 0 to 1 the buffer runs again. */
  configured(wasEnabled: boolean): void {
    const { registers } = this.#parts;
    const isEnabled = registers.control(CONTROL.COMMAND_BUFFER_EN) !== 0 && registers.control(CONTROL.IOMMU_EN) !== 0;
    if (isEnabled !== wasEnabled) registers.status(STATUS.COMMAND_BUFFER_RUN, isEnabled);
  }

  /** Commands wait, and no error keeps them from being carried out. */
  get #isRunnable(): boolean {
    const { registers } = this.#parts;
    const ahead = (registers.get32(REG.COMMAND_HEAD) ^ registers.get32(REG.COMMAND_TAIL)) & this.#pointerMask;
    return ahead !== 0 && registers.hasStatus(STATUS.COMMAND_BUFFER_RUN);
  }

  get #pointerMask(): number {
    return (this.#parts.registers.ringBytes(REG.COMMAND_BASE) - 1) & POINTER_MASK;
  }

  run(): void {
    const { registers, spaces } = this.#parts;
    const { announcements } = spaces;
    if (!registers.hasStatus(STATUS.COMMAND_BUFFER_RUN)) return;
    // Where the buffer is cannot change while one register access is done.
    const page = registers.ringPage(REG.COMMAND_BASE);
    const mask = this.#pointerMask;
    announcements.beginCommands();
    let isDone = false;
    for (let left = COMMANDS_PER_ACCESS; left > 0 && !announcements.isSpent && !isDone; left--) {
      if (!spaces.isObserved) left -= this.#runUsual(page, mask, left);
      const head = registers.get32(REG.COMMAND_HEAD) & mask;
      isDone = left === 0 || head === (registers.get32(REG.COMMAND_TAIL) & mask) || !this.#step(page + (head >>> 12), head & 0xfff);
      if (!isDone) registers.set32(REG.COMMAND_HEAD, (head + COMMAND_BYTES) & mask);
    }
    // Head is where the guest sees how far its commands are.
    if (!announcements.endCommands() || this.#isRunnable) this.#remainder.later();
  }

  /** Carries out the usual commands from the head on, `limit` at most, up to another one. Returns how many there were. */
  #runUsual(page: number, mask: number, limit: number): number {
    const { registers } = this.#parts;
    const last = mask >> COMMAND_LG2;
    const head = registers.get32(REG.COMMAND_HEAD) >> COMMAND_LG2;
    const most = Math.min(limit, ((registers.get32(REG.COMMAND_TAIL) >> COMMAND_LG2) - head) & last);
    const usual = this.#usual.run(hiOfPfn(page), loOfPfn(page), last, head, most);
    if (usual > 0) registers.set32(REG.COMMAND_HEAD, ((head + usual) & last) << COMMAND_LG2);
    return usual;
  }

  /** False: the head stays at the command, which failed, or waits. */
  #step(page: number, offset: number): boolean {
    const hi = hiOfPfn(page);
    const lo = loOfPfn(page) | offset;
    if (!this.#load(hi, lo)) return this.#stop(EVENT.commandHardware, hi, lo);
    const words = this.#words;
    const opcode = get(words, OP);
    const mask = RESERVED[opcode];
    if (mask === undefined || ((words[0] & mask[0]) | (words[1] & mask[1]) | (words[2] & mask[2]) | (words[3] & mask[3])) !== 0)
      return this.#stop(EVENT.illegalCommand, hi, lo);
    if (opcode !== INVALIDATE_PAGES_OPCODE) return this.#execute(words, hi, lo);
    this.#invalidatePages(words);
    return true;
  }

  #load(hi: number, lo: number): boolean {
    const words = this.#words;
    const { word } = this.#memory;
    if (this.#memory.load64(hi, lo) < 0) return false;
    words[0] = word[0];
    words[1] = word[1];
    if (this.#memory.load64(hi, lo + 8) < 0) return false;
    words[2] = word[0];
    words[3] = word[1];
    return true;
  }

  #stop(code: number, hi: number, lo: number): false {
    this.#parts.events.command(code, hi, lo);
    this.#parts.registers.status(STATUS.COMMAND_BUFFER_RUN, false);
    return false;
  }

  /** `hi`, `lo`: where the command is. */
  #execute(words: Int32Array, hi: number, lo: number): boolean {
    const { translator, spaces } = this.#parts;
    switch (get(words, OP)) {
      case OPCODE.completionWait:
        return this.#completionWait(words);
      case OPCODE.invalidateDeviceEntry: {
        const device = get(words, INVALIDATE_DEVICE.DEVICE);
        translator.forgetDevice(device);
        spaces.command(words, device);
        spaces.refresh(device);
        return true;
      }
      case OPCODE.invalidateIotlbPages:
        this.#invalidateIotlb(words, hi, lo);
        return true;
      case OPCODE.completePpr:
        this.#options.completePageRequest?.({
          device: get(words, COMPLETE_PPR.DEVICE),
          pasid: isSet(words, COMPLETE_PPR.GN) ? get(words, COMPLETE_PPR.PASID) : null,
          tag: get(words, COMPLETE_PPR.TAG),
        });
        return true;
      case OPCODE.invalidateAll:
        translator.forgetAll();
        spaces.command(words, -1);
        spaces.invalidatedAll();
        return true;
      // Interrupt tables are not cached, and a prefetch is a hint.
      default:
        return true;
    }
  }

  /** 2.4.1: what came before is done, on the hardware too; until it is, false. */
  #completionWait(words: Int32Array): boolean {
    const { registers, spaces } = this.#parts;
    if (!spaces.announcements.flush()) return false;
    if (isSet(words, COMPLETION_WAIT.S)) {
      const hi = get(words, COMPLETION_WAIT.ADDRESS_HIGH);
      const lo = get(words, COMPLETION_WAIT.ADDRESS_LOW) << 3;
      const [high, low] = [get(words, COMPLETION_WAIT.DATA_HIGH), get(words, COMPLETION_WAIT.DATA_LOW)];
      if (this.#memory.store64(hi, lo, high, low) < 0) return this.#stop(EVENT.commandHardware, hi, lo);
    }
    if (isSet(words, COMPLETION_WAIT.I)) {
      registers.status(STATUS.COMPLETION_WAIT_INT, true);
      if (registers.control(CONTROL.COMPLETION_WAIT_INT_EN) !== 0) this.#options.interrupt?.(registers.ownInterrupt(REG.XT_GENERAL));
    }
    return true;
  }

  /** 2.4.3: a cache may forget more, and behind the host table it does: all of the domain's guest translations. */
  #invalidatePages(words: Int32Array): void {
    const { translator, spaces } = this.#parts;
    const domain = get(words, INVALIDATE_PAGES.DOMAIN);
    const lg2 = isSet(words, INVALIDATE_PAGES.S) ? sizeOf(words[3], words[2]) : 12;
    const pasid = isSet(words, INVALIDATE_PAGES.GN) ? get(words, INVALIDATE_PAGES.PASID) : -1;
    if (pasid < 0 && translator.hasGuestTables(domain)) translator.iotlb.invalidateSpace(domain);
    else if (pasid >= 0 && translator.hasPieces(domain)) translator.iotlb.invalidateContext(domain, pasid);
    else translator.iotlb.invalidateBlock(domain, pasid < 0 ? NO_CONTEXT : pasid, words[3], words[2], lg2);
    translator.forgetGuestTables(domain);
    if (!spaces.isObserved) return;
    spaces.command(words, -1);
    const pages = 2 ** (lg2 - 12);
    const page = getWide(words, INVALIDATE_PAGES.ADDRESS);
    const first = page - (page % pages);
    spaces.invalidated(domain, pasid, first, first + pages - 1);
  }

  /** 2.4.4; a device that does not answer in time is reported, and the commands behind it go on (2.5.8). */
  #invalidateIotlb(words: Int32Array, hi: number, lo: number): void {
    const device = get(words, INVALIDATE_IOTLB.DEVICE);
    const { PASID_LOW, PASID_MIDDLE, PASID_HIGH } = INVALIDATE_IOTLB;
    const pasid = get(words, PASID_LOW) | (get(words, PASID_MIDDLE) << 8) | (get(words, PASID_HIGH) << 16);
    const page = getWide(words, INVALIDATE_IOTLB.ADDRESS);
    const pages = isSet(words, INVALIDATE_IOTLB.S) ? 2 ** (sizeOf(words[3], words[2]) - 12) : 1;
    this.#parts.spaces.command(words, device);
    const answer = this.#options.invalidateDevice?.({
      device,
      pasid: isSet(words, INVALIDATE_IOTLB.GN) ? pasid : null,
      firstPage: page - (page % pages),
      pages,
      type: get(words, INVALIDATE_IOTLB.TYPE),
    });
    if (answer === false) this.#parts.events.iotlbTimeout(device, hi, lo);
  }
}
