import { Queue } from '../control/queue.ts';
import { Csr, FQB, FQCSR, FQH, FQT, Interrupt, type Registers } from '../control/registers.ts';
import type { Structures } from '../structures.ts';
import type { Interrupts } from './interrupts.ts';

/** "Fault record CAUSE field encodings". */
export const Cause = {
  instructionAccessFault: 1,
  readAccessFault: 5,
  writeAccessFault: 7,
  instructionPageFault: 12,
  readPageFault: 13,
  writePageFault: 15,
  instructionGuestPageFault: 20,
  readGuestPageFault: 21,
  writeGuestPageFault: 23,
  allDisallowed: 256,
  ddtAccessFault: 257,
  ddtNotValid: 258,
  ddtMisconfigured: 259,
  typeDisallowed: 260,
  msiAccessFault: 261,
  msiNotValid: 262,
  msiMisconfigured: 263,
  mrifAccessFault: 264,
  pdtAccessFault: 265,
  pdtNotValid: 266,
  pdtMisconfigured: 267,
  ddtCorruption: 268,
  pdtCorruption: 269,
  msiCorruption: 270,
  mrifCorruption: 271,
  msiWriteFault: 273,
  tableCorruption: 274,
} as const;

/** "Fault record TTYP field encodings". */
export const TransactionType = {
  none: 0,
  untranslatedExecute: 1,
  untranslatedRead: 2,
  untranslatedWrite: 3,
  translatedExecute: 5,
  translatedRead: 6,
  translatedWrite: 7,
  atsTranslation: 8,
  message: 9,
} as const;

/** What a fault record tells. */
export interface Fault {
  readonly cause: number;
  readonly type: number;
  readonly device: number;
  /** null: the transaction had no process_id. */
  readonly process: number | null;
  readonly privileged: boolean;
  /** DC.tc.DTF of the device, false where no context was found. */
  readonly suppressed: boolean;
  readonly iotvalHi: number;
  readonly iotvalLo: number;
  readonly iotval2Hi: number;
  readonly iotval2Lo: number;
}

/** Causes that are reported although DC.tc.DTF is 1 (the third column of the cause table). */
const UNSUPPRESSED: ReadonlySet<number> = new Set([256, 257, 258, 259, 268, 272, 273]);

const RECORD_LG2 = 5;

/** "Fault/Event-Queue". */
export class FaultQueue {
  readonly queue: Queue;
  readonly #registers: Registers;
  readonly #structures: Structures;
  readonly #interrupts: () => Interrupts;

  constructor(registers: Registers, structures: Structures, interrupts: () => Interrupts) {
    this.queue = new Queue(registers, {
      base: FQB,
      software: FQH,
      device: FQT,
      csr: FQCSR,
      entryLg2: RECORD_LG2,
      clearable: Csr.memoryFault | Csr.overflow,
    });
    this.#registers = registers;
    this.#structures = structures;
    this.#interrupts = interrupts;
  }

  report(fault: Fault): void {
    const { queue } = this;
    if (!queue.isOn || queue.has(Csr.memoryFault | Csr.overflow)) return;
    if (fault.suppressed && !UNSUPPRESSED.has(fault.cause)) return;
    if (queue.isFull) {
      queue.setBits(Csr.overflow);
    } else {
      this.#encode(fault);
      queue.locate();
      if (this.#structures.write(queue.entryHi, queue.entryLo, 4, this.#registers.bigEndian)) queue.advance();
      else queue.setBits(Csr.memoryFault);
    }
    this.#interrupts().raise(Interrupt.fault);
  }

  /** "Fault-queue record": CAUSE 11:0, PID 31:12, PV 32, PRIV 33, TTYP 39:34, DID 63:40, custom, iotval, iotval2. */
  #encode(fault: Fault): void {
    const { words } = this.#structures;
    const valid = fault.process !== null;
    words[0] = fault.cause | ((fault.process ?? 0) << 12);
    words[1] = (valid ? 1 : 0) | (valid && fault.privileged ? 2 : 0) | (fault.type << 2) | (fault.device << 8);
    words[2] = 0;
    words[3] = 0;
    words[4] = fault.iotvalLo;
    words[5] = fault.iotvalHi;
    words[6] = fault.iotval2Lo;
    words[7] = fault.iotval2Hi;
  }

  writeCsr(value: number): void {
    this.queue.writeCsr(value);
    this.#interrupts().recheck(Interrupt.fault);
  }
}
