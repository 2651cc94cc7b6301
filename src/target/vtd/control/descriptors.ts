import { joinHiLo } from '../../../memory/address.ts';
import { type Field, get, isSet } from '../../fields.ts';
import { MAMV } from '../capabilities.ts';
import type { VtdChoices } from '../options.ts';
import type { Event } from '../reporting/event.ts';
import type { Spaces } from '../spaces.ts';
import {
  CONTEXT_INVALIDATE,
  DEVICE_TLB_INVALIDATE,
  Granularity,
  INTERRUPT_ENTRY_INVALIDATE,
  PAGE_GROUP_RESPONSE,
  PASID_CACHE_INVALIDATE,
  PASID_DEVICE_TLB_INVALIDATE,
  PasidCacheGranularity,
  PasidIotlbGranularity,
  RESERVED,
  Type,
  WAIT,
} from '../spec/descriptors.ts';
import { ICS, ICS_IWC, QueueError } from '../spec/registers.ts';
import type { VtdSurroundings } from '../surroundings.ts';
import type { DeviceInvalidations } from './device-invalidations.ts';
import type { Invalidations } from './invalidations.ts';
import type { Registers } from './registers.ts';

/**
 * Type, and the two descriptors that come often, as spec/descriptors.ts declares them; here because the compiler folds a module's own
 * constants only.
 */
const TYPE_HIGH_SHIFT = 5;
const TYPE_HIGH_MASK = 0x70;
const TYPE_LOW_MASK = 0xf;
const G_SHIFT = 4;
const G_MASK = 3;
const DID_SHIFT = 16;
const PASID_MASK = 0xf_ffff;
const AM_MASK = 0x3f;
/** For the test that compares them with their declaration. */
export const REPEATED = { TYPE_HIGH_SHIFT, TYPE_HIGH_MASK, TYPE_LOW_MASK, G_SHIFT, G_MASK, DID_SHIFT, PASID_MASK, AM_MASK } as const;

/** What a descriptor came to: it is done; it waits for devices, or for the hardware to have all of what was announced; or the error that it is (QueueError). */
export const DONE = 0;
export const WAITS = -1;
export const BEHIND = -2;

const WORDS = 8;
/** RESERVED, one after the other. */
const RESERVED_WORDS = Int32Array.from(RESERVED.flatMap((words) => Array.from(words)));

export interface DescriptorParts {
  readonly registers: Registers;
  readonly surroundings: VtdSurroundings;
  readonly invalidations: Invalidations;
  readonly devices: DeviceInvalidations;
  readonly spaces: Spaces;
  /** Invalidation completion event. */
  readonly completed: Event;
  readonly choices: VtdChoices;
}

/** What the descriptors of the invalidation queue ask, and what may not stand in them (6.5.2.1 to 6.5.2.9, 7.6.1). */
export class Descriptors {
  /** The descriptor under way, padded to 256 bits. */
  readonly words = new Int32Array(WORDS);
  readonly #parts: DescriptorParts;
  readonly #invalidations: Invalidations;
  readonly #spaces: Spaces;
  readonly #reserved = RESERVED_WORDS;

  constructor(parts: DescriptorParts) {
    this.#parts = parts;
    this.#invalidations = parts.invalidations;
    this.#spaces = parts.spaces;
  }

  /** DONE, WAITS, BEHIND or a QueueError. */
  execute(): number {
    const words = this.words;
    const type = ((words[0] >>> TYPE_HIGH_SHIFT) & TYPE_HIGH_MASK) | (words[0] & TYPE_LOW_MASK);
    if (!this.#isValid(type)) return QueueError.type;
    if (!this.#isReservedClear(type)) return QueueError.reserved;
    switch (type) {
      case Type.context:
        return this.#context();
      case Type.iotlb:
        return this.#iotlb();
      case Type.deviceTlb:
        return this.#deviceTlb();
      case Type.interruptEntry:
        return this.#interruptEntry();
      case Type.wait:
        return this.#wait();
      case Type.pasidIotlb:
        return this.#pasidIotlb();
      case Type.pasidCache:
        return this.#pasidCache();
      case Type.pasidDeviceTlb:
        return this.#pasidDeviceTlb();
      default:
        return this.#pageGroupResponse();
    }
  }

  /** Table 26, and the types of what is not there. */
  #isValid(type: number): boolean {
    if (type === Type.iotlb) return true;
    const { registers, choices } = this.#parts;
    if (type < Type.context || type > Type.pageGroupResponse) return false;
    if (type > Type.wait && registers.isLegacy) return false;
    if (type === Type.deviceTlb || type === Type.pasidDeviceTlb) return choices.deviceTlb;
    if (type === Type.interruptEntry) return choices.interruptRemapping;
    return type !== Type.pageGroupResponse || choices.pageRequests;
  }

  #isReservedClear(type: number): boolean {
    const words = this.words;
    const reserved = this.#reserved;
    const at = type * WORDS;
    let set = 0;
    for (let i = 0; i < WORDS; i++) set |= words[i] & reserved[at + i];
    return set === 0;
  }

