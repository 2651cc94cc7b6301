import { put } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import { EVENT, HARDWARE_TYPE, RECORD } from '../spec/events.ts';
import { HARDWARE_EVENT, REG } from '../spec/registers.ts';
import type { RingLog } from './log.ts';

/** Which flags of a record are set. */
export type Flag = 'NX' | 'US' | 'I' | 'PR' | 'RW' | 'PE' | 'RZ' | 'TR';

/** Who is to blame: domain and PASID as the event has them. */
export interface Blamed {
  readonly device: number;
  readonly domain: number;
  /** -1: none. */
  readonly pasid: number;
}

/** Events that name the domain of a request without PASID; in the others the field is the PASID's alone. */
const WITH_DOMAIN: ReadonlySet<number> = new Set([EVENT.pageFault, EVENT.pageTableHardware]);
const HARDWARE: ReadonlySet<number> = new Set([EVENT.deviceTableHardware, EVENT.pageTableHardware, EVENT.commandHardware]);

/** Events (2.5): the log, and for what hardware could not read the hardware event registers. */
export class Events {
  readonly #log: RingLog;
  readonly #registers: Registers;
  readonly #words = new Int32Array(4);

  constructor(log: RingLog, registers: Registers) {
    this.#log = log;
    this.#registers = registers;
  }

  /** A request of a device failed. */
  request(code: number, { device, domain, pasid }: Blamed, flags: readonly Flag[], hi: number, lo: number, type = 0): void {
    const words = this.#words.fill(0);
    put(words, RECORD.DEVICE, device);
    if (pasid < 0) put(words, RECORD.DOMAIN, WITH_DOMAIN.has(code) ? domain : 0);
    else {
      put(words, RECORD.GN, 1);
      put(words, RECORD.DOMAIN, pasid & 0xffff);
      put(words, RECORD.PASID_HIGH, pasid >>> 16);
    }
    for (const flag of flags) put(words, RECORD[flag], 1);
    put(words, RECORD.TYPE, HARDWARE.has(code) ? HARDWARE_TYPE.targetAbort : type);
    this.#finish(code, hi, lo);
  }

  /** A command failed: `address` is the command's, or what it could not reach. */
  command(code: number, hi: number, lo: number): void {
    const words = this.#words.fill(0);
    if (code === EVENT.commandHardware) put(words, RECORD.TYPE, HARDWARE_TYPE.targetAbort);
    this.#finish(code, hi, lo);
  }

  /** A device did not answer the command at this address in time. */
  iotlbTimeout(device: number, hi: number, lo: number): void {
    const words = this.#words.fill(0);
    put(words, RECORD.DEVICE, device);
    this.#finish(EVENT.iotlbTimeout, hi, lo);
  }

  #finish(code: number, hi: number, lo: number): void {
    const words = this.#words;
    put(words, RECORD.CODE, code);
    put(words, RECORD.ADDRESS_LOW, lo);
    put(words, RECORD.ADDRESS_HIGH, hi);
    if (HARDWARE.has(code)) this.#hardware(words);
    this.#log.append(words);
  }

  /** 3.4.10: the first is kept until the guest has taken it; that there were more, is said. */
  #hardware(words: Int32Array): void {
    const registers = this.#registers;
    const status = registers.view(REG.HARDWARE_EVENT_STATUS);
    if ((status[0] & 1) !== 0) {
      put(status, HARDWARE_EVENT.OVERFLOW, 1);
      return;
    }
    put(status, HARDWARE_EVENT.VALID, 1);
    registers.view(REG.HARDWARE_EVENT_UPPER).set(words.subarray(0, 2));
    registers.view(REG.HARDWARE_EVENT_LOWER).set(words.subarray(2, 4));
  }
}
