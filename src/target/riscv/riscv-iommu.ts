import { WRITE } from '../../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import { require64, requireAccess, requireFunction, requireNumbers, requireObject } from '../../memory/arguments.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import type { Iotlb } from '../../memory/iotlb.ts';
import { requireMemory } from '../../memory/loaded.ts';
import { FAULT_BASE } from '../fault-codes.ts';
import { Remainder } from '../remainder.ts';
import { type AddressSpace, NO_PASID, type PasidDirectory, type Target, type TargetObserver } from '../target.ts';
import { CommandQueue } from './control/command-queue.ts';
import { DebugTranslation } from './control/debug.ts';
import { Hpm } from './control/hpm.ts';
import { powerOn, restore } from './control/register-bits.ts';
import { RegisterWrites } from './control/register-writes.ts';
import { Registers, widthAt } from './control/registers.ts';
import { checkConfig, type RiscvIommuConfig } from './options.ts';
import { FaultQueue } from './reporting/fault-queue.ts';
import { Interrupts } from './reporting/interrupts.ts';
import { PageRequestQueue } from './reporting/page-request-queue.ts';
import { checkedState, type RiscvIommuState } from './saved-state.ts';
import { Spaces } from './spaces.ts';
import { Cause, TransactionType } from './spec/causes.ts';
import { IOCOUNTOVF, IOHPMCYCLES, IPSR, PAGE_OF_REGISTERS } from './spec/registers.ts';
import { Structures } from './structures.ts';
import type { AtsMessage, RiscvIommuSurroundings } from './surroundings.ts';
import { type AtsCompletion, type AtsRequest, completeTranslation, InvalidationTags } from './translation/ats.ts';
import { Contexts } from './translation/contexts.ts';
import { DeviceDirectory } from './translation/device-directory.ts';
import { MsiTables } from './translation/msi.ts';
import { ProcessDirectory } from './translation/process-directory.ts';
import { Kind, type RequestKind } from './translation/requests.ts';
import { Translator } from './translation/translator.ts';

/** READ | WRITE | EXECUTE and the translator's BY_USER, here because the compiler folds a module's own constants only. */
const RWX = 7;
const BY_USER = 8;
/** For the test that compares them with their declarations. */
export const REPEATED = { RWX, BY_USER } as const;

/** What the machine around it may be asked. */
const HOOKS = ['wire', 'schedule', 'storeDevice', 'sendMessage', 'orderRequests', 'cycles'] as const;

/** Commands processed for one register access at most (see also Spaces.isSpent); what is left follows by itself. */
const COMMANDS_PER_ACCESS = 1 << 14;

/**
 * The RISC-V IOMMU (RISC-V IOMMU Architecture Specification, version 20260222, its extensions included). Registers are accessed with
 * `read` and `write`, in any size at any offset; endpoints are device_ids.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * const iommu = new RiscvIommu({}, { memory });
 * iommu.translate(8, -1, 0, 0x5123, READ); // -0x60100: all inbound transactions disallowed
 * iommu.write(16, 8, 1n); // ddtp.iommu_mode: Bare
 * iommu.translate(8, -1, 0, 0x5123, READ); // 12: lg2 of the page
 * iommu.translated[0]; // 0x5123
 */
export class RiscvIommu implements Target {
  readonly name = 'riscv';
  readonly memory: GuestMemory | undefined;
  readonly translated: Int32Array;
  readonly #registers: Registers;
  readonly #config: RiscvIommuConfig;
  readonly #interrupts: Interrupts;
  readonly #hpm: Hpm;
  readonly #contexts: Contexts;
  readonly #translator: Translator;
  /** The translator's. */
  readonly #iotlb: Iotlb;
  readonly #tags: InvalidationTags;
  readonly #spaces: Spaces;
  readonly #commands: CommandQueue;
  readonly #remainder: Remainder;
  readonly #faults: FaultQueue;
  readonly #pages: PageRequestQueue;
  readonly #writes: RegisterWrites;
  readonly msi: MsiTables;

