import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import { require64, requireAccess, requireFunction, requireNumbers, requireObject } from '../../memory/arguments.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Iotlb } from '../../memory/iotlb.ts';
import {
  type AddressSpace,
  type FirstStage,
  type HardwareEvent,
  NO_PASID,
  type PageAnswer,
  type Target,
  type TargetObserver,
} from '../target.ts';
import { featuresOf } from './capabilities.ts';
import { Atos } from './control/atos.ts';
import { CommandQueue } from './control/command-queue.ts';
import { Invalidations } from './control/invalidations.ts';
import { Registers } from './control/registers.ts';
import { Events } from './reporting/events.ts';
import { Interrupts } from './reporting/interrupts.ts';
import { EVENT_QUEUE, OutputQueue, PRI_QUEUE } from './reporting/output-queue.ts';
import { PageRequests } from './reporting/page-requests.ts';
import { Refusals } from './reporting/refusals.ts';
import { Stalls } from './reporting/stalls.ts';
import { checkedState, type Smmuv3State, saveRegisters } from './saved-state.ts';
import { Spaces } from './spaces.ts';
import { EVENT, PRG_RESPONSE } from './spec/events.ts';
import { CR2, REG } from './spec/registers.ts';
import type { PageRequest, PageResponse, Smmuv3Options, TranslationCompletion } from './surroundings.ts';
import { Ats } from './translation/ats.ts';
import { Translator } from './translation/translator.ts';

/** READ | WRITE, here because the compiler folds a module's own constants only. */
const RW = 3;
/** For the test that compares them with their declarations. */
export const REPEATED = { RW } as const;
/** What the machine around it may be asked. */
const HOOKS = ['schedule', 'interrupt', 'message', 'invalidateDevice', 'pageResponse'] as const;

/** PRG_RESPONSE as observers hear it. */
const ANSWERS: Readonly<Record<number, PageAnswer>> = { [PRG_RESPONSE.success]: 'success', [PRG_RESPONSE.invalidRequest]: 'invalid' };

/**
 * The Arm SMMUv3, its Non-secure interface. Registers are accessed with `read` and `write`; endpoints are StreamIDs.
 *
 * @example
 * const smmu = new Smmuv3({ memory: GuestMemory.ofBytes(1 << 20) });
 * smmu.addEndpoint(0x28);
 * smmu.translate(0x28, -1, 0, 0x1000, 1); // 12: it is off, and lets requests through
 */
export class Smmuv3 implements Target {
  readonly name = 'smmuv3';
  readonly stageFormat = 'smmuv3';
  readonly memory: GuestMemory;
  readonly translated: Int32Array;
  readonly #registers: Registers;
  readonly #translator: Translator;
  /** The translator's. */
  readonly #iotlb: Iotlb;
  readonly #stalls: Stalls;
  readonly #spaces: Spaces;
  readonly #commands: CommandQueue;
  readonly #events: Events;
  readonly #pageRequests: PageRequests;
  readonly #ats: Ats;
  readonly #atos: Atos;

  /** @throws TypeError or RangeError when an option is not possible. */
  constructor(options: Smmuv3Options) {
    requireObject('Smmuv3', 'options', options);
    const { memory, message, stalls } = options;
    if (!Array.isArray(memory?.regions)) throw new TypeError('Smmuv3: memory is no GuestMemory');
    for (const name of HOOKS) requireFunction('Smmuv3', name, options[name]);
    this.memory = memory;
    const wanted = options.features ?? {};
    if (wanted.MSI === 1 && message === undefined) throw new TypeError('Smmuv3: features: MSI needs the option message');
    if (wanted.STALL_MODEL !== undefined && wanted.STALL_MODEL !== 1 && stalls === undefined)
      throw new TypeError('Smmuv3: features: STALL_MODEL needs the option stalls');
    const features = featuresOf({ ...(message ? {} : { MSI: 0 }), ...(stalls ? {} : { STALL_MODEL: 1 }), ...wanted });
    const registers = new Registers(features);
    this.#registers = registers;
    const interrupts = new Interrupts(registers, options);
    const events = new Events(new OutputQueue(registers, memory, interrupts, EVENT_QUEUE), interrupts);
    this.#events = events;
    this.#stalls = new Stalls(events, features, features.STALL_MODEL === 1 ? undefined : stalls);
    const refusals = new Refusals(events, this.#stalls, () => registers.cr2(CR2.RECINVSID));
    this.#translator = new Translator(registers, refusals, options);
    this.#iotlb = this.#translator.iotlb;
    this.translated = this.#translator.translated;
    this.#spaces = new Spaces(this.#translator, memory, features);
    this.#ats = new Ats(registers, this.#translator, events, refusals);
    this.#atos = new Atos(registers, this.#translator);
    const respond = (response: PageResponse) => {
      options.pageResponse?.(response);
      const { stream, pasid, group } = response;
      this.#spaces.answer(stream, pasid ?? NO_PASID, group, ANSWERS[response.response] ?? 'failure');
    };
    const queue = new OutputQueue(registers, memory, interrupts, PRI_QUEUE);
    this.#pageRequests = new PageRequests({
      registers,
      queue,
      interrupts,
      configurations: this.#translator.configurations,
      refusals,
      respond,
    });
    const invalidations = new Invalidations(registers, this.#translator, this.#spaces);
    this.#commands = new CommandQueue(
      { registers, interrupts, invalidations, translator: this.#translator, spaces: this.#spaces, stalls: this.#stalls, respond },
      options,
    );
  }

