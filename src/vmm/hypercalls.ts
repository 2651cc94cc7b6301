import { requireArray, requireFunction } from '../memory/arguments.ts';

/** LoPAR 14.5.3: the partition called a function that there is not. */
const H_FUNCTION = -2;

/** Serves one or more opcodes: arguments and results in the guest's registers, the return code returned. */
export type HypercallHandler<Registers> = (opcode: number, registers: Registers) => number;

/**
 * Where a VMM sends a guest's hypercalls: by opcode to whoever serves it.
 *
 * @example
 * const dispatcher = new HypercallDispatcher();
 * dispatcher.serve([H_PUT_TCE, H_GET_TCE], (opcode, registers) => 0);
 * dispatcher.call(H_PUT_TCE, new HypercallRegisters()); // 0
 * dispatcher.call(4, new HypercallRegisters()); // -2: H_FUNCTION
 */
export class HypercallDispatcher<Registers> {
  readonly #handlers = new Map<number, HypercallHandler<Registers>>();

  /**
   * Serves these opcodes from now on; the disposer ends that.
   * @throws RangeError when one of them is served already; then none is added.
   */
  serve(opcodes: readonly number[], handler: HypercallHandler<Registers>): () => void {
    requireArray('HypercallDispatcher', 'opcodes', opcodes);
    requireFunction('HypercallDispatcher', 'handler', handler);
    const taken = opcodes.find((opcode) => this.#handlers.has(opcode));
    if (taken !== undefined) throw new RangeError(`hypercall 0x${taken.toString(16)} is served already`);
    for (const opcode of opcodes) this.#handlers.set(opcode, handler);
    return () => {
      for (const opcode of opcodes) this.#handlers.delete(opcode);
    };
  }

  /** Returns the hypercall's return code; H_FUNCTION for one that nobody serves. */
  call(opcode: number, registers: Registers): number {
    const handler = this.#handlers.get(opcode);
    return handler === undefined ? H_FUNCTION : handler(opcode, registers);
  }
}
