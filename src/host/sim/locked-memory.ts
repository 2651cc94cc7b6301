/** Pinned memory in bytes that counts against RLIMIT_MEMLOCK: of a user (struct user_struct) or of a process (mm->locked_vm). */
export class LockedMemory {
  bytes = 0;
}

/** Who pays for memory that is pinned: what it is counted in, and whose limit holds. */
export interface Payer {
  /** null: it was named by somebody with CAP_IPC_LOCK, and is not counted. */
  readonly account: LockedMemory | null;
  readonly process: { readonly lockLimit: number };
}
