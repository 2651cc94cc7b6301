/**
 * The guest's general-purpose registers as a hypercall sees them (LoPAR 14.5.3): arguments from R4 on, further results in R4 on.
 *
 * @example
 * const registers = new HypercallRegisters();
 * registers.u64[4] = 0x1_8000_0000n; // R4
 * registers.i32[9]; // 1: its high half
 */
export class HypercallRegisters {
  /** GPR n is `u64[n]`: for whoever fills or reads registers as `bigint`. */
  readonly u64: BigUint64Array;
  /** The same memory in halves, for hot code: low half of GPR n in `i32[2 * n]`, high half in `i32[2 * n + 1]`. */
  readonly i32: Int32Array;

  constructor() {
    this.u64 = new BigUint64Array(32);
    this.i32 = new Int32Array(this.u64.buffer);
  }
}
