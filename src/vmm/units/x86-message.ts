import { requireBigint, requireObject } from '../../memory/arguments.ts';

/** Interrupt messages of x86 in compatibility format: Intel SDM volume 3, 11.11 (MSI address and data). */

/** Where a write is an interrupt: FEEx_xxxxh. */
export function isX86Message(address: bigint): boolean {
  requireBigint('isX86Message', 'address', address);
  return address >> 20n === 0xfeen;
}

/** An interrupt as the processors get it. */
export interface X86Interrupt {
  readonly vector: number;
  /** APIC ID, or a logical destination. */
  readonly destination: number;
  readonly logical: boolean;
  readonly redirectionHint: boolean;
  readonly deliveryMode: number;
  readonly levelTriggered: boolean;
}

/**
 * The message that says this interrupt; null: its destination does not fit the 8 bits that there are, so a machine that cannot be told otherwise
 * does not get it.
 */
export function x86Message(interrupt: Readonly<X86Interrupt>): { readonly address: bigint; readonly data: number } | null {
  requireObject('x86Message', 'interrupt', interrupt);
  const { vector, destination, logical, redirectionHint, deliveryMode, levelTriggered } = interrupt;
  if (destination < 0 || destination > 0xff) return null;
  const address = 0xfee0_0000 + (destination << 12) + (redirectionHint ? 8 : 0) + (logical ? 4 : 0);
  // A level that was asserted: bit 14.
  return { address: BigInt(address), data: vector | (deliveryMode << 8) | (levelTriggered ? 0xc000 : 0) };
}
