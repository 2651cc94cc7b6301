import { joinHiLo } from '../../../memory/address.ts';
import { type Field, get, isSet, reservedClear } from '../../fields.ts';
import { MAMV } from '../capabilities.ts';
import type { VtdChoices } from '../options.ts';
import type { Event } from '../reporting/event.ts';
import type { FaultLog } from '../reporting/fault-log.ts';
import type { Spaces } from '../spaces.ts';
import {
  CONTEXT_INVALIDATE,
  DEVICE_TLB_INVALIDATE,
  Granularity,
  INTERRUPT_ENTRY_INVALIDATE,
  IOTLB_INVALIDATE,
  PAGE_GROUP_RESPONSE,
  PASID_CACHE_INVALIDATE,
  PASID_DEVICE_TLB_INVALIDATE,
  PASID_IOTLB_INVALIDATE,
  PasidCacheGranularity,
  PasidIotlbGranularity,
  RESERVED,
  TYPE_HIGH,
  TYPE_LOW,
  Type,
  WAIT,
} from '../spec/descriptors.ts';
import {
  Global,
  ICS,
  ICS_IWC,
  InvalidationQueueAddress,
  IQA,
  IQH,
  IQT,
  QUEUE_OFFSET,
  QueueError,
  TTM_LEGACY,
  TTM_RESERVED,
  TTM_SCALABLE,
} from '../spec/registers.ts';
import type { VtdSurroundings } from '../surroundings.ts';
import type { DeviceInvalidations } from './device-invalidations.ts';
import type { Invalidations } from './invalidations.ts';
import type { Registers } from './registers.ts';

export interface QueueParts {
  readonly registers: Registers;
  readonly surroundings: VtdSurroundings;
  readonly invalidations: Invalidations;
  readonly devices: DeviceInvalidations;
  readonly spaces: Spaces;
  readonly faults: FaultLog;
  /** Invalidation completion event. */
  readonly completed: Event;
  readonly choices: VtdChoices;
}

/** What a descriptor came to: it is done; it waits for devices; or the error that it is. */
const DONE = 0;
const WAITS = -1;

/** The invalidation queue (6.5.2): descriptors in order, their checks, and its errors (6.5.2.11). */
export class InvalidationQueue {
  readonly #parts: QueueParts;
  /** The descriptor under way, padded to 256 bits. */
  readonly #words = new Int32Array(8);
  #running = false;

  constructor(parts: QueueParts) {
    this.#parts = parts;
  }

  /** Whether there is something to fetch, or to complain of. */
  get isRunnable(): boolean {
    const { registers, faults } = this.#parts;
    return registers.isOn(Global.QIE) && registers.get(IQH) !== registers.get(IQT) && !faults.stopsQueue;
  }

  /** Processes up to `limit` descriptors. */
  run(limit: number): void {
    if (this.#running || !this.isRunnable) return;
    const { registers, faults, spaces } = this.#parts;
    const error = this.#checkQueue();
    if (error !== DONE) {
      faults.queueError(error);
      return;
    }
    this.#running = true;
    spaces.beginAccess();
    const wide = (registers.get(IQA) & InvalidationQueueAddress.DW) !== 0;
    const bytes = wide ? 32 : 16;
    const end = this.#bytes();
    // 11.4.9.1: of 256-bit descriptors bit 4 is reserved.
    if (wide) registers.change(IQH, 16, 0);
    for (let left = limit; left > 0 && this.isRunnable && !spaces.isSpent; left--) {
      const head = registers.get(IQH);
      const result = this.#fetch(head, wide) ? this.#execute() : QueueError.fetch;
      if (result === WAITS) break;
      if (result !== DONE) {
        faults.queueError(result);
        break;
      }
      registers.set(IQH, (head + bytes) % end);
    }
    spaces.endAccess();
    this.#running = false;
  }

  #bytes(): number {
    return 4096 << (this.#parts.registers.get(IQA) & InvalidationQueueAddress.QS);
  }

  /** Errors of the queue as it is programmed (IQEI 7, 5, 6, 1). */
  #checkQueue(): number {
    const { registers, choices } = this.#parts;
    const { mode } = registers;
    const wide = (registers.get(IQA) & InvalidationQueueAddress.DW) !== 0;
    if (mode === TTM_RESERVED || (mode === TTM_SCALABLE && !choices.scalableMode)) return QueueError.mode;
    if (!wide && mode !== TTM_LEGACY) return QueueError.width;
    const tail = registers.get(IQT);
    if (wide && (tail & 16) !== 0) return QueueError.misalignedTail;
    return tail >= this.#bytes() ? QueueError.invalidTail : DONE;
  }