  /** Tells of a device behind the SMMU. @throws RangeError for what is no StreamID (IDR1.SIDSIZE). */
  addEndpoint(stream: number): void {
    requireNumbers('Smmuv3', { stream });
    const streams = 2 ** this.#registers.features.SIDSIZE;
    if (!Number.isInteger(stream) || stream < 0 || stream >= streams) throw new RangeError(`Smmuv3: ${stream} is no StreamID`);
    this.#spaces.add(stream);
  }

  removeEndpoint(stream: number): void {
    requireNumbers('Smmuv3', { stream });
    this.#spaces.remove(stream);
  }

  observe(observer: TargetObserver): () => void {
    requireObject('Smmuv3', 'observer', observer, 'TargetObserver', ['attach', 'changed', 'flush']);
    return this.#spaces.observe(observer);
  }

  get iotlbHits(): number {
    return this.#translator.iotlb.hits;
  }

  get iotlbMisses(): number {
    return this.#translator.iotlb.misses;
  }

  knows(endpoint: number): boolean {
    requireNumbers('Smmuv3', { endpoint });
    return this.#spaces.knows(endpoint);
  }

  pasidsOf(endpoint: number): readonly number[] {
    requireNumbers('Smmuv3', { endpoint });
    return this.#spaces.pasidsOf(endpoint);
  }

  retry(): void {
    this.#spaces.retry();
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    requireNumbers('Smmuv3', { endpoint, pasid });
    return this.#spaces.spaceOf(endpoint, pasid);
  }

  stageOf(endpoint: number, pasid = NO_PASID): FirstStage | null {
    requireNumbers('Smmuv3', { endpoint, pasid });
    return this.#spaces.stageOf(endpoint, pasid);
  }

