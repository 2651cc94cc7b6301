/** Details kept of what went wrong; the counts go on. */
const DETAILS = 10;

/** How many comparisons were made of one kind, and which of them failed. */
export class Tally {
  checked = 0;
  wrong = 0;
  readonly details: string[] = [];

  check(right: boolean, detail: () => string): void {
    this.checked++;
    if (right) return;
    this.wrong++;
    if (this.details.length < DETAILS) this.details.push(detail());
  }

  toJSON(): { readonly checked: number; readonly wrong: number } {
    return { checked: this.checked, wrong: this.wrong };
  }
}
