import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import { require64, requireAccess, requireFunction, requireNumber, requireNumbers, requireObject } from '../../memory/arguments.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import type { Iotlb } from '../../memory/iotlb.ts';
import { requireMemory } from '../../memory/loaded.ts';
import { FAULT_BASE } from '../fault-codes.ts';
import {
  type AddressSpace,
  type FirstStage,
  type HardwareEvent,
  NO_PASID,
  type PasidDirectory,
  type Target,
  type TargetObserver,
} from '../target.ts';
import { capabilities, registerOf } from './capabilities.ts';
import { DeviceInvalidations } from './control/device-invalidations.ts';
import { InvalidationQueue } from './control/invalidation-queue.ts';
import { Invalidations } from './control/invalidations.ts';
import { ProtectedMemory } from './control/protected-memory.ts';
import { heldBits } from './control/register-bits.ts';
import { RegisterWrites } from './control/register-writes.ts';
import { Registers } from './control/registers.ts';
import { checkedOptions, type VtdChoices, type VtdIommuOptions } from './options.ts';
import { Event } from './reporting/event.ts';
import { FaultLog } from './reporting/fault-log.ts';
import { type PageRequest, PageRequestQueue } from './reporting/page-request-queue.ts';
import { checkedState, type VtdIommuState } from './saved-state.ts';
import { Spaces } from './spaces.ts';
import { ResponseCode } from './spec/page-requests.ts';
import { FECTL, FRCD, FRCD_FITTING, FRCD_NEXT_PAGE, IECTL, PECTL } from './spec/registers.ts';
import type { VtdSurroundings } from './surroundings.ts';
import { Contexts } from './translation/contexts.ts';
import { DeviceTlb, type TranslationCompletion, type TranslationRequest } from './translation/device-tlb.ts';
import { InterruptRemapping, type RemappedInterrupt } from './translation/interrupt-remapping.ts';
import { StageBuilder } from './translation/stages.ts';
import { Structures } from './translation/structures.ts';
import { Translator } from './translation/translator.ts';

/** READ | WRITE, here because the compiler folds a module's own constants only. */
const RW = 3;
/** For the test that compares them with their declarations. */
export const REPEATED = { RW } as const;
/** What the machine around it may be asked. */
const HOOKS = ['schedule', 'sendInterrupt', 'interruptsChanged', 'invalidateDevice', 'respond'] as const;

/**
 * An Intel VT-d remapping unit (Intel D51397). Registers are accessed with `read` and `write`; endpoints are PCI requester IDs.
 *
 * @example
 * const iommu = new VtdIommu({ cachingMode: true }, { memory: GuestMemory.ofBytes(1 << 20) });
 * iommu.addEndpoint(0x0028);
 * iommu.read(0x00, 4); // 0x10n: version 1.0
 * iommu.translate(0x0028, NO_PASID, 0, 0x1000, READ); // 12: translation is off, and the page is where it says
 */
export class VtdIommu implements Target {
  readonly name = 'vtd';
  readonly stageFormat = 'vtd';
  readonly memory: GuestMemory | undefined;
  readonly translated: Int32Array;
  /** Bytes of registers: what DRHD says of them (8.3). */
  readonly registerBytes: number;
  readonly #registers: Registers;
  readonly #choices: VtdChoices;
  readonly #translator: Translator;
  /** The translator's. */
  readonly #iotlb: Iotlb;
  readonly #deviceTlb: DeviceTlb;
  readonly #interrupts: InterruptRemapping;
  readonly #faults: FaultLog;
  readonly #devices: DeviceInvalidations;
  readonly #spaces: Spaces;
  readonly #invalidations: Invalidations;
  readonly #queue: InvalidationQueue;
  readonly #pages: PageRequestQueue;
  readonly #writes: RegisterWrites;
  readonly #protected: ProtectedMemory;
  /** What a saved register may hold. */
  readonly #held: ReadonlyMap<number, number>;

