import { get, isSet, put } from '../../fields.ts';
import { NO_PASID } from '../../target.ts';
import type { Registers } from '../control/registers.ts';
import { AT, EXE, F, FI_HI, FI_INTERRUPT_INDEX, FI_LO, FR, FRCD_BYTES, PP, PRIV, PV, SID, T1, T2 } from '../spec/fault-record.ts';
import { UNQUALIFIED } from '../spec/faults.ts';
import { FaultStatus, FSTS, Global, IQERCD } from '../spec/registers.ts';
import type { Event } from './event.ts';

/** What a record says beside reason and source. */
export interface FaultedRequest {
  readonly device: number;
  readonly pasid: number;
  /** Page of the address; its low 12 bits do not count. */
  readonly hi: number;
  readonly lo: number;
  /** Type, T1 above T2. */
  readonly type: number;
  readonly privileged: boolean;
  readonly execute: boolean;
  /** 0 untranslated, 1 translation request, 2 translated. */
  readonly addressType: number;
}
/** Values of FaultedRequest.type. */
export const RequestType = { write: 0, pageRequest: 1, read: 2, atomic: 3 } as const;

/** Conditions of which none may be pending when a fault event is generated (7.3). */
const PENDING = FaultStatus.PPF | FaultStatus.PFO | FaultStatus.IQE | FaultStatus.ICE | FaultStatus.ITE;
const CLEARABLE = FaultStatus.PFO | FaultStatus.IQE | FaultStatus.ICE | FaultStatus.ITE;

/** Primary fault logging (7.2.1), and the status register that it shares with the errors of the invalidation queue. */
export class FaultLog {
  /** Index of the record that is written next. */
  next = 0;
  readonly #registers: Registers;
  readonly #event: Event;
  readonly #records: readonly Int32Array[];

  /** `first`: offset of the first of `count` recording registers. */
  constructor(registers: Registers, event: Event, first: number, count: number) {
    this.#registers = registers;
    this.#event = event;
    this.#records = Array.from({ length: count }, (_, i) => {
      const at = (first + i * FRCD_BYTES) / 4;
      return registers.words.subarray(at, at + FRCD_BYTES / 4);
    });
  }

  /** Records a fault of a memory request, unless FPD (`suppressed`) is against it, or it is nobody's. */
  record(reason: number, suppressed: boolean, request: FaultedRequest): void {
    if ((suppressed && !UNQUALIFIED.has(reason)) || request.device < 0 || request.device > 0xffff) return;
    const record = this.#claim(reason, request.device);
    if (record === null) return;
    record[0] = 0;
    put(record, FI_LO, request.lo >>> 12);
    put(record, FI_HI, request.hi);
    put(record, T1, request.type >> 1);
    put(record, T2, request.type);
    put(record, AT, request.addressType);
    if (request.pasid !== NO_PASID) {
      put(record, PP, 1);
      put(record, PV, request.pasid);
      put(record, PRIV, Number(request.privileged));
      put(record, EXE, Number(request.execute));
    }
    this.#publish(record);
  }

  /** The same of an interrupt request. */
  recordInterrupt(reason: number, suppressed: boolean, source: number, index: number): void {
    if (suppressed && !UNQUALIFIED.has(reason)) return;
    const record = this.#claim(reason, source & 0xffff);
    if (record === null) return;
    record[0] = 0;
    record[1] = 0;
    put(record, FI_INTERRUPT_INDEX, index);
    this.#publish(record);
  }

  /** A record that hardware made. */
  adopt(words: Int32Array): void {
    if (words.length !== FRCD_BYTES / 4) return;
    const record = this.#claim(get(words, FR), get(words, SID));
    if (record === null) return;
    record.set(words);
    this.#publish(record);
  }

  /** Faults were lost. */
  overflow(): void {
    this.#error(FaultStatus.PFO);
  }

  /** The register that the fault goes to, with reason and source; null: it is not recorded. */
  #claim(reason: number, source: number): Int32Array | null {
    const registers = this.#registers;
    if ((registers.get(FSTS) & FaultStatus.PFO) !== 0) return null;
    for (const record of this.#records) if (isSet(record, F) && (record[SID.word] & SID.mask) === source) return null;
    const record = this.#records[this.next];
    if (isSet(record, F)) {
      registers.change(FSTS, 0, FaultStatus.PFO);
      return null;
    }
    record[2] = 0;
    record[3] = 0;
    put(record, SID, source);
    put(record, FR, reason);
    return record;
  }

  #publish(record: Int32Array): void {
    const registers = this.#registers;
    const index = this.next;
    this.next = (index + 1) % this.#records.length;
    const pending = (registers.get(FSTS) & PENDING) !== 0;
    if ((registers.get(FSTS) & FaultStatus.PPF) === 0)
      registers.change(FSTS, 0xff << FaultStatus.FRI_SHIFT, FaultStatus.PPF | (index << FaultStatus.FRI_SHIFT));
    put(record, F, 1);
    if (!pending) this.#event.raise();
  }

  /** An error of the invalidation queue, which goes on once IQE is cleared: `info` for IQERCD.IQEI. */
  queueError(info: number): void {
    this.#registers.change(IQERCD, 0xf, info);
    this.#error(FaultStatus.IQE);
  }

  /** A completion that nobody waits for. */
  completionError(device: number): void {
    if ((this.#registers.get(FSTS) & FaultStatus.ICE) === 0) this.#registers.change(IQERCD + 4, 0xffff << 16, device << 16);
    this.#error(FaultStatus.ICE);
  }

  /** A device did not complete an invalidation in time. */
  timeoutError(device: number): void {
    if ((this.#registers.get(FSTS) & FaultStatus.ITE) === 0) this.#registers.change(IQERCD + 4, 0xffff, device);
    this.#error(FaultStatus.ITE);
  }

  #error(bit: number): void {
    const pending = (this.#registers.get(FSTS) & PENDING) !== 0;
    this.#registers.change(FSTS, 0, bit);
    if (!pending) this.#event.raise();
  }

  /** Software writes FSTS. */
  writeStatus(value: number): void {
    this.#registers.change(FSTS, value & CLEARABLE, 0);
    this.#settle();
  }

  /** Software writes the last word of a record. */
  writeRecord(offset: number, value: number): void {
    if (value >= 0) return;
    this.#registers.change(offset, 1 << 31, 0);
    if (!this.#records.some((record) => isSet(record, F))) this.#registers.change(FSTS, FaultStatus.PPF, 0);
    this.#settle();
  }

  #settle(): void {
    if ((this.#registers.get(FSTS) & PENDING) === 0) this.#event.settle();
  }

  /** The registers are saved ones; `next`: the record that is written next. PPF is what the records say, whatever was saved of it. */
  restore(next: number): void {
    const registers = this.#registers;
    this.next = next;
    const index = (registers.get(FSTS) >>> FaultStatus.FRI_SHIFT) & 0xff;
    const isPending = this.#records.some((record) => isSet(record, F));
    registers.change(FSTS, FaultStatus.PPF, isPending ? FaultStatus.PPF : 0);
    if (index >= this.#records.length) registers.change(FSTS, 0xff << FaultStatus.FRI_SHIFT, 0);
  }

  /** 7.2.1: the index starts again where both translations are off. */
  statusChanged(): void {
    if (!this.#registers.isOn(Global.TE) && !this.#registers.isOn(Global.IRE)) this.next = 0;
  }
}
