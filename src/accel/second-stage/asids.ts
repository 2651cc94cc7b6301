/** ASIDs of one second stage (IHI 0070, 5.4: CD.ASID), which tell the cached entries of its first stages apart. 0 is nobody's. */
export class Asids {
  readonly #limit: number;
  readonly #taken = new Set<number>();
  #last = 0;
  #wrapped = false;

  /** `bits`: 8 or 16. */
  constructor(bits: number) {
    this.#limit = 2 ** bits - 1;
  }

  /** One that nobody has, given out before as long ago as can be; null: there is none. `isUsed`: the hardware may remember entries of who had it. */
  take(): { readonly asid: number; readonly isUsed: boolean } | null {
    if (this.#taken.size === this.#limit) return null;
    do {
      this.#wrapped ||= this.#last === this.#limit;
      this.#last = (this.#last % this.#limit) + 1;
    } while (this.#taken.has(this.#last));
    this.#taken.add(this.#last);
    return { asid: this.#last, isUsed: this.#wrapped };
  }

  free(asid: number): void {
    this.#taken.delete(asid);
  }
}