  /** @throws TypeError for an option of the wrong type; RangeError for one that is not possible. */
  constructor(options: VtdIommuOptions, surroundings: VtdSurroundings) {
    const choices = checkedOptions(options);
    requireObject('VtdIommu', 'surroundings', surroundings);
    const { memory } = surroundings;
    const respond: VtdSurroundings['respond'] = (response) => surroundings.respond?.(response);
    this.memory = memory instanceof GuestMemory ? memory : undefined;
    requireMemory('VtdIommu', memory, ['load64', 'store64', 'compareExchange64']);
    for (const name of HOOKS) requireFunction('VtdIommu', name, surroundings[name]);
    const table = capabilities(choices);
    const [cap, ecap] = (['CAP', 'ECAP'] as const).map((name) => registerOf(table, name));
    const records = choices.faultRecords <= FRCD_FITTING ? FRCD : FRCD_NEXT_PAGE;
    this.#choices = choices;
    this.#held = heldBits(choices, records);
    this.registerBytes = records === FRCD ? 4096 : 8192;
    const registers = new Registers(this.registerBytes, [loOf(cap), hiOf(cap)], [loOf(ecap), hiOf(ecap)]);
    const [faultEvent, completionEvent, pageRequestEvent] = [FECTL, IECTL, PECTL].map((at) => new Event(registers, surroundings, at));
    const faults = new FaultLog(registers, faultEvent, records, choices.faultRecords);
    const structures = new Structures(memory);
    const builder = new StageBuilder(memory, choices.hostAddressWidth);
    const contexts = new Contexts(registers, structures, builder, choices);
    const protectedMemory = new ProtectedMemory(registers);
    const { hostAddressWidth: addressWidth, iotlbEntries } = choices;
    const translatorParts = { registers, contexts, faults, protectedMemory, addressWidth, iotlbEntries };
    const translator = new Translator(translatorParts);
    const spaces = new Spaces({ memory, registers, contexts, builder, cachingMode: choices.cachingMode, respond });
    const inputBits = 12 + 9 * Math.max(...choices.secondStageLevels);
    const invalidations = new Invalidations(registers, contexts, translator, spaces, inputBits);
    const devices = new DeviceInvalidations(surroundings);
    const shared = { registers, surroundings, invalidations, faults, choices };
    this.#registers = registers;
    this.#faults = faults;
    this.#translator = translator;
    this.#spaces = spaces;
    this.#invalidations = invalidations;
    this.#devices = devices;
    this.#deviceTlb = new DeviceTlb(translatorParts, translator);
    this.#interrupts = new InterruptRemapping(registers, structures, faults, choices);
    this.#queue = new InvalidationQueue({ ...shared, devices, spaces, completed: completionEvent });
    this.#pages = new PageRequestQueue({ ...shared, contexts, spaces, event: pageRequestEvent });
    this.#protected = protectedMemory;
    this.#writes = new RegisterWrites({
      ...shared,
      protect: () => this.#protect(),
      faultEvent,
      completionEvent,
      pageRequestEvent,
      records,
    });
    this.#iotlb = translator.iotlb;
    this.translated = translator.translated;
  }

  /** Tells of a device behind the unit. An observer hears what it reaches from now on. @throws RangeError when it is no requester ID. */
  addEndpoint(device: number): void {
    requireNumbers('VtdIommu', { device });
    if (!Number.isInteger(device) || device < 0 || device > 0xffff) throw new RangeError(`VtdIommu: ${device} is not a requester ID`);
    this.#spaces.add(device);
  }

  removeEndpoint(device: number): void {
    requireNumbers('VtdIommu', { device });
    this.#spaces.remove(device);
  }

  /** A register read of 4 or 8 bytes; any other size, place or alignment reads 0. */
  read(offset: number, bytes: number): bigint {
    requireAccess('VtdIommu', offset, bytes);
    if (!this.#isAccess(offset, bytes)) return 0n;
    this.#queue.run();
    const low = this.#registers.get(offset);
    return bytes === 4 ? BigInt(low >>> 0) : joinHiLo(this.#registers.get(offset + 4), low);
  }

  /** A register write of 4 or 8 bytes; any other size, place or alignment is ignored. */
  write(offset: number, bytes: number, value: bigint): void {
    requireAccess('VtdIommu', offset, bytes, value);
    if (!this.#isAccess(offset, bytes)) return;
    this.#spaces.beginAccess();
    this.#writes.write(offset, loOf(value));
    if (bytes === 8) this.#writes.write(offset + 4, hiOf(value));
    this.#spaces.flush();
    this.#queue.run();
  }

  #isAccess(offset: number, bytes: number): boolean {
    if ((bytes !== 4 && bytes !== 8) || !Number.isInteger(offset) || offset < 0) return false;
    return offset % bytes === 0 && offset + bytes <= this.registerBytes;
  }

  observe(observer: TargetObserver): () => void {
    requireObject('VtdIommu', 'observer', observer, 'TargetObserver', ['attach', 'changed', 'flush']);
    return this.#spaces.observe(observer);
  }

  get iotlbHits(): number {
    return this.#translator.iotlb.hits;
  }

  get iotlbMisses(): number {
    return this.#translator.iotlb.misses;
  }

  knows(endpoint: number): boolean {
    requireNumbers('VtdIommu', { endpoint });
    return this.#spaces.knows(endpoint);
  }

  retry(): void {
    this.#spaces.retry();
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    requireNumbers('VtdIommu', { endpoint, pasid });
    return this.#spaces.spaceOf(endpoint, pasid);
  }

  pasidsOf(endpoint: number): readonly number[] {
    requireNumbers('VtdIommu', { endpoint });
    return this.#spaces.pasidsOf(endpoint);
  }

  directoryOf(endpoint: number): PasidDirectory | null {
    requireNumbers('VtdIommu', { endpoint });
    return this.#spaces.toldDirectoryOf(endpoint);
  }

  stageOf(endpoint: number, pasid = NO_PASID): FirstStage | null {
    requireNumbers('VtdIommu', { endpoint, pasid });
    return this.#spaces.stageOf(endpoint, pasid);
  }

  /**
   * An untranslated request. A write without PASID to FEEx_xxxxh is an interrupt (3.14): the answer is the address as it is, and its
   * data belongs to `remap`.
   */
  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    if ((access & ~RW) === 0) {
      const lg2 = this.#iotlb.lookupFor(endpoint, pasid, hi, lo, access);
      if (lg2 >= 0) return lg2;
    }
    return told(this.#translator.translate(endpoint, pasid, hi, lo, access));
  }

  /**
   * An interrupt request: a 4-byte write of `data` to FEEx_xxxxh, whose lower 32 bits are `address`. DELIVER: `interrupt` is for the
   * processors; POSTED: it was recorded, and nobody is to be told; negative: a fault code.
   */
  remap(source: number, address: number, data: number): number {
    requireNumber('VtdIommu', 'source', source);
    requireNumber('VtdIommu', 'address', address);
    requireNumber('VtdIommu', 'data', data);
    return told(this.#interrupts.remap(source, address, data));
  }

  /** The same for an entry of an I/O APIC's redirection table (5.1.5.1), `hi` and `lo` its two words. */
  remapIoapic(source: number, hi: number, lo: number): number {
    requireNumber('VtdIommu', 'source', source);
    requireNumber('VtdIommu', 'hi', hi);
    requireNumber('VtdIommu', 'lo', lo);
    // Its upper half is the address from bit 4 on (destination, or format and index); bit 11 is bit 2 in both formats.
    const address = 0xfee0_0000 | ((hi >>> 12) & 0xffff0) | (((lo >>> 11) & 1) << 2);
    return told(this.#interrupts.remap(source, address, (lo & 0x7ff) | (lo & (1 << 15))));
  }

  /** The interrupt of the last `remap` that answered DELIVER. */
  get interrupt(): Readonly<RemappedInterrupt> {
    return this.#interrupts.interrupt;
  }

  /** Completes a translation request of a device (PCIe ATS). */
  translationRequest(request: TranslationRequest): TranslationCompletion {
    requireObject('VtdIommu', 'request', request);
    return this.#deviceTlb.request(request);
  }

  /** Whether a device may use an address that it was told, with a PASID or without: 0, or the fault code. */
  translatedRequest(device: number, address: bigint, access: number, pasid = NO_PASID): number {
    requireNumbers('VtdIommu', { device, access, pasid });
    require64('VtdIommu', 'address', address);
    return told(this.#deviceTlb.translatedRequest(device, address, access, pasid));
  }

  /** A page request of a device (PCIe PRI). */
  pageRequest(request: PageRequest): void {
    requireObject('VtdIommu', 'request', request);
    if (!this.#choices.pageRequests) return;
    this.#pages.receive(request);
    this.#spaces.flush();
  }

  report(event: HardwareEvent): void {
    requireObject('VtdIommu', 'event', event);
    if (event.kind === 'record') this.#faults.adopt(event.words);
    else if (event.kind === 'lost') this.#faults.overflow();
    else this.#reportPageRequest(event);
  }

  #reportPageRequest({ endpoint, pasid, group, last, access, address }: Extract<HardwareEvent, { kind: 'page-request' }>): void {
    const request = { device: endpoint, pasid: pasid === NO_PASID ? null : pasid, group: group & 0x1ff, last, address };
    if (!this.#choices.pageRequests) {
      // The guest knows of no such requests: to it, this is an access that was refused.
      this.translate(endpoint, pasid, hiOf(address), loOf(address), access);
      if (last) this.#spaces.answer({ ...request, code: ResponseCode.invalidRequest });
      return;
    }
    const [read, write, execute, privileged] = [READ, WRITE, EXECUTE, PRIVILEGED].map((wish) => (access & wish) !== 0);
    this.pageRequest({ ...request, read, write, execute, privileged });
  }

  /** A device has done what the request with this tag asked. False: nobody waits for it, and the guest is told (ICE). */
  invalidationCompletion(device: number, tag: number): boolean {
    requireNumbers('VtdIommu', { device, tag });
    const expected = this.#devices.complete(device, tag);
    if (!expected) this.#faults.completionError(device);
    this.#queue.run();
    return expected;
  }

  /** A device did not complete its invalidations within the protocol's time (ITE). A wait descriptor that waits for it never completes. */
  invalidationTimeout(device: number): void {
    requireNumbers('VtdIommu', { device });
    if (!this.#devices.expire(device)) return;
    this.#queue.abortWait();
    this.#faults.timeoutError(device);
  }

  reset(): void {
    this.#registers.reset();
    this.#faults.next = 0;
    this.#devices.reset();
    this.#forgetAll();
  }

  #protect(): void {
    if (this.#protected.update()) this.#spaces.protect(this.#protected.ranges);
  }

  #forgetAll(): void {
    this.#protect();
    this.#invalidations.everyContext();
    this.#invalidations.everyTranslation();
    this.#spaces.flush();
  }

  save(): VtdIommuState {
    const { words, root, interruptTable } = this.#registers;
    return {
      target: this.name,
      registers: Array.from(words),
      root: Array.from(root),
      interruptTable: Array.from(interruptTable),
      nextRecord: this.#faults.next,
      deviceInvalidations: this.#devices.save(),
    };
  }

  /** Registers and what is under way; capabilities stay this unit's. Caches start empty, which the specification always allows. */
  load(state: unknown): void {
    const saved = checkedState(state, this.registerBytes / 4, this.#choices.faultRecords);
    this.#registers.restore(saved, this.#held);
    this.#faults.restore(saved.nextRecord);
    this.#devices.load(saved.deviceInvalidations);
    this.#forgetAll();
  }
}

/** The rooms answer a fault's negated reason; who asks the unit is told it in the range that is VT-d's. */
function told(answer: number): number {
  return answer >= 0 ? answer : answer - FAULT_BASE.vtd;
}
