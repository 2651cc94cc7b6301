import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import {
  require64,
  requireAccess,
  requireFunction,
  requireInteger,
  requireNumber,
  requireNumbers,
  requireObject,
} from '../../memory/arguments.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Iotlb } from '../../memory/iotlb.ts';
import { isSet } from '../fields.ts';
import { type AddressSpace, type FirstStage, NO_PASID, type Target, type TargetObserver } from '../target.ts';
import { EFR, EFR2 } from './capabilities.ts';
import { CommandBuffer } from './control/command-buffer.ts';
import { PciCapability } from './control/pci-capability.ts';
import { Registers } from './control/registers.ts';
import { Events } from './reporting/events.ts';
import { EVENT_LOG, PPR_LOG, RingLog } from './reporting/log.ts';
import { type PageRequest, PageRequests } from './reporting/page-requests.ts';
import { type AmdIommuState, checkedState, saveRegisters } from './saved-state.ts';
import { Spaces } from './spaces.ts';
import { DTE } from './spec/dte.ts';
import { CONTROL, REG, REGISTER_BYTES, STATUS_W1C } from './spec/registers.ts';
import type { AmdIommuOptions } from './surroundings.ts';
import { VERDICT } from './translation/device-entry.ts';
import { InterruptRemapping, type RemappedInterrupt } from './translation/interrupts.ts';
import { Translator } from './translation/translator.ts';

/** READ | WRITE, here because the compiler folds a module's own constants only. */
const RW = 3;
/** For the test that compares them with their declarations. */
export const REPEATED = { RW } as const;
/** What the machine around it may be asked. */
const HOOKS = ['schedule', 'interrupt', 'invalidateDevice', 'completePageRequest'] as const;

/**
 * The AMD IOMMU (AMD-Vi). Registers are accessed with `read` and `write`; endpoints are PCI requester IDs of one segment.
 *
 * @example
 * const iommu = new AmdIommu({ memory: GuestMemory.ofBytes(1 << 20) });
 * iommu.addEndpoint(0x28);
 * iommu.write(0x18, 8, 1n);
 * iommu.translate(0x28, -1, 0, 0x1000, 1); // 12
 */
export class AmdIommu implements Target {
  readonly name = 'amd';
  readonly stageFormat = 'amd';
  readonly memory: GuestMemory;
  readonly translated: Int32Array;
  /** The capability block of its PCI function. */
  readonly pci: PciCapability;
  readonly #registers: Registers;
  readonly #translator: Translator;
  /** The translator's. */
  readonly #iotlb: Iotlb;
  readonly #interrupts: InterruptRemapping;
  readonly #eventLog: RingLog;
  readonly #pprLog: RingLog;
  readonly #pageRequests: PageRequests;
  readonly #spaces: Spaces;
  readonly #commands: CommandBuffer;

  /** `pci`: where the register page and the next PCI capability are. @throws TypeError or RangeError when an option is not possible. */
  constructor(options: AmdIommuOptions, pci: { readonly base?: bigint; readonly next?: number } = {}) {
    requireObject('AmdIommu', 'options', options);
    const { memory, npCache = true, without = [] } = options;
    if (!Array.isArray(memory?.regions)) throw new TypeError('AmdIommu: memory is no GuestMemory');
    if (!Array.isArray(without)) throw new TypeError('AmdIommu: without is no array');
    for (const name of HOOKS) requireFunction('AmdIommu', name, options[name]);
    requireObject('AmdIommu', 'pci', pci);
    if (pci.base !== undefined) require64('AmdIommu', 'pci.base', pci.base);
    if (pci.next !== undefined) requireInteger('AmdIommu', 'pci.next', pci.next, 0, 0xff);
    if (typeof npCache !== 'boolean') throw new TypeError('AmdIommu: npCache is no boolean');
    const known = [...EFR, ...EFR2].map(({ name }) => name);
    for (const name of without) if (!known.includes(name)) throw new RangeError(`AmdIommu: without: there is no feature ${name}`);
    this.memory = memory;
    this.pci = new PciCapability({ npCache, next: pci.next ?? 0, base: pci.base ?? 0n });
    const registers = new Registers(without);
    this.#registers = registers;
    this.#eventLog = new RingLog(registers, options, EVENT_LOG);
    this.#pprLog = new RingLog(registers, options, PPR_LOG);
    const events = new Events(this.#eventLog, registers);
    this.#translator = new Translator(registers, events, options);
    this.#iotlb = this.#translator.iotlb;
    this.translated = this.#translator.translated;
    this.#interrupts = new InterruptRemapping(registers, memory, events, this.#translator);
    this.#pageRequests = new PageRequests(this.#pprLog, registers, options);
    this.#spaces = new Spaces(this.#translator, memory, npCache);
    this.#commands = new CommandBuffer({ registers, events, translator: this.#translator, spaces: this.#spaces }, options);
  }

  /** Tells of a device behind the IOMMU. @throws RangeError for what is no requester ID. */
  addEndpoint(device: number): void {
    requireNumbers('AmdIommu', { device });
    if (!Number.isInteger(device) || device < 0 || device > 0xffff) throw new RangeError(`AmdIommu: ${device} is no requester ID`);
    this.#spaces.add(device);
  }

  removeEndpoint(device: number): void {
    requireNumbers('AmdIommu', { device });
    this.#spaces.remove(device);
  }

  observe(observer: TargetObserver): () => void {
    requireObject('AmdIommu', 'observer', observer, 'TargetObserver', ['attach', 'changed', 'flush']);
    return this.#spaces.observe(observer);
  }

  get iotlbHits(): number {
    return this.#translator.iotlb.hits;
  }

  get iotlbMisses(): number {
    return this.#translator.iotlb.misses;
  }

  knows(endpoint: number): boolean {
    requireNumbers('AmdIommu', { endpoint });
    return this.#spaces.knows(endpoint);
  }

  retry(): void {
    this.#spaces.retry();
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    requireNumbers('AmdIommu', { endpoint, pasid });
    return this.#spaces.spaceOf(endpoint, pasid);
  }

  stageOf(endpoint: number, pasid = NO_PASID): FirstStage | null {
    requireNumbers('AmdIommu', { endpoint, pasid });
    return this.#spaces.stageOf(endpoint, pasid);
  }

  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    if ((access & ~RW) === 0 && access !== 0) {
      const lg2 = this.#iotlb.lookupFor(endpoint, pasid, hi, lo, access);
      if (lg2 >= 0) return lg2;
    }
    return this.#translator.translate(endpoint, pasid, hi, lo, access);
  }

