import type { ErrorEvent } from '../../target/zpci/index.ts';
import { hex } from '../../vmm/recording-lines.ts';
import type { RecordedLine } from '../recording.ts';
import type { Tally } from './tally.ts';

/** Error events, the target's and the recorded ones, in their order. A line stands behind what caused the event, or before: an RPCIT's end is later than its event. */
export class ZpciEvents {
  #found: ErrorEvent[] = [];
  #expected: { readonly event: ErrorEvent; readonly line: number }[] = [];

  happened(event: ErrorEvent): void {
    this.#found.push(event);
  }

  line(line: RecordedLine): void {
    const event = { code: line.u32('pec'), handle: line.u32('handle'), fid: line.u32('fid'), address: line.u64('faddr') };
    this.#expected.push({ event, line: line.number });
  }

  /** Those that are there on both sides. */
  compare(answers: Tally): void {
    while (this.#found.length > 0 && this.#expected.length > 0) {
      const found = this.#found.shift()!;
      const { event, line } = this.#expected.shift()!;
      answers.check(isSame(found, event), () => `line ${line}: the event is ${textOf(found)}, not ${textOf(event)}`);
    }
  }

  /** Whatever has no counterpart. */
  end(answers: Tally): void {
    for (const found of this.#found) answers.check(false, () => `event ${textOf(found)} is in no line`);
    for (const { event, line } of this.#expected) answers.check(false, () => `line ${line}: there is no event ${textOf(event)}`);
  }
}

function isSame(a: ErrorEvent, b: ErrorEvent): boolean {
  return a.code === b.code && a.handle === b.handle && a.fid === b.fid && a.address === b.address;
}

function textOf({ code, handle, address }: ErrorEvent): string {
  return `${hex(code)} of ${hex(handle)} at ${hex(address)}`;
}
