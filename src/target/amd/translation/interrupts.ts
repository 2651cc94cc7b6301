import { hiOf, hiOfPfn, loOf, loOfPfn } from '../../../memory/address.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { get, getWide, isSet } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import type { Events, Flag } from '../reporting/events.ts';
import { DTE, INTERRUPT_CONTROL } from '../spec/dte.ts';
import { EVENT, REQUEST_TYPE } from '../spec/events.ts';
import { DELIVERY, IRTE, IRTE_GA, MESSAGE } from '../spec/irte.ts';
import { CONTROL } from '../spec/registers.ts';
import { type DeviceEntry, VERDICT } from './device-entry.ts';
import type { Translator } from './translator.ts';

/** What becomes of a device's message. */
export type RemappedInterrupt =
  | { readonly kind: 'abort' }
  /** It goes on as the device wrote it. */
  | { readonly kind: 'pass' }
  | {
      readonly kind: 'remap';
      /** APIC ID, 8 bits, or 32 with CONTROL.XT_EN. */
      readonly destination: number;
      readonly logical: boolean;
      readonly vector: number;
      /** 0 fixed, 1 lowest priority. */
      readonly delivery: number;
    };

const ABORT: RemappedInterrupt = { kind: 'abort' };
const PASS: RemappedInterrupt = { kind: 'pass' };
const HIGHEST_TYPE = 1;

/** Interrupt remapping (2.2.5): tables are read for each message, and so INVALIDATE_INTERRUPT_TABLE has nothing to forget. */
export class InterruptRemapping {
  readonly #registers: Registers;
  readonly #memory: GuestMemory;
  readonly #events: Events;
  readonly #translator: Translator;

  constructor(registers: Registers, memory: GuestMemory, events: Events, translator: Translator) {
    this.#registers = registers;
    this.#memory = memory;
    this.#events = events;
    this.#translator = translator;
  }

  /** A device's write of `data` to a message address, `lo` its low half. */
  remap(device: number, lo: number, data: number): RemappedInterrupt {
    const entry = this.#translator.entry(device);
    if (this.#registers.control(CONTROL.IOMMU_EN) === 0) return PASS;
    if (entry.verdict === VERDICT.unreadable) return this.#refuse(entry, EVENT.deviceTableHardware, entry.address);
    if (!isSet(entry.words, DTE.IV)) return PASS;
    if (!entry.interruptsAreLegal) return this.#refuse(entry, EVENT.illegalDeviceEntry, messageAddress(lo));
    const words = Int32Array.of(data);
    const passes = { [DELIVERY.nmi]: DTE.NMI_PASS, [DELIVERY.init]: DTE.INIT_PASS, [DELIVERY.extInt]: DTE.EXT_INT_PASS }[
      get(words, MESSAGE.MODE)
    ];
    const control = get(entry.words, DTE.INTERRUPT_CONTROL);
    if (control === INTERRUPT_CONTROL.remap) return this.#lookUp(entry, get(words, MESSAGE.INDEX), lo);
    if (passes !== undefined) return isSet(entry.words, passes) ? PASS : ABORT;
    if (control === INTERRUPT_CONTROL.pass) return PASS;
    return isOrdinary(words) ? this.#invalid(entry, lo) : ABORT;
  }

  #lookUp(entry: DeviceEntry, index: number, lo: number): RemappedInterrupt {
    if (index >= 1 << get(entry.words, DTE.INTERRUPT_LENGTH)) return this.#unmapped(entry, [], lo);
    const wide = this.#registers.control(CONTROL.GA_EN) !== 0;
    // The root is aligned to 128 bytes.
    const at = Math.floor(getWide(entry.words, DTE.INTERRUPT_ROOT) / 2) * 128 + index * (wide ? 16 : 4);
    const words = this.#read(at, wide);
    if (words === null) return this.#refuse(entry, EVENT.pageTableHardware, BigInt(at));
    const fields = wide ? IRTE_GA : IRTE;
    if (!isSet(words, fields.REMAP_EN)) return isSet(words, fields.SUPPRESS) ? ABORT : this.#unmapped(entry, [], lo);
    if (get(words, fields.TYPE) > HIGHEST_TYPE || isSet(words, fields.GUEST_MODE))
      return isSet(words, fields.SUPPRESS) ? ABORT : this.#unmapped(entry, ['PR', 'RZ'], lo);
    const destination = wide ? this.#wideDestination(words) : get(words, IRTE.DESTINATION);
    return {
      kind: 'remap',
      destination,
      logical: isSet(words, fields.DM),
      vector: get(words, fields.VECTOR),
      delivery: get(words, fields.TYPE),
    };
  }

  #wideDestination(words: Int32Array): number {
    const low = get(words, IRTE_GA.DESTINATION_LOW);
    return this.#registers.control(CONTROL.XT_EN) !== 0 ? low + get(words, IRTE_GA.DESTINATION_HIGH) * 2 ** 24 : low & 0xff;
  }

  #read(at: number, wide: boolean): Int32Array | null {
    const page = Math.floor(at / 4096);
    const lo = loOfPfn(page) | (at % 4096);
    const { word } = this.#memory;
    if (!wide) return this.#memory.load32(hiOfPfn(page), lo) < 0 ? null : Int32Array.of(word[0]);
    if (this.#memory.load64(hiOfPfn(page), lo) < 0) return null;
    const [low, high] = word;
    return this.#memory.load64(hiOfPfn(page), lo + 8) < 0 ? null : Int32Array.of(low, high, word[0], word[1]);
  }

  /** IO_PAGE_FAULT with I, unless the device's entry ignores what is not mapped. */
  #unmapped(entry: DeviceEntry, flags: readonly Flag[], lo: number): RemappedInterrupt {
    return isSet(entry.words, DTE.IG) ? ABORT : this.#refuse(entry, EVENT.pageFault, messageAddress(lo), flags);
  }

  /** IntCtl 0: INVALID_DEVICE_REQUEST (2.5.9). */
  #invalid({ device, domain }: DeviceEntry, lo: number): RemappedInterrupt {
    this.#events.request(EVENT.invalidRequest, { device, domain, pasid: -1 }, [], 0, lo, REQUEST_TYPE.interruptRefused);
    return ABORT;
  }

  /** `address`: what the device wrote to, or what could not be read. */
  #refuse({ device, domain }: DeviceEntry, code: number, address: bigint, flags: readonly Flag[] = []): RemappedInterrupt {
    this.#events.request(code, { device, domain, pasid: -1 }, ['I', ...flags], hiOf(address), loOf(address));
    return ABORT;
  }
}

function messageAddress(lo: number): bigint {
  return BigInt(lo >>> 0);
}

/** Fixed and arbitrated: what IntCtl is about. */
function isOrdinary(words: Int32Array): boolean {
  return get(words, MESSAGE.MODE) <= DELIVERY.lowest;
}
