import { joinHiLo } from '../../../memory/address.ts';
import type { Registers } from '../control/registers.ts';
import { EVENT_ADDRESS, EVENT_DATA, EVENT_UPPER_ADDRESS, EventControl } from '../spec/registers.ts';
import type { VtdSurroundings } from '../surroundings.ts';

/** One of the unit's events with its four registers: faults (7.3), invalidation completions (6.5.2.10), page requests (7.5). */
export class Event {
  readonly #registers: Registers;
  readonly #surroundings: VtdSurroundings;
  readonly #control: number;

  /** `control`: offset of its control register. */
  constructor(registers: Registers, surroundings: VtdSurroundings, control: number) {
    this.#registers = registers;
    this.#surroundings = surroundings;
    this.#control = control;
  }

  /** A condition arose while none was pending. */
  raise(): void {
    this.#registers.change(this.#control, 0, EventControl.IP);
    this.#sendUnlessMasked();
  }

  /** Software has seen to all conditions. */
  settle(): void {
    this.#registers.change(this.#control, EventControl.IP, 0);
  }

  /** Software writes the control register. */
  writeControl(value: number): void {
    this.#registers.change(this.#control, EventControl.IM, value & EventControl.IM);
    this.#sendUnlessMasked();
  }

  #sendUnlessMasked(): void {
    const registers = this.#registers;
    const control = registers.get(this.#control);
    if ((control & EventControl.IP) === 0 || (control & EventControl.IM) !== 0) return;
    registers.change(this.#control, EventControl.IP, 0);
    const address = joinHiLo(registers.get(this.#control + EVENT_UPPER_ADDRESS), registers.get(this.#control + EVENT_ADDRESS));
    this.#surroundings.sendInterrupt?.(address, registers.get(this.#control + EVENT_DATA));
  }
}