  /**
   * The register file may be handed in by somebody who looks at it behind the programming interface (inspectors, replays).
   * @throws RangeError when the configuration is not one that the specification allows; TypeError when something is of the wrong type
   */
  constructor(config: RiscvIommuConfig, surroundings: RiscvIommuSurroundings, registers = new Registers()) {
    checkConfig(config);
    requireObject('RiscvIommu', 'surroundings', surroundings);
    requireMemory('RiscvIommu', surroundings.memory, ['load64', 'store64', 'compareExchange64']);
    for (const name of HOOKS) requireFunction('RiscvIommu', name, surroundings[name]);
    if (!(registers instanceof Registers)) throw new TypeError('RiscvIommu: registers are no Registers');
    this.#config = config;
    this.#registers = registers;
    const { memory } = surroundings;
    this.memory = memory instanceof GuestMemory ? memory : undefined;
    const structures = new Structures(surroundings, registers);
    const faults: FaultQueue = new FaultQueue(registers, structures, () => this.#interrupts);
    this.#faults = faults;
    this.#interrupts = new Interrupts(registers, structures, surroundings, (iotvalHi, iotvalLo) =>
      faults.report({
        cause: Cause.msiWriteFault,
        type: TransactionType.none,
        device: 0,
        process: null,
        privileged: false,
        suppressed: false,
        iotvalHi,
        iotvalLo,
        iotval2Hi: 0,
        iotval2Lo: 0,
      }),
    );
    const { counters = 32, counterBits = 64, eventLimit = 8, rcidBits = 12, mcidBits = 12 } = config;
    this.#hpm = new Hpm(registers, this.#interrupts, { counters, counterBits, eventLimit }, surroundings.cycles);
    const directory = new DeviceDirectory(registers, structures, memory, this.#hpm, {
      gxlWritable: config.gxlWritable ?? false,
      beWritable: config.sbeFree ?? true,
      rcidMask: (1 << rcidBits) - 1,
      mcidMask: (1 << mcidBits) - 1,
      deviceIdBits: config.deviceIdBits ?? 24,
    });
    const processes = new ProcessDirectory(registers, structures, this.#hpm);
    this.#contexts = new Contexts({ registers, memory, hpm: this.#hpm }, directory, processes, config.directoryEntries ?? 1024);
    this.msi = new MsiTables(registers, structures);
    const parts = { registers, structures, contexts: this.#contexts, msi: this.msi, faults, hpm: this.#hpm };
    this.#translator = new Translator(parts, config.iotlbEntries ?? 65536);
    this.#iotlb = this.#translator.iotlb;
    this.translated = this.#translator.translated;
    this.#tags = new InvalidationTags(config.invalidationTags ?? 32, surroundings);
    this.#spaces = new Spaces({ memory, registers, contexts: this.#contexts, directory });
    const shared = { registers, structures, interrupts: this.#interrupts, contexts: this.#contexts, translator: this.#translator };
    this.#commands = new CommandQueue({ ...shared, directory, spaces: this.#spaces, tags: this.#tags, surroundings });
    this.#remainder = new Remainder(() => this.#runCommands(), surroundings.schedule);
    this.#pages = new PageRequestQueue(registers, structures, {
      interrupts: this.#interrupts,
      contexts: this.#contexts,
      faults,
      hpm: this.#hpm,
      tags: this.#tags,
    });
    this.#writes = new RegisterWrites(registers, config, {
      commands: this.#commands,
      faults,
      pages: this.#pages,
      interrupts: this.#interrupts,
      hpm: this.#hpm,
      debug: new DebugTranslation(registers, this.#translator),
      configured: () => this.#configured(),
    });
    this.reset();
  }

  /** Tells of a device behind the IOMMU. An observer hears what the device reaches from now on. */
  addEndpoint(device: number): void {
    requireNumbers('RiscvIommu', { device });
    if (!Number.isInteger(device) || device < 0 || device > 0xff_ffff) throw new RangeError(`RiscvIommu: ${device} is not a device_id`);
    this.#spaces.add(device);
  }

  removeEndpoint(device: number): void {
    requireNumbers('RiscvIommu', { device });
    this.#spaces.remove(device);
  }

  /** A register read of 4 or 8 bytes; any other size, place or alignment reads 0. */
  read(offset: number, bytes: number): bigint {
    requireAccess('RiscvIommu', offset, bytes);
    if (!isAccess(offset, bytes)) return 0n;
    const word = offset & ~3;
    if (word === IOCOUNTOVF || word === IPSR || (word & ~7) === IOHPMCYCLES) this.#hpm.tick();
    if (!this.#config.deferCommands) this.#runCommands();
    if (word === IOCOUNTOVF) return BigInt(this.#hpm.overflows() >>> 0);
    const low = this.#registers.get(offset);
    return bytes === 4 ? BigInt(low >>> 0) : joinHiLo(this.#registers.get(offset + 4), low);
  }

  /** A register write of 4 or 8 bytes; any other size, place or alignment is ignored. */
  write(offset: number, bytes: number, value: bigint): void {
    requireAccess('RiscvIommu', offset, bytes, value);
    if (!isAccess(offset, bytes)) return;
    this.#spaces.begin();
    if (bytes === 4) this.#writes.write(offset, loOf(value));
    else this.#writes.writeWide(offset, hiOf(value), loOf(value));
    if (this.#hpm.armed !== 0) this.#translator.forgetLast();
    if (!this.#config.deferCommands) this.#runCommands();
    this.#spaces.end();
  }

  /** Also goes on with what earlier commands changed in address spaces that are too large for one operation. What is left then follows by itself. */
  #runCommands(): void {
    if (this.#commands.isRunnable || this.#spaces.isBehind) this.#commands.run(COMMANDS_PER_ACCESS);
    if (this.#commands.isRunnable || this.#spaces.isBehind) this.#remainder.later();
  }

  /** Processes up to `limit` commands: for embedders that set `deferCommands`. */
  processCommands(limit: number): void {
    requireNumbers('RiscvIommu', { limit });
    this.#commands.run(limit);
  }

  /** ddtp or fctl changed. */
  #configured(): void {
    this.#contexts.forgetDevice(null);
    this.#translator.forgetLast();
    this.#spaces.refreshAll();
  }

  observe(observer: TargetObserver): () => void {
    requireObject('RiscvIommu', 'observer', observer, 'TargetObserver', ['attach', 'changed', 'flush']);
    return this.#spaces.observe(observer);
  }

  get iotlbHits(): number {
    return this.#translator.iotlb.hits;
  }

  get iotlbMisses(): number {
    return this.#translator.iotlb.misses;
  }

  knows(endpoint: number): boolean {
    requireNumbers('RiscvIommu', { endpoint });
    return this.#spaces.knows(endpoint);
  }

  retry(): void {
    this.#spaces.retry();
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    requireNumbers('RiscvIommu', { endpoint, pasid });
    return this.#spaces.spaceOf(endpoint, pasid);
  }

  pasidsOf(endpoint: number): readonly number[] {
    requireNumbers('RiscvIommu', { endpoint });
    return this.#spaces.pasidsOf(endpoint);
  }

  directoryOf(endpoint: number): PasidDirectory | null {
    requireNumbers('RiscvIommu', { endpoint });
    return this.#spaces.toldDirectoryOf(endpoint);
  }

  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    if ((access & ~RWX) === 0) {
      const lg2 = this.#iotlb.lookupFor(endpoint, pasid, hi, lo, access | BY_USER);
      if (lg2 >= 0) return lg2;
    }
    return told(this.#translator.translate(endpoint, pasid, hi, lo, access));
  }

  /** A request of any kind, for bridges that know more than `translate` asks: `answer` has what `translated` has not. */
  request(kind: RequestKind, device: number, pasid: number, iova: bigint, access: number): number {
    requireNumbers('RiscvIommu', { kind, device, pasid, access });
    require64('RiscvIommu', 'iova', iova);
    return told(this.#translator.request(kind, device, pasid, hiOf(iova), loOf(iova), access));
  }

  /**
   * The 4-byte write of a device where `translate` answered INTERRUPT_IN_MEMORY: sets the interrupt's pending bit, and sends
   * the notice MSI. Returns 0, or a fault code, whose cause is in the fault queue then. The guest may have rewritten the entry since
   * `translate`: where no interrupt file in memory is left, nothing is stored and the write is blamed on its MSI page table entry.
   */
  storeInterrupt(device: number, pasid: number, iova: bigint, value: number): number {
    requireNumbers('RiscvIommu', { device, pasid, value });
    require64('RiscvIommu', 'iova', iova);
    const hi = hiOf(iova);
    const lo = loOf(iova);
    const lg2 = this.#translator.request(Kind.untranslated, device, pasid, hi, lo, WRITE);
    if (lg2 < 0) return told(lg2);
    const result = this.#translator.answer.mrif ? this.msi.storeInterrupt(lo & 0xfff, value | 0) : -Cause.msiMisconfigured;
    if (result < 0) this.#translator.fault(device, pasid, hi, lo, WRITE, -result);
    return told(result);
  }

  get answer(): Translator['answer'] {
    return this.#translator.answer;
  }

  /** Completes a PCIe ATS translation request. */
  translationRequest(request: AtsRequest): AtsCompletion {
    requireObject('RiscvIommu', 'request', request);
    const t2gpa = () => this.#contexts.device(request.device)?.t2gpa ?? false;
    return completeTranslation(this.#translator, t2gpa, request);
  }

  /** A page request or stop marker from a device. */
  pageRequest(message: AtsMessage): void {
    requireObject('RiscvIommu', 'message', message);
    this.#pages.receive(message);
  }

  /** An invalidation completion from a device. False: nobody waits for it. */
  invalidationCompletion(message: AtsMessage): boolean {
    requireObject('RiscvIommu', 'message', message);
    const expected = this.#tags.complete(message);
    if (expected) this.#resume();
    return expected;
  }

  /** Invalidation requests, by a vector of ITags, were not completed within the protocol's time. */
  invalidationTimeout(tags: number): void {
    requireNumbers('RiscvIommu', { tags });
    this.#tags.expire(tags);
    this.#resume();
  }

  #resume(): void {
    this.#commands.resume();
    if (!this.#config.deferCommands) this.#runCommands();
  }

  reset(): void {
    powerOn(this.#registers, this.#config);
    this.#tags.reset();
    this.#commands.reset();
    this.#interrupts.reset();
    this.#forgetAll();
  }

  #forgetAll(): void {
    // What is looked at here is so for the observer, and counts as nothing.
    this.#hpm.armed = 0;
    this.#spaces.begin();
    this.#translator.forgetAll();
    this.#spaces.changedAll();
    this.#configured();
    this.#spaces.end();
    this.#hpm.rearm();
  }

  save(): RiscvIommuState {
    this.#hpm.tick();
    return {
      target: this.name,
      registers: Array.from(this.#registers.words.subarray(0, 256)),
      heldMessages: this.#interrupts.held,
      tags: this.#tags.tags.map((tag) => ({ ...tag })),
      timedOut: this.#tags.timedOut,
      fence: this.#commands.fence === null ? null : [...this.#commands.fence],
      stalled:
        this.#commands.stalled === null ? null : { ...this.#commands.stalled, payload: `0x${this.#commands.stalled.payload.toString(16)}` },
    };
  }

  /** Registers and commands under way, capabilities included; caches start empty, which the specification always allows. */
  load(state: unknown): void {
    const { registers, heldMessages, tags, timedOut, fence, stalled } = checkedState(state, this.#tags.tags.length);
    restore(this.#registers, registers, this.#config);
    for (const { queue } of [this.#commands, this.#faults, this.#pages]) queue.restore();
    for (const [i, tag] of tags.entries()) Object.assign(this.#tags.tags[i], tag);
    this.#tags.timedOut = timedOut;
    this.#commands.fence = fence;
    this.#commands.stalled = stalled === null ? null : { ...stalled, payload: BigInt(stalled.payload) };
    this.#interrupts.restore(heldMessages);
    this.#forgetAll();
  }
}

function isAccess(offset: number, bytes: number): boolean {
  if ((bytes !== 4 && bytes !== 8) || !Number.isInteger(offset) || offset < 0 || offset + bytes > PAGE_OF_REGISTERS) return false;
  return offset % bytes === 0 && widthAt(offset) >= bytes;
}

/** The rooms answer a negated cause; who asks the unit is told it in the range that is RISC-V's. */
function told(answer: number): number {
  return answer >= 0 ? answer : answer - FAULT_BASE.riscv;
}