  #fetch(head: number, wide: boolean): boolean {
    const { registers, surroundings } = this.#parts;
    const { memory } = surroundings;
    const { word } = memory;
    const words = this.#words;
    const base = registers.get(IQA) & ~0xfff;
    const hi = registers.get(IQA + 4);
    // The queue is aligned to 4 KiB only: its end may lie above the next multiple of 4 GiB.
    const lo = (base + (head & QUEUE_OFFSET)) | 0;
    const carry = base >>> 0 > lo >>> 0 ? 1 : 0;
    if (memory.load64(hi + carry, lo) < 0) return false;
    words[0] = word[0];
    words[1] = word[1];
    if (memory.load64(hi + carry, lo + 8) < 0) return false;
    words[2] = word[0];
    words[3] = word[1];
    if (!wide) return true;
    if (memory.load64(hi + carry, lo + 16) < 0) return false;
    words[4] = word[0];
    words[5] = word[1];
    if (memory.load64(hi + carry, lo + 24) < 0) return false;
    words[6] = word[0];
    words[7] = word[1];
    return true;
  }

  #execute(): number {
    const words = this.#words;
    const type = (get(words, TYPE_HIGH) << 4) | get(words, TYPE_LOW);
    if (!this.#isValid(type)) return QueueError.type;
    if (!reservedClear(words, RESERVED[type])) return QueueError.reserved;
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
    const { registers, choices } = this.#parts;
    if (type < Type.context || type > Type.pageGroupResponse) return false;
    if (type > Type.wait && registers.isLegacy) return false;
    if (type === Type.deviceTlb || type === Type.pasidDeviceTlb) return choices.deviceTlb;
    if (type === Type.interruptEntry) return choices.interruptRemapping;
    return type !== Type.pageGroupResponse || choices.pageRequests;
  }

  /** 6.5.2.1 */
  #context(): number {
    const words = this.#words;
    const { invalidations } = this.#parts;
    const granularity = get(words, CONTEXT_INVALIDATE.G);
    if (granularity === 0) return QueueError.reserved;
    if (granularity === Granularity.selective)
      invalidations.contextsOf(get(words, CONTEXT_INVALIDATE.SID), get(words, CONTEXT_INVALIDATE.FM));
    else invalidations.everyContext();
    return DONE;
  }

  /** 6.5.2.3 */
  #iotlb(): number {
    const words = this.#words;
    const { invalidations, spaces } = this.#parts;
    const domain = get(words, IOTLB_INVALIDATE.DID);
    switch (get(words, IOTLB_INVALIDATE.G)) {
      case Granularity.selective: {
        const mask = get(words, IOTLB_INVALIDATE.AM);
        if (mask > MAMV) return QueueError.reserved;
        invalidations.pages(domain, words[3], words[2], mask);
        break;
      }
      case Granularity.domain:
        invalidations.domain(domain);
        break;
      case Granularity.global:
        invalidations.everyTranslation();
        break;
      default:
        return QueueError.reserved;
    }
    spaces.passOn(words, -1);
    return DONE;
  }

  /** 6.5.2.4 */
  #pasidIotlb(): number {
    const words = this.#words;
    const { invalidations, spaces } = this.#parts;
    const domain = get(words, PASID_IOTLB_INVALIDATE.DID);
    const pasid = get(words, PASID_IOTLB_INVALIDATE.PASID);
    const granularity = get(words, PASID_IOTLB_INVALIDATE.G);
    if (granularity === PasidIotlbGranularity.page)
      invalidations.processPages(domain, pasid, words[3], words[2], get(words, PASID_IOTLB_INVALIDATE.AM));
    else if (granularity === PasidIotlbGranularity.pasid) invalidations.processTranslations(domain, pasid);
    else return QueueError.reserved;
    spaces.passOn(words, -1);
    return DONE;
  }

  /** 6.5.2.2 */
  #pasidCache(): number {
    const words = this.#words;
    const { invalidations } = this.#parts;
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
    const words = this.#words;
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
    return this.#toDevice(get(this.#words, DEVICE_TLB_INVALIDATE.SID), null, false, DEVICE_TLB_INVALIDATE.S);
  }

  /** 6.5.2.6 */
  #pasidDeviceTlb(): number {
    const words = this.#words;
    const pasid = get(words, PASID_DEVICE_TLB_INVALIDATE.PASID);
    const global = isSet(words, PASID_DEVICE_TLB_INVALIDATE.GI);
    return this.#toDevice(get(words, PASID_DEVICE_TLB_INVALIDATE.SID), pasid, global, PASID_DEVICE_TLB_INVALIDATE.S);
  }

  #toDevice(device: number, pasid: number | null, global: boolean, size: Field): number {
    const { devices, spaces } = this.#parts;
    if (devices.isFull) return WAITS;
    const words = this.#words;
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
    const words = this.#words;
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
    const words = this.#words;
    const { registers, surroundings, spaces, devices, completed, choices } = this.#parts;
    if (isSet(words, WAIT.PD) && !choices.deviceTlb) return QueueError.reserved;
    if (!devices.isIdle) return WAITS;
    spaces.flush();
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