  /** Also answers FAULT_ABORT, FAULT_RAZ_WI and FAULT_STALLED; otherwise a fault is its event's number, as `targetFault('smmuv3', …)` has it. */
  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    if ((access & ~RW) === 0 && access !== 0) {
      const lg2 = this.#iotlb.lookupFor(endpoint, pasid, hi, lo, access);
      if (lg2 >= 0) return lg2;
    }
    return this.#translator.translate(endpoint, pasid, hi, lo, access);
  }

  /**
   * A translation request of a device (PCIe ATS). `access`: READ, WRITE unless it wants to read alone (NW), EXECUTE and PRIVILEGED of its PASID.
   */
  translationRequest(endpoint: number, pasid: number, address: bigint, access: number): TranslationCompletion {
    requireNumbers('Smmuv3', { endpoint, pasid, access });
    require64('Smmuv3', 'address', address);
    return this.#ats.request({ stream: endpoint, substream: pasid < 0 ? NO_PASID : pasid, hi: hiOf(address), lo: loOf(address), access });
  }

  /** An access whose address a device had translated before; answers as `translate` does. */
  translateTranslated(endpoint: number, hi: number, lo: number, access: number): number {
    return this.#ats.translated({ stream: endpoint, substream: NO_PASID, hi, lo, access });
  }

  /** A page request of a device (PCIe PRI). */
  pageRequest(request: PageRequest): void {
    requireObject('Smmuv3', 'request', request);
    this.#pageRequests.receive(request);
  }

  report(event: HardwareEvent): void {
    requireObject('Smmuv3', 'event', event);
    if (event.kind === 'record') this.#events.pass(event.words);
    else if (event.kind === 'lost') this.#events.lost();
    else this.#reportPageRequest(event);
  }

  /**
   * What stalls in hardware is not held here: where the guest takes no page requests, the device is told that there will be no page, and the
   * guest of a fault.
   */
  #reportPageRequest({ endpoint, pasid, group, last, access, address }: Extract<HardwareEvent, { kind: 'page-request' }>): void {
    if (!this.#pageRequests.isOn) {
      const request = { stream: endpoint, substream: pasid, hi: hiOf(address), lo: loOf(address), access };
      this.#events.record({ number: EVENT.F_TRANSLATION }, request);
      if (last) this.#spaces.answer(endpoint, pasid, group, 'invalid');
      return;
    }
    const page = Number(BigInt.asUintN(64, address) >> 12n);
    const [read, write, execute, privileged] = [READ, WRITE, EXECUTE, PRIVILEGED].map((wish) => (access & wish) !== 0);
    this.pageRequest({ stream: endpoint, pasid: pasid < 0 ? null : pasid, page, read, write, execute, privileged, group, last });
  }

  /** Tag of the access for which `translate` answered FAULT_STALLED last; -1: it has none (StallTaker.untagged). */
  get stag(): number {
    return this.#stalls.stag;
  }

  /** Bytes of its pages of registers (6.1): two of 64 KiB, and with IDR0.VATOS a third. */
  get registerBytes(): number {
    return this.#registers.bytes;
  }

  #isAccess(offset: number, bytes: number): boolean {
    if ((bytes !== 4 && bytes !== 8) || !Number.isInteger(offset)) return false;
    return offset >= 0 && offset + bytes <= this.#registers.bytes && offset % bytes === 0;
  }

  /** A register read of 4 or 8 bytes; any other size, place or alignment reads 0 (6.2). */
  read(offset: number, bytes: number): bigint {
    requireAccess('Smmuv3', offset, bytes);
    if (!this.#isAccess(offset, bytes)) return 0n;
    this.#commands.run();
    const low = this.#read32(offset);
    return bytes === 4 ? BigInt(low >>> 0) : joinHiLo(this.#read32(offset + 4), low);
  }

  #read32(offset: number): number {
    const place = this.#registers.place(offset);
    return place < 0 ? 0 : this.#registers.read32(place);
  }

  /** A register write of 4 or 8 bytes; any other size, place or alignment is ignored. Of eight bytes the low half comes first. */
  write(offset: number, bytes: number, value: bigint): void {
    requireAccess('Smmuv3', offset, bytes, value);
    if (!this.#isAccess(offset, bytes)) return;
    this.#write32(offset, loOf(value));
    if (bytes === 8) this.#write32(offset + 4, hiOf(value));
    this.#commands.run();
  }

  #write32(offset: number, value: number): void {
    const registers = this.#registers;
    const place = registers.place(offset);
    if (place < 0) return;
    const wasOn = registers.isOn;
    if (place === REG.GATOS_CTRL || place === REG.VATOS_CTRL) this.#atos.run(place, value);
    if (!registers.store32(place, value)) return;
    if (place === REG.CR0) {
      if (wasOn !== registers.isOn) this.#forgetAll();
      if (wasOn && !registers.isOn) this.#stalls.terminateAll();
    }
    // Off, GBPA decides what streams reach.
    if (place === REG.GBPA && !registers.isOn) this.#forgetAll();
    if (place === REG.EVENTQ_CONS || place === REG.CR0 || place === REG.GERRORN) this.#stalls.roomMade();
  }

  #forgetAll(): void {
    this.#translator.forgetAll();
    this.#spaces.forgetAll();
    this.#spaces.announcements.flush();
  }

  reset(): void {
    this.#registers.reset();
    this.#stalls.reset();
    this.#commands.reset();
    this.#forgetAll();
  }

  save(): Smmuv3State {
    const { isInvalidationMissing } = this.#commands;
    return { target: this.name, registers: saveRegisters(this.#registers), stalls: this.#stalls.save(), isInvalidationMissing };
  }

  /**
   * Registers and stalls; caches start empty, which the specification always allows.
   * @throws TypeError when the state is none, or of other features; then nothing has changed.
   */
  load(state: unknown): void {
    const { registers, stalls, isInvalidationMissing } = checkedState(state, this.#registers.features);
    const saved = new Map(registers);
    const differs = [REG.IDR0, REG.IDR1, REG.IDR3, REG.IDR5].some((offset) => (saved.get(offset) ?? 0) !== this.#registers.get32(offset));
    if (differs) throw new TypeError('Smmuv3: the saved state is of other features');
    this.#registers.restore(registers);
    this.#stalls.load(stalls);
    this.#commands.isInvalidationMissing = isInvalidationMissing;
    this.#forgetAll();
  }
}
