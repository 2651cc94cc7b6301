/** A call into the simulated kernel, while it is made. */
export interface SimCall {
  /** `open`, `close`, `mmap`, `read`, …, or an ioctl's name in the kernel's headers. */
  readonly kind: string;
  readonly fd: number;
  /** Counts all calls since the kernel was made, from 1. */
  readonly number: number;
}

export interface CallObserver {
  before?(call: SimCall): void;
  after?(call: SimCall, result: number): void;
}

/** Which call fails, and how: the `nth` from now on (1: the next) of the kind, or of all kinds. */
export interface CallFailure {
  readonly kind?: string;
  readonly nth: number;
  /** Positive errno. */
  readonly errno: number;
  /** How many of them fail, that one and those that follow. Default 1; Infinity: for good. */
  readonly times?: number;
}

/** What a test sees of the calls, and makes of them. */
export class CallHooks {
  /** Calls made, by kind. */
  readonly counts = new Map<string, number>();
  readonly #observers = new Set<CallObserver>();
  readonly #failures = new Set<{ kind: string | undefined; left: number; times: number; errno: number }>();
  readonly #omissions = new Set<{ readonly kind: string; left: number }>();
  readonly #onCall: () => void;
  #number = 0;

  constructor(onCall: () => void) {
    this.#onCall = onCall;
  }

  /** Calls made in all. */
  get total(): number {
    return this.#number;
  }

  observe(observer: CallObserver): () => void {
    this.#observers.add(observer);
    return () => this.#observers.delete(observer);
  }

  /** The call is refused before the kernel does anything. The disposer takes the failure back if it has not come to pass. */
  fail(failure: CallFailure): () => void {
    const entry = { kind: failure.kind, left: failure.nth, times: failure.times ?? 1, errno: failure.errno };
    this.#failures.add(entry);
    return () => this.#failures.delete(entry);
  }

  /**
   * The `nth` call of the kind from now on (1: the next) is answered as if it had been done, and is not: what a driver that forgets it would leave behind.
   * The disposer says whether it came to pass.
   */
  omit(kind: string, nth: number): () => boolean {
    const entry = { kind, left: nth };
    this.#omissions.add(entry);
    return () => !this.#omissions.delete(entry);
  }

  /** Runs a call with what the test has asked for around it. */
  call(kind: string, fd: number, run: () => number): number {
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
    const call = { kind, fd, number: ++this.#number };
    this.#onCall();
    for (const observer of this.#observers) observer.before?.(call);
    const result = this.#failing(kind) ?? (this.#omits(kind) ? 0 : run());
    for (const observer of this.#observers) observer.after?.(call, result);
    return result;
  }

  #failing(kind: string): number | undefined {
    let result: number | undefined;
    for (const failure of this.#failures) {
      if (failure.kind !== undefined && failure.kind !== kind) continue;
      if (--failure.left > 0) continue;
      if (--failure.times <= 0) this.#failures.delete(failure);
      result = -failure.errno;
    }
    return result;
  }

  #omits(kind: string): boolean {
    for (const omission of this.#omissions) {
      if (omission.kind !== kind || --omission.left > 0) continue;
      this.#omissions.delete(omission);
      return true;
    }
    return false;
  }

  reset(): void {
    this.#omissions.clear();
    this.counts.clear();
    this.#observers.clear();
    this.#failures.clear();
  }
}
