import { put } from '../../fields.ts';
import { Queue } from '../control/queue.ts';
import type { Registers } from '../control/registers.ts';
import { UNSUPPRESSED } from '../spec/causes.ts';
import { FAULT_RECORD as F, FAULT_RECORD_LG2 } from '../spec/records.ts';
import { Csr, FQB, FQCSR, FQH, FQT, Interrupt } from '../spec/registers.ts';
import type { Structures } from '../structures.ts';
import type { Interrupts } from './interrupts.ts';

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
      entryLg2: FAULT_RECORD_LG2,
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

  #encode(fault: Fault): void {
    const { words } = this.#structures;
    words.fill(0, 0, 8);
    put(words, F.CAUSE, fault.cause);
    put(words, F.TTYP, fault.type);
    put(words, F.DID, fault.device);
    if (fault.process !== null) {
      put(words, F.PID, fault.process);
      put(words, F.PV, 1);
      put(words, F.PRIV, fault.privileged ? 1 : 0);
    }
    put(words, F.IOTVAL_LO, fault.iotvalLo);
    put(words, F.IOTVAL_HI, fault.iotvalHi);
    put(words, F.IOTVAL2_LO, fault.iotval2Lo);
    put(words, F.IOTVAL2_HI, fault.iotval2Hi);
  }

  writeCsr(value: number): void {
    this.queue.writeCsr(value);
    this.#interrupts().recheck(Interrupt.fault);
  }
}
