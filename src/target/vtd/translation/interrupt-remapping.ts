import { type Field, get, isSet, reservedClear } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import type { VtdChoices } from '../options.ts';
import type { FaultLog } from '../reporting/fault-log.ts';
import { Fault } from '../spec/faults.ts';
import {
  COMPATIBILITY,
  IRTE,
  IRTE_BYTES,
  IRTE_RESERVED,
  IRTE_XAPIC_DESTINATION,
  IRTE_XAPIC_RESERVED,
  PID_BYTES,
  PID_CONTROL,
  PID_CONTROL_AT,
  PID_CONTROL_RESERVED,
  POSTED_IRTE,
  POSTED_IRTE_RESERVED,
  REMAPPABLE,
  SourceValidation,
} from '../spec/interrupts.ts';
import { Global, InterruptTable } from '../spec/registers.ts';
import type { Structures } from './structures.ts';
import { aboveWidth } from './wide-addresses.ts';

/** An interrupt as the processors get it. */
export interface RemappedInterrupt {
  vector: number;
  /** APIC ID: 8 bits, with EIME 32 bits. */
  destination: number;
  /** Destination mode. */
  logical: boolean;
  redirectionHint: boolean;
  /** 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 7 ExtINT. */
  deliveryMode: number;
  levelTriggered: boolean;
}

/** What `remap` answers where it is no fault: `interrupt` is to be delivered; or it was posted, and nobody is to be told. */
export const DELIVER = 0;
export const POSTED = 1;

/** Delivery modes without a meaning (9.9). */
const RESERVED_DELIVERY = (1 << 3) | (1 << 6);
const ENTRY_PDA = PID_BYTES - 1;
/** How often a posted descriptor is looked at again when somebody else changed it. */
const RETRIES = 64;
/** Which low bits of a requester do not count, by SQ (9.9). */
const QUALIFIERS = [0, 4, 6, 7];

/**
 * Interrupt remapping and posting (5.1.4, 5.2.3). Entries are read anew for each request: an interrupt entry cache would forget
 * nothing sooner.
 */
export class InterruptRemapping {
  /** Of the last request that was answered with DELIVER. */
  readonly interrupt: RemappedInterrupt = {
    vector: 0,
    destination: 0,
    logical: false,
    redirectionHint: false,
    deliveryMode: 0,
    levelTriggered: false,
  };
  readonly #registers: Registers;
  readonly #structures: Structures;
  readonly #faults: FaultLog;
  readonly #choices: VtdChoices;
  readonly #request = new Int32Array(2);
  readonly #entry = new Int32Array(4);
  readonly #descriptor = new Int32Array(PID_BYTES / 4);
  readonly #control = this.#descriptor.subarray(PID_CONTROL_AT / 4);
  readonly #postedReserved: Int32Array;

  constructor(registers: Registers, structures: Structures, faults: FaultLog, choices: VtdChoices) {
    this.#registers = registers;
    this.#structures = structures;
    this.#faults = faults;
    this.#choices = choices;
    // Address bits 63:HAW stand in the upper half of the second doubleword.
    this.#postedReserved = aboveWidth(POSTED_IRTE_RESERVED, choices.hostAddressWidth, 1);
  }

  /** A 4-byte write of `data` to FEEx_xxxxh, of which `address` is the lower half: DELIVER, POSTED, or the negative reason of a fault. */
  remap(source: number, address: number, data: number): number {
    const request = this.#request;
    request[0] = address;
    request[1] = data;
    const registers = this.#registers;
    if (!registers.isOn(Global.IRE)) return this.#compatibility();
    if (!isSet(request, REMAPPABLE.FORMAT)) {
      const blocked = (registers.interruptTable[0] & InterruptTable.EIME) !== 0 || !registers.isOn(Global.CFI);
      return blocked ? this.#fault(Fault['IR.25'], source, 0, false) : this.#compatibility();
    }
    const subhandle = isSet(request, REMAPPABLE.SHV);
    if (subhandle && isSet(request, REMAPPABLE.RESERVED)) return this.#fault(Fault['IR.20'], source, 0, false);
    const handle = get(request, REMAPPABLE.HANDLE) | (get(request, REMAPPABLE.HANDLE_15) << 15);
    return this.#lookUp(source, subhandle ? handle + get(request, REMAPPABLE.SUBHANDLE) : handle);
  }

  #lookUp(source: number, index: number): number {
    const pointer = this.#registers.interruptTable;
    const lo = pointer[0];
    const entry = this.#entry;
    if (index >= 2 << (lo & InterruptTable.S)) return this.#fault(Fault['IR.21'], source, index, false);
    const table = (pointer[1] >>> 0) * 0x1_0000_0000 + ((lo & ~0xfff) >>> 0);
    if (!this.#structures.read(table + index * IRTE_BYTES, entry)) return this.#fault(Fault['IR.23'], source, index, false);
    const suppressed = isSet(entry, IRTE.FPD);
    if (!isSet(entry, IRTE.P)) return this.#fault(Fault['IR.22'], source, index, suppressed);
    // 5.1.4: an entry that is wrongly programmed is one for everybody; only then it matters who asks.
    const extended = (lo & InterruptTable.EIME) !== 0;
    const posted = isSet(entry, IRTE.IM) && this.#choices.postedInterrupts;
    const programmed = posted ? reservedClear(entry, this.#postedReserved) : this.#isRemapped(extended);
    if (!programmed || get(entry, IRTE.SVT) > SourceValidation.bus) return this.#fault(Fault['IR.24'], source, index, suppressed);
    if (!this.#mayCome(source)) return this.#fault(Fault['IR.26'], source, index, suppressed);
    const result = posted ? this.#post(extended) : this.#fromEntry(extended);
    return result < 0 ? this.#fault(-result, source, index, suppressed) : result;
  }

  /** SVT, SQ and SID (9.9). */
  #mayCome(source: number): boolean {
    const entry = this.#entry;
    const validation = get(entry, IRTE.SVT);
    if (validation === SourceValidation.none) return true;
    const id = get(entry, IRTE.SID);
    if (validation === SourceValidation.bus) return source >> 8 >= id >> 8 && source >> 8 <= (id & 0xff);
    return ((source ^ id) & ~QUALIFIERS[get(entry, IRTE.SQ)]) === 0;
  }

  /** What may not stand in an entry for a remapped interrupt (9.9). */
  #isRemapped(extended: boolean): boolean {
    const entry = this.#entry;
    if (!reservedClear(entry, IRTE_RESERVED) || isSet(entry, IRTE.IM)) return false;
    if (!extended && !reservedClear(entry, IRTE_XAPIC_RESERVED)) return false;
    return ((1 << get(entry, IRTE.DLM)) & RESERVED_DELIVERY) === 0;
  }

