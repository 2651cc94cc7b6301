/**
 * One row of a target's table of capabilities: the one source of what the guest reads in its capability registers and of the table
 * in docs/targets/<name>.md (a test compares them).
 */
export interface Capability {
  /** The specification's name of the bit or field, with its register where there are several: `ECAP.SMTS`. */
  readonly name: string;
  readonly section: string;
  /** What the guest reads; 0 or false: not there. An embedder's option may lower it. */
  readonly value: number | bigint | boolean;
  /** Why it is there, or why it is not. */
  readonly reason: string;
}
