import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import { COUNTER, STATE, type ZpciFunction } from './function.ts';
import type { Functions } from './functions.ts';
import { type GeneralRegisters, InstructionWord } from './registers.ts';
import { type Answer, CC, INTERRUPTION, STATUS } from './spec/codes.ts';
import { CONFIGURATION_SPACE, LAST_BAR, STORE_BLOCK_BYTES } from './spec/instruction.ts';

/** Bytes that an access must not leave, aligned to themselves. */
const BAR_CELL = 8;
const CONFIGURATION_CELL = 4;

/**
 * PCILG, PCISTG and PCISTB, load, store and store block (QEMU: pcilg_service_call, pcistg_service_call, pcistb_service_call), up to where the
 * function's own registers begin.
 */
export class LoadStore {
  readonly #functions: Functions;
  readonly #block = new Uint8Array(STORE_BLOCK_BYTES);

  constructor(functions: Functions) {
    this.#functions = functions;
  }

  /** R1: what is loaded; R2: handle, space, bytes; the register after R2: offset. */
  load(registers: GeneralRegisters, r1: number, r2: number): Answer {
    const access = this.#access(registers, r2);
    if (typeof access === 'number') return access;
    const { one, word, offset } = access;
    const value = one.options.spaces?.load(word.pciAddressSpace, offset, word.length) ?? null;
    if (value === null) return INTERRUPTION.operand;
    one.counters[COUNTER.load]++;
    registers.u64[r1] = value;
    return CC.done;
  }

  store(registers: GeneralRegisters, r1: number, r2: number): Answer {
    const access = this.#access(registers, r2);
    if (typeof access === 'number') return access;
    const { one, word, offset } = access;
    const value = BigInt.asUintN(8 * word.length, registers.u64[r1]);
    if (!one.options.spaces?.store(word.pciAddressSpace, offset, word.length, value)) return INTERRUPTION.operand;
    one.counters[COUNTER.store]++;
    return CC.done;
  }

  #access(registers: GeneralRegisters, r2: number): { one: ZpciFunction; word: InstructionWord; offset: bigint } | Answer {
    if ((r2 & 1) !== 0) return INTERRUPTION.specification;
    const word = new InstructionWord(registers, r2);
    const one = this.#enabled(word);
    if (typeof one === 'number') return one;
    const space = word.pciAddressSpace;
    if (space > LAST_BAR && space !== CONFIGURATION_SPACE) {
      word.status(STATUS.addressSpace);
      return CC.error;
    }
    const offset = registers.u64[r2 + 1];
    const cell = space === CONFIGURATION_SPACE ? CONFIGURATION_CELL : BAR_CELL;
    const { length } = word;
    const crosses = Number(offset % BigInt(cell)) + length > cell;
    if (length === 0 || crosses || (space === CONFIGURATION_SPACE && length === 3)) return INTERRUPTION.operand;
    return { one, word, offset };
  }

  /** The function that a load or store reaches, or a condition code. */
  #enabled(word: InstructionWord): ZpciFunction | Answer {
    const one = this.#functions.byHandle(word.handle);
    if (one === null || !one.isEnabled) return CC.handle;
    if (one.state !== STATE.error) return one;
    word.status(STATUS.blocked);
    return CC.error;
  }

  /** R1: handle, space, bytes; R3: offset; `address`: absolute, of the block. */
  storeBlock(registers: GeneralRegisters, r1: number, r3: number, address: bigint): Answer {
    const word = new InstructionWord(registers, r1);
    const one = this.#enabled(word);
    if (typeof one === 'number') return one;
    if (word.pciAddressSpace > LAST_BAR) {
      word.status(STATUS.addressSpace);
      return CC.error;
    }
    const offset = registers.u64[r3];
    const bytes = word.blockLength;
    const isWhole = (offset & 7n) === 0n && bytes > 8 && bytes % 8 === 0 && bytes <= STORE_BLOCK_BYTES;
    if (!isWhole || Number(offset & 0xfffn) + bytes > 0x1000 || (address & 7n) !== 0n) return INTERRUPTION.specification;
    const { spaces } = one.options;
    const { pciAddressSpace } = word;
    if (spaces === undefined) return INTERRUPTION.operand;
    for (let i = 0; i < bytes; i += 8) if (!spaces.takes(pciAddressSpace, offset + BigInt(i), 8)) return INTERRUPTION.operand;
    if (this.#functions.memory.read(hiOf(address), loOf(address), this.#block, 0, bytes) < 0) return INTERRUPTION.addressing;
    const view = new DataView(this.#block.buffer);
    for (let i = 0; i < bytes; i += 8) {
      const value = joinHiLo(view.getInt32(i), view.getInt32(i + 4));
      if (!spaces.store(pciAddressSpace, offset + BigInt(i), 8, value)) return INTERRUPTION.operand;
    }
    one.counters[COUNTER.storeBlock]++;
    return CC.done;
  }
}