  /** What becomes of a device's 4-byte write of `data` to a message address (0xfee00000 and on; its low half). */
  remap(device: number, lo: number, data: number): RemappedInterrupt {
    requireNumber('AmdIommu', 'device', device);
    requireNumber('AmdIommu', 'lo', lo);
    requireNumber('AmdIommu', 'data', data);
    return this.#interrupts.remap(device, lo, data);
  }

  /** A page request of a device. */
  pageRequest(request: PageRequest): void {
    requireObject('AmdIommu', 'request', request);
    const { verdict, words } = this.#translator.entry(request.device & 0xffff);
    this.#pageRequests.receive(request, verdict === VERDICT.translate && isSet(words, DTE.PPR));
  }

  /** A register read of 4 or 8 bytes; any other size, place or alignment reads 0. */
  read(offset: number, bytes: number): bigint {
    requireAccess('AmdIommu', offset, bytes);
    if (!isAccess(offset, bytes)) return 0n;
    this.#commands.run();
    const low = this.#registers.get32(offset);
    return bytes === 4 ? BigInt(low >>> 0) : joinHiLo(this.#registers.get32(offset + 4), low);
  }

  /** A register write of 4 or 8 bytes; any other size, place or alignment is ignored. */
  write(offset: number, bytes: number, value: bigint): void {
    requireAccess('AmdIommu', offset, bytes, value);
    if (!isAccess(offset, bytes)) return;
    const registers = this.#registers;
    const ranCommands = this.#commandsEnabled;
    if (offset === REG.STATUS) registers.set32(offset, registers.get32(offset) & ~(loOf(value) & STATUS_W1C));
    else if (offset === REG.HARDWARE_EVENT_STATUS) registers.set32(offset, registers.get32(offset) & ~loOf(value));
    else {
      registers.store32(offset, loOf(value));
      if (bytes === 8) registers.store32(offset + 4, hiOf(value));
    }
    const register = offset & ~7;
    if (register === REG.CONTROL) this.#configured(ranCommands);
    else if (decidesTranslation(register)) this.#forgetAll();
    this.#commands.run();
  }

  get #commandsEnabled(): boolean {
    return this.#registers.control(CONTROL.COMMAND_BUFFER_EN) !== 0 && this.#registers.control(CONTROL.IOMMU_EN) !== 0;
  }

  #configured(ranCommands: boolean): void {
    this.#eventLog.configured();
    this.#pprLog.configured();
    this.#commands.configured(ranCommands);
    this.#forgetAll();
  }

  #forgetAll(): void {
    this.#translator.forgetAll();
    this.#spaces.invalidatedAll();
    this.#spaces.announcements.flush();
  }

  reset(): void {
    this.#registers.reset();
    this.#forgetAll();
  }

  save(): AmdIommuState {
    return { target: this.name, registers: saveRegisters(this.#registers) };
  }

  /** Registers; caches start empty, which the specification always allows. @throws TypeError for none, or one of other features; then nothing has changed. */
  load(state: unknown): void {
    const { registers } = checkedState(state);
    this.#registers.restore(registers);
    this.#forgetAll();
  }
}

function isAccess(offset: number, bytes: number): boolean {
  if ((bytes !== 4 && bytes !== 8) || !Number.isInteger(offset)) return false;
  return offset >= 0 && offset + bytes <= REGISTER_BYTES && offset % bytes === 0;
}

function decidesTranslation(register: number): boolean {
  if (register === REG.DEVICE_TABLE || register === REG.EXCLUSION_BASE || register === REG.EXCLUSION_LIMIT) return true;
  return register >= REG.DEVICE_TABLE_SEGMENT && register < REG.DEVICE_TABLE_SEGMENT + 56;
}
