import { get, put } from '../fields.ts';
import { INSTRUCTION } from './spec/instruction.ts';

/**
 * The guest's general registers, as an instruction names them.
 *
 * @example
 * const registers = new GeneralRegisters();
 * registers.u64[2] = 0x1_0000_0000n; // R2
 * registers.i32[5]; // 1: its upper half
 */
export class GeneralRegisters {
  /** Register n is `u64[n]`. */
  readonly u64: BigUint64Array;
  /** The same memory in halves: low half of register n in `i32[2 * n]`, high half in `i32[2 * n + 1]`. */
  readonly i32: Int32Array;

  constructor() {
    this.u64 = new BigUint64Array(16);
    this.i32 = new Int32Array(this.u64.buffer);
  }
}

/** The register that holds a function's handle, what the instruction is to do, and afterwards its status. */
export class InstructionWord {
  readonly #words: Int32Array;

  constructor({ i32 }: GeneralRegisters, register: number) {
    this.#words = i32.subarray(2 * register, 2 * register + 2);
  }

  get handle(): number {
    return this.#words[1] >>> 0;
  }
  set handle(value: number) {
    this.#words[1] = value;
  }
  get operation(): number {
    return get(this.#words, INSTRUCTION.OPERATION);
  }
  get dmaAddressSpace(): number {
    return get(this.#words, INSTRUCTION.DMA_ADDRESS_SPACE);
  }
  get pciAddressSpace(): number {
    return get(this.#words, INSTRUCTION.PCI_ADDRESS_SPACE);
  }
  get length(): number {
    return get(this.#words, INSTRUCTION.LENGTH);
  }
  get blockLength(): number {
    return get(this.#words, INSTRUCTION.BLOCK_LENGTH);
  }

  status(value: number): void {
    put(this.#words, INSTRUCTION.STATUS, value);
  }
}