  /** 6.5.2.1 */
  #context(): number {
    const words = this.words;
    const invalidations = this.#invalidations;
    const granularity = get(words, CONTEXT_INVALIDATE.G);
    if (granularity === 0) return QueueError.reserved;
    if (granularity === Granularity.selective)
      invalidations.contextsOf(get(words, CONTEXT_INVALIDATE.SID), get(words, CONTEXT_INVALIDATE.FM));
    else invalidations.everyContext();
    return DONE;
  }

  /** 6.5.2.3 */
  #iotlb(): number {
    const words = this.words;
    const domain = words[0] >>> DID_SHIFT;
    switch ((words[0] >>> G_SHIFT) & G_MASK) {
      case Granularity.selective: {
        const mask = words[2] & AM_MASK;
        if (mask > MAMV) return QueueError.reserved;
        this.#invalidations.pages(domain, words[3], words[2], mask);
        break;
      }
      case Granularity.domain:
        this.#invalidations.domain(domain);
        break;
      case Granularity.global:
        this.#invalidations.everyTranslation();
        break;
      default:
        return QueueError.reserved;
    }
    this.#spaces.passOn(words, -1);
    return DONE;
  }

  /** 6.5.2.4 */
  #pasidIotlb(): number {
    const words = this.words;
    const domain = words[0] >>> DID_SHIFT;
    const pasid = words[1] & PASID_MASK;
    const granularity = (words[0] >>> G_SHIFT) & G_MASK;
    if (granularity === PasidIotlbGranularity.page) this.#invalidations.processPages(domain, pasid, words[3], words[2], words[2] & AM_MASK);
    else if (granularity === PasidIotlbGranularity.pasid) this.#invalidations.processTranslations(domain, pasid);
    else return QueueError.reserved;
    this.#spaces.passOn(words, -1);
    return DONE;
  }

  /** 6.5.2.2 */
  #pasidCache(): number {
    const words = this.words;
    const invalidations = this.#invalidations;
    switch (get(words, PASID_CACHE_INVALIDATE.G)) {
      case PasidCacheGranularity.pasid:
        invalidations.process(get(words, PASID_CACHE_INVALIDATE.PASID));
        return DONE;
      case PasidCacheGranularity.domain:
      case PasidCacheGranularity.global:
        invalidations.everyContext();
        return DONE;
      default:
        return QueueError.reserved;
    }
  }

  /** 6.5.2.8. Entries are not cached, but routes that the machine made from them are. */
  #interruptEntry(): number {
    const words = this.words;
    const { surroundings } = this.#parts;
    if (!isSet(words, INTERRUPT_ENTRY_INVALIDATE.G)) {
      surroundings.interruptsChanged?.(0, 0xffff);
      return DONE;
    }
    const size = 2 ** get(words, INTERRUPT_ENTRY_INVALIDATE.IM);
    const first = Math.floor(get(words, INTERRUPT_ENTRY_INVALIDATE.IIDX) / size) * size;
    surroundings.interruptsChanged?.(first, Math.min(first + size - 1, 0xffff));
    return DONE;
  }

  /** 6.5.2.5 */
  #deviceTlb(): number {
    return this.#toDevice(get(this.words, DEVICE_TLB_INVALIDATE.SID), null, false, DEVICE_TLB_INVALIDATE.S);
  }

  /** 6.5.2.6 */
  #pasidDeviceTlb(): number {
    const words = this.words;
    const pasid = get(words, PASID_DEVICE_TLB_INVALIDATE.PASID);
    const global = isSet(words, PASID_DEVICE_TLB_INVALIDATE.GI);
    return this.#toDevice(get(words, PASID_DEVICE_TLB_INVALIDATE.SID), pasid, global, PASID_DEVICE_TLB_INVALIDATE.S);
  }

  #toDevice(device: number, pasid: number | null, global: boolean, size: Field): number {
    const { devices, spaces } = this.#parts;
    if (devices.isFull) return WAITS;
    if (!spaces.flush()) return BEHIND;
    const words = this.words;
    const lg2 = isSet(words, size) ? sizeOf(words[3], words[2]) : 12;
    const address = joinHiLo(words[3], words[2] & ~0xfff);
    spaces.passOn(words, device);
    // Hardware agrees before the device may ask again (6.5.2.12).
    spaces.flush();
    devices.send({ device, pasid, global, address: (address >> BigInt(lg2)) << BigInt(lg2), lg2 });
    return DONE;
  }

  /** 7.6.1 */
  #pageGroupResponse(): number {
    const words = this.words;
    this.#parts.spaces.answer({
      device: get(words, PAGE_GROUP_RESPONSE.RID),
      pasid: isSet(words, PAGE_GROUP_RESPONSE.PP) ? get(words, PAGE_GROUP_RESPONSE.PASID) : null,
      group: get(words, PAGE_GROUP_RESPONSE.PRGI),
      code: get(words, PAGE_GROUP_RESPONSE.RC),
    });
    return DONE;
  }

  /** 6.5.2.9. Nothing overtakes it here, with FN or without. */
  #wait(): number {
    const words = this.words;
    const { registers, surroundings, spaces, devices, completed, choices } = this.#parts;
    if (isSet(words, WAIT.PD) && !choices.deviceTlb) return QueueError.reserved;
    if (!devices.isIdle) return WAITS;
    if (!spaces.flush()) return BEHIND;
    if (isSet(words, WAIT.SW)) {
      const hi = words[3] & (2 ** (choices.hostAddressWidth - 32) - 1);
      surroundings.memory.store32(hi, words[2], words[1]);
    }
    if (isSet(words, WAIT.IF) && (registers.get(ICS) & ICS_IWC) === 0) {
      registers.change(ICS, 0, ICS_IWC);
      completed.raise();
    }
    return DONE;
  }
}

/** lg2 of the bytes that an ATS address with S names: its lowest clear bit from bit 12 on, and one more. */
function sizeOf(hi: number, lo: number): number {
  const low = ~(lo | 0xfff);
  const at = low !== 0 ? 31 - Math.clz32(low & -low) : ~hi !== 0 ? 63 - Math.clz32(~hi & -~hi) : 63;
  return at + 1;
}
