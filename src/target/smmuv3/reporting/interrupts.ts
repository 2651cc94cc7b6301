import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { type Field, get, getWide, isSet, put } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import { GERROR, IRQ_CFG0, IRQ_CTRL, REG } from '../spec/registers.ts';
import type { InterruptSource, Smmuv3Options } from '../surroundings.ts';

interface Source {
  readonly name: InterruptSource;
  readonly enable: Field;
  readonly cfg0: number;
  /** The error of a message that nothing took. */
  readonly abort: Field;
}

const EVENT: Source = { name: 'event', enable: IRQ_CTRL.EVENTQ, cfg0: REG.EVENTQ_IRQ_CFG0, abort: GERROR.MSI_EVENTQ_ABT_ERR };
const PRI: Source = { name: 'pri', enable: IRQ_CTRL.PRIQ, cfg0: REG.PRIQ_IRQ_CFG0, abort: GERROR.MSI_PRIQ_ABT_ERR };
const ERROR: Source = { name: 'gerror', enable: IRQ_CTRL.GERROR, cfg0: REG.GERROR_IRQ_CFG0, abort: GERROR.MSI_GERROR_ABT_ERR };
/** IRQ_CFG1 behind IRQ_CFG0: the data. */
const DATA = 8;

/** Interrupts, 3.18, wired and as messages, and the global errors that some of them tell of, 7.5. */
export class Interrupts {
  readonly #registers: Registers;
  readonly #memory: GuestMemory;
  readonly #wire: Smmuv3Options['interrupt'];
  readonly #message: Smmuv3Options['message'];

  constructor(registers: Registers, { memory, interrupt, message }: Smmuv3Options) {
    this.#registers = registers;
    this.#memory = memory;
    this.#wire = interrupt;
    this.#message = message;
  }

  events(): void {
    this.#raise(EVENT);
  }

  pageRequests(): void {
    this.#raise(PRI);
  }

  /** CMD_SYNC with SIG_IRQ (4.7.3): the command names address and data of its message; address 0: none. */
  synchronized(address: number, data: number): void {
    this.#wire?.('sync');
    // Truncated to OAS; the check for 0 is of all of it (4.7.3).
    const target = address % 2 ** this.#registers.outputBits;
    if (this.#registers.features.MSI === 1 && address !== 0 && !this.#send(target, data)) this.activate(GERROR.MSI_CMDQ_ABT_ERR);
  }

  /** Whether an error is active: the guest has not acknowledged it (7.5). */
  isActive(error: Field): boolean {
    return get(this.#registers.view(REG.GERROR), error) !== get(this.#registers.view(REG.GERRORN), error);
  }

  /** An error that is active already is not told again. */
  activate(error: Field): void {
    if (this.isActive(error)) return;
    const register = this.#registers.view(REG.GERROR);
    put(register, error, get(register, error) ^ 1);
    // 7.5.1: no message about a message of this kind that failed.
    if (error !== GERROR.MSI_GERROR_ABT_ERR) this.#raise(ERROR);
  }

  #raise({ name, enable, cfg0, abort }: Source): void {
    const registers = this.#registers;
    if (!isSet(registers.view(REG.IRQ_CTRL), enable)) return;
    this.#wire?.(name);
    const address = getWide(registers.view(cfg0), IRQ_CFG0.ADDR) * 4;
    if (registers.features.MSI === 1 && address !== 0 && !this.#send(address, registers.get32(cfg0 + DATA))) this.activate(abort);
  }

  #send(address: number, data: number): boolean {
    if (this.#memory.store32(Math.floor(address / 2 ** 32) | 0, address | 0, data) >= 0) return true;
    return this.#message?.(BigInt(address), data >>> 0) ?? false;
  }
}