  /** A remapped interrupt (9.9). */
  #fromEntry(extended: boolean): number {
    const entry = this.#entry;
    const { interrupt } = this;
    interrupt.vector = get(entry, IRTE.V);
    interrupt.destination = destinationOf(entry, extended, IRTE.DST);
    interrupt.logical = isSet(entry, IRTE.DM);
    interrupt.redirectionHint = isSet(entry, IRTE.RH);
    interrupt.deliveryMode = get(entry, IRTE.DLM);
    interrupt.levelTriggered = isSet(entry, IRTE.TM);
    return DELIVER;
  }

  /** A posted interrupt (5.2.3, 9.10, 9.11). */
  #post(extended: boolean): number {
    const entry = this.#entry;
    const control = this.#control;
    const hi = get(entry, POSTED_IRTE.PDAH);
    const lo = entry[POSTED_IRTE.PDAL.word] & ~ENTRY_PDA;
    const address = (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);
    if (!this.#structures.read(address, this.#descriptor)) return -Fault['IR.27'];
    if (!reservedClear(control, PID_CONTROL_RESERVED) || this.#descriptor.some((word, i) => i >= PID_CONTROL_AT / 4 + 2 && word !== 0))
      return -Fault['IR.28'];
    if (!extended && !reservedClear(control, IRTE_XAPIC_RESERVED)) return -Fault['IR.28'];
    const vector = get(entry, POSTED_IRTE.VV);
    if (!this.#setRequest(hi, lo + (vector >>> 6) * 8, vector & 63)) return -Fault['IR.27'];
    return this.#notify(hi, lo + PID_CONTROL_AT, isSet(entry, POSTED_IRTE.URG), extended);
  }

  /** PIR: the vector's bit is set, in one piece with those beside it. */
  #setRequest(hi: number, lo: number, bit: number): boolean {
    const { memory } = this.#structures;
    const { word } = memory;
    for (let i = 0; i < RETRIES; i++) {
      if (memory.load64(hi, lo) < 0) return false;
      const oldLo = word[0];
      const oldHi = word[1];
      const newLo = bit < 32 ? oldLo | (1 << bit) : oldLo;
      const newHi = bit < 32 ? oldHi : oldHi | (1 << (bit - 32));
      if (memory.compareExchange64(hi, lo, oldHi, oldLo, newHi, newLo) === 1) return true;
    }
    return false;
  }

  /** ON, unless it is set already or SN suppresses what is not urgent; then the notification event is the interrupt. */
  #notify(hi: number, lo: number, urgent: boolean, extended: boolean): number {
    const { memory } = this.#structures;
    const control = this.#control;
    for (let i = 0; i < RETRIES; i++) {
      if (memory.load64(hi, lo) < 0) return -Fault['IR.27'];
      control[0] = memory.word[0];
      control[1] = memory.word[1];
      if (isSet(control, PID_CONTROL.ON) || (isSet(control, PID_CONTROL.SN) && !urgent)) return POSTED;
      if (memory.compareExchange64(hi, lo, control[1], control[0], control[1], control[0] | 1) !== 1) continue;
      const { interrupt } = this;
      interrupt.vector = get(control, PID_CONTROL.NV);
      interrupt.destination = destinationOf(control, extended, PID_CONTROL.NDST);
      interrupt.logical = false;
      interrupt.redirectionHint = false;
      interrupt.deliveryMode = 0;
      interrupt.levelTriggered = false;
      return DELIVER;
    }
    return -Fault['IR.27'];
  }

  /** 5.1.2.1: as it stands. */
  #compatibility(): number {
    const request = this.#request;
    const { interrupt } = this;
    interrupt.vector = get(request, COMPATIBILITY.V);
    interrupt.destination = get(request, COMPATIBILITY.DST);
    interrupt.logical = isSet(request, COMPATIBILITY.DM);
    interrupt.redirectionHint = isSet(request, COMPATIBILITY.RH);
    interrupt.deliveryMode = get(request, COMPATIBILITY.DLM);
    interrupt.levelTriggered = isSet(request, COMPATIBILITY.TM);
    return DELIVER;
  }

  #fault(reason: number, source: number, index: number, suppressed: boolean): number {
    this.#faults.recordInterrupt(reason, suppressed, source, index);
    return -reason;
  }
}

function destinationOf(words: Int32Array, extended: boolean, wide: Field): number {
  return extended ? get(words, wide) >>> 0 : get(words, IRTE_XAPIC_DESTINATION);
}
